"""Times of several contenders, taken in turns: what disturbs the machine disturbs them all."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch

SAMPLE = 1e-3  # seconds: shorter calls are repeated until a sample takes as long


def synchronize(device: str) -> None:
    """Wait until everything asked for so far is done."""
    if device != "cpu":
        torch.get_device_module(device).synchronize()


@dataclass
class Contender:
    """What is timed, and what has to happen before each call without being timed."""

    call: Callable[[], object]
    before: Callable[[], object] | None = None


class Contenders:
    """Made when first asked for, and once: a compiler takes seconds to import, an optimizer has states."""

    def __init__(self, makers: Mapping[str, Callable[[], Contender]]) -> None:
        self._makers = makers
        self._made: dict[str, Contender] = {}

    def __getitem__(self, name: str) -> Contender:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def among(self, names: Collection[str]) -> dict[str, Contender]:
        return {name: self[name] for name in self._makers if name in names}


@dataclass(frozen=True)
class Budget:
    """Seconds for all contenders of a case together; at least and at most so many samples of each."""

    seconds: float
    least: int = 7
    most: int = 1000


@dataclass
class Times:
    """Seconds of one call, in each sample."""

    calls_in_a_sample: int
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high


def _sample(contender: Contender, calls: int, device: str) -> float:
    if contender.before is not None:
        contender.before()
    synchronize(device)
    start = perf_counter()
    for _ in range(calls):
        contender.call()
    synchronize(device)
    return (perf_counter() - start) / calls


def warm_up(contenders: Mapping[str, Contender], device: str) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of the third call of each; and why a peer cannot be called at all. Ours must not fail."""
    seconds, reasons = {}, {}
    for name, contender in contenders.items():
        try:
            seconds[name] = [_sample(contender, 1, device) for _ in range(3)][-1]
        except Exception as error:
            if name == "ours":
                raise
            reasons[name] = f"{type(error).__name__}: {error}".split("\n")[0]
    return seconds, reasons


def interleave(
    contenders: Mapping[str, Contender], budget: Budget, device: str
) -> tuple[dict[str, Times], dict[str, str]]:
    """Times of those that run, A B C A B C …; and why the others do not run.

    The garbage collector runs before and not while the clock does, for everybody.
    """
    estimates, reasons = warm_up(contenders, device)
    times = {}
    for name, estimate in estimates.items():
        once = contenders[name].before is not None  # each call needs its preparation
        times[name] = Times(1 if once else max(1, round(SAMPLE / estimate)))
    in_a_round = sum(estimates[name] * taken.calls_in_a_sample for name, taken in times.items())
    rounds = min(max(int(budget.seconds / in_a_round), budget.least), budget.most)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, taken in times.items():
                taken.samples.append(_sample(contenders[name], taken.calls_in_a_sample, device))
    finally:
        gc.enable()
    return times, reasons
