"""How the options of an optimizer reach its formula: names come from the registry, never from a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fusestep import _native

# A formula takes single numbers; torch groups some of them in tuples.
_IN_TUPLE = {"beta1": ("betas", 0), "beta2": ("betas", 1)}


class StepGroup(NamedTuple):
    """What the native step takes for one parameter group. The lists have one entry per parameter."""

    hyper: tuple[float, ...]  # of the formula, in its order
    grad_scale: float  # what gradients are multiplied by; negative to ascend
    state_keys: tuple[str, ...]
    params: Sequence[Any]
    grads: Sequence[Any]
    states: Sequence[dict[str, Any]]
    first: Sequence[bool]  # no step has been taken yet


class Undo:
    """States as they were before a step that has to make some."""

    def __init__(self) -> None:
        self._before: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def remember(self, state: dict[str, Any]) -> None:
        self._before.append((state, dict(state)))

    def restore(self) -> None:
        for state, before in self._before:
            state.clear()
            state.update(before)


class Rule:
    """One update formula of the registry."""

    def __init__(self, op: str) -> None:
        info = _native.ops()[op]
        self.op = op
        self.counts_steps: bool = info["counts_steps"]
        self._hyper: tuple[str, ...] = info["hyper"]
        self._states = tuple(zip(info["states"], info["asked_by"], strict=True))

    def hyper(self, group: Mapping[str, Any]) -> tuple[float, ...]:
        """The formula's hyper-parameters, read from a parameter group."""
        values = []
        for name in self._hyper:
            if name in _IN_TUPLE:
                key, at = _IN_TUPLE[name]
                values.append(float(group[key][at]))
            else:
                values.append(float(group[name]))
        return tuple(values)

    def step(self, prepare: Callable[[Undo], list[StepGroup]]) -> list[StepGroup]:
        """One native step over the groups that ``prepare`` makes, with all of them or with none.

        ``prepare`` tells the states it is about to make; if it or the step fails, they are gone again.
        """
        undo = Undo()
        try:
            groups = prepare(undo)
        except BaseException:
            undo.restore()
            raise
        try:
            _native.step(self.op, groups)
        except Exception:  # not an interrupt: that comes when the step is done
            undo.restore()
            raise
        return groups

    def state_keys(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The states that a parameter group keeps."""
        return tuple(state for state, option in self._states if not option or group[option])
