"""Losses of a row of class scores against a label or against probabilities."""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fusestep.nn import _reference
from fusestep.nn._autograd import run, run_torch, why_torch
from fusestep.nn._call import FLOATING, LossCall, autocast_dtype, autocast_enabled
from fusestep.nn._elementwise import legacy
from fusestep.nn._torchs import functional as torch_functional

__all__ = ["cross_entropy", "multi_margin_loss", "nll_loss"]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Cross-entropy between logits and class labels or probabilities, in one pass for value and gradient.

    Args:
        input: Logits, shape ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``; float32, float64, bfloat16, float16.
        target: Labels in ``[0, C)`` or ``ignore_index``, shape of ``input`` without ``C``, int64 or uint8;
            or probabilities of the shape of ``input``, which may have a gradient.
        weight: Weight of each class, shape ``(C)``, dtype of ``input``; under autocast any but float64.
        size_average: Deprecated; see ``reduction``.
        ignore_index: Rows with this label have zero loss and gradient, and do not count in the mean.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"`` (divides by the weights of the labels, or by the number of rows for
            probabilities), ``"sum"`` or ``"none"``.
        label_smoothing: Probability mass in ``[0, 1]`` spread over all classes.
        lse_square_scale: Adds this times the square of each row's logsumexp (z-loss), times the weight of
            its label. Not in torch.
        softcap: Replaces the logits by ``softcap * tanh(input / softcap)``. Not in torch.

    Returns:
        A scalar, or the shape of ``target`` for ``"none"`` (without ``C``), in the dtype of ``input``,
        promoted with probabilities and their weight (float32 under autocast).

    Raises:
        IndexError: a label is out of range (on CUDA that row becomes NaN instead).
        ValueError: batch sizes differ, ``softcap`` is not positive, or ``reduction`` is none of the three.
        RuntimeError: other mismatches of shape, dtype or device; smoothing above 1.

    Source: :func:`torch.nn.functional.cross_entropy`; z-loss: Chowdhery et al. 2023; softcap: Gemma 2.
    """
    reduction = legacy(reduction, size_average, reduce)
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
    }
    if softcap is not None and not softcap > 0:
        raise ValueError(f"`softcap` must be positive or None, got {softcap}")
    cap = 0.0 if softcap is None or math.isinf(softcap) else softcap
    operator.index(ignore_index)  # TypeError

    def reference(input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        if lse_square_scale or cap:
            return _reference.cross_entropy(
                input, target, weight, lse_square_scale=lse_square_scale, softcap=cap, **options
            )
        return torch_functional.cross_entropy(input, target, weight, **options)

    def twice_differentiable(input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return reference(
            input, target if target.is_floating_point() else _plain_labels(input, target), weight
        )

    operands = (input, target) if weight is None else (input, target, weight)
    why = why_torch(*operands)
    if why is None:
        soft = input.shape == target.shape and input.dim() > 0
        why = (
            _why_not_soft(input, target, weight, ignore_index)
            if soft
            else _why_not_labels(input, target, weight)
        )
    if why is None and label_smoothing > 1.0:
        why = "smoothing above 1"
    if why is not None:
        return run_torch("cross_entropy", why, reference, input, target, weight)
    hyper = (float(label_smoothing), float(lse_square_scale), float(cap))
    dtype = input.dtype
    if soft:
        for other in operands[1:]:
            dtype = torch.promote_types(dtype, other.dtype)
        call = LossCall(
            "soft_cross_entropy", twice_differentiable, reduction, autocast_dtype(dtype, input), hyper
        )
    else:
        dtype = autocast_dtype(dtype, input)
        call = LossCall("cross_entropy", twice_differentiable, reduction, dtype, hyper, ignore_index)
        weight = _weight_for(input, weight)
    return run(call, (input, target), weight, fallback=reference)


def _why_not_labels(input: Tensor, target: Tensor, weight: Tensor | None) -> str | None:
    """Calls that torch answers, most of them with an exception."""
    if target.dtype is not torch.int64 and target.dtype is not torch.uint8:
        return "label dtype"
    if weight is not None and weight.requires_grad:
        return "gradient of the weight"
    if weight is not None and weight.dtype is not input.dtype:
        narrow = torch.float64 not in (weight.dtype, input.dtype) and weight.is_floating_point()
        if not (narrow and autocast_enabled(input)):
            return "dtype of the weight"
    return None


def _why_not_soft(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> str | None:
    if not target.is_floating_point():
        return "probability targets of an integer dtype"
    if ignore_index >= 0:
        return "ignore_index with probability targets"
    if input.numel() == 0:
        return "empty"
    if weight is not None and weight.requires_grad:
        return "gradient of the weight"
    if weight is not None and weight.dtype not in FLOATING:
        return "dtype of the weight"
    return None


def _plain_labels(input: Tensor, target: Tensor) -> Tensor:
    """As torch's backward wants them: int64, and without dimensions for a single row."""
    return target.long() if input.dim() > 1 else target.long().reshape(())


