"""Losses of rows of class scores on NumPy arrays."""

from __future__ import annotations

import operator
from typing import Any

from numpy.typing import ArrayLike

from fusestep.numpy._run import WithGrad, rows

__all__ = ["cross_entropy", "multi_margin_loss", "nll_loss"]


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    with_grad: WithGrad = True,
    *,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
) -> Any:
    """Cross-entropy between logits and class labels or probabilities.

    Args:
        input: Logits, shape ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``, floating point.
        target: Labels in ``[0, C)`` or ``ignore_index``, shape of ``input`` without ``C``, any integer; or
            probabilities, of the shape of ``input`` and floating point.
        weight: Weight of each class, shape ``(C)``, dtype of ``input``.
        ignore_index: Rows with this label have zero loss and gradient, and do not count in the mean.
        label_smoothing: Probability mass in ``[0, 1]`` spread over all classes.
        lse_square_scale: Adds this times the square of each row's logsumexp (z-loss).
        softcap: Replaces the logits by ``softcap * tanh(input / softcap)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: batch sizes differ, smoothing is outside [0, 1], ``softcap`` is not positive, or
            ``reduction`` is none of the three.
        IndexError: a label is out of range.
        RuntimeError: other mismatches of shape or dtype.

    Source: :func:`torch.nn.functional.cross_entropy`.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"`label_smoothing` must be in [0, 1], got {label_smoothing}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"`softcap` must be positive or None, got {softcap}")
    hyper = (float(label_smoothing), float(lse_square_scale), float(softcap or 0.0))
    ignored = operator.index(ignore_index)
    return rows("cross_entropy", input, target, weight, reduction, with_grad, hyper, ignored)


def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    with_grad: WithGrad = True,
) -> Any:
    """Negative log-likelihood of labels, ``-weight[target] * input[target]``.

    Args:
        input: Log-probabilities, shape ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``, floating point.
        target: Labels in ``[0, C)`` or ``ignore_index``, shape of ``input`` without ``C``, any integer dtype.
        weight: Weight of each class, shape ``(C)``, dtype of ``input``; the mean divides by the labels'.
        ignore_index: Rows with this label have zero loss and gradient, and do not count in the mean.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: batch sizes differ, or ``reduction`` is none of the three.
        IndexError: a label is out of range.
        RuntimeError: other mismatches of shape or dtype.

    Source: :func:`torch.nn.functional.nll_loss`.
    """
    ignored = operator.index(ignore_index)
    return rows("nll_loss", input, target, weight, reduction, with_grad, (), ignored)


def multi_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    p: int = 1,
    margin: float = 1.0,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    with_grad: WithGrad = True,
) -> Any:
    """Multi-class hinge loss: the mean over classes of ``max(0, margin - input[target] + input[c])**p``.

    Args:
        input: Scores, shape ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``, floating point.
        target: Labels in ``[0, C)``, shape of ``input`` without ``C``, any integer dtype.
        p: 1 or 2.
        margin: By how much the score of the label should lead, in the unit of the scores.
        weight: Weight of each class, shape ``(C)``, dtype of ``input``; the mean divides by ``N``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: batch sizes differ, ``p`` is neither 1 nor 2, or ``reduction`` is none of the three.
        IndexError: a label is out of range.
        RuntimeError: other mismatches of shape or dtype.

    Source: :func:`torch.nn.functional.multi_margin_loss`.
    """
    if p not in (1, 2):
        raise ValueError(f"`p` must be 1 or 2, got {p}")
    hyper = (float(p), float(margin))
    return rows("multi_margin_loss", input, target, weight, reduction, with_grad, hyper)
