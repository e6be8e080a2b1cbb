"""The step of every rule that updates all elements, and what such a step can do beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fusestep import _extras, _native
from fusestep._extras import AVERAGE, LOST, Extras, extras_of
from fusestep._rules import FIRST_AVERAGE, FIRST_STEP, StepGroup, Undo
from fusestep._stats import count_native
from fusestep.optim import _composed, _shards
from fusestep.optim._fused import (
    FusedStep,
    check_capture,
    cuda_in_use,
    mark_changed,
    need_updatable,
    unobserved,
    why_torch,
)
from fusestep.optim._kept import Kept
from fusestep.optim._plan import Plan


class _Scaler:
    """What GradScaler hands over: numbers of the host, or tensors that stay on their device.

    Attributes:
        known: The scale of the loss, 1 if it is on the device.
        on_device: The scale, or None.
        found_inf: Whether gradients overflowed, if only the device knows, else None.
        overflows: Whether they are known to have overflowed.
        scales: Whether there is a scale.
    """

    def __init__(self, scale: Tensor | None, found_inf: Tensor | None) -> None:
        on_device = scale is not None and scale.is_cuda
        self.on_device = scale if on_device else None
        self.known = 1.0 if scale is None or on_device else float(scale)
        self.scales = on_device or self.known != 1
        self.found_inf = found_inf if found_inf is not None and found_inf.is_cuda else None
        self.overflows = found_inf is not None and self.found_inf is None and float(found_inf) != 0

    def wait(self) -> None:
        """Until it is known whether gradients overflowed."""
        if self.found_inf is not None:
            self.overflows, self.found_inf = float(self.found_inf) != 0, None

    def unscale(self, grads: list[Tensor]) -> None:
        """As torch's fused step leaves them; if they overflowed, as they are."""
        factor: Any = 1 / self.known
        if self.on_device is not None:
            factor = 1 / self.on_device
            if self.found_inf is not None:
                factor = torch.where(self.found_inf == 0, factor, torch.ones_like(factor))
        torch._foreach_mul_(grads, factor)


