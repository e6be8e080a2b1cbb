"""softmax and log_softmax on NumPy arrays, and their gradients."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fusestep import _native
from fusestep._stats import count_native
from fusestep.numpy._arrays import Array, as_array

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]


def softmax(input: ArrayLike, dim: int = -1, dtype: Any = None) -> Array:
    """``exp(input) / exp(input).sum(dim)``, to a few ULP for scores of any size.

    Args:
        input: Scores, any shape, floating point.
        dim: The dimension that sums to 1.
        dtype: Of the result; that of ``input`` by default.

    Returns:
        An array of the shape of ``input``.

    Raises:
        TypeError: ``input`` is not an array of a supported dtype.
        IndexError: ``dim`` is out of range.

    Source: :func:`torch.nn.functional.softmax`.
    """
    return _along("softmax", (as_array(input, "input"),), dim, dtype)


def log_softmax(input: ArrayLike, dim: int = -1, dtype: Any = None) -> Array:
    """``input - logsumexp(input, dim)``, accurate where the result is close to zero.

    Args:
        input: Scores, any shape, floating point.
        dim: The dimension whose exponentials sum to 1.
        dtype: Of the result; that of ``input`` by default.

    Returns:
        An array of the shape of ``input``.

    Raises:
        TypeError: ``input`` is not an array of a supported dtype.
        IndexError: ``dim`` is out of range.

    Source: :func:`torch.nn.functional.log_softmax`.
    """
    return _along("log_softmax", (as_array(input, "input"),), dim, dtype)


def softmax_backward(output: ArrayLike, grad_output: ArrayLike, dim: int = -1) -> Array:
    """The gradient with respect to the scores: ``output * (grad_output - (grad_output * output).sum(dim))``.

    Args:
        output: What :func:`softmax` returned.
        grad_output: The gradient with respect to it, of the same shape.
        dim: The same as there.

    Returns:
        An array of the shape and dtype of ``output``.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        IndexError: ``dim`` is out of range.
        RuntimeError: the shapes differ.

    Source: the gradient of :func:`torch.nn.functional.softmax`.
    """
    return _along("softmax_backward", _pair(output, grad_output), dim, None)


def log_softmax_backward(output: ArrayLike, grad_output: ArrayLike, dim: int = -1) -> Array:
    """The gradient with respect to the scores: ``grad_output - exp(output) * grad_output.sum(dim)``.

    Args:
        output: What :func:`log_softmax` returned.
        grad_output: The gradient with respect to it, of the same shape.
        dim: The same as there.

    Returns:
        An array of the shape and dtype of ``output``.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        IndexError: ``dim`` is out of range.
        RuntimeError: the shapes differ.

    Source: the gradient of :func:`torch.nn.functional.log_softmax`.
    """
    return _along("log_softmax_backward", _pair(output, grad_output), dim, None)


def _pair(output: ArrayLike, grad_output: ArrayLike) -> tuple[Array, Array]:
    return as_array(output, "output"), as_array(grad_output, "grad_output")


def _along(op: str, operands: tuple[Array, ...], dim: int, dtype: Any) -> Array:
    result = True if dtype is None else np.empty(operands[0].shape, dtype)  # True: like the first operand
    (result,) = _native.run(op, operands, (None, result), dim=operator.index(dim))
    count_native(op)
    return result  # type: ignore[no-any-return]
