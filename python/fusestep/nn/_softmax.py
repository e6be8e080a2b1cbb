"""softmax and log_softmax. Not losses: their results are rows, and the gradient needs only those."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from fusestep import _native
from fusestep._stats import count_native, count_torch
from fusestep.nn._autograd import is_batched, run_torch, why_torch
from fusestep.nn._call import FLOATING, HALF, autocast_dtype, empty_like
from fusestep.nn._torchs import functional as torch_functional

__all__ = ["log_softmax", "softmax"]


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """``exp(input) / exp(input).sum(dim)``, to a few ULP for scores of any size.

    Args:
        input: Scores, any shape.
        dim: The dimension that sums to 1. None warns and takes the first or second, as torch does.
        dtype: Of the result; the scores are read as they are.

    Returns:
        The shape of ``input``, in ``dtype`` or that of ``input``.

    Raises:
        IndexError: ``dim`` is out of range.
        NotImplementedError: an integer dtype, unless ``dtype`` is given.

    Source: :func:`torch.nn.functional.softmax`.
    """
    return _along("softmax", input, dim, _stacklevel, dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """``input - logsumexp(input, dim)``, accurate where the result is close to zero.

    Args:
        input: Scores, any shape.
        dim: The dimension whose exponentials sum to 1. None warns and takes the first or second, as torch
            does.
        dtype: Of the result; the scores are read as they are.

    Returns:
        The shape of ``input``, in ``dtype`` or that of ``input``.

    Raises:
        IndexError: ``dim`` is out of range.
        NotImplementedError: an integer dtype, unless ``dtype`` is given.

    Source: :func:`torch.nn.functional.log_softmax`.
    """
    return _along("log_softmax", input, dim, _stacklevel, dtype)


def _along(op: str, input: Tensor, dim: int | None, stacklevel: int, dtype: torch.dtype | None) -> Tensor:
    def by_torch(input: Tensor) -> Tensor:
        return getattr(torch_functional, op)(input, dim, stacklevel + 2, dtype)  # type: ignore[no-any-return]

    why = why_torch(input)
    if why is None and torch.compiler.is_compiling():
        why = "torch.compile"  # fuses its own with the operations around it
    if why is None and (input.dtype not in FLOATING or (dtype is not None and dtype not in FLOATING)):
        why = "dtype"
    if why is not None:
        return run_torch(op, why, by_torch, input)
    if dim is None:
        warnings.warn(
            f"Implicit dimension choice for {op} has been deprecated. "
            "Change the call to include dim=X as an argument.",
            stacklevel=stacklevel,
        )
        dim = 0 if input.dim() in (0, 1, 3) else 1
    result = dtype or input.dtype
    if dtype in HALF and dtype is not input.dtype:
        input = input.to(dtype)  # torch casts first; what would be wider is read as it is
    if input.is_cuda and dtype is None:  # CPU autocast leaves them alone
        result = autocast_dtype(result, input)
    try:
        if torch.is_grad_enabled() and input.requires_grad:
            output = _Softmax.apply(op, input, dim, result)  # type: ignore[no-untyped-call]
        else:
            output = _forward(op, input, dim, result)
    except _native.Unsupported as unsupported:
        return run_torch(op, str(unsupported), by_torch, input)
    count_native(op)
    return output  # type: ignore[no-any-return]


def _forward(op: str, input: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    output = empty_like(input, dtype, row_major=True)
    _native.run(op, (input,), (None, output), dim=dim)
    return output


class _Softmax(torch.autograd.Function):
    """Saves the result, as torch does: whoever computes it mostly keeps it anyway."""

    @staticmethod
    def forward(ctx: Any, op: str, input: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
        output = _forward(op, input, dim, dtype)
        ctx.save_for_backward(output)
        ctx.op, ctx.dim, ctx.dtype = op, dim, input.dtype
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = ctx.saved_tensors
        if not (torch.is_grad_enabled() or is_batched(grad_output)):
            grad = empty_like(output, ctx.dtype, row_major=True)
            try:
                _native.run(f"{ctx.op}_backward", (output, grad_output), (None, grad), dim=ctx.dim)
            except _native.Unsupported as unsupported:  # of grad_output
                count_torch(ctx.op, str(unsupported))
            else:
                return None, grad, None, None
        backward = getattr(torch, f"_{ctx.op}_backward_data")  # differentiable
        return None, backward(grad_output, output, ctx.dim, output.dtype).to(ctx.dtype), None, None
