"""The same kernels as opaque operators, for graphs that torch.compile makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusestep.nn._call import LossCall

_OPERANDS = 3  # at most; a loss of two has None in the third place


def _no_reference(*operands: Tensor) -> Tensor:
    raise RuntimeError("a compiled fusestep loss cannot be differentiated twice; call it in eager mode")


# What both operators take of a call, and how to rebuild it.
_OPTIONS = "float[] hyper, str reduction, int? ignore_index, SymInt divisor, ScalarType dtype"
_TENSORS = "str op, Tensor input, Tensor target, Tensor? third, Tensor? weight"


def _call_from(op: str, options: tuple[Any, ...]) -> LossCall:
    hyper, reduction, ignore_index, divisor, dtype = options
    return LossCall(op, _no_reference, reduction, dtype, tuple(hyper), ignore_index, divisor)


# An operator cannot return None: a gradient that nobody wants is an empty tensor.
def _like_or_empty(tensors: tuple[Tensor | None, ...], wanted: list[bool]) -> list[Tensor]:
    first = tensors[0]
    assert first is not None
    return [
        torch.empty_like(t) if t is not None and want else first.new_empty(0)
        for t, want in zip(tensors, wanted, strict=True)
    ]


def _loss_outputs(*args: Any) -> tuple[Tensor, ...]:
    op, *tensors, _ = args[:5]
    *options, wanted = args[5:]
    call = _call_from(op, tuple(options))
    input, shape = tensors[0], call.loss_shape(tensors[0])
    if shape == input.shape:
        loss = torch.empty_like(input, dtype=call.dtype)
    else:
        loss = torch.empty(shape, dtype=call.dtype, device=input.device)
    return (loss, *_like_or_empty(tuple(tensors), wanted))


def _given(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return tensors if tensors[-1] is not None else tensors[:-1]


@torch.library.custom_op(
    "fusestep::loss",
    mutates_args=(),
    schema=f"({_TENSORS}, {_OPTIONS}, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _loss_op(*args: Any) -> tuple[Tensor, ...]:
    op, *tensors, weight = args[:5]
    *options, wanted = args[5:]
    call = _call_from(op, tuple(options))
    outputs = _loss_outputs(*args)
    grads = [grad if want else None for grad, want in zip(outputs[1:], wanted, strict=True)]
    operands = _given(tensors)
    call.run(operands, weight, (outputs[0], *grads[: len(operands)]), None)
    return outputs


_loss_op.register_fake(_loss_outputs)


def _loss_backward_outputs(*args: Any) -> tuple[Tensor, ...]:
    _, *tensors, _ = args[:5]
    return tuple(_like_or_empty(tuple(tensors), args[-1]))


@torch.library.custom_op(
    "fusestep::loss_backward",
    mutates_args=(),
    schema=f"({_TENSORS}, Tensor seed, {_OPTIONS}, bool[] wanted) -> (Tensor, Tensor, Tensor)",
)
def _loss_backward_op(*args: Any) -> tuple[Tensor, ...]:
    op, *tensors, weight, seed = args[:6]
    *options, wanted = args[6:]
    call = _call_from(op, tuple(options))
    outputs = _loss_backward_outputs(*args)
    grads = [grad if want else None for grad, want in zip(outputs, wanted, strict=True)]
    operands = _given(tensors)
    call.run(operands, weight, (None, *grads[: len(operands)]), seed)
    return outputs


_loss_backward_op.register_fake(_loss_backward_outputs)


def _loss_op_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.op, *tensors = inputs[:5]
    ctx.options, ctx.early = inputs[5:-1], inputs[-1]
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _loss_op_backward(ctx: Any, seed: Tensor, *_: Tensor) -> tuple[Any, ...]:
    tensors, early = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
    needs = list(ctx.needs_input_grad[1 : 1 + _OPERANDS])
    if any(ctx.early):
        grads = [(seed * grad).to(grad.dtype) for grad in early]
        if not tensors[1].is_floating_point():  # rows that are ignored stay zero whatever the seed
            grads = [torch.where(grad == 0, grad, scaled) for grad, scaled in zip(early, grads, strict=True)]
    else:
        grads = torch.ops.fusestep.loss_backward(ctx.op, *tensors, seed, *ctx.options, needs)
    shown = [grad if need else None for grad, need in zip(grads, needs, strict=True)]
    return (None, *shown, None, *([None] * (len(ctx.options) + 1)))


_loss_op.register_autograd(_loss_op_backward, setup_context=_loss_op_context)


def run_compiled(call: LossCall, operands: tuple[Tensor, ...], weight: Tensor | None) -> Tensor:
    early = torch.is_grad_enabled() and call.gradient_in_forward(operands)
    tensors = (*operands, *[None] * (_OPERANDS - len(operands)))
    wanted = [early and t is not None and t.requires_grad for t in tensors]
    options = (list(call.hyper), call.reduction, call.ignore_index, call.divisor, call.dtype)
    loss, *_ = torch.ops.fusestep.loss(call.op, *tensors, weight, *options, wanted)
    return loss  # type: ignore[no-any-return]
