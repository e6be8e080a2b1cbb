"""Cases for every op, derived from the registry and from the signatures of torch; and the one tolerance rule.

A new loss or optimizer is covered by being in the registry. What cannot be derived, the values worth
trying for an option, is a table by option name; an option missing from it fails the suite.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as torch_functional
from torch import Tensor

import definitions
import fusestep.nn.functional as F
from fusestep import _native
from fusestep._catalog import OPERANDS

OPS = _native.ops()


def _of_shape(shape: str) -> list[str]:
    return [op for op, info in OPS.items() if info["shape"] == shape]


POINTWISE, ROWWISE, RULES = (_of_shape(shape) for shape in ("pointwise", "rowwise", "update"))
# Dense ops: those with a target are losses, reached through the function they are a variant of.
SOFT = [op for op in _of_shape("dense") if OPS[op]["operands"] == ("input", "target")]
SOFTMAX = [op for op in _of_shape("dense") if OPS[op]["operands"] == ("input",)]
LOSSES = [*POINTWISE, *ROWWISE, *SOFT]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
REDUCTIONS = ["mean", "sum", "none"]
ISAS = [name for name, supported in _native.isas().items() if supported]

# ---- tolerance ----

FLOOR_ULPS = 4  # what rounding alone may do when torch happens to be exact


def assert_accurate(
    ours: Tensor, torchs: Tensor, oracle: Tensor, what: str = "", largest_term: float = 0.0
) -> None:
    """Error against the float64 oracle at most twice torch's largest own, plus a few ULP of the value.

    A value that is a sum of terms of both signs is as uncertain as its ``largest_term``. Non-finite values
    must be the same, element by element.
    """
    assert ours.shape == oracle.shape, f"{what}: shape {tuple(ours.shape)}, not {tuple(oracle.shape)}"
    assert ours.dtype == torchs.dtype, f"{what}: dtype {ours.dtype}, not {torchs.dtype}"
    eps = torch.finfo(ours.dtype).eps
    rounded = oracle.to(ours.dtype)
    finite = torch.isfinite(rounded)
    assert torch.equal(torch.isnan(ours), torch.isnan(rounded)), f"{what}: NaN pattern"
    infinite = torch.isinf(rounded)
    assert torch.equal(ours[infinite], rounded[infinite]), f"{what}: infinities"
    finite &= torch.isfinite(torchs)  # where torch overflows on the way to a finite value, so may we
    exact = oracle[finite].double()
    if exact.numel() == 0:
        return
    torchs_error = (torchs[finite].double() - exact).abs().max()
    scale = exact.abs().clamp(min=largest_term)
    floor = FLOOR_ULPS * eps * scale
    if ours.dtype is torch.float64:  # the oracle is torch itself, and rounds as we do
        floor = 8 * FLOOR_ULPS * eps * scale.max().expand(scale.shape)
    allowed = 2 * torchs_error + floor
    allowed = allowed + torch.finfo(ours.dtype).smallest_normal * eps
    error = (ours[finite].double() - exact).abs()
    worst = int((error - allowed).argmax())
    assert bool((error <= allowed).all()), (
        f"{what}: {ours[finite][worst]} for {exact[worst]}, error {error[worst]:.3e} > {allowed[worst]:.3e}"
    )


# ---- losses ----


def public_name(op: str) -> str:
    """The function of fusestep.nn.functional that runs the op."""
    return op.removeprefix("soft_") if op in SOFT else op


def ours(op: str) -> Callable[..., Tensor]:
    return getattr(F, public_name(op))  # type: ignore[no-any-return]


def theirs(op: str) -> Callable[..., Tensor]:
    """torch's function, or its definition in torch's operations where torch has none."""
    name = public_name(op)
    return getattr(definitions, name, None) or getattr(torch_functional, name)


# Operands that have no gradient in torch either.
CONSTANT = {("soft_margin_loss", 1), ("hinge_embedding_loss", 1)}
MOST_DIMS = {"multi_margin_loss": 2}


def _fill(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    def uniform() -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    if kind == "probability":
        return uniform() * 0.98 + 0.01
    if kind == "positive":
        return uniform() * 3 + 0.05
    if kind == "count":
        return (uniform() * 6).floor() + 0.75  # no kink of a loss within reach of a finite difference
    if kind == "sign":
        return (uniform() < 0.5) * 2.0 - 1
    real = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "distribution":
        return real.softmax(1 if len(shape) > 1 else 0)
    return real


def loss_inputs(
    op: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, ignored: int = -100
) -> tuple[Tensor, ...]:
    """Operands of the op for an input of this shape; every fifth label is the ignored one, if it has one."""
    generator = torch.Generator().manual_seed(seed)
    if op not in ROWWISE:
        kinds = OPERANDS.get(op, ("real", "real"))
        return tuple(_fill(kind, shape, generator).to(dtype) for kind in kinds)
    input = _fill("real", shape, generator).to(dtype)
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    classes = shape[1] if len(shape) > 1 else shape[0]
    target = torch.randint(0, classes, rows, generator=generator)
    if target.numel() > 1 and "ignore_index" in inspect.signature(ours(op)).parameters:
        target.view(-1)[::5] = ignored
    return input, target


def fitting(op: str, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Those of the shapes that the op can take."""
    return [shape for shape in shapes if len(shape) <= MOST_DIMS.get(op, 99)]


