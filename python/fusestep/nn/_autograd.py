"""From a functional loss to the kernel: what must go to torch instead, and the one autograd function."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from fusestep import _native
from fusestep._stats import count_native, count_torch
from fusestep.nn._call import FLOATING, HALF, PLAIN, Grads, LossCall
from fusestep.nn._compiled import run_compiled

_MAX_DIMS = 8  # of the native View, if no two dimensions can be merged
_ENGINES = ("cpu", "cuda") if importlib.util.find_spec("fusestep._cuda") else ("cpu",)
_DEBUG = os.environ.get("FUSESTEP_DEBUG", "") not in ("", "0")


def run_torch(op: str, reason: str, reference: Callable[..., Tensor], *operands: Any) -> Tensor:
    """torch's own function, counted."""
    if not torch.compiler.is_compiling():
        count_torch(op, reason)
    return reference(*operands)


def why_torch(*operands: Tensor) -> str | None:
    """Why the kernels must not see these operands, or None."""
    for operand in operands:
        if type(operand) not in PLAIN:
            return "tensor subclass" if isinstance(operand, Tensor) else "not a tensor"
    if torch._C._are_functorch_transforms_active():
        return "functorch transform"
    if forward_ad._current_level >= 0:
        return "forward-mode AD"
    if torch.compiler.is_compiling():
        return _why_not_compiled(*operands)
    if torch._C._len_torch_dispatch_stack() or (
        torch._C._len_torch_function_stack() and not _only_default_device()
    ):
        return "dispatch mode"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace"
    return None


def _only_default_device() -> bool:
    """torch.set_default_device and ``with torch.device``: modes that say where new tensors go, no more."""
    return all(type(mode) is DeviceContext for mode in _get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _why_not_compiled(*operands: Tensor) -> str | None:
    """A compiled graph has no way back to torch's function, so what the kernels refuse is refused here."""
    if torch.compiler.is_exporting():
        return "torch.export"
    for operand in operands:
        if operand.device.type not in _ENGINES:
            return "device"
        if operand.dim() >= _MAX_DIMS:
            return "dimensions"
    return None


def run(
    call: LossCall,
    operands: tuple[Tensor, ...],
    weight: Tensor | None = None,
    fallback: Callable[..., Tensor] | None = None,
) -> Tensor:
    """The loss by our kernel, or by torch's function if it turns out that the kernel cannot take it.

    ``fallback`` is torch's function, where ``call.reference`` is another composition of its operations.
    """
    all_operands = operands if weight is None else (*operands, weight)
    for i, operand in enumerate(all_operands):
        if operand.dtype not in FLOATING and not (i == 1 and call.labels):
            return run_torch(call.op, "dtype", fallback or call.reference, *all_operands)
    if torch.compiler.is_compiling():
        return run_compiled(call, operands, weight)
    wants_grad = torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)
    return run_eager(call, operands, weight, wants_grad, fallback)


def run_eager(
    call: LossCall,
    operands: tuple[Tensor, ...],
    weight: Tensor | None,
    wants_grad: bool,
    fallback: Callable[..., Tensor] | None = None,
) -> Tensor:
    """As :func:`run`, for operands of floating dtypes (and labels) outside of a compiled graph."""
    try:
        if _DEBUG and operands[0].is_cuda:
            check_on_cpu(call, operands, weight)
        if wants_grad:
            loss = _apply(call, weight, *operands)
        else:
            loss = call.new_loss(operands[0])
            call.run(operands, weight, (loss,), None)
    except (RuntimeError, _native.Unsupported) as error:
        all_operands = operands if weight is None else (*operands, weight)
        if isinstance(error, _native.Unsupported):
            why = str(error)
        elif wants_grad and any(operand.is_inference() for operand in all_operands):
            why = "inference tensor"  # which autograd does not save
        else:
            raise
        return run_torch(call.op, why, fallback or call.reference, *all_operands)
    count_native(call.op)
    return loss


