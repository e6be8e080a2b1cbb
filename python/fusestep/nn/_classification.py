"""Losses of classification and of distributions, element by element."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import Tensor
from torch.nn import _reduction

from fusestep.nn import _reference
from fusestep.nn._autograd import run_torch
from fusestep.nn._call import autocast_enabled
from fusestep.nn._elementwise import elementwise, fits, legacy, need_tensors
from fusestep.nn._torchs import functional as torch_functional

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "hinge_embedding_loss",
    "kl_div",
    "margin_ranking_loss",
    "sigmoid_focal_loss",
    "soft_margin_loss",
]

_SUM = _reduction.get_enum("sum")


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross-entropy of probabilities, ``-target * log(input) - (1 - target) * log(1 - input)``.

    The logarithms are clamped at -100, and the denominator of the gradient at 1e-12, so both are finite at
    0 and 1.

    Args:
        input: Probabilities between 0 and 1, shape ``(*)``.
        target: Probabilities between 0 and 1, of the same shape and dtype.
        weight: Weights of the elements, broadcast to the shape of ``target``; the mean divides by their
            number.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the shape of ``input`` for ``"none"``, in its dtype (float32 under CPU autocast).

    Raises:
        ValueError: the shapes differ, or ``reduction`` is none of the three.
        RuntimeError: an element is outside [0, 1] (on CUDA it becomes NaN instead), the dtypes or devices
            differ, or autocast is on for CUDA.

    Source: :func:`torch.nn.functional.binary_cross_entropy`.
    """
    reduction = legacy(reduction, size_average, reduce)

    def reference(input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return torch_functional.binary_cross_entropy(input, target, weight, reduction=reduction)

    tensors = (input, target) if weight is None else (input, target, weight)
    if not all(isinstance(t, Tensor) for t in tensors) or input.shape != target.shape:
        return run_torch("binary_cross_entropy", "shapes", reference, input, target, weight)
    if any(t.dtype is not input.dtype for t in tensors) or (input.is_cuda and autocast_enabled(input)):
        return run_torch("binary_cross_entropy", "dtype", reference, input, target, weight)
    return elementwise("binary_cross_entropy", reference, (input, target), reduction, weight=weight)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of logits, without the rounding of a sigmoid in between.

    Args:
        input: Logits, shape ``(*)``.
        target: Probabilities of the same shape.
        weight: Weights of the elements, broadcast to the shape of ``input``; the mean divides by their
            number.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        pos_weight: Weights of the positive part, ``target * -log(sigmoid(input))``; broadcast likewise.

    Returns:
        A scalar, or the shape of ``input`` for ``"none"``, in the dtype of ``target`` (torch's choice).

    Raises:
        ValueError: the shapes differ, or ``reduction`` is none of the three.
        RuntimeError: a weight does not broadcast, an integer dtype, or different devices.

    Source: :func:`torch.nn.functional.binary_cross_entropy_with_logits`.
    """
    reduction = legacy(reduction, size_average, reduce)

    def reference(input: Tensor, target: Tensor, *weights: Tensor) -> Tensor:
        given = iter(weights)  # pos_weight, an operand, comes before the weight
        positive = next(given) if pos_weight is not None else None
        return torch_functional.binary_cross_entropy_with_logits(
            input, target, next(given, None), reduction=reduction, pos_weight=positive
        )

    weights = [w for w in (pos_weight, weight) if w is not None]
    why = _why_not_logits(input, target, weights)
    if why is not None:
        return run_torch("binary_cross_entropy_with_logits", why, reference, input, target, *weights)
    operands = (input, target)
    if pos_weight is not None:
        operands = (input, target, pos_weight.expand(input.shape))  # type: ignore[assignment]
    return elementwise(
        "binary_cross_entropy_with_logits", reference, operands, reduction, like=1, weight=weight
    )


def _why_not_logits(input: Tensor, target: Tensor, weights: list[Tensor]) -> str | None:
    if not all(isinstance(t, Tensor) for t in (input, target, *weights)):
        return "not a tensor"
    if input.shape != target.shape:
        return "shapes"
    if not (input.is_floating_point() and target.is_floating_point()):
        return "dtype"
    for weight in weights:
        if not fits(weight, input):
            return "shape of the weight"
        if weight.requires_grad:
            return "gradient of the weight"
        mixed = weight.dtype is not input.dtype and not autocast_enabled(input)
        if mixed or not weight.is_floating_point() or weight.dtype is torch.float64 is not input.dtype:
            return "dtype of the weight"
    return None


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: str = "none",
) -> Tensor:
    """Focal loss of logits: binary cross-entropy times ``(1 - p_t)**gamma``, which fades easy examples out.

    Args:
        inputs: Logits, shape ``(*)``.
        targets: Probabilities (0 or 1 for labels), of the same shape.
        alpha: Weight of the positive part in [0, 1], ``1 - alpha`` being that of the negative; -1 for none.
        gamma: Strength of the focus, at least 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The shape of ``inputs``, or a scalar unless ``reduction`` is ``"none"``, in the promoted dtype.

    Raises:
        ValueError: ``alpha`` is neither in [0, 1] nor -1, the shapes differ, or ``reduction`` is none of
            the three.
        TypeError: an argument is not a tensor.

    Source: ``torchvision.ops.sigmoid_focal_loss``; Lin et al. 2017.
    """
    if not (0 <= alpha <= 1) and alpha != -1:
        raise ValueError(f"`alpha` must be in [0, 1], or -1 for no weighting, got {alpha}")
    need_tensors(inputs=inputs, targets=targets)
    if inputs.shape != targets.shape:
        raise ValueError(
            f"`targets` must have the shape of `inputs`, {tuple(inputs.shape)}, got {tuple(targets.shape)}"
        )
    reference = partial(_reference.sigmoid_focal_loss, alpha=alpha, gamma=gamma, reduction=reduction)
    hyper = (float(alpha), float(gamma))
    return elementwise("sigmoid_focal_loss", reference, (inputs, targets), reduction, hyper)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Kullback-Leibler divergence, ``target * (log(target) - input)``.

    Args:
        input: Logarithms of probabilities, shape ``(*)``.
        target: Probabilities, or their logarithms with ``log_target``; broadcast against ``input``.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"batchmean"`` (the sum divided by the first size of ``input``), ``"mean"`` (by the
            number of elements, with torch's warning), ``"sum"`` or ``"none"``.
        log_target: ``target`` holds logarithms.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the promoted dtype.

    Raises:
        ValueError: ``reduction`` is none of the four.
        RuntimeError: an integer dtype, shapes that do not broadcast, or different devices.

    Source: :func:`torch.nn.functional.kl_div`.
    """
    deprecated = size_average is not None or reduce is not None
    reduction = legacy(reduction, size_average, reduce)
    torchs = partial(torch_functional.kl_div, reduction=reduction, log_target=log_target)
    if not all(isinstance(t, Tensor) and t.is_floating_point() for t in (input, target)):
        return run_torch("kl_div", "dtype", torchs, input, target)
    if reduction == "mean" and not deprecated and not torch.compiler.is_compiling():
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size. "
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition. "
            "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
            stacklevel=2,
        )
    divisor = 0
    if reduction == "batchmean":
        # A sum that overflows in float16 may have a finite mean, so the kernel divides.
        reduction, divisor = ("mean", input.size(0)) if input.dim() else ("sum", 0)
    reference = partial(_kl_div, reduction=reduction, log_target=log_target, divisor=divisor)
    hyper = (float(log_target),)
    return elementwise(
        "kl_div", reference, (input, target), reduction, hyper, shapes="broadcast", divisor=divisor
    )


def _kl_div(input: Tensor, target: Tensor, reduction: str, log_target: bool, divisor: int) -> Tensor:
    """torch's, without its warning: it has been given."""
    if divisor:
        return torch.kl_div(input, target, _SUM, log_target=log_target) / divisor
    return torch.kl_div(input, target, _reduction.get_enum(reduction), log_target=log_target)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Logistic loss of labels 1 and -1, ``log(1 + exp(-target * input))``; large scores do not overflow.

    Args:
        input: Scores, shape ``(*)``.
        target: Labels 1 or -1, of the same shape.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the shape of ``input`` for ``"none"``, in the dtype of ``input``.

    Raises:
        ValueError: ``reduction`` is none of the three.
        RuntimeError: the shapes do not fit, ``target`` requires a gradient, or the devices differ.

    Source: :func:`torch.nn.functional.soft_margin_loss`.
    """
    reduction = legacy(reduction, size_average, reduce)
    reference = partial(torch_functional.soft_margin_loss, reduction=reduction)
    if isinstance(target, Tensor) and target.requires_grad:
        return run_torch("soft_margin_loss", "gradient of the target", reference, input, target)
    return elementwise("soft_margin_loss", reference, (input, target), reduction, shapes="same", like=0)


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``input`` where ``target`` is 1, ``max(0, margin - input)`` where it is -1.

    Args:
        input: Distances, shape ``(*)``.
        target: Labels 1 or -1, broadcast against ``input``; without a gradient.
        margin: How far apart a pair labelled -1 should be, in the unit of ``input``.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the dtype of ``input``.

    Raises:
        ValueError: ``reduction`` is none of the three.
        RuntimeError: the shapes do not broadcast, or the devices differ.

    Source: :func:`torch.nn.functional.hinge_embedding_loss`.
    """
    reduction = legacy(reduction, size_average, reduce)
    reference = partial(torch_functional.hinge_embedding_loss, margin=margin, reduction=reduction)
    operands = (input, target.detach() if isinstance(target, Tensor) else target)
    if not isinstance(margin, (int, float)):
        return run_torch("hinge_embedding_loss", "margin", reference, *operands)
    hyper = (float(margin),)
    return elementwise(
        "hinge_embedding_loss", reference, operands, reduction, hyper, shapes="broadcast", like=0
    )


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``max(0, margin - target * (input1 - input2))``.

    Args:
        input1: Scores, shape ``(*)``.
        input2: Scores, of as many dimensions, broadcast.
        target: 1 where ``input1`` should be ranked higher, -1 where lower; of as many dimensions, broadcast.
        margin: By how much, in the unit of the scores.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the promoted dtype.

    Raises:
        ValueError: ``reduction`` is none of the three.
        RuntimeError: the numbers of dimensions differ, the shapes do not broadcast, or the devices differ.

    Source: :func:`torch.nn.functional.margin_ranking_loss`.
    """
    reduction = legacy(reduction, size_average, reduce)
    reference = partial(torch_functional.margin_ranking_loss, margin=margin, reduction=reduction)
    operands = (input1, input2, target)
    if not all(isinstance(t, Tensor) and t.dim() == input1.dim() for t in operands):
        return run_torch("margin_ranking_loss", "shapes", reference, *operands)
    if not isinstance(margin, (int, float)):
        return run_torch("margin_ranking_loss", "margin", reference, *operands)
    hyper = (float(margin),)
    return elementwise("margin_ranking_loss", reference, operands, reduction, hyper, shapes="broadcast")
