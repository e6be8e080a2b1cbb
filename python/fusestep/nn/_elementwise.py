"""What the losses of an element against an element share: broadcasting, promoted dtypes, sample weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import _reduction

from fusestep import _native
from fusestep.nn._autograd import run, run_eager, run_torch, why_torch
from fusestep.nn._call import LossCall, autocast_dtype

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def legacy(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    """The reduction that torch's deprecated arguments ask for."""
    if size_average is not None or reduce is not None:
        if not torch.compiler.is_compiling():  # which cannot trace the warning
            return _reduction.legacy_get_string(size_average, reduce)
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"
    if reduction == "elementwise_mean":
        _reduction.get_enum(reduction)  # torch's warning
        return "mean"
    return reduction


def elementwise(
    op: str,
    reference: Callable[..., Tensor],
    operands: tuple[Tensor, ...],
    reduction: str,
    hyper: tuple[float, ...] = (),
    *,
    shapes: str = "warn",
    like: int | None = None,
    autocast: bool = True,
    divisor: int = 0,
    weight: Tensor | None = None,
    stacklevel: int = 3,
) -> Tensor:
    """The loss of ``operands``, by the kernel or by ``reference``, which takes them and the weight.

    Args:
        shapes: What different shapes mean: ``"warn"`` and broadcast, ``"broadcast"``, or ``"same"``: torch
            decides.
        like: The operand whose dtype the loss has; None for the promoted dtype.
        autocast: The loss of half types is float32 under autocast.
        divisor: Of a mean, if it is not the number of elements.
        weight: Of the elements, broadcast to their shape.
        stacklevel: Whose line a warning names: the caller's of the public function.
    """
    if weight is None and not torch.compiler.is_compiling():
        wants_grad = _native.common_case(operands)
        if wants_grad is not None:
            dtype = operands[0].dtype
            if autocast:
                dtype = autocast_dtype(dtype, operands[0])
            call = LossCall(op, reference, reduction, dtype, hyper, divisor=divisor)
            return run_eager(call, operands, None, wants_grad)
    given = operands if weight is None else (*operands, weight)
    why = why_torch(*given)
    if why is not None:
        return run_torch(op, why, reference, *given)
    first = operands[0]
    dtype, shape = first.dtype, first.shape
    why = None if weight is None else _why_not_weighted(operands, weight)
    if why is None and any(not t.is_floating_point() and t.dtype not in _WHOLE for t in operands):
        why = "dtype"
    if why is None and shapes == "same" and any(t.shape != shape for t in operands):
        why = "shapes"
    if why is None and shapes == "warn" and operands[1].shape != shape:
        if torch.compiler.is_compiling():  # which cannot trace a warning of ours
            why = "broadcasting while compiling"
        else:
            warnings.warn(
                f"Using a target size ({operands[1].size()}) that is different to the input size "
                f"({first.size()}). This will likely lead to incorrect results due to broadcasting. "
                "Please ensure they have the same size.",
                stacklevel=stacklevel,
            )
    if why is None and shapes == "broadcast" and len(operands) > 2 and _numbers_of_another_dtype(operands):
        why = "numbers of another dtype"
    if why is not None:
        return run_torch(op, why, reference, *given)
    if any(t.shape != shape for t in operands):
        operands = torch.broadcast_tensors(*operands)  # type: ignore[no-untyped-call]
    if first.is_floating_point():  # whole numbers are exact in a comparison, and promoted elsewhere
        operands = tuple([t if t.is_floating_point() else t.to(first.dtype) for t in operands])
    if weight is not None and weight.shape != shape:
        weight = weight.expand(shape)
    if like is not None:
        dtype = operands[like].dtype
    elif all(t.dtype is first.dtype for t in operands):
        dtype = first.dtype
    elif shapes == "broadcast" and len(operands) == 2:
        dtype = torch.result_type(*given[:2])  # torch composes these, so a number does not widen a tensor
    else:
        dtype = operands[0].dtype
        for t in operands[1:]:
            dtype = torch.promote_types(dtype, t.dtype)
    if weight is not None and like != 1:
        dtype = torch.promote_types(dtype, weight.dtype)
    if autocast:
        dtype = autocast_dtype(dtype, first)
    return run(LossCall(op, reference, reduction, dtype, hyper, divisor=divisor), operands, weight)


def _numbers_of_another_dtype(operands: tuple[Tensor, ...]) -> bool:
    """Among 0-dimensional and other operands: what torch makes of their dtypes depends on its formula."""
    if len({t.dim() == 0 for t in operands}) == 1:
        return False
    return len({t.dtype for t in operands}) > 1


def _why_not_weighted(operands: tuple[Tensor, ...], weight: Tensor) -> str | None:
    if weight.requires_grad:
        return "gradient of the weight"
    if not weight.is_floating_point():
        return "dtype of the weight"
    if any(t.shape != operands[0].shape for t in operands):
        return "broadcasting with a weight"
    return None if fits(weight, operands[0]) else "shape of the weight"


def need_tensors(**operands: object) -> None:
    for name, value in operands.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"`{name}` must be a tensor, got {type(value).__name__}")


def fits(weight: Tensor, input: Tensor) -> bool:
    """Whether the weight broadcasts to the shape of the input."""
    if weight.dim() > input.dim():
        return False
    shape = input.shape[input.dim() - weight.dim() :]
    return all(w in (1, n) for w, n in zip(weight.shape, shape, strict=True))