def check_on_cpu(call: LossCall, operands: Sequence[Tensor], weight: Tensor | None) -> None:
    """Raise what the CPU engine raises for copies of these operands. CUDA kernels, which wait for nothing,
    put NaN where a label or a value is out of range; FUSESTEP_DEBUG=1 finds out where it came from."""
    copies = [operand.detach().cpu() for operand in operands]
    call.run(copies, None if weight is None else weight.cpu(), (call.new_loss(copies[0]),), None)


class _Loss(torch.autograd.Function):
    """The one autograd function of all losses.

    The gradient is computed in forward, at grad_output 1, and handed out by the first backward. It is
    handed out once: whoever receives it may keep or change it, so a second backward through a retained
    graph computes a new one. The context is taken in ``forward``, because ``setup_context`` makes
    torch inspect the signature at each call (10 µs).
    """

    @staticmethod
    def forward(ctx: Any, call: LossCall, weight: Tensor | None, *operands: Tensor) -> Tensor:
        loss = call.new_loss(operands[0])
        if call.gradient_in_forward(operands):
            ctx.grads = [call.run(operands, weight, (loss, *ctx.needs_input_grad[2:]), None)]
        else:
            call.run(operands, weight, (loss,), None)
            ctx.grads = []
        ctx.save_for_backward(weight, *operands)
        ctx.call = call
        return loss

    @staticmethod
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        weight, *operands = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        call: LossCall = ctx.call
        # create_graph: somebody will differentiate what we return. vmap: the seed is a batch of seeds.
        if torch.is_grad_enabled() or is_batched(seed):
            return (None, None, *_by_torch(call, operands, weight, seed, needs))
        try:
            grads = _scaled(ctx.grads.pop(), seed)  # pop is atomic: two threads may share a retained graph
        except IndexError:
            grads = None
        if grads is None:
            try:
                grads = call.run(operands, weight, (None, *needs), seed)
            except _native.Unsupported as unsupported:  # of the seed: the inputs were good in forward
                count_torch(call.op, str(unsupported))
                grads = _by_torch(call, operands, weight, seed, needs)
        return (None, None, *grads)


# torch.autograd.Function.apply without its care for functorch, which why_torch keeps from us (1.5 µs).
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _Loss).apply


_is_batched = torch._C._functorch.is_batchedtensor
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor  # of is_grads_batched, vectorised Jacobians


def is_batched(tensor: Tensor) -> bool:
    return _is_batched(tensor) or _is_legacy_batched(tensor)


def _scaled(grads: Grads, seed: Tensor) -> Grads | None:
    """Gradients at grad_output 1 made those at ``seed``, in place; None if they must be computed anew."""
    if not seed.is_cuda:  # on CUDA nobody waits for a number: there they are float32 or float64
        value = float(seed)
        if value == 1.0:
            return grads
        # An ignored row stays zero whatever the seed, and bfloat16 must not be rounded twice.
        half = any(grad is not None and grad.dtype is torch.bfloat16 for grad in grads)
        if half or not math.isfinite(value):
            return None
    for grad in grads:
        if grad is not None:
            grad.mul_(seed)
    return grads


def _by_torch(
    call: LossCall,
    operands: Sequence[Tensor],
    weight: Tensor | None,
    seed: Tensor,
    needs: Sequence[bool],
) -> Grads:
    """The gradients by torch's own operations; differentiable, if grad mode is on."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Outside of create_graph the operands are cut off, so that nothing behind them is touched.
        leaves = [
            t if create_graph or not need else t.detach().requires_grad_()
            for t, need in zip(operands, needs, strict=True)
        ]
        # Under autocast the loss was float32 though the operands are not.
        arguments = [*leaves] if weight is None else [*leaves, weight]
        loss = call.reference(*(t.to(seed.dtype) if t.dtype in HALF else t for t in arguments))
        wanted = [t for t, need in zip(leaves, needs, strict=True) if need]
        grads = iter(
            torch.autograd.grad(
                loss, wanted, seed.to(loss.dtype), create_graph=create_graph, allow_unused=True
            )
        )
    return tuple([next(grads) if need else None for need in needs])
