"""Losses of classification and of distributions on NumPy arrays."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from fusestep.numpy._run import WithGrad, elementwise

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "hinge_embedding_loss",
    "kl_div",
    "margin_ranking_loss",
    "sigmoid_focal_loss",
    "soft_margin_loss",
]


def binary_cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    with_grad: WithGrad = True,
) -> Any:
    """Binary cross-entropy of probabilities; logarithms are clamped at -100.

    Args:
        input: Probabilities between 0 and 1, shape ``(*)``, floating point.
        target: Probabilities between 0 and 1, of the same shape.
        weight: Weights of the elements, broadcast to that shape; the mean divides by their number.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, an element is outside [0, 1], or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.binary_cross_entropy`.
    """
    return elementwise("binary_cross_entropy", (input, target), reduction, with_grad, weight=weight)


def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
    with_grad: WithGrad = True,
) -> Any:
    """Binary cross-entropy of logits, without the rounding of a sigmoid in between.

    Args:
        input: Logits, shape ``(*)``, floating point.
        target: Probabilities, of the same shape.
        weight: Weights of the elements, broadcast to that shape; the mean divides by their number.
        pos_weight: Weights of the positive part, broadcast likewise.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.binary_cross_entropy_with_logits`.
    """
    return elementwise(
        "binary_cross_entropy_with_logits", (input, target, pos_weight), reduction, with_grad, weight=weight
    )


def sigmoid_focal_loss(
    inputs: ArrayLike,
    targets: ArrayLike,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: str = "none",
    with_grad: WithGrad = True,
) -> Any:
    """Focal loss of logits: binary cross-entropy times ``(1 - p_t)**gamma``.

    Args:
        inputs: Logits, shape ``(*)``, floating point.
        targets: Probabilities, or 0 and 1, of the same shape.
        alpha: Weight of the positive part in [0, 1], ``1 - alpha`` being that of the negative; -1 for none.
        gamma: Strength of the focus, at least 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, ``alpha`` is neither in [0, 1] nor -1, or ``reduction`` is none of
            the three.

    Source: ``torchvision.ops.sigmoid_focal_loss``; Lin et al. 2017.
    """
    if not (0 <= alpha <= 1) and alpha != -1:
        raise ValueError(f"`alpha` must be in [0, 1], or -1 for no weighting, got {alpha}")
    hyper = (float(alpha), float(gamma))
    return elementwise("sigmoid_focal_loss", (inputs, targets), reduction, with_grad, hyper)


def kl_div(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    log_target: bool = False,
    with_grad: WithGrad = True,
) -> Any:
    """Kullback-Leibler divergence, ``target * (log(target) - input)``.

    Args:
        input: Logarithms of probabilities, shape ``(*)``, floating point.
        target: Probabilities, or their logarithms with ``log_target``, of the same shape.
        log_target: ``target`` holds logarithms.
        reduction: ``"batchmean"`` (the sum divided by the first size of ``input``), ``"mean"``, ``"sum"`` or
            ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the four.

    Source: :func:`torch.nn.functional.kl_div`.
    """
    return elementwise("kl_div", (input, target), reduction, with_grad, (float(log_target),))


def soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    with_grad: WithGrad = True,
) -> Any:
    """Logistic loss of labels 1 and -1, ``log(1 + exp(-target * input))``.

    Args:
        input: Scores, shape ``(*)``, floating point.
        target: Labels 1 or -1, of the same shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.soft_margin_loss`.
    """
    return elementwise("soft_margin_loss", (input, target), reduction, with_grad)


def hinge_embedding_loss(
    input: ArrayLike,
    target: ArrayLike,
    margin: float = 1.0,
    reduction: str = "mean",
    with_grad: WithGrad = True,
) -> Any:
    """``input`` where ``target`` is 1, ``max(0, margin - input)`` where it is -1.

    Args:
        input: Distances, shape ``(*)``, floating point.
        target: Labels 1 or -1, of the same shape.
        margin: How far apart a pair labelled -1 should be, in the unit of ``input``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.hinge_embedding_loss`.
    """
    return elementwise("hinge_embedding_loss", (input, target), reduction, with_grad, (float(margin),))


def margin_ranking_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: float = 0,
    reduction: str = "mean",
    with_grad: WithGrad = True,
) -> Any:
    """``max(0, margin - target * (input1 - input2))``.

    Args:
        input1: Scores, shape ``(*)``, floating point.
        input2: Scores, of the same shape.
        target: 1 where ``input1`` should be ranked higher, -1 where lower, of the same shape.
        margin: By how much, in the unit of the scores.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.margin_ranking_loss`.
    """
    hyper = (float(margin),)
    return elementwise("margin_ranking_loss", (input1, input2, target), reduction, with_grad, hyper)
