"""What the kernels do beside a rule, in torch's operations: for tensors that the kernels cannot take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fusestep._extras import AVERAGE, Extras


def clear(grads: Sequence[Tensor], filled: bool = False) -> None:
    """As ``zero_grad(set_to_none=False)``: zeros without a graph behind them."""
    for grad in grads:
        if not filled:
            grad.zero_()
        if grad.grad_fn is not None:
            grad.detach_()
        elif grad.requires_grad:
            grad.requires_grad_(False)


def is_half(tensor: Tensor) -> bool:
    """Whether it is of a floating point type of 16 bits."""
    return tensor.is_floating_point() and tensor.element_size() == 2


def lacks_average(state: dict[str, Any]) -> bool:
    """Or has one that torch has narrowed, loading it into a class of its own, and that would not move."""
    return AVERAGE not in state or is_half(state[AVERAGE])


def make_average(param: Tensor, state: dict[str, Any]) -> bool:
    """Wide enough for the small steps of an average, on the device of the parameter. True if it is new."""
    if AVERAGE in state:
        state[AVERAGE] = state[AVERAGE].float()
        return False
    dtype = torch.float32 if is_half(param) else param.dtype
    state[AVERAGE] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
    return True


def clipped_gradients(groups: Sequence[dict[str, Any]], extras: Sequence[Extras]) -> list[Tensor]:
    """The gradients of the groups that clip: all count for the norm."""
    both = zip(groups, extras, strict=True)
    params = (param for group, asked in both if asked.max_norm for param in group["params"])
    return [param.grad for param in params if param.grad is not None]


def total_norm(grads: Sequence[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm(grads)
    if hasattr(norm, "full_tensor"):  # a DTensor: other processes have parts of it
        norm = norm.full_tensor()
    return norm.double()


def step(
    optimizer: torch.optim.Optimizer,
    torch_step: Callable[[Any, bool], Any],
    closure: Callable[[], Any] | None,
    extras: Sequence[Extras],
    zero_grad: bool,
) -> Any:
    """torch's step with clipping before, averaging and clearing after it."""
    _need_no_rounding(optimizer, extras)
    differentiable = any(group.get("differentiable") for group in optimizer.param_groups)
    if differentiable and any(asked.max_norm for asked in extras):
        raise RuntimeError("`max_grad_norm` does not support `differentiable`: clip before the step")
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    with torch.no_grad():
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        grads: list[Any] = [param.grad for param in params]
        if _unscale(optimizer, grads):
            _clip(optimizer, extras)
            try:
                torch_step(None, False)
            finally:
                for param, grad in zip(params, grads, strict=True):
                    param.grad = grad
            _average(optimizer, extras)
        if zero_grad:
            clear(grads)
    return loss


def _need_no_rounding(optimizer: torch.optim.Optimizer, extras: Sequence[Extras]) -> None:
    for group, asked in zip(optimizer.param_groups, extras, strict=True):
        for param in group["params"]:
            if asked.rounding != "nearest" and is_half(param):
                raise RuntimeError(
                    f"`rounding` is {asked.rounding!r}, and the kernels cannot update a parameter of dtype "
                    f"{param.dtype} on {param.device} here; expected 'nearest'"
                )


def _unscale(optimizer: Any, grads: list[Tensor]) -> bool:
    """Do what GradScaler asked for; False if the step is to be skipped."""
    scale, found_inf = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    if found_inf is not None and float(found_inf) != 0:
        return False
    if scale is not None:
        torch._foreach_mul_(grads, 1 / float(scale))
    if hasattr(optimizer, "grad_scale"):
        optimizer.grad_scale = None
    if hasattr(optimizer, "found_inf"):
        optimizer.found_inf = None
    return True


def _clip(optimizer: Any, extras: Sequence[Extras]) -> None:
    """Gives parameters clipped gradients of their own; the caller puts the others back."""
    grads = clipped_gradients(optimizer.param_groups, extras)
    if not grads:
        return
    norm = total_norm(grads)
    for group, asked in zip(optimizer.param_groups, extras, strict=True):
        if not asked.max_norm:
            continue
        factor = (asked.max_norm / (norm + 1e-6)).clamp(max=1.0)
        for param in group["params"]:
            if param.grad is not None:
                param.grad = param.grad * factor.to(param.grad.device)
    optimizer.last_grad_norm = norm


def _average(optimizer: Any, extras: Sequence[Extras]) -> None:
    for group, asked in zip(optimizer.param_groups, extras, strict=True):
        for param in group["params"]:
            if not asked.average or param.grad is None:
                continue
            state = optimizer.state[param]
            if lacks_average(state) and make_average(param, state):
                state[AVERAGE].copy_(param)
            else:
                state[AVERAGE].lerp_(param.to(state[AVERAGE].dtype), 1 - asked.decay)
