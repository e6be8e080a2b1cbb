"""The native plan of an optimizer's step, made after a step and repeated while nothing has changed."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusestep import _extras, _native
from fusestep._extras import AVERAGE, LOST
from fusestep._rules import StepGroup
from fusestep.optim import _composed
from fusestep.optim._fused import TORCHS

if TYPE_CHECKING:
    from fusestep.optim._dense import DenseStep

# What of a parameter group decides whether and how the kernels update it, beside the options of its rule.
_OPTIONS = frozenset(("maximize", *TORCHS, *_extras.DEFAULTS))
_EXTRAS = frozenset(_extras.DEFAULTS)
_PATIENCE = 64


class Plan:
    """What is kept between the steps of one optimizer: never pickled, and nothing that holds a tensor.

    Attributes:
        taken: How many steps it has taken.
    """

    __slots__ = ("_clips", "_native", "_pause", "_useful", "_wait", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self._native: _native.CachedPlan | None = None
        self._clips: torch.device | None = None
        self._useful = True  # the native plan has taken a step
        self._pause = 0  # steps to let pass before the next plan, doubled for each that took none
        self._wait = 0

    def step(self, optimizer: DenseStep) -> bool:
        """Take the step; or, if anything is not as it was, leave all as it is and return False."""
        native, groups = self._native, optimizer.param_groups
        if native is None:
            return False
        norm = None if self._clips is None else torch.empty((), dtype=torch.float64, device=self._clips)
        try:
            taken = native.step(
                groups, optimizer.state, optimizer.defaults, optimizer._describe, norm, _changed
            )
        except _native.Unsupported:
            return False
        if taken:
            self.taken += 1
            self._useful = True
            if norm is not None:
                optimizer.last_grad_norm = norm
        return taken

    def renew(self, optimizer: DenseStep) -> None:
        """Make a plan of the step that the optimizer has just taken, unless plans are of no use to it.

        Where none can be made, the one before is kept: things may become again what they were.
        """
        if self._wait > 0:
            self._wait -= 1
            return
        self._pause = 0 if self._useful else min(2 * self._pause + 1, _PATIENCE)
        self._wait = self._pause
        self._useful = False
        state, groups = optimizer.state, optimizer.param_groups
        if type(state) not in (defaultdict, dict) or type(groups) is not list:
            return
        try:
            steps = [_repeated(optimizer, group) for group in groups]
            options = optimizer._rule.options() | _OPTIONS
            self._native = _native.CachedPlan(
                optimizer._rule.op, steps, groups, state, optimizer.defaults, options, _EXTRAS
            )
        except Exception:  # the step has been taken: what stands against a plan is no error
            return
        clipped = (step.params[0].device for step in steps if step.extras and step.extras.max_norm)
        self._clips = next(clipped, None)


_changed = torch._C._increment_version


def _repeated(optimizer: DenseStep, group: dict[str, Any]) -> StepGroup:
    """The next step of a parameter group: of its parameters that have states, or need none."""
    step = optimizer._describe(group)
    if step is None:
        raise _native.Unsupported("torch takes the step")
    names = [*step.state_keys, *(optimizer._rule.numbers if step.state_keys else ())]
    if step.extras is not None and step.extras.average:
        names.append(AVERAGE)
    params: list[Tensor] = []
    states: list[dict[str, Any]] = []
    for param in group["params"]:
        state = optimizer.state.get(param, {})
        lost = step.extras is not None and step.extras.lost and _composed.is_half(param)
        if all(name in state for name in (*names, *([LOST] if lost else []))):
            params.append(param)
            states.append(state)
    grads = [param if param.grad is None else param.grad for param in params]
    return step._replace(params=params, grads=grads, states=states, first=[0] * len(params))
