"""
Kernels of fusestep behind a few functions. Not public: use fusestep.nn, .optim, .numpy.
"""

from __future__ import annotations

import collections.abc
import typing

__all__: list[str] = [
    "CachedPlan",
    "OutOfRange",
    "Unsupported",
    "cache_use",
    "combine",
    "common_case",
    "dots",
    "empty_cache",
    "empty_like",
    "get_cache_limit",
    "get_num_threads",
    "isa",
    "isas",
    "ops",
    "run",
    "set_cache_limit",
    "set_isa",
    "set_num_threads",
    "step",
    "threading",
    "use_exchange_api",
    "why_no_cuda",
]

class Unsupported(TypeError):
    pass

class OutOfRange(IndexError, RuntimeError, ValueError):
    pass

class CachedPlan:
    """
    A step that has been taken once, to be repeated while nothing has changed.
    steps: a StepGroup for each group, with those of its parameters that have states, and as
    gradient, where there is none, the parameter. group_keys, default_keys: what of the options matters.
    """
    def __init__(
        self,
        op: str,
        steps: collections.abc.Iterable[tuple[typing.Any, ...]],
        groups: typing.Any,
        state: typing.Any,
        defaults: typing.Any,
        group_keys: typing.Any,
        default_keys: typing.Any,
    ) -> None: ...
    def step(
        self,
        groups: typing.Any,
        state: typing.Any,
        defaults: typing.Any,
        describe: typing.Any,
        norm: typing.Any,
        changed: typing.Any,
    ) -> bool:
        """
        Take the step, or return False with nothing written. describe: makes a StepGroup without parameters
        of a group whose options have changed, or None if torch must take the step. changed: called with the
        parameters that were updated.
        """

def cache_use() -> tuple[int, int]:
    """
    Bytes of the pool that are in use, and idle.
    """

def combine(calls: collections.abc.Iterable[tuple[typing.Any, ...]]) -> None:
    """
    For each (out, coefficients, vectors): out = the sum of coefficients[i] * vectors[i].
    """

def common_case(operands: tuple[typing.Any, ...]) -> bool | None:
    """
    Whether autograd has to see a call with these tensors; None if a closer look is needed, because of
    them (also where dtypes, shapes or devices differ) or of a mode or transform of torch.
    """

def dots(
    a: collections.abc.Iterable[typing.Any], b: collections.abc.Iterable[typing.Any], out: typing.Any
) -> None:
    """
    out[i * len(b) + j] = the scalar product of the vectors a[i] and b[j], summed in float64.
    """

def empty_cache() -> None: ...
def empty_like(like: typing.Any, row_major: bool = False) -> typing.Any:
    """
    Uninitialised memory like that of a tensor or array, from the pool where that pays.
    In C order if row_major, or from NumPy.
    """

def get_cache_limit() -> int: ...
def get_num_threads() -> int: ...
def isa() -> str:
    """
    The instruction set in use.
    """

def isas() -> dict[str, bool]:
    """
    Compiled instruction sets, and whether this machine has them.
    """

def ops() -> dict[str, dict[str, typing.Any]]:
    """
    Name, shape, hyper-parameters and states of every op, from the registry.
    """

def run(
    op: str,
    operands: tuple[typing.Any, ...],
    outputs: tuple[typing.Any, ...],
    hyper: tuple[typing.Any, ...] = (),
    reduction: str = "mean",
    seed: typing.Any = None,
    weight: typing.Any = None,
    ignore_index: typing.SupportsInt | typing.SupportsIndex | None = None,
    divisor: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    dim: typing.SupportsInt | typing.SupportsIndex | None = None,
) -> tuple[typing.Any, ...]:
    """
    One loss call. operands: those of ops()[op]; the last may be absent.
    outputs: (loss, the gradient of each operand), written where not None; for softmax and its like
    (None, result). A gradient may also be True, for new memory, or False. Returns the gradients.
    seed: grad_output, 1 if None. weight: of elements or of classes. divisor: of a mean, if not 0.
    dim: of the classes, where the target is dense; None: the second, or the only one.
    """

def set_cache_limit(bytes: typing.SupportsInt | typing.SupportsIndex) -> None: ...
def set_isa(name: str) -> None: ...
def set_num_threads(count: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    0 goes back to the runtime's setting.
    """

def step(
    op: str,
    groups: collections.abc.Iterable[tuple[typing.Any, ...]],
    gradients: str = "kept",
    norm: typing.Any = None,
    norm_is_known: bool = False,
    seed: typing.SupportsInt | typing.SupportsIndex = 0,
    loss_scale: typing.Any = None,
    found_inf: typing.Any = None,
) -> bool:
    """
    One optimizer step. Each group is a StepGroup of fusestep._rules.
    gradients: "kept", "unscaled" or "cleared". norm: a float64 array for the norm of all gradients,
    or with it. seed: of stochastic rounding. loss_scale, found_inf: of GradScaler, float32 on the device
    of the parameters, where they are read. Returns whether the gradients were written as wanted; they
    are kept if any share memory.
    """

def threading() -> str:
    """
    'openmp', 'pool' or 'serial'.
    """

def use_exchange_api(use: bool) -> None: ...
def why_no_cuda(device: typing.SupportsInt | typing.SupportsIndex = 0) -> str:
    """
    Why CUDA kernels cannot run on a device of this machine; empty if they can.
    """
