"""Accelerate torch itself: a program that has never heard of fusestep runs on its kernels.

NOTE [in place]: nothing that a program can hold becomes an object of ours. A function of
``torch.nn.functional`` is replaced by a wrapper with its name, in that module and wherever a module has
imported it by name; torch's loss modules call the functions, so they need nothing. Of the classes of
``torch.optim`` only ``step`` is replaced. It runs ours on a twin of the optimizer: an instance of our class
that shares its ``__dict__``, so parameters, options and states are the optimizer's own, and that lives for
the time of the step. Types, pickles, checkpoints and hooks stay torch's, also those of objects made before.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import torch

import fusestep.nn.functional as functional
import fusestep.optim as optim
from fusestep._history import Gram
from fusestep.optim._dense import NO_EXTRAS, DenseStep
from fusestep.optim._fused import FusedStep, unhooked, unobserved
from fusestep.optim._kept import Kept
from fusestep.optim._plan import Plan

Function = Callable[..., Any]


@dataclass
class Usage:
    """How often a function or a step was called, and seconds inside."""

    calls: int = 0
    seconds: float = 0.0


@dataclass
class _Installation:
    active: bool = False
    usage: dict[str, Usage] | None = None  # by name, if somebody wants a report
    steps: dict[type, tuple[Any, Any]] = field(default_factory=dict)  # of classes: what `step` was, and is


_now = _Installation()


class Installed:
    """What :func:`install` returns, for a ``with`` block."""

    def __init__(self, first: bool) -> None:
        self._first = first

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._first:
            uninstall()


def install() -> Installed:
    """Let torch's own losses and optimizers run on the kernels of fusestep, everywhere in this process.

    Functions of ``torch.nn.functional``, modules of ``torch.nn`` that call them, and optimizers of
    ``torch.optim`` keep their names, types, options, pickles and checkpoints, those made before included.
    A function that somebody holds otherwise than under a name of a module (in a list, as an attribute of a
    model), and the optimizer of a learning rate scheduler made before, stay torch's; so call this first. A
    second call changes nothing. Processes that are spawned start without.

    Returns:
        A context manager: at the end of a ``with`` block, :func:`uninstall` is called, unless something was
        installed before it.

    Raises:
        ModuleNotFoundError: PyTorch is not installed.
    """
    first = not _now.active
    if first:
        _now.active = True
        _rebind(FUNCTIONS)
        for theirs in OPTIMIZERS:
            step = vars(theirs).get("step")
            if step is not None and _is_torchs(step):
                for kind in _with_step(theirs, unhooked(step)):
                    _now.steps[kind] = vars(kind)["step"], _step_of(unhooked(step))
        for kind, (_, ours) in _now.steps.items():
            kind.step = ours  # type: ignore[attr-defined]
    return Installed(first)


def uninstall() -> None:
    """Undo :func:`install`. Optimizers and models made meanwhile go on with torch's own code."""
    if not _now.active:
        return
    _now.active = False
    _rebind({wrapper: torchs for torchs, wrapper in FUNCTIONS.items()})
    for kind, (step, ours) in _now.steps.items():
        if vars(kind).get("step") is ours:  # else somebody has put theirs around it
            kind.step = step  # type: ignore[attr-defined]
    _now.steps.clear()


def measure() -> None:
    """From now on count calls, and the time they take, by name."""
    _now.usage = {}


def usage() -> dict[str, Usage]:
    """Since :func:`measure`."""
    return dict(_now.usage or {})


def _timed(name: str, call: Function, *args: Any, **kwargs: Any) -> Any:
    assert _now.usage is not None
    usage = _now.usage.setdefault(name, Usage())
    usage.calls += 1
    start = perf_counter()
    try:
        return call(*args, **kwargs)
    finally:
        usage.seconds += perf_counter() - start


def _timed_step(name: str, step: Function, optimizer: Any, closure: Any = None, **kwargs: Any) -> Any:
    """What it spends in the closure is the program's time."""
    assert _now.usage is not None
    usage = _now.usage.setdefault(name, Usage())

    def excluded() -> Any:
        start = perf_counter()
        try:
            return closure()
        finally:
            usage.seconds -= perf_counter() - start

    return _timed(name, step, optimizer, None if closure is None else excluded, **kwargs)


# ---- functions ----


def _wrapper_of(torchs: Function, ours: Function) -> Function:
    warns = "_stacklevel" in inspect.signature(torchs).parameters  # the third, of softmax

    @functools.wraps(torchs)
    def function(*args: Any, **kwargs: Any) -> Any:
        if not _now.active:
            return torchs(*args, **kwargs)
        if warns and len(args) < 3:  # the caller of this function is the one to be warned
            kwargs["_stacklevel"] = kwargs.get("_stacklevel", 3) + 1
        if _now.usage is None:
            return ours(*args, **kwargs)
        return _timed(torchs.__name__, ours, *args, **kwargs)

    function.__prepare_scriptable__ = lambda: torchs  # type: ignore[attr-defined]  # TorchScript reads its source
    return function