def _weights(op: str, shape: tuple[int, ...]) -> list[Any]:
    classes = shape[1] if len(shape) > 1 else shape[0]
    per_class = torch.linspace(0.5, 2.0, classes, dtype=torch.float64)
    if op not in POINTWISE:
        return [None, per_class]
    return [None, torch.linspace(0.5, 2.0, math.prod(shape), dtype=torch.float64).view(shape)]


# Values worth trying for each option of a loss, the default first.
LOSS_OPTIONS: dict[str, Callable[[str, tuple[int, ...]], list[Any]]] = {
    "label_smoothing": lambda op, shape: [0.0, 0.1, 1.0],
    "ignore_index": lambda op, shape: [-100, 0],
    "weight": _weights,
    "pos_weight": lambda op, shape: [None, torch.linspace(0.5, 2.0, shape[-1], dtype=torch.float64)],
    "lse_square_scale": lambda op, shape: [0.0, 0.1],
    "softcap": lambda op, shape: [None, 2.0],
    "beta": lambda op, shape: [1.0, 0.25, 0.0],
    "delta": lambda op, shape: [1.0, 0.25],
    "log_target": lambda op, shape: [False, True],
    "log_input": lambda op, shape: [True, False],
    "full": lambda op, shape: [False, True],
    "eps": lambda op, shape: [1e-8, 0.25],
    "margin": lambda op, shape: [1.0, 0.25, 0.0],
    "alpha": lambda op, shape: [0.25, -1, 0.75],
    "gamma": lambda op, shape: [2, 0.5, 0, 1],
    "p": lambda op, shape: [1, 2],
}
_NOT_OPTIONS = {"size_average", "reduce", "reduction"}


def loss_options(op: str, shape: tuple[int, ...] = (1,)) -> Iterator[dict[str, Any]]:
    """The defaults, each option alone at each other value, and all options together."""
    parameters = list(inspect.signature(ours(op)).parameters)
    required = len(OPERANDS.get(op, ("real", "real")))
    names = [name for name in parameters[required:] if name not in _NOT_OPTIONS]
    if op in SOFT:
        names.remove("ignore_index")
    yield {}
    together = {}
    for name in names:
        _, *others = LOSS_OPTIONS[name](op, shape)
        for value in others:
            yield {name: value}
        together[name] = others[0]
    if len(names) > 1:
        yield together


def cast_options(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in options.items()}


# ---- optimizers ----

# Values worth trying for each option of an optimizer, apart from its default.
RULE_OPTIONS: dict[str, list[Any]] = {
    "lr": [0.05, torch.tensor(0.02, dtype=torch.float64)],
    "momentum": [0.9],
    "dampening": [0.3],
    "weight_decay": [0.1],
    "nesterov": [True],
    "maximize": [True],
    "alpha": [0.5],
    "eps": [1e-3],
    "centered": [True],
    "betas": [(0.5, 0.9)],
    "amsgrad": [True],
    "decoupled_weight_decay": [True],
    "momentum_decay": [0.1],
    "lr_decay": [0.1],
    "initial_accumulator_value": [0.25],
    "rho": [0.5],
    "lambd": [0.05],
    "t0": [2.0],
    "etas": [(0.25, 2.0)],
    "step_sizes": [(1e-3, 0.02)],
    "foreach": [False],
    "fused": [True],
}
# What an option needs beside it to have an effect.
_ALONG = {
    "dampening": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "decoupled_weight_decay": {"weight_decay": 0.1},
}
# These change which implementation of torch runs, not the result; capturable is for CUDA only.
MODES = {"params", "capturable", "differentiable"}
FLAGS = {"foreach", "fused"}


def optimizer_names() -> list[str]:
    """Ours that follow a dense rule of the registry: one for each, and those that share one."""
    import fusestep.optim as optim

    rules = {name: getattr(getattr(optim, name), "_rule", None) for name in optim.KERNELS}
    return [name for name, rule in rules.items() if rule is not None and not OPS[rule.op]["by_rows"]]


def torch_optimizer(name: str) -> Callable[..., torch.optim.Optimizer]:
    """torch's class, or a definition where torch has none."""
    return getattr(torch.optim, name, None) or getattr(definitions, name)  # type: ignore[no-any-return]


def bytes_per_element(name: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> int:
    """What one pass of a step moves: parameter and states read and written, the gradient read."""
    import fusestep.optim as optim

    optimizer = getattr(optim, name)([torch.nn.Parameter(torch.ones(1))], **options)
    states = optimizer._rule.state_keys(optimizer.param_groups[0])
    return (3 + 2 * len(states)) * dtype.itemsize


def rule_options(name: str) -> Iterator[dict[str, Any]]:
    """The defaults, each option alone, and combinations that add states."""
    parameters = [p for p in inspect.signature(torch_optimizer(name)).parameters if p not in MODES]
    yield {}
    for parameter in parameters:
        for value in RULE_OPTIONS[parameter]:
            yield {parameter: value, **_ALONG.get(parameter, {})}
    numbers = {"momentum": 0.9, "centered": True, "amsgrad": True, "weight_decay": 0.1, "maximize": True}
    yield {key: value for key, value in numbers.items() if key in parameters}
