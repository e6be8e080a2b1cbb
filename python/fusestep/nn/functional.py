"""The losses of :mod:`torch.nn.functional` on fused kernels; all other names are torch's own.

A call that the kernels cannot take (a complex tensor, a tensor subclass, vmap, …) runs torch's own
function, with its result or its exception; :func:`fusestep.stats` counts how often and why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from torch.nn import _reduction

from fusestep._torch_names import mirror
from fusestep.nn._autograd import run, run_torch, why_torch
from fusestep.nn._call import LossCall, autocast_enabled

KERNELS = ["cross_entropy", "mse_loss"]  # the names that are ours


def _legacy(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    if size_average is not None or reduce is not None:
        return _reduction.legacy_get_string(size_average, reduce)
    return reduction


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error, ``(input - target)**2``.

    Args:
        input: Predictions, shape ``(*)``, float32, float64, bfloat16 or float16.
        target: Ground truth, shape ``(*)``; other shapes are broadcast, with torch's warning.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight: Weights for the elements, of the shape of ``input``. Runs torch's own function.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the promoted dtype of input and target.

    Raises:
        ValueError: ``reduction`` is none of the three.
        RuntimeError: the shapes do not broadcast, or the devices differ.

    Source: :func:`torch.nn.functional.mse_loss`.
    """
    reduction = _legacy(reduction, size_average, reduce)
    if weight is not None:
        weighted: Callable[..., Tensor] = torch_functional.mse_loss  # its stub does not know `weight` yet
        reference = partial(weighted, reduction=reduction, weight=weight)
        return run_torch("mse_loss", "weight", reference, input, target)
    reference = partial(torch_functional.mse_loss, reduction=reduction)
    why = why_torch(input, target)
    if why is not None:
        return run_torch("mse_loss", why, reference, input, target)
    call = LossCall("mse_loss", reference, reduction)
    if input.shape != target.shape:
        if torch.compiler.is_compiling():  # which cannot trace a warning of ours
            return run_torch("mse_loss", "broadcasting while compiling", reference, input, target)
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size "
            f"({input.size()}). This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=2,
        )
        input, target = torch.broadcast_tensors(input, target)  # type: ignore[no-untyped-call]
    return run(call, input, target)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy between logits and class labels, in one pass for value and gradient.

    Args:
        input: Logits, shape ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``; float32, float64, bfloat16, float16.
        target: Labels in ``[0, C)`` or ``ignore_index``, shape of ``input`` without ``C``, int64 or uint8.
            Probabilities of the shape of ``input`` run torch's own function.
        weight: Weight of each class, shape ``(C)``, dtype of ``input``; under autocast any but float64.
        size_average: Deprecated; see ``reduction``.
        ignore_index: Rows with this label have zero loss and gradient, and do not count in the mean.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"`` (divides by the weights of the labels), ``"sum"`` or ``"none"``.
        label_smoothing: Probability mass in ``[0, 1]`` spread over all classes.

    Returns:
        A scalar, or the shape of ``target`` for ``"none"``, in the dtype of ``input``
        (float32 under autocast).

    Raises:
        IndexError: a label is out of range (on CUDA that row becomes NaN instead).
        ValueError: batch sizes differ, or ``reduction`` is none of the three.
        RuntimeError: other mismatches of shape, dtype or device; smoothing above 1.

    Source: :func:`torch.nn.functional.cross_entropy`.
    """
    reduction = _legacy(reduction, size_average, reduce)
    reference = partial(
        torch_functional.cross_entropy,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    operands = (input, target) if weight is None else (input, target, weight)
    why = why_torch(*operands) or _not_for_kernel(input, target, weight, label_smoothing)
    if why is not None:
        return run_torch("cross_entropy", why, reference, input, target, weight)
    call = LossCall("cross_entropy", reference, reduction, (float(label_smoothing),), ignore_index)
    if weight is not None and weight.dtype is not input.dtype:
        weight = weight.float()  # autocast: the loss is float32
    return run(call, input, target, weight)


def _not_for_kernel(
    input: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float
) -> str | None:
    """Calls of cross_entropy that torch answers, some of them with an exception."""
    if target.is_floating_point() or input.shape == target.shape:
        return "probability targets"
    if target.dtype is not torch.int64 and target.dtype is not torch.uint8:
        return "label dtype"
    if weight is not None and weight.requires_grad:
        return "gradient of the weight"
    if weight is not None and weight.dtype is not input.dtype:
        narrow = torch.float64 not in (weight.dtype, input.dtype) and weight.is_floating_point()
        if not (narrow and autocast_enabled(input)):
            return "dtype of the weight"
    if label_smoothing > 1.0:
        return "smoothing above 1"
    return None


__getattr__, __dir__, __all__ = mirror("fusestep.nn.functional", KERNELS)
