"""A loss and its gradients, ours and torch's, against float64 on the same rounded inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import fusestep
from cases import CONSTANT, OPS, assert_accurate, cast_options, ours, theirs

DIFFERENCES = {("soft_cross_entropy", "grad_input"), ("kl_div", "grad_target")}


def differentiable(op: str, operands: Sequence[Tensor]) -> list[bool]:
    """Which operands have a gradient."""
    return [t.is_floating_point() and (op, i) not in CONSTANT for i, t in enumerate(operands)]


def evaluate(
    op: str,
    function: Callable[..., Tensor],
    operands: Sequence[Tensor],
    grad_output: Tensor | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """The loss, and the gradient of each operand that has one, on leaves of their own."""
    leaves = [
        t.detach().requires_grad_(wanted)
        for t, wanted in zip(operands, differentiable(op, operands), strict=True)
    ]
    loss = function(*leaves, **options)
    if grad_output is None:
        grad_output = torch.ones_like(loss)
    loss.backward(grad_output.to(loss.dtype))
    results = {"loss": loss.detach()}
    for name, leaf in zip(OPS[op]["operands"], leaves, strict=False):
        if leaf.requires_grad:
            assert leaf.grad is not None, name
            results[f"grad_{name}"] = leaf.grad
    return results


def exact(
    op: str, operands: Sequence[Tensor], grad_output: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    """torch in float64."""
    wide = [t.double() if t.is_floating_point() else t for t in operands]
    return evaluate(op, theirs(op), wide, grad_output, **cast_options(options, torch.float64))


def by_torch(
    op: str, operands: Sequence[Tensor], grad_output: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    """torch in the dtype of the operands; in float32 and rounded, where torch lacks a half type."""
    dtype = operands[0].dtype
    try:
        return evaluate(op, theirs(op), operands, grad_output, **cast_options(options, dtype))
    except NotImplementedError:
        single = [t.float() if t.is_floating_point() else t for t in operands]
        results = evaluate(op, theirs(op), single, grad_output, **cast_options(options, torch.float32))
        return {name: value.to(dtype) for name, value in results.items()}


def compare(op: str, operands: Sequence[Tensor], grad_output: Tensor | None = None, **options: Any) -> None:
    """Our error is at most twice torch's own, plus a few ULP; and it was our kernel that ran."""
    oracle = exact(op, operands, grad_output, **options)
    torchs = by_torch(op, operands, grad_output, **options)
    before = fusestep.stats().get(op, {}).get("native", 0)
    cast = cast_options(options, operands[0].dtype)
    results = evaluate(op, ours(op), operands, grad_output, **cast)
    assert fusestep.stats()[op]["native"] == before + 1, f"fell back: {fusestep.stats()}"
    for name, value in results.items():
        what = f"{op} {name} {options}"
        assert_accurate(
            value, torchs[name], oracle[name], what, largest_term(op, name, oracle, operands, options)
        )


def largest_term(
    op: str, name: str, oracle: dict[str, Tensor], operands: Sequence[Tensor], options: dict[str, Any]
) -> float:
    """What the value is a sum or a difference of: losses of both signs, probabilities and targets."""
    if (op, name) in DIFFERENCES and oracle[name].numel() > 0:
        return float(oracle[name].abs().nan_to_num(0, 0, 0).max())
    if name != "loss" or oracle[name].dim() > 0:
        return 0.0
    terms = exact(op, operands, **{**options, "reduction": "none"})["loss"]
    share = float((oracle[name] / terms.sum()).abs())  # what the reduction divided by
    total = float(terms.abs().sum()) * share
    return total if math.isfinite(total) else 0.0
