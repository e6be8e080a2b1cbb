"""Optimizers that update NumPy arrays in place, with the state layout of torch's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fusestep._rules import Rule, StepGroup, Undo
from fusestep._stats import count_native
from fusestep.numpy._arrays import Array, as_array

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop"]


def _check(options: Mapping[str, Any]) -> None:
    """torch's validation and messages. A NaN fails every comparison, so it is refused too."""
    names = {"lr": "learning rate", "eps": "epsilon value", "momentum": "momentum value"}
    for key in ("lr", "eps", "momentum", "alpha", "weight_decay"):
        if key in options and not options[key] >= 0.0:
            what = names.get(key, f"{key} value")
            raise ValueError(f"Invalid {what}: {options[key]}")
    if "betas" in options and len(options["betas"]) != 2:
        raise ValueError(f"`betas` must be two numbers, got {options['betas']}")
    for i, beta in enumerate(options.get("betas", ())):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
    if options.get("nesterov") and (options["momentum"] <= 0 or options["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")


class Optimizer:
    """What the optimizers here share: parameter groups, states, and a step over all arrays at once.

    Attributes:
        param_groups: One dictionary per group, ``{"params": [arrays], "lr": …}``, read anew at each step.
        state: One dictionary per array, in order, with the keys of torch's optimizer.
    """

    _rule: ClassVar[Rule]

    def __init__(self, params: Iterable[Array] | Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        _check(defaults)
        self.defaults = defaults
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
        _check({"lr": value})
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
        unknown = group.keys() - self.defaults.keys() - {"params"}
        if unknown:
            raise ValueError(f"{type(self).__name__} has no option {sorted(unknown)}")
        merged = {**self.defaults, **group, "params": params}
        _check(merged)
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
            known.add(id(param))
        self.param_groups.append(merged)
        self.state += [{} for _ in params]

    def step(self, grads: Sequence[Array | None]) -> None:
        """Update every array in place; either all of them or, if anything is wrong with one, none.

        Args:
            grads: One gradient per array in the order of the groups, of its shape and any supported
                dtype. None leaves the array and its states as they are.

        Raises:
            TypeError: a gradient is not an array of a supported dtype.
            ValueError: not as many gradients as arrays, or an array has become read-only.
            RuntimeError: a gradient or state does not have the shape of its array.
        """
        count = len(self.state)
        if len(grads) != count:
            raise ValueError(f"`grads` must have one entry for each of {count} arrays, got {len(grads)}")
        self._rule.step(lambda undo: self._step_groups(iter(grads), undo))
        count_native(self._rule.op)

    def _step_groups(self, grads: Iterator[Array | None], undo: Undo) -> list[StepGroup]:
        """The arrays of each group that have gradients, with states."""
        result: list[StepGroup] = []
        entries = iter(self.state)
        for group in self.param_groups:
            keys = self._rule.state_keys(group)
            params: list[Array] = []
            given: list[Array] = []
            states: list[dict[str, Any]] = []
            first: list[bool] = []
            for param, grad, state in zip(group["params"], grads, entries, strict=False):
                if grad is None:
                    continue
                first.append(any(key not in state for key in keys))
                if first[-1]:
                    undo.remember(state)
                    self._make_states(param, state, keys)
                params.append(param)
                given.append(as_array(grad, "grad"))
                states.append(state)
            grad_scale = -1.0 if group["maximize"] else 1.0
            hyper = self._rule.hyper(group)
            result.append(StepGroup(hyper, grad_scale, keys, params, given, states, first))
        return result

    def _make_states(self, param: Array, state: dict[str, Any], keys: tuple[str, ...]) -> None:
        if self._rule.counts_steps:
            state.setdefault("step", np.zeros((), np.float32))
        for key in keys:
            state.setdefault(key, np.zeros_like(param))

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
        options = [{k: v for k, v in new.items() if k in self.defaults} for new in saved]
        for new in options:
            _check({**self.defaults, **new})
        states = [
            {key: np.array(value) for key, value in state_dict["state"].get(i, {}).items()}
            for i in range(sum(sizes))
        ]
        for group, new in zip(self.param_groups, options, strict=True):
            group.update(new)
        self.state = states


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum, dampening and Nesterov. Source: ``torch.optim.SGD``."""

    _rule = Rule("sgd")

    def __init__(
        self,
        params: Iterable[Array] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)


class RMSprop(Optimizer):
    """RMSprop, centered or not, with momentum. Source: ``torch.optim.RMSprop``."""

    _rule = Rule("rmsprop")

    def __init__(
        self,
        params: Iterable[Array] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)


class Adam(Optimizer):
    """Adam, with AMSGrad and decoupled weight decay as options. Source: ``torch.optim.Adam``."""

    _rule = Rule("adam")

    def __init__(
        self,
        params: Iterable[Array] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)


class AdamW(Adam):
    """Adam with decoupled weight decay. Source: ``torch.optim.AdamW``."""

    def __init__(
        self,
        params: Iterable[Array] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
        )
