"""Run somebody's script as ``python script.py`` would, with torch accelerated.

The script is ``__main__``, with its own ``sys.argv`` and ``sys.path``. What it raises reaches the
interpreter, and of its traceback only the frames of ours are left out.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

from fusestep.cli import Failure, report


@dataclass
class Program:
    """What is to be run, and what it finds of itself."""

    path: str
    argv: list[str]
    folder: str  # the first in which it looks for modules
    spec: ModuleSpec | None
    code: Callable[[], CodeType]  # which may not compile

    @property
    def module(self) -> ModuleType:
        """Its ``__main__``."""
        main = ModuleType("__main__")
        vars(main).update(
            __file__=self.path,
            __spec__=self.spec,
            __package__=self.spec.parent if self.spec else None,
            __loader__=self.spec.loader if self.spec else SourceFileLoader("__main__", self.path),
            __cached__=self.spec.cached if self.spec else None,
            __builtins__=builtins,
            __annotations__={},
        )
        return main


def file(argv: list[str]) -> Program:
    """``script.py`` and its arguments; or a folder or archive with a ``__main__.py``."""
    path = os.path.abspath(argv[0])
    importer = pkgutil.get_importer(path)
    if importer is not None and os.path.exists(path):
        spec = importer.find_spec("__main__")
        if spec is None:
            raise Failure(f"cannot find '__main__' in {argv[0]!r}")
        return _program(spec, argv, path)
    try:
        with io.open_code(path) as opened:
            source = opened.read()
    except OSError as error:
        raise Failure(f"cannot open script {argv[0]!r}: {error.strerror}") from None

    def code() -> CodeType:
        return compile(source, path, "exec", dont_inherit=True)

    return Program(path, argv, os.path.dirname(os.path.realpath(path)), None, code)


def module(argv: list[str]) -> Program:
    """``module`` and its arguments, or a package with a ``__main__``."""
    folder, name = os.getcwd(), argv[0]
    _look_first_in(folder)
    sys.argv[:] = ["-m", *argv[1:]]  # what a package sees that is imported on the way
    spec = _spec_of(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _spec_of(name + ".__main__")
    if spec is None or spec.origin is None or not hasattr(spec.loader, "get_code"):
        raise Failure(f"no module named {name!r} that can be run")
    return _program(spec, [spec.origin, *argv[1:]], folder)


def _program(spec: ModuleSpec, argv: list[str], folder: str) -> Program:
    def code() -> CodeType:
        loader: Any = spec.loader
        return loader.get_code(spec.name)  # type: ignore[no-any-return]

    return Program(spec.origin or folder, argv, folder, spec, code)


def _spec_of(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a module without a spec
        return None
    except ImportError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None
        if error.name is not None and isinstance(error, ModuleNotFoundError) and "not a package" in error.msg:
            return None
        raise Failure(f"importing the package of {name!r} failed: {error}") from None


def _look_first_in(folder: str) -> None:
    """Instead of where the interpreter found us; unless it was told to look nowhere (``-P``)."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder


class _OnTorch(MetaPathFinder):
    """Installs our kernels as soon as torch has been imported, and not before: the script may want to set
    up its environment first.
    """

    def __init__(self, and_then: Callable[[], None]) -> None:
        self._and_then = and_then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                del loader.exec_module
                execute(module)
                self._and_then()

            loader.exec_module = exec_module
        return spec


def _install(with_report: bool) -> None:
    from fusestep import _install

    _install.install()
    if with_report:
        _install.measure()


def run(program: Program, with_report: bool = False) -> None:
    """Until it ends; raises what it raises."""
    main = program.module
    kept = sys.modules["__main__"]  # ours is not to be cleared under the frames that run
    sys.argv[:] = program.argv
    _look_first_in(program.folder)
    if with_report:
        report.at_exit()
    if "torch" in sys.modules:
        _install(with_report)
    else:
        sys.meta_path.insert(0, _OnTorch(lambda: _install(with_report)))
    sys.modules["__main__"] = main
    try:
        exec(program.code(), vars(main))
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames(vars(main))
        raise
    del kept


def _hide_our_frames(namespace: dict[str, Any]) -> None:
    """From what the interpreter is about to print: all that come before the first of the script."""
    shown = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        while traceback is not None and traceback.tb_frame.f_globals is not namespace:
            traceback = traceback.tb_next
        shown(kind, error.with_traceback(traceback), traceback)

    sys.excepthook = excepthook
