"""The step of a rule that updates the rows a sparse gradient has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusestep import _native
from fusestep._rules import StepGroup, Undo
from fusestep.optim._fused import FusedStep, mark_changed, need_updatable


class SparseStep(FusedStep):
    """Mixed in before an optimizer class of torch. Rows that come several times are added up on the way."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Either all parameters are updated or, if anything is wrong with one of them, none.

        Args:
            closure: Reevaluates the model and returns the loss. Called once, with gradients enabled.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            RuntimeError: a gradient is dense, or does not fit its parameter.
        """
        return self._take_step(closure)

    def _native_step(self, zero_grad: bool) -> str | None:
        try:
            groups, _ = self._rule.step(
                lambda undo: [self._step_group(group, undo) for group in self.param_groups]
            )
        except _native.Unsupported as unsupported:
            return str(unsupported)
        mark_changed(param for group in groups for param in group.params)
        return None

    def _step_group(self, group: dict[str, Any], undo: Undo) -> StepGroup:
        params = [param for param in group["params"] if param.grad is not None]
        need_updatable(params)
        for param in params:
            if not param.grad.is_sparse:
                raise RuntimeError(
                    f"{type(self).__name__} does not support dense gradients, please consider Adam instead"
                )
        keys = self._rule.state_keys(group)
        states = undo.entries(self.state, params)
        for param, state in zip(params, states, strict=True):
            if not state:
                undo.remember(state)
                state["step"] = 0
                for key in keys:
                    state[key] = torch.zeros_like(param, memory_format=torch.preserve_format)
        grads = [_rows_of(param.grad) for param in params]
        grad_scale = -1.0 if group.get("maximize") else 1.0
        first = [0] * len(params)
        return StepGroup(self._rule.hyper(group), grad_scale, keys, params, grads, states, first, None)


def _rows_of(grad: Tensor) -> tuple[Tensor, Tensor, int]:
    """Numbers of the rows, their values, and how many rows the parameter has."""
    if grad.device.type != "cpu":  # there the kernel wants each row once
        grad = grad.coalesce()
    indices, dims = grad._indices(), grad.shape[: grad.sparse_dim()]
    if not dims:  # one row, which may come several times
        return torch.zeros(len(grad._values()), dtype=torch.int64, device=grad.device), grad._values(), 1
    rows = indices[0]
    for size, index in zip(dims[1:], indices[1:], strict=True):
        rows = rows * size + index
    return rows, grad._values(), math.prod(dims)
