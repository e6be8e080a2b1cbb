"""What the memory of this machine does: the floor that times are held against."""

from __future__ import annotations

import statistics

import torch

from fusestep._timing import Contender, Times

ELEMENTS = 2**26  # 256 MiB in float32, far beyond any cache of one core


class Bandwidth:
    """A copy between two tensors, and an update in place: 8 bytes an element, read and written.

    They take turns with the contenders of each case whose share is shown, because the bandwidth of a machine
    that is not ours alone changes within a minute.
    """

    def __init__(self, device: str, elements: int = ELEMENTS) -> None:
        source = torch.randn(elements, device=device)
        target = torch.randn(elements, device=device)
        self.contenders = {
            "copy": Contender(lambda: target.copy_(source)),
            "update": Contender(lambda: target.mul_(-1.0)),
        }
        self._bytes = 2 * source.nbytes
        self._all: dict[str, list[float]] = {kind: [] for kind in self.contenders}

    def of(self, kind: str, times: Times) -> float:
        """Bytes a second, the median."""
        self._all[kind] += times.samples
        return self._bytes / times.median

    def __str__(self) -> str:
        """The median of the run, and how much it varied."""
        lines = []
        for kind, seconds in self._all.items():
            if seconds:
                middle, low, high = (
                    self._bytes / pick(seconds) / 1e9 for pick in (statistics.median, max, min)
                )
                lines.append(
                    f"{kind} bandwidth: {middle:.1f} GB/s, {low:.1f} to {high:.1f} in {len(seconds)} samples"
                )
        return "\n".join(lines)