def _weight_for(input: Tensor, weight: Tensor | None) -> Tensor | None:
    """Under autocast the loss is float32, and so are its class weights."""
    return weight.float() if weight is not None and weight.dtype is not input.dtype else weight


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of labels, ``-weight[target] * input[target]``.

    Args:
        input: Log-probabilities, shape ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``.
        target: Labels in ``[0, C)`` or ``ignore_index``, shape of ``input`` without ``C``, int64 or uint8.
        weight: Weight of each class, shape ``(C)``, dtype of ``input``; under autocast any but float64.
        size_average: Deprecated; see ``reduction``.
        ignore_index: Rows with this label have zero loss and gradient, and do not count in the mean.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"`` (divides by the weights of the labels), ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the shape of ``target`` for ``"none"``, in the dtype of ``input`` (float32 under
        autocast).

    Raises:
        IndexError: a label is out of range (on CUDA that row becomes NaN instead).
        ValueError: batch sizes differ, ``input`` has no class dimension, or ``reduction`` is none of the
            three.
        RuntimeError: other mismatches of shape, dtype or device.

    Source: :func:`torch.nn.functional.nll_loss`.
    """
    operator.index(ignore_index)  # TypeError
    reduction = legacy(reduction, size_average, reduce)

    def reference(input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return torch_functional.nll_loss(
            input, target, weight, ignore_index=ignore_index, reduction=reduction
        )

    def twice_differentiable(input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return reference(input, _plain_labels(input, target), weight)

    operands = (input, target) if weight is None else (input, target, weight)
    why = why_torch(*operands) or _why_not_labels(input, target, weight)
    if why is None and input.dim() == 0:
        why = "no class dimension"
    if why is not None:
        return run_torch("nll_loss", why, reference, input, target, weight)
    dtype = autocast_dtype(input.dtype, input)
    call = LossCall("nll_loss", twice_differentiable, reduction, dtype, ignore_index=ignore_index)
    return run(call, (input, target), _weight_for(input, weight), fallback=reference)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Multi-class hinge loss: the mean over classes of ``max(0, margin - input[target] + input[c])**p``.

    Args:
        input: Scores, shape ``(C)`` or ``(N, C)``.
        target: Labels in ``[0, C)``, shape ``()`` or ``(N)``, int64.
        p: 1 or 2.
        margin: By how much the score of the label should lead, in the unit of the scores.
        weight: Weight of each class, shape ``(C)``, dtype of ``input``; the mean divides by ``N``.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the shape of ``target`` for ``"none"``, in the dtype of ``input`` (float32 under
        autocast).

    Raises:
        ValueError: ``p`` is neither 1 nor 2, ``weight`` is not one-dimensional, or ``reduction`` is none of
            the three.
        RuntimeError: a label is out of range (on CUDA that row becomes NaN instead); other mismatches of
            shape, dtype or device.

    Source: :func:`torch.nn.functional.multi_margin_loss`. Unlike torch's, it has half types and a second
    derivative.
    """
    reduction = legacy(reduction, size_average, reduce)
    torchs = partial(_multi_margin_by_torch, p=p, margin=margin, reduction=reduction)
    reference = partial(_multi_margin_reference, p=p, margin=margin, reduction=reduction)
    operands = (input, target) if weight is None else (input, target, weight)
    why = why_torch(*operands) or _why_not_margin(input, target, weight, p)
    if why is not None:
        return run_torch("multi_margin_loss", why, torchs, input, target, weight)
    dtype = autocast_dtype(input.dtype, input)
    call = LossCall("multi_margin_loss", reference, reduction, dtype, (float(p), float(margin)))
    loss = run(call, (input, target), _weight_for(input, weight), fallback=torchs)
    return loss.reshape(target.shape) if reduction == "none" else loss


def _why_not_margin(input: Tensor, target: Tensor, weight: Tensor | None, p: int) -> str | None:
    if p not in (1, 2):
        return "p"
    if input.dim() not in (1, 2) or target.dim() > 1 or input.shape[-1] == 0:
        return "shapes"
    rows = input.shape[0] if input.dim() == 2 else 1
    if target.numel() != rows or target.dim() < input.dim() - 1:
        return "shapes"
    if target.dtype is not torch.int64:
        return "label dtype"
    if weight is not None and weight.dim() != 1:
        return "shape of the weight"
    return _why_not_labels(input, target, weight)


def _multi_margin_by_torch(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, p: int, margin: float, reduction: str
) -> Tensor:
    return torch_functional.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)


def _multi_margin_reference(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, p: int, margin: float, reduction: str
) -> Tensor:
    return _reference.multi_margin_loss(input, target, weight, p, margin, reduction)
