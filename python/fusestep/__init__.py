"""Fused loss and optimizer kernels for training loops.

``import fusestep.nn as nn, fusestep.optim as optim`` replaces the losses of ``torch.nn`` and the
optimizers of ``torch.optim``; every other name of those modules resolves to torch's own object.
:func:`fusestep.install` and ``python -m fusestep script.py`` accelerate programs that use torch's own names.
``fusestep.numpy`` has the same kernels for NumPy arrays and needs no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fusestep._config import get_num_threads, set_num_threads, show_config
from fusestep._memory import cache_stats, empty_cache, set_cache_limit
from fusestep._stats import reset_stats, stats
from fusestep._version import __version__

__all__ = [
    "__version__",
    "cache_stats",
    "empty_cache",
    "get_num_threads",
    "install",
    "nn",
    "numpy",
    "optim",
    "reset_stats",
    "set_cache_limit",
    "set_num_threads",
    "show_config",
    "stats",
    "uninstall",
]

_SUBMODULES = ("nn", "numpy", "optim")
_INSTALL = ("install", "uninstall")
if TYPE_CHECKING:
    from fusestep import nn as nn
    from fusestep import numpy as numpy
    from fusestep import optim as optim
    from fusestep._install import install as install
    from fusestep._install import uninstall as uninstall


def __getattr__(name: str) -> Any:
    # These import torch, so they are not imported before somebody asks for them.
    if name in _SUBMODULES:
        return importlib.import_module(f"fusestep.{name}")
    if name in _INSTALL:
        return getattr(importlib.import_module("fusestep._install"), name)
    raise AttributeError(f"module 'fusestep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
