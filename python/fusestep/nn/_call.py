"""One loss call apart from its tensors: options, and what torch makes of shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fusestep import _native
from fusestep._memory import LARGE

PLAIN = (torch.Tensor, torch.nn.Parameter)  # no subclass
HALF = (torch.bfloat16, torch.float16)
FLOATING = (torch.float32, torch.float64, *HALF)
_REDUCTIONS = ("none", "mean", "sum")
_OPS = _native.ops()
_SCALARS = {dtype: torch.empty((), dtype=dtype, device="cpu") for dtype in FLOATING}


def empty_like(tensor: Tensor, dtype: torch.dtype | None = None, row_major: bool = False) -> Tensor:
    """As torch's, in memory of the pool where that pays; in C order if ``row_major``."""
    ask = tensor.numel() >= LARGE and (dtype is None or dtype is tensor.dtype)
    pooled = _native.pooled_like(tensor, row_major) if ask else None
    if pooled is not None:
        return pooled  # type: ignore[no-any-return]
    layout = torch.contiguous_format if row_major else torch.preserve_format
    return torch.empty_like(tensor, dtype=dtype, memory_format=layout)


class LossCall:
    """One loss call, apart from its tensors."""

    __slots__ = (
        "divisor",
        "dtype",
        "hyper",
        "ignore_index",
        "labels",
        "op",
        "reduction",
        "reference",
        "rows",
    )

    def __init__(
        self,
        op: str,
        reference: Callable[..., Tensor],
        reduction: str,
        dtype: torch.dtype,
        hyper: tuple[float, ...] = (),
        ignore_index: int | None = None,
        divisor: int = 0,
    ) -> None:
        if reduction not in _REDUCTIONS or not isinstance(reduction, str):
            raise ValueError(
                f"{reduction!r} is not a valid value for reduction; expected one of {_REDUCTIONS}"
            )
        self.op = op
        self.reference = reference  # differentiable torch operations on (*operands[, weight]), options bound
        self.reduction = reduction
        self.dtype = dtype  # of the loss
        self.hyper = hyper
        self.ignore_index = ignore_index
        self.divisor = divisor  # of a mean, if not the formula's own
        shape = _OPS[op]["shape"]
        self.rows = shape != "pointwise"  # of classes: one loss for each
        self.labels = shape == "rowwise"  # the second operand: no gradient, any integer dtype

    def new_loss(self, input: Tensor) -> Tensor:
        """Memory for the loss: a scalar, one element for each of the input, or one for each row."""
        if self.reduction != "none":
            if input.is_cpu and type(input) in PLAIN:
                return torch.empty_like(_SCALARS[self.dtype])  # half the time of torch.empty
            return torch.empty((), dtype=self.dtype, device=input.device)
        if not self.rows:
            return empty_like(input, self.dtype)
        dim = 1 if input.dim() > 1 else 0
        shape = input.shape[:dim] + input.shape[dim + 1 :]
        return torch.empty(shape, dtype=self.dtype, device=input.device)

    def run(
        self,
        operands: Sequence[Tensor | None],
        weight: Tensor | None,
        outputs: tuple[Tensor | None, ...],
        seed: Tensor | None,
    ) -> None:
        """The native call. Writes ``outputs``, where not None: the loss, then each operand's gradient."""
        _native.run(
            self.op,
            (*operands, None) if len(operands) < len(_OPS[self.op]["operands"]) else tuple(operands),
            outputs,
            self.hyper,
            self.reduction,
            seed,
            weight,
            self.ignore_index,
            self.divisor or 0.0,  # an int would make pybind11 try all its conversions
            1 if self.rows and operands[0].dim() > 1 else 0,  # type: ignore[union-attr]
        )

    def gradient_in_forward(self, operands: Sequence[Tensor]) -> bool:
        # Not if there is a seed for every element. Not in float16: before the loss scale has been multiplied
        # in it would underflow, which is what scaling is for. And in bfloat16 only where backward can see
        # that the seed is 1, because otherwise the gradient would be rounded twice.
        if self.reduction == "none":
            return False
        for operand in operands:
            dtype = operand.dtype
            if dtype is torch.float16:
                return False
            if dtype is torch.bfloat16 and (operand.is_cuda or torch.compiler.is_compiling()):
                return False
        return True


def autocast_enabled(input: Tensor) -> bool:
    return torch.is_autocast_enabled("cuda" if input.is_cuda else "cpu")


def autocast_dtype(dtype: torch.dtype, input: Tensor) -> torch.dtype:
    """float32 instead of a half type where autocast is on: the losses are on torch's float32 list."""
    return torch.float32 if dtype in HALF and autocast_enabled(input) else dtype
