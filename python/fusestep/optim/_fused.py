"""What every optimizer of ours shares: one native call for all parameter groups, or torch's own step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor
from torch.optim import optimizer as _torchs

from fusestep._rules import Rule
from fusestep._stats import count_native, count_torch

_Step = TypeVar("_Step", bound=Callable[..., Any])


def unobserved(step: _Step) -> _Step:
    """A ``step`` that torch's hooks and profiler see if there are any, and that costs nothing if not.

    torch wraps the ``step`` of a class, unless it is marked as hooked, when the first instance is made. A
    subclass with a ``step`` of its own, which calls this one, has been wrapped there.
    """
    observed = torch.optim.Optimizer.profile_hook_step(step)
    wrapper = observed.__code__  # all that torch has wrapped run this

    @functools.wraps(step)
    def step_of(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen = (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _torchs._global_optimizer_pre_hooks
            or _torchs._global_optimizer_post_hooks
            # Compilers of older torch cannot look into this one; there are no profiles inside a graph.
            or (not torch.compiler.is_compiling() and torch._C._autograd._profiler_enabled())
        )
        if seen and getattr(type(self).step, "__code__", None) is not wrapper:
            return observed(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    step_of.hooked = True  # type: ignore[attr-defined]
    return cast(_Step, step_of)


def unhooked(step: Any) -> Any:
    """A ``step`` without what runs hooks and the profiler: torch wraps that of every class it makes."""
    return step.__wrapped__ if getattr(step, "hooked", False) else step


class FusedStep(torch.optim.Optimizer):
    """Mixed in before an optimizer class of torch, replaces its ``step``.

    Parameters, gradients, states and hyper-parameters are looked at in each step, so whatever a user, a
    scheduler or a checkpoint replaced in between is seen.
    """

    _rule: ClassVar[Rule]

    @torch.no_grad()
    def _take_step(self, closure: Callable[[], Any] | None, zero_grad: bool = False) -> Any:
        if torch.compiler.is_compiling():
            return self._torch_step(closure, zero_grad)
        _check_capture(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        why = self._why_torch() or self._native_step(zero_grad)
        if why is not None:
            count_torch(self._rule.op, why)
            self._torch_step(None, zero_grad)
        else:
            count_native(self._rule.op)
        return loss

    def _why_torch(self) -> str | None:
        """What no parameter needs to be looked at for."""
        for group in self.param_groups:
            if option := why_torch(group):
                return option
        if torch._C._len_torch_dispatch_stack():
            return "dispatch mode"
        return None

    def _native_step(self, zero_grad: bool) -> str | None:
        """Update everything, or say why torch must."""
        raise NotImplementedError

    def _torch_step(self, closure: Callable[[], Any] | None, zero_grad: bool = False) -> Any:
        """The step of torch's class."""
        step: Any = super().step  # ours has seen hooks and profiler already
        return unhooked(step.__func__)(self, closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load options and states, as torch does, but keep wide states of 16-bit parameters wide.

        torch casts every state to the dtype of its parameter, which would round moments kept in float32.
        """
        final: dict[str, Any] = {}
        hooks = (
            self.register_load_state_dict_pre_hook(lambda _, loaded: final.update(loaded)),
            self.register_load_state_dict_post_hook(lambda _: self._widen(final), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _widen(self, loaded: dict[str, Any]) -> None:
        saved = (key for group in loaded["param_groups"] for key in group["params"])
        params = (param for group in self.param_groups for param in group["params"])
        for key, param in zip(saved, params, strict=True):
            if not param.is_floating_point() or param.element_size() >= 4:
                continue
            for name, value in loaded["state"].get(key, {}).items():
                if isinstance(value, Tensor) and value.is_floating_point() and value.element_size() >= 4:
                    device = self.state[param][name].device
                    self.state[param][name] = value.to(device, copy=True)


# torch refuses to capture a step whose bias correction would be frozen in the graph; it has renamed this.
_check_capture: Callable[[torch.optim.Optimizer], None] = (
    getattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", None)
    or torch.optim.Optimizer._cuda_graph_capture_health_check
)


TORCHS = ("capturable", "differentiable")  # options that torch may have to take the step for


def why_torch(group: dict[str, Any]) -> str | None:
    """Which of the options of a parameter group torch must take the step for.

    The CUDA kernels read and count everything on the device, so a step of theirs can be captured.
    """
    if group.get("differentiable"):
        return "differentiable"
    if group.get("capturable") and not all(param.is_cuda for param in group["params"]):
        return "capturable"
    return None


def cuda_in_use() -> bool:
    """Whether torch has made a CUDA context."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def check_capture(optimizer: torch.optim.Optimizer) -> None:
    """Refuse to be captured in a graph, as torch does; at no cost where no device is in use."""
    if cuda_in_use() or torch.xpu.is_initialized():  # type: ignore[no-untyped-call]
        _check_capture(optimizer)


def need_updatable(params: Iterable[Tensor]) -> None:
    """Refuse what torch would refuse to update in place.

    Raises:
        RuntimeError: a parameter was made in inference mode, so that no graph could see it change.
    """
    if any(map(Tensor.is_inference, params)) and not torch.is_inference_mode_enabled():
        raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed")


def mark_changed(tensors: Iterable[Tensor]) -> None:
    """Raise version counters, so that a backward through an older graph is refused, not wrong."""
    torch.autograd.graph.increment_version(list(tensors))
