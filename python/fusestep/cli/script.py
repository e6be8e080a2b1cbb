"""Run somebody's script as ``python script.py`` would, with torch accelerated.

The script is ``__main__``, with its own ``sys.argv`` and ``sys.path``. What it raises reaches the
interpreter, and of its traceback only the frames of ours are left out.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

from fusestep import _install
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
    """``script.py`` and its arguments, or a folder with a ``__main__.py``."""
    path = os.path.abspath(argv[0])
    if os.path.isdir(path):
        path = os.path.join(path, "__main__.py")
    try:
        with io.open_code(path) as opened:
            source = opened.read()
    except OSError as error:
        raise Failure(f"cannot open script {argv[0]!r}: {error.strerror}") from None

    def code() -> CodeType:
        return compile(source, path, "exec", dont_inherit=True)

    return Program(path, argv, os.path.dirname(path), None, code)


def module(argv: list[str]) -> Program:
    """``module`` and its arguments, or a package with a ``__main__``."""
    folder, name = os.getcwd(), argv[0]
    _look_first_in(folder)
    spec = _spec_of(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _spec_of(name + ".__main__")
    loader = spec.loader if spec else None
    if spec is None or spec.origin is None or not isinstance(loader, InspectLoader):
        raise Failure(f"no module named {name!r} that can be run")
    found = spec

    def code() -> CodeType:
        compiled = loader.get_code(found.name)
        assert compiled is not None
        return compiled

    return Program(spec.origin, [spec.origin, *argv[1:]], folder, spec, code)


def _spec_of(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a parent that is no package; a module without a spec
        return None


def _look_first_in(folder: str) -> None:
    """Instead of where the interpreter found us; unless it was told to look nowhere (``-P``)."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder


def run(program: Program, with_report: bool = False) -> None:
    """Until it ends; raises what it raises."""
    main = program.module
    kept = sys.modules["__main__"]  # ours is not to be cleared under the frames that run
    sys.argv[:] = program.argv
    _look_first_in(program.folder)
    _install.install()
    if with_report:
        report.at_exit()
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