def _wrappers() -> dict[Function, Function]:
    """Of those functions of torch that have kernels here."""
    named = {name: getattr(torch.nn.functional, name, None) for name in functional.KERNELS}
    return {
        torchs: _wrapper_of(torchs, getattr(functional, name))
        for name, torchs in named.items()
        if torchs is not None
    }


FUNCTIONS = _wrappers()


def _rebind(replacements: dict[Function, Function]) -> None:
    """In ``torch.nn.functional``, and where modules of others have imported functions by name."""
    by_id = {id(old): new for old, new in replacements.items()}
    for name, module in list(sys.modules.items()):
        package = name.partition(".")[0]
        if package == "fusestep" or (package == "torch" and name != "torch.nn.functional"):
            continue
        namespace = getattr(module, "__dict__", None)
        for key, value in list(namespace.items()) if isinstance(namespace, dict) else ():
            if id(value) in by_id:
                namespace[key] = by_id[id(value)]  # type: ignore[index]


# ---- optimizers ----


def _classes() -> dict[type, type[FusedStep]]:
    """Our class for each of torch's that has one."""
    named = {getattr(torch.optim, name, None): getattr(optim, name) for name in optim.KERNELS}
    return {theirs: ours for theirs, ours in named.items() if theirs is not None}


OPTIMIZERS = _classes()


def _is_torchs(step: Any) -> bool:
    """Not somebody's who has put theirs around it."""
    while step is not None:
        if not hasattr(step, "__globals__") or step.__globals__["__name__"].partition(".")[0] != "torch":
            return False
        step = getattr(step, "__wrapped__", None)
    return True


def _with_step(theirs: type, torchs: Function) -> Iterator[type]:
    """A class, and subclasses that torch has given the same ``step`` when it wrapped it for hooks."""
    step = vars(theirs).get("step")
    if step is not None and unhooked(step) is torchs:
        yield theirs
    subclasses: list[type] = theirs.__subclasses__()
    for subclass in subclasses:
        if not issubclass(subclass, FusedStep):
            yield from _with_step(subclass, torchs)


def _kind_of_twin(kind: type) -> type[FusedStep] | None:
    """None for a class of ours, and for one that changes how torch's step works inside."""
    if issubclass(kind, FusedStep):
        return None
    theirs = next(base for base in kind.__mro__ if base in OPTIMIZERS)
    inner = (name for name in dir(theirs) if name.startswith("_") and not name.startswith("__"))
    if any(getattr(kind, name) is not getattr(theirs, name) for name in inner):
        return None
    return _TWINS[OPTIMIZERS[theirs]]


def _twin_class(ours: type[FusedStep]) -> type[FusedStep]:
    """What ours keeps in an instance has slots here; what torch's groups hold is no option of ours."""
    body: dict[str, Any] = {"__slots__": tuple(_made(ours)), "_extras": lambda self, group: NO_EXTRAS}
    return type(ours.__name__, (ours,), body)


def _made(kind: type) -> dict[str, Any]:
    """What is kept from one step to the next; none of it reaches the optimizer."""
    if issubclass(kind, DenseStep):
        return {"_plan": Plan()}
    return {"_gram": Gram()} if issubclass(kind, optim.LBFGS) else {}


_TWINS = {ours: _twin_class(ours) for ours in OPTIMIZERS.values()}
_kinds: WeakKeyDictionary[type, type[FusedStep] | None] = WeakKeyDictionary()  # of twins
_kept: Kept[dict[type, dict[str, Any]]] = Kept(lambda _: {})  # by kind: an optimizer may change its class


def _twin_of(optimizer: torch.optim.Optimizer) -> FusedStep | None:
    own = type(optimizer)
    if own not in _kinds:
        _kinds[own] = _kind_of_twin(own)
    kind = _kinds[own]
    if kind is None:
        return None
    kept = _kept.of(optimizer)
    if kind not in kept:
        kept[kind] = _made(kind)
    twin = kind.__new__(kind)
    twin.__dict__ = optimizer.__dict__
    for name, value in kept[kind].items():
        setattr(twin, name, value)
    return twin


def _step_of(torchs: Function) -> Function:
    @functools.wraps(torchs)
    def step(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        twin = None
        if _now.active and not torch.compiler.is_compiling():
            twin = _twin_of(self)
        if twin is None:
            return torchs(self, *args, **kwargs)
        ours = unhooked(type(twin).step)
        if _now.usage is None:
            return ours(twin, *args, **kwargs)
        return _timed_step(f"{type(self).__name__}.step", ours, twin, *args, **kwargs)

    return unobserved(step)
