"""Peak memory of one call, beyond what was there before it.

Counted is resident memory as the kernel of the system sees it (VmHWM of /proc/self/status, reset through
/proc/self/clear_refs), so temporaries, results and buffers kept for reuse all count, whoever allocates them.
Each figure comes from a process of its own, in which nothing large was allocated and freed before. On a
device it is what torch's allocator says.
"""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import torch

from bench.case import Case
from fusestep._timing import synchronize

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def supported(device: str) -> bool:
    return device != "cpu" or CLEAR.exists()


def _resident(which: str) -> int:
    found = re.search(rf"^{which}:\s+(\d+) kB", STATUS.read_text(), re.M)
    assert found, f"{STATUS} has no {which}"
    return int(found[1]) * 1024


def _measure(case: Case, who: str) -> int:
    """In the child: one call of a contender, after one on a small problem has loaded what it needs."""
    case.small().load("cpu").contenders[who].call()
    contender = case.load("cpu").contenders[who]
    if case.has_state:  # of an optimizer, made in its first step and there to stay
        contender.call()
    CLEAR.write_text("5")
    before = _resident("VmRSS")
    kept = contender.call()
    peak = _resident("VmHWM")
    del kept
    return peak - before


def _on_device(case: Case, who: str, device: str) -> int:
    module = torch.get_device_module(device)
    contender = case.load(device).contenders[who]
    if case.has_state:
        contender.call()
    synchronize(device)
    module.reset_peak_memory_stats()
    before = module.memory_allocated()
    kept = contender.call()
    synchronize(device)
    peak = module.max_memory_allocated()
    del kept
    return int(peak - before)


def peak(case: Case, who: str, device: str) -> int:
    """Bytes beyond operands, parameters and states."""
    if device != "cpu":
        return _on_device(case, who, device)
    # Forked from a server that has imported everything, and run nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.losses", "bench.steps"])
    with context.Pool(1) as pool:
        return int(pool.apply(_measure, (case, who)))
