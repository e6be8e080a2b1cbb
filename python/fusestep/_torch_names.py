"""Names and submodules of torch that have no kernel here resolve to torch's own objects.

``from fusestep.optim.lr_scheduler import StepLR`` must work like ``from torch.optim.lr_scheduler``:
changing the import is the whole migration.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

# Our package -> the torch package whose remaining names it shows.
_MIRRORS = {
    "fusestep.nn": "torch.nn",
    "fusestep.nn.functional": "torch.nn.functional",
    "fusestep.optim": "torch.optim",
}


def _twin_of(name: str) -> str | None:
    """``torch.optim.lr_scheduler`` for ``fusestep.optim.lr_scheduler``; None outside the mirrors."""
    for ours, theirs in _MIRRORS.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    return None


class _TorchSubmodules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Asked last: finds ``fusestep.nn.x`` as the module ``torch.nn.x`` itself, not a copy of it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        twin = _twin_of(name)
        if twin is None or twin.rpartition(".")[2].startswith("_"):
            return None
        if importlib.util.find_spec(twin) is None:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        twin = _twin_of(spec.name)
        assert twin is not None
        module = importlib.import_module(twin)
        self._original = module.__spec__, module.__loader__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system stamped our spec on torch's module; give it its own back.
        module.__spec__, module.__loader__ = self._original


def mirror(ours: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the package ``ours``."""
    if not any(isinstance(finder, _TorchSubmodules) for finder in sys.meta_path):
        sys.meta_path.append(_TorchSubmodules())
    theirs = importlib.import_module(_MIRRORS[ours])

    def module_getattr(name: str) -> Any:
        try:
            return getattr(theirs, name)
        except AttributeError:
            raise AttributeError(f"module {ours!r} has no attribute {name!r}") from None

    def module_dir() -> list[str]:
        return sorted({*dir(theirs), *vars(sys.modules[ours])})

    return module_getattr, module_dir
