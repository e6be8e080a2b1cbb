"""One loss call apart from its tensors: options, and what torch makes of shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fusestep import _native

Grads = tuple[Tensor | None, ...]  # of the operands

PLAIN = (torch.Tensor, torch.nn.Parameter)  # no subclass
HALF = (torch.bfloat16, torch.float16)
FLOATING = (torch.float32, torch.float64, *HALF)
_REDUCTIONS = ("none", "mean", "sum")
_OPS = _native.ops()
_SCALARS = {dtype: torch.empty((), dtype=dtype, device="cpu") for dtype in FLOATING}


def empty_like(tensor: Tensor, dtype: torch.dtype | None = None, row_major: bool = False) -> Tensor:
    """As torch's, in memory of the pool where that pays; in C order if ``row_major``."""
    if dtype is None or dtype is tensor.dtype:
        return _native.empty_like(tensor, row_major)  # type: ignore[no-any-return]
    layout = torch.contiguous_format if row_major else torch.preserve_format
    return torch.empty_like(tensor, dtype=dtype, memory_format=layout)


class LossCall:
    """One loss call, apart from its tensors."""

    __slots__ = (
        "divisor",
        "dtype",
        "hyper",
        "ignore_index",
        "op",
        "reduction",
        "reference",
        "scalar",
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
        self.scalar = None if reduction == "none" else _SCALARS.get(dtype)  # what the loss is like

    @property
    def labels(self) -> bool:
        """The second operand holds labels: no gradient, any integer dtype."""
        return _OPS[self.op]["shape"] == "rowwise"  # type: ignore[no-any-return]

    def loss_shape(self, input: Tensor) -> torch.Size:
        """A scalar, one element for each of the input, or one for each row."""
        if self.reduction != "none":
            return torch.Size()
        if _OPS[self.op]["shape"] == "pointwise":
            return input.shape
        dim = 1 if input.dim() > 1 else 0
        return input.shape[:dim] + input.shape[dim + 1 :]

    def new_loss(self, input: Tensor) -> Tensor:
        """Memory for the loss."""
        if self.scalar is not None and input.is_cpu:
            return torch.empty_like(self.scalar)  # half the time of torch.empty
        shape = self.loss_shape(input)
        if shape == input.shape:
            return empty_like(input, self.dtype)
        return torch.empty(shape, dtype=self.dtype, device=input.device)

    def run(
        self,
        operands: Sequence[Tensor | None],
        weight: Tensor | None,
        outputs: tuple[Tensor | bool | None, ...],
        seed: Tensor | None,
    ) -> Grads:
        """The native call. Writes ``outputs``: the loss, if not None, then the gradient of each operand.

        A gradient may be memory for it, or whether it is wanted, in new memory. Returns the gradients.
        """
        return _native.run(
            self.op,
            tuple(operands),
            outputs,
            self.hyper,
            self.reduction,
            seed,
            weight,
            self.ignore_index,
            self.divisor or 0.0,  # an int would make pybind11 try all its conversions
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
