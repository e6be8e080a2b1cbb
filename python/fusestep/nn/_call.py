"""One loss call apart from its tensors: options, and what torch makes of shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusestep import _native

HALF = (torch.bfloat16, torch.float16)
FLOATING = (torch.float32, torch.float64, *HALF)
_REDUCTIONS = ("none", "mean", "sum")
_ROWWISE = frozenset(op for op, info in _native.ops().items() if info["shape"] == "rowwise")


class LossCall:
    """One loss call, apart from its tensors."""

    __slots__ = ("class_dim", "hyper", "ignore_index", "op", "reduction", "reference")

    def __init__(
        self,
        op: str,
        reference: Callable[..., Tensor],
        reduction: str,
        hyper: tuple[float, ...] = (),
        ignore_index: int = -100,
    ) -> None:
        if reduction not in _REDUCTIONS or not isinstance(reduction, str):
            raise ValueError(
                f"{reduction!r} is not a valid value for reduction; expected one of {_REDUCTIONS}"
            )
        self.op = op
        self.reference = reference  # torch's function of (input, target, weight), options bound
        self.reduction = reduction
        self.hyper = hyper
        self.ignore_index = ignore_index
        self.class_dim = 1 if op in _ROWWISE else None

    def loss_shape(self, input: Tensor) -> Any:
        if self.reduction != "none":
            return ()
        if self.class_dim is None:
            return input.shape
        dim = self.class_dim if input.dim() > 1 else 0
        return input.shape[:dim] + input.shape[dim + 1 :]

    def loss_dtype(self, input: Tensor, target: Tensor) -> torch.dtype:
        """torch's: promoted, and float32 instead of a half type under autocast."""
        dtype = input.dtype
        if self.class_dim is None and target.dtype is not dtype:
            dtype = torch.promote_types(dtype, target.dtype)
        if dtype in HALF and autocast_enabled(input):
            return torch.float32
        return dtype

    def gradient_in_forward(self, input: Tensor, target: Tensor) -> bool:
        # Not if there is a seed for every element. Not in float16: before the loss scale has been multiplied
        # in it would underflow, which is what scaling is for. And in bfloat16 only where backward can see
        # that the seed is 1, because otherwise the gradient would be rounded twice.
        if self.reduction == "none":
            return False
        dtypes = (input.dtype, target.dtype)
        if torch.float16 in dtypes:
            return False
        return torch.bfloat16 not in dtypes or not (input.is_cuda or torch.compiler.is_compiling())


def autocast_enabled(input: Tensor) -> bool:
    return torch.is_autocast_enabled("cuda" if input.is_cuda else "cpu")
