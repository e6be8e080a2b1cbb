"""Fused loss and optimizer kernels for training loops.

``import fusestep.nn as nn, fusestep.optim as optim`` replaces the losses of ``torch.nn`` and the
optimizers of ``torch.optim``; every other name of those modules resolves to torch's own object.
``fusestep.numpy`` has the same kernels for NumPy arrays and needs no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import Any

from fusestep._config import get_num_threads, set_num_threads, show_config
from fusestep._memory import cache_stats, empty_cache, set_cache_limit
from fusestep._stats import reset_stats, stats
from fusestep._version import __version__

__all__ = [
    "__version__",
    "cache_stats",
    "empty_cache",
    "get_num_threads",
    "nn",
    "numpy",
    "optim",
    "reset_stats",
    "set_cache_limit",
    "set_num_threads",
    "show_config",
    "stats",
]

_SUBMODULES = ("nn", "numpy", "optim")


def __getattr__(name: str) -> Any:
    # nn and optim import torch, so they are not imported before somebody asks for them.
    if name in _SUBMODULES:
        return importlib.import_module(f"fusestep.{name}")
    raise AttributeError(f"module 'fusestep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
