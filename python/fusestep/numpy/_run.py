"""From a loss on NumPy arrays to the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fusestep import _native
from fusestep._stats import count_native
from fusestep.numpy._arrays import Array, as_array

WithGrad = bool | str | Sequence[str]

_OPS = _native.ops()


def elementwise(
    op: str,
    values: tuple[ArrayLike | None, ...],
    reduction: str,
    with_grad: WithGrad,
    hyper: tuple[float, ...] = (),
    weight: ArrayLike | None = None,
) -> Any:
    """A pointwise loss. Weights and variances are broadcast; a target must have the shape of the input."""
    names = _OPS[op]["operands"]
    first = as_array(values[0], names[0])  # type: ignore[arg-type]
    operands: list[Array | None] = [first]
    for i, (name, value) in enumerate(zip(names[1:], values[1:], strict=True)):
        spread = i == 1 and name != "target"
        optional = value is None and name == "pos_weight"
        operand = None if optional else _like(first, value, name, spread)  # type: ignore[arg-type]
        if operand is not None and operand.shape != first.shape:
            raise ValueError(
                f"`{name}` must have the shape of `{names[0]}`, {first.shape}, got {operand.shape}"
            )
        operands.append(operand)
    w = None if weight is None else _like(first, weight, "weight", spread=True)
    floats = [operand for operand in (*operands, w) if operand is not None]
    divisor = 0
    if op == "kl_div" and reduction == "batchmean":
        reduction, divisor = ("mean", first.shape[0]) if first.ndim else ("sum", 0)
    dtype = np.result_type(*(operand.dtype for operand in floats))
    return _call(op, operands, w, first.shape, dtype, reduction, with_grad, hyper, divisor=divisor)


def rows(
    op: str,
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None,
    reduction: str,
    with_grad: WithGrad,
    hyper: tuple[float, ...],
    ignore_index: int | None = None,
) -> Any:
    """A loss of rows of classes, the second dimension (or the only one)."""
    x, t = as_array(input, "input"), as_array(target, "target")
    w = None if weight is None else as_array(weight, "weight")
    dtype, dim = x.dtype, 1 if x.ndim > 1 else 0
    if op == "cross_entropy" and t.dtype.kind not in "iub" and t.shape == x.shape:
        if ignore_index is not None and ignore_index >= 0:
            raise ValueError(f"`ignore_index` does not go with probabilities, got {ignore_index}")
        op, ignore_index = "soft_cross_entropy", None
        dtype = np.result_type(*(a.dtype for a in (x, t, w) if a is not None))
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    return _call(op, [x, t], w, shape, dtype, reduction, with_grad, hyper, ignore_index)


def _like(first: Array, value: ArrayLike, name: str, spread: bool) -> Array:
    """An operand to go with the first: whole numbers, and numbers of Python, take its dtype."""
    array = as_array(value, name)
    if (array.dtype.kind in "iub" or isinstance(value, float)) and first.dtype.kind not in "iub":
        array = array.astype(first.dtype)
    if not spread:
        return array
    try:
        return np.broadcast_to(array, first.shape)
    except ValueError:
        raise ValueError(f"`{name}` must broadcast to the shape {first.shape}, got {array.shape}") from None


def _call(
    op: str,
    operands: Sequence[Array | None],
    weight: Array | None,
    loss_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    reduction: str,
    with_grad: WithGrad,
    hyper: tuple[float, ...],
    ignore_index: int | None = None,
    divisor: int = 0,
) -> Any:
    names = _OPS[op]["operands"]
    wanted = _wanted(names, operands, with_grad)
    loss = np.empty(loss_shape if reduction == "none" else (), dtype)
    outputs = (loss, *[name in wanted for name in names])
    grads = _native.run(op, tuple(operands), outputs, hyper, reduction, None, weight, ignore_index, divisor)
    count_native(op)
    value = loss if reduction == "none" else loss[()]
    by_name = dict(zip(names, grads, strict=True))
    return (value, *(by_name[name] for name in wanted)) if wanted else value


def _wanted(names: Sequence[str], operands: Sequence[Array | None], with_grad: WithGrad) -> Sequence[str]:
    """The operands whose gradients are asked for, in the order asked."""
    if isinstance(with_grad, bool):
        return names[:1] if with_grad else ()
    wanted = [with_grad] if isinstance(with_grad, str) else list(with_grad)
    floating = [
        n for n, a in zip(names, operands, strict=True) if a is not None and a.dtype.kind not in "iub"
    ]
    for name in wanted:
        if name not in floating:
            raise ValueError(f"`with_grad` must name operands among {floating}, got {name!r}")
    return wanted
