"""How the options of an optimizer reach its formula: names come from the registry, never from a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fusestep import _native
from fusestep._extras import Extras

# A formula takes single numbers; torch groups some of them in tuples.
_IN_TUPLE = {
    "beta1": ("betas", 0),
    "beta2": ("betas", 1),
    "eta_minus": ("etas", 0),
    "eta_plus": ("etas", 1),
    "step_size_min": ("step_sizes", 0),
    "step_size_max": ("step_sizes", 1),
}

FIRST_STEP, FIRST_AVERAGE = 1, 2  # bits of StepGroup.first


def _number(value: Any) -> Any:
    return value if getattr(value, "is_cuda", False) else float(value)


class StepGroup(NamedTuple):
    """What the native step takes for one parameter group. The lists have one entry per parameter."""

    hyper: tuple[Any, ...]  # of the formula, in its order: floats, or tensors on a device
    grad_scale: float  # what gradients are multiplied by; negative to ascend
    state_keys: tuple[str, ...]
    params: Sequence[Any]
    grads: Sequence[Any]  # of a rule that works by rows: tuples (rows, values, rows of the parameter)
    states: Sequence[Mapping[str, Any]]
    first: Sequence[int]  # whether the rule, and whether the average, starts with this step
    extras: Extras | None


class Undo:
    """States as they were before a step that has to make some."""

    def __init__(self) -> None:
        self._before: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._made: list[tuple[Any, Any]] = []

    def entries(self, states: Any, params: Sequence[Any]) -> list[dict[str, Any]]:
        """The states of the parameters, from a defaultdict that makes those it has not."""
        self._made += [(states, param) for param in params if param not in states]
        return [states[param] for param in params]

    def remember(self, state: dict[str, Any]) -> None:
        self._before.append((state, dict(state)))

    def restore(self) -> None:
        for state, before in self._before:
            state.clear()
            state.update(before)
        for states, param in self._made:
            if not states.get(param, True):
                del states[param]


class Rule:
    """One update formula of the registry."""

    def __init__(self, op: str) -> None:
        info = _native.ops()[op]
        self.op = op
        self.numbers: tuple[str, ...] = info["numbers"]
        self._hyper: tuple[str, ...] = info["hyper"]
        self._states = tuple(zip(info["states"], info["asked_by"], strict=True))
        names = (*self.numbers, *info["states"])
        self._starts_at = dict(zip(names, info["starts_at"] or [""] * len(names), strict=True))

    def hyper(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        """The formula's hyper-parameters, read from a parameter group; a tensor on a device stays there."""
        values: list[Any] = []
        for name in self._hyper:
            if name in _IN_TUPLE:
                key, at = _IN_TUPLE[name]
                pair = group[key]
                if len(pair) != 2:
                    raise ValueError(f"`{key}` must be two numbers, got {pair}")
                values.append(_number(pair[at]))
            else:
                values.append(_number(group[name]))
        return tuple(values)

    def options(self) -> frozenset[str]:
        """The keys of a parameter group that decide how the rule updates."""
        hyper = (_IN_TUPLE[name][0] if name in _IN_TUPLE else name for name in self._hyper)
        return frozenset((*hyper, *(option for _, option in self._states if option)))

    def start(self, name: str, group: Mapping[str, Any]) -> float:
        """What a number or a state of the rule starts at."""
        text = self._starts_at[name]
        return float(group.get(text, text or 0))

    def step(
        self,
        prepare: Callable[[Undo], list[StepGroup]],
        gradients: str = "kept",
        norm: Any = None,
        norm_is_known: bool = False,
        seed: int = 0,
        loss_scale: Any = None,
        found_inf: Any = None,
    ) -> tuple[list[StepGroup], bool]:
        """One native step over the groups that ``prepare`` makes, with all of them or with none.

        The other arguments are those of the native step. ``prepare`` tells the states it is about to make; if
        it or the step fails, they are gone again. Returns the groups, and whether the gradients were written
        as wanted.
        """
        undo = Undo()
        try:
            groups = prepare(undo)
        except BaseException:
            undo.restore()
            raise
        try:
            written = _native.step(
                self.op, groups, gradients, norm, norm_is_known, seed, loss_scale, found_inf
            )
        except Exception:  # not an interrupt: that comes when the step is done
            undo.restore()
            raise
        return groups, written

    def state_keys(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The states that a parameter group keeps."""
        return tuple(state for state, option in self._states if not option or group[option])
