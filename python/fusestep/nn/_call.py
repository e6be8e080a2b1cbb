"""From a functional loss to the kernel: guards, autograd, torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fusestep import _native
from fusestep._stats import count_native, count_torch

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_HALF = (torch.bfloat16, torch.float16)
_FLOATING = (torch.float32, torch.float64, *_HALF)


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
        class_dim: int | None = None,
    ) -> None:
        self.op = op
        self.reference = reference  # torch's function of (input, target, weight), options bound
        self.reduction = reduction
        self.hyper = hyper
        self.ignore_index = ignore_index
        self.class_dim = class_dim  # None for pointwise losses

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
        if dtype in _HALF and torch.is_autocast_enabled("cuda" if input.is_cuda else "cpu"):
            return torch.float32
        return dtype

    def gradient_in_forward(self, input: Tensor, target: Tensor) -> bool:
        # A float16 gradient before the loss scale has been multiplied in would underflow, which is
        # what scaling is for; and an unreduced loss has a seed for every element.
        halves = input.dtype is torch.float16 or target.dtype is torch.float16
        return self.reduction != "none" and not halves


def run_torch(op: str, reason: str, reference: Callable[..., Tensor], *operands: Tensor | None) -> Tensor:
    if not torch.compiler.is_compiling():
        count_torch(op, reason)
    return reference(*operands)


def why_torch(*operands: Tensor) -> str | None:
    """Why the kernels must not see these operands, or None."""
    for operand in operands:
        if type(operand) not in _PLAIN:
            return "tensor subclass" if isinstance(operand, Tensor) else "not a tensor"
    if torch.compiler.is_compiling():
        return "torch.export" if torch.compiler.is_exporting() else None
    if torch._C._are_functorch_transforms_active():
        return "functorch transform"
    if forward_ad._current_level >= 0:
        return "forward-mode AD"
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return "dispatch mode"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace"
    return None


def run(call: LossCall, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """The loss by our kernel, or by torch's function if it turns out that the kernel cannot take it."""
    operands = (input, target) if weight is None else (input, target, weight)
    if input.dtype not in _FLOATING or (call.class_dim is None and target.dtype not in _FLOATING):
        return run_torch(call.op, "dtype", call.reference, *operands)
    needs = torch.is_grad_enabled()
    need_input = needs and input.requires_grad
    need_target = needs and target.requires_grad
    if torch.compiler.is_compiling():
        return _run_compiled(call, input, target, weight, need_input, need_target)
    try:
        if need_input or need_target:
            loss = _Loss.apply(input, target, weight, call)  # type: ignore[no-untyped-call]
        else:
            loss, _, _ = _forward(call, input, target, weight, False, False)
    except _native.Unsupported as unsupported:
        return run_torch(call.op, str(unsupported), call.reference, *operands)
    count_native(call.op)
    return loss  # type: ignore[no-any-return]


