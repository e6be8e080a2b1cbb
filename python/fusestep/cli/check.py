"""Whether the kernels are right on this machine: every op, on a sample, in float32 and float64.

With torch, against its own functions and optimizers in float64. Without, each gradient is held against
differences of its loss, and float32 against float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fusestep.numpy as fnp
from fusestep import _samples
from fusestep._catalog import Op, catalog

SHAPE = (37, 131)  # odd, so that every loop has a rest
STEPS = 3
# Of the largest number. Some rules keep numbers of theirs in float32, also for parameters in float64.
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-9}
Array = _samples.Array


@dataclass(frozen=True)
class Check:
    """An op, what it was held against, and how far off it was, as a share of the largest number."""

    op: str
    against: str
    error: float
    ok: bool


def run(device: str, with_torch: bool) -> list[Check]:
    """Check every op on a device."""
    checks = []
    for op in catalog():
        if op.kind == "gradient":  # with the function that it is of
            continue
        against = _by_torch(op, device) if with_torch else _by_numpy(op)
        for what, compare in against.items():
            for dtype, tolerance in TOLERANCE.items():
                error = _error(compare, dtype)
                checks.append(Check(op.name, f"{what}, {dtype.__name__}", error, error <= tolerance))
    return checks


Compare = Callable[[Any], list[tuple[Array, Array]]]  # a dtype to pairs of results: ours, and as it should be


def _error(compare: Compare, dtype: Any) -> float:
    worst = 0.0
    for ours, right in compare(dtype):
        scale = max(float(np.abs(right).max()), 1e-30)
        distance = np.abs(ours.astype(np.float64) - right)
        worst = max(worst, float(distance.max()) / scale if np.isfinite(distance).all() else np.inf)
    return worst


# ---- without torch ----


def _by_numpy(op: Op) -> dict[str, Compare]:
    if op.kind == "optimizer":
        return {f"{name} in float64": _steps_of_numpy(name) for name in op.in_numpy}
    return {"differences": _differences(op)}


def _evaluate(op: Op, operands: list[Array]) -> tuple[Array, Array, float]:
    """The result, and the gradient of a number that depends on all of it; and that number."""
    function = getattr(fnp, op.function)
    if op.kind == "loss":
        loss, grad = function(*operands, reduction="sum")
        return np.asarray(loss), grad, float(loss)
    weights = np.linspace(-1, 1, operands[0].size, dtype=operands[0].dtype).reshape(operands[0].shape)
    output = function(operands[0], 1)
    grad = getattr(fnp, f"{op.name}_backward")(output, weights, 1)
    return output, grad, float((output * weights).sum())


def _differences(op: Op) -> Compare:
    def compare(dtype: Any) -> list[tuple[Array, Array]]:
        wide = _samples.operands(op, *SHAPE)
        narrow = [x.astype(dtype) if x.dtype.kind == "f" else x for x in wide]
        wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in narrow]
        value, grad, _ = _evaluate(op, narrow)
        right, slope, _ = _evaluate(op, wide)
        direction = np.sign(slope)  # so that nothing cancels
        h = 1e-6
        ahead, behind = (_evaluate(op, [wide[0] + step * direction, *wide[1:]])[2] for step in (h, -h))
        # Differences of float64 have a third of its digits: more cannot be asked of them.
        steep, total = (ahead - behind) / (2 * h), float((slope * direction).sum())
        agrees = abs(steep - total) <= 1e-5 * abs(total)
        return [(value, right), (grad if agrees else np.full_like(grad, np.nan), slope)]

    return compare


def _steps_of_numpy(name: str) -> Compare:
    def compare(dtype: Any) -> list[tuple[Array, Array]]:
        random = np.random.default_rng(0)
        param, *grads = (random.standard_normal(SHAPE) for _ in range(1 + STEPS))
        results = []
        for kind in (dtype, np.float64):
            own = param.astype(np.float32).astype(kind)
            optimizer = getattr(fnp, name)([own], lr=0.01)
            for grad in grads:
                taken = grad.astype(np.float32).astype(kind)
                rows = np.arange(SHAPE[0])
                optimizer.step([(rows, taken) if name == "SparseAdam" else taken])
            results.append(own)
        return [(results[0], results[1])]

    return compare


# ---- with torch ----


def _by_torch(op: Op, device: str) -> dict[str, Compare]:
    if op.kind == "optimizer":
        return {f"torch's {name}": _steps_of_torch(name, device) for name in op.in_numpy}
    return {"torch": _function_of_torch(op, device)}


def _function_of_torch(op: Op, device: str) -> Compare:
    import torch

    from fusestep.nn import _reference, functional
    from fusestep.nn._torchs import functional as torchs

    composed: dict[str, Callable[..., Any]] = {  # what torch has no function for
        "log_cosh_loss": _reference.log_cosh_loss,
        "sigmoid_focal_loss": partial(_reference.sigmoid_focal_loss, alpha=0.25, gamma=2.0),
    }

    def results(function: Callable[..., Any], operands: list[Array], dtype: Any) -> list[Array]:
        tensors = [torch.from_numpy(x).to(device, dtype if x.dtype.kind == "f" else None) for x in operands]
        tensors[0].requires_grad_()
        value = function(tensors[0], 1) if op.kind == "softmax" else function(*tensors, reduction="none")
        weights = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64, device=device)
        value.backward(weights.view(value.shape).to(value.dtype))
        assert tensors[0].grad is not None
        return [x.detach().cpu().numpy() for x in (value, tensors[0].grad)]

    def compare(dtype: Any) -> list[tuple[Array, Array]]:
        own = torch.float32 if dtype is np.float32 else torch.float64
        operands = [x.astype(dtype) if x.dtype.kind == "f" else x for x in _samples.operands(op, *SHAPE)]
        ours = results(getattr(functional, op.function), operands, own)
        theirs = composed.get(op.name) or getattr(torchs, op.function)
        return list(zip(ours, results(theirs, operands, torch.float64), strict=True))

    return compare


def _steps_of_torch(name: str, device: str) -> Compare:
    import torch

    import fusestep.optim
    from fusestep.optim import _lion

    def compare(dtype: Any) -> list[tuple[Array, Array]]:
        random = np.random.default_rng(0)
        start, *grads = (random.standard_normal(SHAPE).astype(np.float32) for _ in range(1 + STEPS))
        results = []
        theirs = getattr(torch.optim, name, None) or getattr(_lion, name)
        own = torch.float32 if dtype is np.float32 else torch.float64
        for make, kind in ((getattr(fusestep.optim, name), own), (theirs, torch.float64)):
            param = torch.nn.Parameter(torch.tensor(start, dtype=kind, device=device))
            optimizer = make([param], lr=0.01)
            for grad in grads:
                taken = torch.tensor(grad, dtype=kind, device=device)
                param.grad = taken.to_sparse(1) if name == "SparseAdam" else taken
                optimizer.step()
            results.append(param.detach().cpu().numpy())
        return [(results[0], results[1])]

    return compare
