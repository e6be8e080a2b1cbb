"""What every optimizer of ours shares: one native call for all parameter groups, or torch's own step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from fusestep import _native
from fusestep._rules import Rule
from fusestep._stats import count_native, count_torch


class FusedStep(torch.optim.Optimizer):
    """Mixed in before an optimizer class of torch, replaces its ``step``.

    Nothing is cached between steps: parameters, gradients, states and hyper-parameters are read anew, so
    whatever a user, a scheduler or a checkpoint replaced in between is seen.
    """

    _rule: ClassVar[Rule]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # torch sets this under fused=True. GradScaler then leaves unscaling and the check for
        # overflow to the optimizer; without it, it does both itself, for any optimizer.
        return False

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        pass

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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        why = self._native_step()
        if why is not None:
            count_torch(self._rule.op, why)
            self._torch_step(None)
        else:
            count_native(self._rule.op)
        return loss

    def _native_step(self) -> str | None:
        """Update everything, or say why torch must."""
        groups: list[tuple[Any, ...]] = []
        updated: list[Tensor] = []
        made: list[Tensor] = []  # parameters whose states did not exist before
        try:
            for group in self.param_groups:
                if group.get("capturable") or group.get("differentiable"):
                    return "capturable" if group.get("capturable") else "differentiable"
                params = [param for param in group["params"] if param.grad is not None]
                if not params:
                    continue
                keys = self._rule.state_keys(group)
                fresh = self._fresh(params, keys)
                if fresh:
                    made += [params[i] for i in fresh if not self.state[params[i]]]
                    self._make_states(group, params)
                groups.append(
                    (
                        self._rule.hyper(group),
                        group["maximize"],
                        keys,
                        params,
                        [param.grad for param in params],
                        # without states torch leaves no entry at all, so none must be made here
                        [self.state[param] for param in params] if keys else [{}] * len(params),
                        fresh,
                    )
                )
                updated += params
            _native.step(self._rule.op, groups)
        except BaseException as error:
            for param in made:
                self.state.pop(param, None)
            if isinstance(error, _native.Unsupported):
                return str(error)
            raise
        _mark_changed(updated)
        return None

    def _fresh(self, params: list[Tensor], keys: tuple[str, ...]) -> list[int]:
        """Positions of parameters that have not been stepped yet."""
        if not keys:
            return []
        first = keys[0]
        return [i for i, param in enumerate(params) if self.state[param].get(first) is None]

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


def _mark_changed(params: list[Tensor]) -> None:
    """Raise version counters, so that a backward through an older graph is refused, not wrong."""
    torch.autograd.graph.increment_version(params)
