"""The same kernels as opaque operators, for graphs that torch.compile makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusestep import _native
from fusestep.nn._call import LossCall


def _call_from(op: str, hyper: list[float], reduction: str, ignore_index: int) -> LossCall:
    return LossCall(op, _no_reference, reduction, tuple(hyper), ignore_index)


def _no_reference(*operands: Tensor) -> Tensor:
    raise RuntimeError("a compiled fusestep loss cannot be differentiated twice; call it in eager mode")


# An operator cannot return None: a gradient that nobody wants is an empty tensor.
def _like_or_empty(tensor: Tensor, wanted: bool) -> Tensor:
    return torch.empty_like(tensor) if wanted else tensor.new_empty(0)


_LOSS = (
    "(str op, Tensor input, Tensor target, Tensor? weight, float[] hyper, str reduction, int ignore_index,"
    " ScalarType dtype, bool need_input, bool need_target) -> (Tensor, Tensor, Tensor)"
)
_LOSS_BACKWARD = (
    "(str op, Tensor input, Tensor target, Tensor? weight, Tensor seed, float[] hyper, str reduction,"
    " int ignore_index, bool need_input, bool need_target) -> (Tensor, Tensor)"
)


def _loss_outputs(
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
    return loss, _like_or_empty(input, need_input), _like_or_empty(target, need_target)


@torch.library.custom_op("fusestep::loss", mutates_args=(), schema=_LOSS)
def _loss_op(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    op, input, target, weight, hyper, reduction, ignore_index, _, need_input, need_target = args
    loss, grad_input, grad_target = outputs = _loss_outputs(*args)
    wanted = (loss, grad_input if need_input else None, grad_target if need_target else None)
    _native.run(op, (input, target, weight), wanted, tuple(hyper), reduction, None, ignore_index)
    return outputs


_loss_op.register_fake(_loss_outputs)


def _loss_backward_outputs(
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
    return _like_or_empty(input, need_input), _like_or_empty(target, need_target)


@torch.library.custom_op("fusestep::loss_backward", mutates_args=(), schema=_LOSS_BACKWARD)
def _loss_backward_op(*args: Any) -> tuple[Tensor, Tensor]:
    op, input, target, weight, seed, hyper, reduction, ignore_index, need_input, need_target = args
    grad_input, grad_target = outputs = _loss_backward_outputs(*args)
    wanted = (None, grad_input if need_input else None, grad_target if need_target else None)
    _native.run(op, (input, target, weight), wanted, tuple(hyper), reduction, seed, ignore_index)
    return outputs


_loss_backward_op.register_fake(_loss_backward_outputs)


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


def run_compiled(
    call: LossCall,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    need_input: bool,
    need_target: bool,
) -> Tensor:
    early = call.gradient_in_forward(input, target)
    loss, *_ = torch.ops.fusestep.loss(
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
