"""What every optimizer of ours shares: one native call for all parameter groups, or torch's own step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from fusestep import _native
from fusestep._rules import Rule, StepGroup, Undo
from fusestep._stats import count_native, count_torch


class FusedStep(torch.optim.Optimizer):
    """Mixed in before an optimizer class of torch, replaces its ``step``.

    Nothing is cached between steps: parameters, gradients, states and hyper-parameters are read anew, so
    whatever a user, a scheduler or a checkpoint replaced in between is seen.
    """

    _rule: ClassVar[Rule]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Either all parameters are updated or, if anything is wrong with one of them, none.

        Args:
            closure: Reevaluates the model and returns the loss. Called once, with gradients enabled.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            RuntimeError: a gradient or state does not fit its parameter in shape or device.
        """
        if torch.compiler.is_compiling():
            return self._torch_step(closure)
        _check_capture(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        why = self._why_torch() or self._native_step()
        if why is not None:
            count_torch(self._rule.op, why)
            self._torch_step(None)
        else:
            count_native(self._rule.op)
        return loss

    def _why_torch(self) -> str | None:
        """What no parameter needs to be looked at for."""
        for group in self.param_groups:
            for option in ("capturable", "differentiable"):
                if group.get(option):
                    return option
        if torch._C._len_torch_dispatch_stack():
            return "dispatch mode"
        if _amp_scale(self).is_cuda:
            return "GradScaler on the device"
        return None

    def _native_step(self) -> str | None:
        """Update everything, or say why torch must."""
        # GradScaler hands over its scale and the check for overflow under fused=True, as torch arranged.
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and float(found_inf) != 0:
            return None
        scale = float(_amp_scale(self))
        try:
            groups = self._rule.step(
                lambda undo: [self._step_group(group, 1 / scale, undo) for group in self.param_groups]
            )
        except _native.Unsupported as unsupported:
            return str(unsupported)
        _mark_changed([param for group in groups for param in group.params])
        if scale != 1:  # as torch: whoever looks at the gradients afterwards sees them unscaled
            for group in groups:
                torch._foreach_mul_(list(group.grads), 1 / scale)
        return None

    def _step_group(self, group: dict[str, Any], factor: float, undo: Undo) -> StepGroup:
        """The parameters of a group that have gradients, with states."""
        params = [param for param in group["params"] if param.grad is not None]
        keys = self._rule.state_keys(group)
        hyper = self._rule.hyper(group)
        grads = [param.grad for param in params]
        grad_scale = -factor if group["maximize"] else factor
        if not keys:  # torch leaves no entry at all here, so none must be made
            return StepGroup(
                hyper, grad_scale, keys, params, grads, [{}] * len(params), [False] * len(params)
            )
        states = [self.state[param] for param in params]
        first = [state.get(keys[0]) is None for state in states]
        if any(first):
            for state in states:
                undo.remember(state)
            self._make_states(group, params)
        return StepGroup(hyper, grad_scale, keys, params, grads, states, first)

    def _make_states(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """By torch's own code, so that keys, dtypes and order are its own. It wants lists to fill."""
        lists = len(inspect.signature(self._init_group).parameters) - 1  # type: ignore[attr-defined]
        self._init_group(group, *([] for _ in range(lists)))  # type: ignore[attr-defined]

    def _torch_step(self, closure: Callable[[], Any] | None) -> Any:
        step = super().step
        # torch wraps the step of every class it has made an instance of, to run hooks and the profiler;
        # ours is wrapped already.
        inner = getattr(step, "__wrapped__", None) if getattr(step, "hooked", False) else None
        return step(closure) if inner is None else inner(self, closure)


# torch refuses to capture a step whose bias correction would be frozen in the graph; it has renamed this.
_check_capture: Callable[[torch.optim.Optimizer], None] = (
    getattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", None)
    or torch.optim.Optimizer._cuda_graph_capture_health_check
)

_NO_SCALE = torch.ones(())


def _amp_scale(optimizer: torch.optim.Optimizer) -> Tensor:
    scale = getattr(optimizer, "grad_scale", None)
    return _NO_SCALE if scale is None else scale


def _mark_changed(params: list[Tensor]) -> None:
    """Raise version counters, so that a backward through an older graph is refused, not wrong."""
    torch.autograd.graph.increment_version(params)
