"""Cases for every op, derived from the registry and from the signatures of torch; and the one tolerance rule.

A new loss or optimizer is covered by being in the registry. What cannot be derived, the values worth
trying for an option, is a table by option name; an option missing from it fails the suite.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as torch_functional
from torch import Tensor

from fusestep import _native

OPS = _native.ops()
LOSSES = [op for op, info in OPS.items() if info["shape"] != "update"]
POINTWISE = [op for op, info in OPS.items() if info["shape"] == "pointwise"]
ROWWISE = [op for op, info in OPS.items() if info["shape"] == "rowwise"]
RULES = [op for op, info in OPS.items() if info["shape"] == "update"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
REDUCTIONS = ["mean", "sum", "none"]
ISAS = [name for name, supported in _native.isas().items() if supported]

# ---- tolerance ----

FLOOR_ULPS = 4  # what rounding alone may do when torch happens to be exact


def assert_accurate(
    ours: Tensor, torchs: Tensor, oracle: Tensor, what: str = "", largest_term: float = 0.0
) -> None:
    """Error against the float64 oracle at most twice torch's largest own, plus a few ULP of the value.

    Non-finite values must be the same, element by element.
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
    # In float64 the oracle is torch itself: its terms round as ours do, and they are as large as the largest.
    scale = exact.abs()
    if ours.dtype is torch.float64:
        scale = torch.full_like(scale, max(float(scale.max()), largest_term))
    allowed = 2 * torchs_error + FLOOR_ULPS * eps * scale
    allowed = allowed + torch.finfo(ours.dtype).smallest_normal * eps
    error = (ours[finite].double() - exact).abs()
    worst = int((error - allowed).argmax())
    assert bool((error <= allowed).all()), (
        f"{what}: {ours[finite][worst]} for {exact[worst]}, error {error[worst]:.3e} > {allowed[worst]:.3e}"
    )


# ---- losses ----

# Values worth trying for each option of a loss, the default first. `classes` is the row length.
LOSS_OPTIONS = {
    "label_smoothing": lambda classes: [0.0, 0.1, 1.0],
    "ignore_index": lambda classes: [-100, 0],
    "weight": lambda classes: [None, torch.linspace(0.5, 2.0, classes, dtype=torch.float64)],
}
# Options whose calls run torch's own function, by decision: their semantics are tested apart.
TORCHS_OWN = {("mse_loss", "weight")}
_NOT_OPTIONS = {"input", "target", "size_average", "reduce", "reduction"}


def loss_options(op: str, classes: int = 1) -> Iterator[dict[str, Any]]:
    """The defaults, each option alone at each other value, and all options together."""
    names = [
        name
        for name in inspect.signature(getattr(torch_functional, op)).parameters
        if name not in _NOT_OPTIONS and (op, name) not in TORCHS_OWN
    ]
    yield {}
    together = {}
    for name in names:
        _, *others = LOSS_OPTIONS[name](classes)
        for value in others:
            yield {name: value}
        together[name] = others[0]
    if len(names) > 1:
        yield together


def cast_options(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in options.items()}


def loss_inputs(
    op: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, ignored: int = -100
) -> tuple[Tensor, Tensor]:
    """Input and target of the op for an input of this shape; every fifth label is the ignored one."""
    generator = torch.Generator().manual_seed(seed)
    input = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if OPS[op]["shape"] == "pointwise":
        return input, torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    classes = shape[1] if len(shape) > 1 else shape[0]
    target = torch.randint(0, classes, rows, generator=generator)
    if target.numel() > 1:
        target.view(-1)[::5] = ignored
    return input, target


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
    "foreach": [False],
    "fused": [True],
}
# These change which implementation of torch runs, not the result; capturable is for CUDA only.
_MODES = {"params", "capturable", "differentiable"}


def optimizer_names() -> list[str]:
    """Classes of ours: one for each rule, and those that share a rule, such as AdamW."""
    import fusestep.optim as optim

    return list(optim.KERNELS)


def rule_options(name: str) -> Iterator[dict[str, Any]]:
    """The defaults, each option alone, and combinations that add states."""
    parameters = [p for p in inspect.signature(getattr(torch.optim, name)).parameters if p not in _MODES]
    yield {}
    for parameter in parameters:
        for value in RULE_OPTIONS[parameter]:
            options = {parameter: value}
            if parameter in ("dampening", "nesterov"):
                options["momentum"] = 0.9
            yield options
    numbers = {"momentum": 0.9, "centered": True, "amsgrad": True, "weight_decay": 0.1, "maximize": True}
    yield {key: value for key, value in numbers.items() if key in parameters}
