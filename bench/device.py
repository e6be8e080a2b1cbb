"""What differs between devices: the memory there is, and what the machine is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import torch

import fusestep
from bench import ROOT


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_bytes(device: str) -> int:
    """Memory that can still be had; boundless where the system does not say."""
    if device != "cpu":
        return int(torch.get_device_module(device).mem_get_info()[0])
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else 2**62


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else "")


def machine(device: str) -> dict[str, str]:
    """What a figure depends on."""
    name = _processor() if device == "cpu" else torch.get_device_module(device).get_device_name()
    return {
        "machine": name,
        "cores": str(cores()),
        "threads": str(torch.get_num_threads()),
        "load": f"{os.getloadavg()[0]:.1f}",  # before the run: of somebody else
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fusestep": fusestep.__version__,
        "commit": _commit(),
        "isa": fusestep._native.isa() if device == "cpu" else "",
    }