class DenseStep(FusedStep):
    """Mixed in before an optimizer class of torch; see ``_extras.DOCUMENTATION`` for its arguments.

    Attributes:
        last_grad_norm: The norm of all gradients at the last step, before they were clipped: a float64
            tensor without dimensions, on their device. None without ``max_grad_norm``, and if the last step
            was skipped.
    """

    last_grad_norm: Tensor | None = None
    _swapped = False
    _takes_sparse = False  # torch's step does

    def __init__(
        self,
        *args: Any,
        max_grad_norm: float | None = None,
        ema_decay: float | None = None,
        rounding: str = "nearest",
        **kwargs: Any,
    ) -> None:
        options = {"max_grad_norm": max_grad_norm, "ema_decay": ema_decay, "rounding": rounding}
        asked = _extras.asked(options)
        super().__init__(*args, **kwargs)
        self.defaults.update(asked)
        for group in self.param_groups:
            for key, value in asked.items():
                group.setdefault(key, value)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """The signature is torch's, and the options that torch does not have."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls) or not cls.__module__.startswith("fusestep."):
            return
        theirs = next(base for base in cls.__mro__ if not issubclass(base, FusedStep))
        keyword = inspect.Parameter.KEYWORD_ONLY
        ours = [
            inspect.Parameter(name, keyword, default=default) for name, default in _extras.DEFAULTS.items()
        ]
        parameters = [*inspect.signature(theirs).parameters.values(), *ours]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        cls.__doc__ = (cls.__doc__ or "") + _extras.DOCUMENTATION

    # Kept elsewhere: of a native handle a pickle, a copy or vars() must see nothing. Nor is there a slot for
    # it: without torch's layout an instance could not be given another class, as Lightning does.
    @property
    def _plan(self) -> Plan:
        return _plans.of(self)

    @_plan.setter
    def _plan(self, plan: Plan) -> None:
        _plans.put(self, plan)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own, as torch does."""
        if isinstance(param_group, dict):
            _extras.check(param_group)
        super().add_param_group(param_group)

    @unobserved
    def step(self, closure: Callable[[], Any] | None = None, *, zero_grad: bool = False) -> Any:
        """Perform a single optimization step.

        Either all parameters are updated or, if anything is wrong with one of them, none.

        Args:
            closure: Reevaluates the model and returns the loss. Called once, with gradients enabled.
            zero_grad: Fill the gradients with zeros in the same pass. Under ``fused=True`` also if they
                overflowed; without it GradScaler does not call ``step`` then, and they stay.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            RuntimeError: a gradient or state does not fit its parameter in shape or device; or stochastic
                rounding is asked for while a graph is captured.
        """
        if self._swapped:
            raise RuntimeError("step() inside swap_ema(): the parameters hold their averages")
        if closure is None and not zero_grad and self._can_repeat() and self._plan.step(self):
            count_native(self._rule.op)
            return None
        return self._take_step(closure, zero_grad)

    def _can_repeat(self) -> bool:
        """Whether the plan of the last step may be tried, which does not look at any of these."""
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return False
        check_capture(self)
        return getattr(self, "grad_scale", None) is None and getattr(self, "found_inf", None) is None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load options and states, as torch does.

        Wide states of 16-bit parameters stay wide, and the options that torch does not have are kept if the
        checkpoint has none.
        """
        own = [{key: group[key] for key in _extras.DEFAULTS if key in group} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, extras in zip(self.param_groups, own, strict=True):
            for key, value in extras.items():
                group.setdefault(key, value)

    @contextmanager
    def swap_ema(self) -> Iterator[None]:
        """Let the parameters hold their moving averages inside a ``with`` block, for evaluation.

        Parameters that have not been updated yet keep their values. Afterwards all are as they were.

        Raises:
            RuntimeError: no group has an ``ema_decay``, or the block is entered twice.
        """
        if self._swapped:
            raise RuntimeError("swap_ema() inside swap_ema()")
        if not any(self._extras(group).average for group in self.param_groups):
            raise RuntimeError("swap_ema() needs an optimizer with `ema_decay`")
        params = [param for group in self.param_groups for param in group["params"]]
        kept = [(param, param.detach().clone()) for param in params if AVERAGE in self.state.get(param, {})]
        self._swapped = True
        try:
            with torch.no_grad():
                for param, _ in kept:
                    param.copy_(self.state[param][AVERAGE])
            yield
        finally:
            with torch.no_grad():
                for param, value in kept:
                    param.copy_(value)
            del self._swapped

    def _extras(self, group: dict[str, Any]) -> Extras:
        return extras_of(group, self.defaults) or NO_EXTRAS

    def _torch_step(self, closure: Callable[[], Any] | None, zero_grad: bool = False) -> Any:
        extras = [self._extras(group) for group in self.param_groups]
        if not zero_grad and all(asked is NO_EXTRAS for asked in extras):
            return super()._torch_step(closure, zero_grad)
        return _composed.step(self, super()._torch_step, closure, extras, zero_grad)

    def _native_step(self, zero_grad: bool) -> str | None:
        # GradScaler hands over its scale and the check for overflow under fused=True, as torch arranged.
        scaler = _Scaler(getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
        if scaler.found_inf is not None and self._begins():
            scaler.wait()
        if scaler.overflows:
            if self.last_grad_norm is not None:
                self.last_grad_norm = None
            if zero_grad:
                _composed.clear(self._gradients())
            return None
        try:
            groups = self._run(scaler, zero_grad)
        except _native.Unsupported as unsupported:
            return str(unsupported)
        params = (param for group in self.param_groups for param in group["params"])
        whole = [param for param in params if _shards.is_sharded(param) and param.grad is not None]
        mark_changed([*whole, *(param for group in groups for param in group.params)])
        return None

    def _begins(self) -> bool:
        """Whether states begin with this step: then the host must know if it is taken."""
        for group in self.param_groups:
            keys = self._rule.state_keys(group)[:1]
            if self._extras(group).average:
                keys = (*keys, AVERAGE)
            states = (self.state.get(param, {}) for param in group["params"] if param.grad is not None)
            if keys and any(state.get(key) is None for state in states for key in keys):
                return True
        return False

    def _run(self, scaler: _Scaler, zero_grad: bool) -> list[StepGroup]:
        extras = [self._extras(group) for group in self.param_groups]
        # What only the device knows may forbid to write gradients, but not to clear them.
        clears = zero_grad and scaler.found_inf is None
        gradients = "cleared" if clears else "unscaled" if scaler.scales else "kept"
        norm, known = None, False
        if any(asked.max_norm for asked in extras):
            norm, known = self._norm(extras, scaler)
        random = any(asked.rounding == "stochastic" for asked in extras)
        if random and cuda_in_use() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError('rounding="stochastic" in a captured step: a graph repeats its random numbers')
        # From torch's generator, so that torch.manual_seed repeats a run.
        seed = int(torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")) if random else 0

        def prepare(undo: Undo) -> list[StepGroup]:
            both = zip(self.param_groups, extras, strict=True)
            return [self._step_group(group, asked, 1 / scaler.known, undo) for group, asked in both]

        groups, written = self._rule.step(
            prepare, gradients, norm, known, seed, scaler.on_device, scaler.found_inf
        )
        if gradients != "kept" or zero_grad:
            grads = [grad for group in groups for grad in group.grads]
            if gradients != "kept" and written:
                mark_changed(grads)
            if zero_grad:
                _composed.clear(grads, filled=clears and written)
            elif not written:  # as torch: whoever looks at the gradients afterwards sees them unscaled
                scaler.unscale(grads)
        if norm is not None:
            self.last_grad_norm = norm
        if gradients == "kept" and not random:
            self._plan.renew(self)
        return groups

    def _norm(self, extras: list[Extras], scaler: _Scaler) -> tuple[Tensor | None, bool]:
        """Where the kernel puts the norm; or, of gradients that other processes have parts of, the norm."""
        grads = _composed.clipped_gradients(self.param_groups, extras)
        if not grads:
            return None, False
        if any(map(_shards.is_sharded, grads)):
            norm = _composed.total_norm(grads) / scaler.known
            return norm if scaler.on_device is None else norm / scaler.on_device, True
        return torch.empty((), dtype=torch.float64, device=grads[0].device), False

    def _describe(self, group: dict[str, Any]) -> StepGroup | None:
        """The options of a parameter group, without its parameters; None if torch must take the step."""
        return None if why_torch(group) else self._described(group, self._extras(group), 1.0)

    def _described(self, group: dict[str, Any], asked: Extras, factor: float) -> StepGroup:
        keys, hyper = self._rule.state_keys(group), self._rule.hyper(group)
        grad_scale = -factor if group["maximize"] else factor
        return StepGroup(hyper, grad_scale, keys, [], [], [], [], None if asked is NO_EXTRAS else asked)

    def _gradients(self) -> list[Tensor]:
        params = (param for group in self.param_groups for param in group["params"])
        return [param.grad for param in params if param.grad is not None]

    def _step_group(self, group: dict[str, Any], asked: Extras, factor: float, undo: Undo) -> StepGroup:
        """The parameters of a group that have gradients, with states."""
        params = [param for param in group["params"] if param.grad is not None]
        need_updatable(params)
        step = self._described(group, asked, factor)
        keys = step.state_keys
        grads = [param.grad for param in params]
        if any(grad.layout is not torch.strided for grad in grads):
            if not self._takes_sparse:
                for state in undo.entries(self.state, params):
                    undo.remember(state)
                self._make_states(group, params)  # which refuses them, in torch's words
            raise _native.Unsupported("sparse gradient")
        states: list[Any] = [{}] * len(params)  # torch leaves no entry where nothing is kept
        first = [0] * len(params)
        if keys or asked.average or asked.lost:
            states = undo.entries(self.state, params)
            first = [FIRST_STEP if keys and state.get(keys[0]) is None else 0 for state in states]
            missing = [state for state in states if asked.average and _composed.lacks_average(state)]
            if any(first) or missing or asked.lost:
                for state in states:
                    undo.remember(state)
            if any(first):
                self._make_states(group, params)
            if missing or asked.lost:
                first = [
                    bits | _make_extra_states(param, state, asked)
                    for bits, param, state in zip(first, params, states, strict=True)
                ]
        if any(map(_shards.is_sharded, params)):
            params, grads, states = _shards.local(params, grads, states)
        return step._replace(params=params, grads=grads, states=states, first=first)

    def _make_states(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """By torch's own code, so that keys, dtypes and order are its own. It wants lists to fill."""
        lists = len(inspect.signature(self._init_group).parameters) - 1  # type: ignore[attr-defined]
        self._init_group(group, *([] for _ in range(lists)))  # type: ignore[attr-defined]


NO_EXTRAS = Extras(0.0, 0.0, None, None, "nearest")
_plans: Kept[Plan] = Kept(lambda _: Plan())


def _make_extra_states(param: Tensor, state: dict[str, Any], asked: Extras) -> int:
    """Returns FIRST_AVERAGE if the average is new."""
    if asked.lost and _composed.is_half(param) and LOST not in state:
        state[LOST] = torch.zeros_like(param, memory_format=torch.preserve_format)
    new = asked.average and _composed.lacks_average(state) and _composed.make_average(param, state)
    return FIRST_AVERAGE if new else 0
