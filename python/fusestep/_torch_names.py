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
    """Finds ``fusestep.nn.x`` as the module ``torch.nn.x`` itself, not a copy of it.

    It is asked first. Below a module of torch the ordinary finders would find the same file again, by the
    module's ``__path__``, load it a second time and put the copy where torch's own was.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        twin = _twin_of(name)
        if twin is None:
            return None
        if name.rpartition(".")[0] in _MIRRORS and importlib.machinery.PathFinder.find_spec(name, path):
            return None  # a file of ours
        try:
            if importlib.util.find_spec(twin) is None:
                return None
        except ModuleNotFoundError:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        twin = _twin_of(spec.name)
        assert twin is not None
        module = importlib.import_module(twin)
        spec.loader_state = module.__spec__, module.__loader__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system stamped our spec on torch's module; give it its own back.
        assert module.__spec__ is not None
        module.__spec__, module.__loader__ = module.__spec__.loader_state


def mirror(ours: str, own: Sequence[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` for the package ``ours``, which has names of its own."""
    if not any(isinstance(finder, _TorchSubmodules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchSubmodules())
    theirs = importlib.import_module(_MIRRORS[ours])

    def module_getattr(name: str) -> Any:
        try:
            return getattr(theirs, name)
        except AttributeError:
            raise AttributeError(f"module {ours!r} has no attribute {name!r}") from None

    def module_dir() -> list[str]:
        return sorted({*dir(theirs), *vars(sys.modules[ours])})

    public = getattr(theirs, "__all__", None) or [name for name in dir(theirs) if not name.startswith("_")]
    return module_getattr, module_dir, sorted({*public, *own})
