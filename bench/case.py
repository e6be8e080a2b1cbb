"""What every case says about itself, before any of its data exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

HUGE = 10**9  # elements, from which a case of cost against size runs only if asked for


@dataclass(frozen=True, kw_only=True)
class Case:
    """``load(device)`` gives its data: ``contenders``, and ``check()``, which raises if ours are wrong."""

    dtype: torch.dtype = torch.float32
    group: str = ""  # "loss", "optimizer" or "size", for the charts
    with_memory: bool = False  # whether its peak memory is measured
    subject: ClassVar[Any] = ""  # what is measured: the first part of the name
    elements: ClassVar[Any] = 0
    bandwidth: ClassVar[str] = "update"
    has_state: ClassVar[bool] = True  # the first call makes what stays
    charted: ClassVar[Any] = True

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def bytes_moved(self) -> int:
        """If each byte is read once and written once; 0 where that says little."""
        return 0

    @property
    def is_huge(self) -> bool:
        """Then only ours and torch's own are there: what several need would take what memory there is."""
        return self.group == "size" and self.elements >= HUGE

    @property
    def input_bytes(self) -> int:
        """Of the input or the parameters: what peak memory is a multiple of."""
        return self.elements * self.dtype.itemsize
