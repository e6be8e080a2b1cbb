"""What was built, and what of it this machine uses."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys

from fusestep import _native
from fusestep._version import __version__

_THREADING = ("openmp", "pool", "serial")


def get_num_threads() -> int:
    """Threads a large CPU call uses: torch's own number, unless :func:`set_num_threads` was called."""
    return _native.get_num_threads()


def set_num_threads(count: int) -> None:
    """Use ``count`` threads for CPU kernels; 0 goes back to the setting of torch and OpenMP.

    Results do not depend on it: they are bit-identical for any number of threads.

    Raises:
        ValueError: ``count`` is negative.
    """
    if count < 0:
        raise ValueError(f"`count` must be 0 or more threads, got {count}")
    _native.set_num_threads(count)


def _cuda_state() -> str:
    if importlib.util.find_spec("fusestep._cuda") is None:
        return "not built"
    if why := _native.why_no_cuda():
        return f"built; cannot run here: {why}"
    torch = sys.modules.get("torch")
    if torch is None:
        return "built; used for CUDA tensors of torch, which is not imported"
    return "built" + ("" if torch.cuda.is_available() else "; no CUDA device available to torch")


def has_torch() -> bool:
    """Whether it is installed; it is not imported."""
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):  # somebody has seen to that
        return False


def _torch_state() -> str:
    torch = sys.modules.get("torch")
    if torch is not None:
        return str(torch.__version__)
    return "not imported" if has_torch() else "not installed"


def check_environment() -> None:
    """Whether all variables that are read here hold something that can be read.

    Raises:
        ValueError: one does not; the message names it, what it holds, and what was expected.
    """
    _native.isa()
    threading = os.environ.get("FUSESTEP_THREADING")
    if threading not in (None, *_THREADING):
        raise ValueError(f"FUSESTEP_THREADING: expected one of {', '.join(_THREADING)}, got {threading!r}")
    limit = os.environ.get("FUSESTEP_CACHE_LIMIT")
    if limit is not None and not limit.isdecimal():
        raise ValueError(f"FUSESTEP_CACHE_LIMIT: expected a number of bytes, got {limit!r}")


def configuration() -> dict[str, str]:
    """What :func:`show_config` prints."""
    check_environment()
    compiled = [name + ("" if here else " (not on this machine)") for name, here in _native.isas().items()]
    return {
        "fusestep": __version__,
        "python": f"{platform.python_version()} on {platform.machine()}",
        "compiled ISAs": ", ".join(compiled),
        "chosen ISA": _native.isa(),
        "threads": f"{get_num_threads()} ({_native.threading()})",
        "cuda": _cuda_state(),
        "torch": _torch_state(),
        "ops": ", ".join(_native.ops()),
    }


def table(rows: dict[str, str]) -> str:
    """A line for each."""
    return "\n".join(f"{key:14} {value}" for key, value in rows.items())


def show_config() -> None:
    """Print version, instruction sets, threads, CUDA state and the torch in use.

    ``FUSESTEP_ISA`` in the environment forces an instruction set, ``FUSESTEP_THREADING`` one of
    ``openmp``, ``pool``, ``serial``; both are read once, before the first kernel runs.

    Raises:
        ValueError: a variable of the environment holds none of what it may.
    """
    print(table(configuration()))
