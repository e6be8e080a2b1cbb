"""Cases become results: checked, then timed, then their memory; and what the figures mean."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import torch

from bench import memory
from bench.bandwidth import Bandwidth
from bench.case import Case
from bench.device import available_bytes
from bench.targets import targets_for
from fusestep._timing import Budget, Times, interleave

# Bytes of the input or of the parameters: smaller ones may live in a cache, of which a copy in memory says
# nothing.
OUT_OF_CACHE = 3 * 10**7
GROWTH_FROM = 10**8  # elements


@dataclass
class Result:
    case: Case
    times: dict[str, Times]
    missing: dict[str, str]  # contenders that do not run, and why
    peaks: dict[str, int] = field(default_factory=dict)  # bytes beyond operands and states
    bandwidth: float | None = None  # bytes a second, measured in turns with the contenders

    @property
    def ours(self) -> float:
        return self.times["ours"].median


def shows_share(case: Case) -> bool:
    return case.bytes_moved > 0 and case.input_bytes >= OUT_OF_CACHE


def measure(
    case: Case,
    device: str,
    peers: Collection[str],
    budget: Budget,
    bandwidth: Bandwidth,
    with_memory: bool = False,
) -> Result:
    """Raises AssertionError, before anything is timed, if our result is wrong or not of our kernels."""
    loaded = case.load(device)
    loaded.check()
    contenders = loaded.contenders.among({"ours", "labels", *peers})
    if shows_share(case):
        contenders[case.bandwidth] = bandwidth.contenders[case.bandwidth]
    times, missing = interleave(contenders, budget, device)
    del loaded, contenders
    if "compile" in peers:
        torch.compiler.reset()
    gc.collect()
    result = Result(case, times, missing)
    if case.bandwidth in times:
        result.bandwidth = bandwidth.of(case.bandwidth, times.pop(case.bandwidth))
    if with_memory and case.with_memory and memory.supported(device):
        result.peaks = {who: memory.peak(case, who, device) for who in ("ours", "eager") if who in times}
    return result


class Run:
    """Results of one process."""

    def __init__(self, device: str, bandwidth: Bandwidth) -> None:
        self.device, self.bandwidth = device, bandwidth
        self.targets = targets_for(device)
        self.results: dict[str, Result] = {}
        self.skipped: list[str] = []

    def measure(
        self, cases: Iterable[Case], peers: Collection[str], budget: Budget, with_memory: bool = True
    ) -> Iterator[Result]:
        for case in cases:
            if case.bytes_needed > available_bytes(self.device):
                self.skipped.append(f"{case.name}: needs {case.bytes_needed / 2**30:.0f} GiB of memory")
                continue
            result = measure(case, self.device, peers, budget, self.bandwidth, with_memory)
            self.results[case.name] = result
            yield result

    def metric(self, result: Result, metric: str) -> float | None:
        """A ratio to a peer, a share of the bandwidth, …; None where it was not or cannot be measured."""
        case, times = result.case, result.times
        if metric == "share":
            return case.bytes_moved / result.ours / result.bandwidth if result.bandwidth else None
        if metric == "peak":
            return result.peaks["ours"] / case.input_bytes if result.peaks else None
        if metric == "growth":
            start = self.results.get(case.name.replace(str(case.elements), str(GROWTH_FROM)))
            return result.ours / case.elements / (start.ours / GROWTH_FROM) if start else None
        if metric not in times:
            return None
        if metric == "labels":
            assert result.bandwidth is not None
            extra_read = case.input_bytes / result.bandwidth
            return result.ours / (times[metric].median + extra_read)
        return times[metric].median / result.ours
