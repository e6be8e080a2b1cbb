"""Who is timed beside ours: torch in its several ways, and other libraries for CUDA, if installed.

They are called as their own documentation says, with their own defaults where rules differ in details that
cost nothing (epsilon, betas), and with float32 states.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

TORCH = ("eager", "foreach", "fused", "compile")


@dataclass(frozen=True)
class Library:
    """Module, attribute and options of losses and optimizers, by the names that ours have."""

    package: str  # as pip knows it
    module: str
    losses: dict[str, tuple[str, str, dict[str, Any]]] = field(default_factory=dict)
    optimizers: dict[str, tuple[str, str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    def loss(self, op: str) -> Callable[..., Tensor]:
        """Called as torch's function is."""
        module, name, options = self.losses[op]
        function = getattr(importlib.import_module(module), name)
        if op == "softmax":  # of theirs the last dimension is meant
            return lambda input, dim: function(input, **options)
        return lambda *operands, **given: function(*operands, **given, **options)

    def optimizer(self, name: str) -> Callable[..., Any]:
        """Called as torch's class is."""
        module, attribute, options = self.optimizers[name]
        kind = getattr(importlib.import_module(module), attribute)
        return lambda params, **given: kind(params, **{**options, **given})


def _same(module: str, names: str, **options: Any) -> dict[str, tuple[str, str, dict[str, Any]]]:
    return {name: (module, name, options) for name in names.split()}


_LIGER = "liger_kernel.transformers.functional"
LIBRARIES = {
    "liger": Library(
        "liger-kernel",
        "liger_kernel",
        {
            "cross_entropy": (_LIGER, "liger_cross_entropy", {}),
            "kl_div": (_LIGER, "liger_kl_div", {}),
            "softmax": (_LIGER, "liger_softmax", {}),
        },
    ),
    "quack": Library(
        "quack-kernels",
        "quack",
        {
            "cross_entropy": ("quack.cross_entropy", "cross_entropy", {}),
            "softmax": ("quack.softmax", "softmax", {}),
        },
    ),
    "bitsandbytes": Library(
        "bitsandbytes",
        "bitsandbytes",
        optimizers=_same("bitsandbytes.optim", "Adam AdamW RMSprop Adagrad")
        | _same("bitsandbytes.optim", "SGD", lr=1e-3),
    ),
    "optimi": Library(
        "torch-optimi", "optimi", optimizers=_same("optimi", "Adam AdamW RAdam SGD", lr=1e-3, triton=True)
    ),
}
PEERS = (*TORCH, *LIBRARIES)


def available(device: str) -> list[str]:
    """Torch, and on CUDA the libraries that are installed."""
    return [*TORCH, *(name for name, library in LIBRARIES.items() if device != "cpu" and library.installed)]


def label(peer: str) -> str:
    """For a legend."""
    return LIBRARIES[peer].package if peer in LIBRARIES else f"torch, {peer}"
