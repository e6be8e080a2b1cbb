"""Losses on NumPy arrays: value and gradient from one call."""

from __future__ import annotations

import operator
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from fusestep import _native
from fusestep._stats import count_native
from fusestep.numpy._arrays import Array, as_array

__all__ = ["cross_entropy", "mse_loss"]


def _run(
    op: str,
    input: Array,
    target: Array,
    weight: Array | None,
    loss_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    with_grad: bool,
    reduction: str,
    hyper: tuple[float, ...] = (),
    ignore_index: int = -100,
) -> Any:
    loss = np.empty(loss_shape if reduction == "none" else (), dtype)
    grad = np.empty(input.shape, input.dtype) if with_grad else None
    _native.run(op, (input, target, weight), (loss, grad), hyper, reduction, None, ignore_index)
    count_native(op)
    value = loss if reduction == "none" else loss[()]
    return (value, grad) if with_grad else value


@overload
def mse_loss(
    input: ArrayLike, target: ArrayLike, reduction: str = ..., with_grad: Literal[True] = ...
) -> tuple[Any, Array]: ...
@overload
def mse_loss(
    input: ArrayLike, target: ArrayLike, reduction: str = ..., *, with_grad: Literal[False]
) -> Any: ...
def mse_loss(input: ArrayLike, target: ArrayLike, reduction: str = "mean", with_grad: bool = True) -> Any:
    """Mean squared error and its gradient with respect to ``input``.

    Args:
        input: Predictions, shape ``(*)``, floating point.
        target: Ground truth, of the same shape; nothing is broadcast.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: Return the gradient too.

    Returns:
        ``(loss, grad)``, or ``loss`` alone. ``loss`` is a NumPy scalar of the promoted dtype, or an array
        of shape ``(*)`` for ``"none"``; ``grad`` has the shape and dtype of ``input``. For ``"none"`` it is
        the gradient of the sum.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.mse_loss`.
    """
    x, t = as_array(input, "input"), as_array(target, "target")
    if x.shape != t.shape:
        raise ValueError(f"`target` must have the shape of `input`, {x.shape}, got {t.shape}")
    dtype = np.promote_types(x.dtype, t.dtype)
    return _run("mse_loss", x, t, None, x.shape, dtype, with_grad, reduction)


@overload
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    ignore_index: int = ...,
    reduction: str = ...,
    label_smoothing: float = ...,
    with_grad: Literal[True] = ...,
) -> tuple[Any, Array]: ...
@overload
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = ...,
    ignore_index: int = ...,
    reduction: str = ...,
    label_smoothing: float = ...,
    *,
    with_grad: Literal[False],
) -> Any: ...
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    with_grad: bool = True,
) -> Any:
    """Cross-entropy between logits and labels, and its gradient with respect to the logits.

    Args:
        input: Logits, shape ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``, floating point.
        target: Labels in ``[0, C)`` or ``ignore_index``, shape of ``input`` without ``C``, any integer dtype.
        weight: Weight of each class, shape ``(C)``, dtype of ``input``.
        ignore_index: Rows with this label have zero loss and gradient, and do not count in the mean.
        reduction: ``"mean"`` (divides by the weights of the labels), ``"sum"`` or ``"none"``.
        label_smoothing: Probability mass in ``[0, 1]`` spread over all classes.
        with_grad: Return the gradient too.

    Returns:
        ``(loss, grad)``, or ``loss`` alone. ``loss`` is a NumPy scalar of the dtype of ``input``, or an array
        of the shape of ``target`` for ``"none"``; ``grad`` has the shape and dtype of ``input``. For
        ``"none"`` it is the gradient of the sum.

    Raises:
        IndexError: a label is out of range.
        TypeError: an argument is not an array of a supported dtype.
        ValueError: batch sizes differ, smoothing is outside [0, 1], or ``reduction`` is none of the three.
        RuntimeError: other mismatches of shape or dtype.

    Source: :func:`torch.nn.functional.cross_entropy`.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"`label_smoothing` must be in [0, 1], got {label_smoothing}")
    x, t = as_array(input, "input"), as_array(target, "target")
    w = None if weight is None else as_array(weight, "weight")
    shape = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    hyper = (float(label_smoothing),)
    ignored = operator.index(ignore_index)
    return _run("cross_entropy", x, t, w, shape, x.dtype, with_grad, reduction, hyper, ignored)