def _forward(
    call: LossCall,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    need_input: bool,
    need_target: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The loss, and the gradients asked for at grad_output 1."""
    dtype = call.loss_dtype(input, target)
    loss = torch.empty(call.loss_shape(input), dtype=dtype, device=input.device)
    grad_input = torch.empty_like(input) if need_input else None
    grad_target = torch.empty_like(target) if need_target else None
    _native.run(
        call.op,
        (input, target, weight),
        (loss, grad_input, grad_target),
        call.hyper,
        call.reduction,
        None,
        call.ignore_index,
    )
    return loss, grad_input, grad_target


def _backward(
    call: LossCall,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    seed: Tensor,
    need_input: bool,
    need_target: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients for any grad_output, from the inputs."""
    grad_input = torch.empty_like(input) if need_input else None
    grad_target = torch.empty_like(target) if need_target else None
    _native.run(
        call.op,
        (input, target, weight),
        (None, grad_input, grad_target),
        call.hyper,
        call.reduction,
        seed,
        call.ignore_index,
    )
    return grad_input, grad_target


class _Loss(torch.autograd.Function):
    """The one autograd function of all losses.

    The gradient is computed in forward, at grad_output 1, and handed out by the first backward. It is
    handed out once: whoever receives it may keep or change it, so a second backward through a retained
    graph computes a new one. The context is taken in ``forward``, because ``setup_context`` makes
    torch inspect the signature at each call (10 µs).
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, call: LossCall) -> Tensor:
        need_input, need_target = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        early = call.gradient_in_forward(input, target)
        loss, *grads = _forward(call, input, target, weight, early and need_input, early and need_target)
        ctx.save_for_backward(input, target, weight)
        ctx.call = call
        ctx.grads = grads if early else None
        return loss

    @staticmethod
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        input, target, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        call: LossCall = ctx.call
        if torch.is_grad_enabled():  # create_graph: somebody will differentiate what we return
            return (*_differentiable(call, input, target, weight, seed, needs), None, None)
        grads, ctx.grads = ctx.grads, None
        if grads is None or not _scale(grads, seed):
            grads = _backward(call, input, target, weight, seed, *needs)
        return (*grads, None, None)


def _scale(grads: list[Tensor | None], seed: Tensor) -> bool:
    """Multiply by grad_output in place, unless that would round a bfloat16 gradient a second time."""
    if seed.device.type != "cpu":
        for grad in grads:
            if grad is not None:
                grad.mul_(seed)
        return True
    value = float(seed)
    if value == 1.0:
        return True
    if not math.isfinite(value):  # an ignored row is zero whatever the seed
        return False
    for grad in grads:
        if grad is not None and grad.dtype is torch.bfloat16:
            return False
    for grad in grads:
        if grad is not None:
            grad.mul_(value)
    return True


def _differentiable(
    call: LossCall,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    seed: Tensor,
    needs: tuple[bool, bool],
) -> list[Tensor | None]:
    """The gradients as a graph of torch's own operations, for double backward."""
    wanted = [operand for operand, need in zip((input, target), needs, strict=True) if need]
    with torch.enable_grad():
        # Under autocast the loss was float32 though the operands are not.
        wide = [t.to(seed.dtype) if t.dtype in _HALF else t for t in (input, target)]
        operands = wide if weight is None else [*wide, weight]
        loss = call.reference(*operands)
        grads = iter(torch.autograd.grad(loss, wanted, seed.to(loss.dtype), create_graph=True))
    return [next(grads) if need else None for need in needs]


# ---- torch.compile: the same kernels as opaque operators ----


def _call_from(op: str, hyper: list[float], reduction: str, ignore_index: int) -> LossCall:
    rowwise = _native.ops()[op]["shape"] == "rowwise"
    return LossCall(op, _no_reference, reduction, tuple(hyper), ignore_index, 1 if rowwise else None)


def _no_reference(*operands: Tensor) -> Tensor:
    raise RuntimeError("a compiled fusestep loss cannot be differentiated twice; call it in eager mode")


@torch.library.custom_op("fusestep::loss", mutates_args=())
def _loss_op(
    op: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    hyper: list[float],
    reduction: str,
    ignore_index: int,
    dtype: torch.dtype,
    need_input: bool,
    need_target: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _call_from(op, hyper, reduction, ignore_index)
    loss = torch.empty(call.loss_shape(input), dtype=dtype, device=input.device)
    grad_input = torch.empty_like(input if need_input else input.new_empty(0))
    grad_target = torch.empty_like(target if need_target else target.new_empty(0))
    grads = (grad_input if need_input else None, grad_target if need_target else None)
    _native.run(op, (input, target, weight), (loss, *grads), call.hyper, reduction, None, ignore_index)
    return loss, grad_input, grad_target


@_loss_op.register_fake
def _(
    op: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    hyper: list[float],
    reduction: str,
    ignore_index: int,
    dtype: torch.dtype,
    need_input: bool,
    need_target: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _call_from(op, hyper, reduction, ignore_index)
    return (
        input.new_empty(call.loss_shape(input), dtype=dtype),
        torch.empty_like(input if need_input else input.new_empty(0)),
        torch.empty_like(target if need_target else target.new_empty(0)),
    )


@torch.library.custom_op("fusestep::loss_backward", mutates_args=())
def _loss_backward_op(
    op: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    seed: Tensor,
    hyper: list[float],
    reduction: str,
    ignore_index: int,
    need_input: bool,
    need_target: bool,
) -> tuple[Tensor, Tensor]:
    call = _call_from(op, hyper, reduction, ignore_index)
    grads = _backward(call, input, target, weight, seed, need_input, need_target)
    return (
        input.new_empty(0) if grads[0] is None else grads[0],
        target.new_empty(0) if grads[1] is None else grads[1],
    )


@_loss_backward_op.register_fake
def _(
    op: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    seed: Tensor,
    hyper: list[float],
    reduction: str,
    ignore_index: int,
    need_input: bool,
    need_target: bool,
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(input if need_input else input.new_empty(0)),
        torch.empty_like(target if need_target else target.new_empty(0)),
    )


def _loss_op_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    op, input, target, weight, hyper, reduction, ignore_index, _, need_input, need_target = inputs
    ctx.call = (hyper, reduction, ignore_index, need_input, need_target)
    ctx.op = op
    ctx.save_for_backward(input, target, weight, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _loss_op_backward(ctx: Any, seed: Tensor, *_: Tensor) -> tuple[Any, ...]:
    input, target, weight, *early = ctx.saved_tensors
    hyper, reduction, ignore_index, need_input, need_target = ctx.call
    call = _call_from(ctx.op, hyper, reduction, ignore_index)
    needs = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
    if need_input or need_target:
        grads = [(seed * grad).to(grad.dtype) for grad in early]
    else:
        grads = torch.ops.fusestep.loss_backward(
            ctx.op, input, target, weight, seed, hyper, call.reduction, ignore_index, *needs
        )
    shown = [grad if need else None for grad, need in zip(grads, needs, strict=True)]
    return (None, *shown, *([None] * 7))


_loss_op.register_autograd(_loss_op_backward, setup_context=_loss_op_context)


def _run_compiled(
    call: LossCall,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    need_input: bool,
    need_target: bool,
) -> Tensor:
    early = call.gradient_in_forward(input, target)
    loss, _, _ = torch.ops.fusestep.loss(
        call.op,
        input,
        target,
        weight,
        list(call.hyper),
        call.reduction,
        call.ignore_index,
        call.loss_dtype(input, target),
        early and need_input,
        early and need_target,
    )
    return loss  # type: ignore[no-any-return]
