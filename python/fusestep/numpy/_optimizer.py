"""What the optimizers of NumPy arrays share: groups, states, and one step over all arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from fusestep import _extras
from fusestep._extras import AVERAGE, LOST, extras_of
from fusestep._rules import FIRST_AVERAGE, FIRST_STEP, Rule, StepGroup, Undo
from fusestep._stats import count_native
from fusestep.numpy._arrays import Array, as_array

# Options that may not be negative, under the names of torch's messages.
_NOT_NEGATIVE = {
    "lr": "learning rate",
    "eps": "epsilon value",
    "momentum": "momentum value",
    "weight_decay": "weight_decay value",
    "lr_decay": "lr_decay value",
    "initial_accumulator_value": "initial_accumulator_value value",
    "momentum_decay": "momentum_decay value",
}


def check(options: Mapping[str, Any]) -> None:
    """torch's validation and messages. A NaN fails every comparison, so it is refused too."""
    for key, what in _NOT_NEGATIVE.items():
        if key in options and not options[key] >= 0.0:
            raise ValueError(f"Invalid {what}: {options[key]}")
    if not 0.0 <= options.get("rho", 0.0) <= 1.0:
        raise ValueError(f"Invalid rho value: {options['rho']}")
    for key in ("betas", "etas", "step_sizes"):
        if key in options and len(options[key]) != 2:
            raise ValueError(f"`{key}` must be two numbers, got {options[key]}")
    for i, beta in enumerate(options.get("betas", ())):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
    minus, plus = options.get("etas", (0.5, 1.2))
    if not 0.0 < minus < 1.0 < plus:
        raise ValueError(f"Invalid eta values: {minus}, {plus}")
    if options.get("nesterov") and (options["momentum"] <= 0 or options["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")
    _extras.check(options)


class Optimizer:
    """What the optimizers here share: parameter groups, states, and a step over all arrays at once.

    Attributes:
        param_groups: One dictionary per group, ``{"params": [arrays], "lr": …}``, read anew at each step.
        state: One dictionary per array, in order, with the keys of torch's optimizer.
        last_grad_norm: The norm of all gradients at the last step before they were clipped, or None.
    """

    _rule: ClassVar[Rule]

    def __init__(
        self,
        params: Iterable[Array] | Iterable[dict[str, Any]],
        defaults: dict[str, Any],
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        extras = extras or {}
        if extras.keys() - _extras.DEFAULTS.keys():
            unknown = sorted(extras.keys() - _extras.DEFAULTS.keys())
            raise TypeError(f"{type(self).__name__} got unexpected keyword arguments {unknown}")
        self.defaults = defaults | _extras.asked(extras)
        check(self.defaults)
        self.last_grad_norm: float | None = None
        self._swapped = False
        self.param_groups: list[dict[str, Any]] = []
        self.state: list[dict[str, Any]] = []
        if isinstance(params, np.ndarray):
            raise TypeError("`params` must be a sequence of arrays or of groups, got a single array")
        entries: list[Any] = list(params)
        if not entries:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(entries[0], Mapping):
            entries = [{"params": entries}]
        for group in entries:
            self.add_param_group(group)

    @property
    def lr(self) -> float:
        """Learning rate of the first group; setting it sets all groups."""
        return float(self.param_groups[0]["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        check({"lr": value})
        for group in self.param_groups:
            group["lr"] = value

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add arrays with options of their own; what is missing comes from the constructor.

        Raises:
            TypeError: a parameter is not a floating point array.
            ValueError: a parameter is read-only, or already there, or an option is out of range.
        """
        given = group["params"]
        params = [given] if isinstance(given, np.ndarray) else list(given)
        unknown = group.keys() - self.defaults.keys() - _extras.DEFAULTS.keys() - {"params"}
        if unknown:
            raise ValueError(f"{type(self).__name__} has no option {sorted(unknown)}")
        merged = {**self.defaults, **group, "params": params}
        check(merged)
        known = {id(param) for other in self.param_groups for param in other["params"]}
        for param in params:
            if not isinstance(param, np.ndarray) or isinstance(param, np.ma.MaskedArray):
                raise TypeError(f"parameters must be NumPy arrays, got {type(param).__name__}")
            if not param.flags.writeable:
                raise ValueError(f"a parameter of shape {param.shape} is read-only")
            if id(param) in known:
                raise ValueError("some parameters appear more than once")
            if param.dtype.kind != "f" and param.dtype.name != "bfloat16":
                raise TypeError(f"parameters must be floating point, got {param.dtype}")
            if param.dtype.itemsize > 8 or not param.dtype.isnative:
                raise TypeError(
                    f"parameters must be of native byte order and at most float64, got {param.dtype}"
                )
            known.add(id(param))
        self.param_groups.append(merged)
        self.state += [{} for _ in params]

    def step(self, grads: Sequence[Any], *, zero_grad: bool = False) -> None:
        """Update every array in place; either all of them or, if anything is wrong with one, none.

        Args:
            grads: One gradient per array in the order of the groups, of its shape and any supported
                dtype. None leaves the array and its states as they are.
            zero_grad: Fill the gradients with zeros in the same pass.

        Raises:
            TypeError: a gradient is not an array of a supported dtype, or is to be cleared and no array.
            ValueError: not as many gradients as arrays, or an array has become read-only.
            RuntimeError: a gradient or state does not have the shape of its array.
        """
        count = len(self.state)
        if self._swapped:
            raise RuntimeError("step() inside swap_ema(): the arrays hold their averages")
        if len(grads) != count:
            raise ValueError(f"`grads` must have one entry for each of {count} arrays, got {len(grads)}")
        if zero_grad and any(grad is not None and as_array(grad, "grad") is not grad for grad in grads):
            raise TypeError("zero_grad=True needs gradients that are NumPy arrays of native byte order")
        asked = [extras_of(group, self.defaults) for group in self.param_groups]
        norm = np.zeros(()) if any(extras and extras.max_norm for extras in asked) else None
        stochastic = any(extras and extras.rounding == "stochastic" for extras in asked)
        seed = int(np.random.randint(2**63 - 1, dtype=np.int64)) if stochastic else 0
        gradients = "cleared" if zero_grad else "kept"
        groups, written = self._rule.step(
            lambda undo: self._step_groups(iter(grads), undo), gradients, norm, seed=seed
        )
        if not written:
            for group in groups:
                for grad in group.grads:
                    grad[...] = 0
        if norm is not None:
            self.last_grad_norm = float(norm)
        count_native(self._rule.op)

    def _step_groups(self, grads: Iterator[Any], undo: Undo) -> list[StepGroup]:
        """The arrays of each group that have gradients, with states."""
        result: list[StepGroup] = []
        entries = iter(self.state)
        for group in self.param_groups:
            keys = self._rule.state_keys(group)
            extras = extras_of(group, self.defaults)
            params: list[Array] = []
            given: list[Any] = []
            states: list[dict[str, Any]] = []
            first: list[int] = []
            for param, grad, state in zip(group["params"], grads, entries, strict=False):
                if grad is None:
                    continue
                undo.remember(state)
                first.append(self._make_states(param, state, group, extras))
                params.append(param)
                given.append(self._read_grad(grad, param))
                states.append(state)
            grad_scale = -1.0 if group["maximize"] else 1.0
            hyper = self._rule.hyper(group)
            result.append(StepGroup(hyper, grad_scale, keys, params, given, states, first, extras))
        return result

    def _read_grad(self, grad: Any, param: Array) -> Any:
        return as_array(grad, "grad")

    def _make_states(
        self, param: Array, state: dict[str, Any], group: Mapping[str, Any], extras: _extras.Extras | None
    ) -> int:
        """Makes what is missing; returns which of FIRST_STEP and FIRST_AVERAGE this step is."""
        first = 0
        for name in self._rule.numbers:
            state.setdefault(name, np.array(self._rule.start(name, group), np.float32))
        for key in self._rule.state_keys(group):
            if key not in state:
                state[key] = np.full_like(param, self._rule.start(key, group))
                first = FIRST_STEP
        if extras is None:
            return first
        half = param.dtype.itemsize == 2
        if extras.lost and half:
            state.setdefault(LOST, np.zeros_like(param))
        if extras.average and AVERAGE not in state:
            state[AVERAGE] = np.zeros_like(param, dtype=np.float32 if half else param.dtype)
            first |= FIRST_AVERAGE
        return first

    @contextmanager
    def swap_ema(self) -> Iterator[None]:
        """Let the arrays hold their moving averages inside a ``with`` block, for evaluation.

        Raises:
            RuntimeError: no group has an ``ema_decay``, or the block is entered twice.
        """
        if self._swapped:
            raise RuntimeError("swap_ema() inside swap_ema()")
        asked = [extras_of(group, self.defaults) for group in self.param_groups]
        if not any(extras and extras.average for extras in asked):
            raise RuntimeError("swap_ema() needs an optimizer with `ema_decay`")
        params = (param for group in self.param_groups for param in group["params"])
        pairs = zip(params, self.state, strict=True)
        kept = [(param, param.copy(), state[AVERAGE]) for param, state in pairs if AVERAGE in state]
        self._swapped = True
        try:
            for param, _, average in kept:
                param[...] = average
            yield
        finally:
            for param, value, _ in kept:
                param[...] = value
            self._swapped = False

    def state_dict(self) -> dict[str, Any]:
        """States and options in the layout of torch's ``state_dict``, with arrays instead of tensors."""
        groups, at = [], 0
        for group in self.param_groups:
            count = len(group["params"])
            groups.append({**group, "params": list(range(at, at + count))})
            at += count
        return {
            "state": {i: dict(s) for i, s in enumerate(self.state) if s},
            "param_groups": groups,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over states and options; arrays are copied, so the two optimizers do not share them.

        Raises:
            ValueError: the groups differ in number or length from this optimizer's.
        """
        saved = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in self.param_groups]
        if [len(group["params"]) for group in saved] != sizes:
            raise ValueError("loaded state dict has other parameter groups than this optimizer")
        known = self.defaults.keys() | _extras.DEFAULTS.keys()
        options = [{k: v for k, v in new.items() if k in known} for new in saved]
        for new in options:
            check({**self.defaults, **new})
        states = [
            {k: _copy(v) for k, v in state_dict["state"].get(i, {}).items() if v is not None}
            for i in range(sum(sizes))
        ]
        for group, new in zip(self.param_groups, options, strict=True):
            group.update(new)
        self.state = states


def _copy(value: Any) -> Any:
    return value if isinstance(value, int | float) else np.array(value)
