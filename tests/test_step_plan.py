"""A step that repeats the one before does what a step that reads everything anew does, bit by bit."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import fusestep
import fusestep.optim as optim
from cases import rule_options
from fusestep import _native
from fusestep.optim._plan import Plan
from peers import in_new_process, one, outcome, same_bits, tensors, with_states
from test_optim import NAMES, make

STEPS, CHANGED_AT = 20, 8
SHAPES = [(5, 3), (5, 3), (1,), (7,), (), (3, 4, 2), (0,)]


class NoPlan(Plan):
    def step(self, optimizer: Any) -> bool:
        return False

    def renew(self, optimizer: Any) -> None:
        pass


class Run:
    """An optimizer whose steps are repeated, or are not."""

    def __init__(self, name: str, planned: bool, dtype: torch.dtype, options: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(3)
        values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
        self.params = [Parameter(value.to(dtype)) for value in values]
        self.planned, self.grads = planned, torch.Generator().manual_seed(5)
        groups = [{"params": self.params[:3]}, {"params": self.params[3:], "weight_decay": 0.01}]
        self.optimizer: Any = None
        self.use(make(name, True, **options)(groups))

    def use(self, optimizer: Any) -> None:
        if not self.planned:
            optimizer._plan = NoPlan()
        self.taken = self.optimizer._plan.taken if self.optimizer is not None else 0
        self.optimizer = optimizer

    def state(self, number: int) -> dict[str, Any]:
        return self.optimizer.state.get(self.params[number], {})  # type: ignore[no-any-return]

    @property
    def group(self) -> dict[str, Any]:
        return self.optimizer.param_groups[0]  # type: ignore[no-any-return]

    def go(self, change: Callable[[Run, int], None]) -> int:
        """Returns how many steps were repeated."""
        for step in range(STEPS):
            for param in self.params:
                grad = torch.randn(param.shape, generator=self.grads, dtype=torch.float64)
                param.grad = grad.to(param.dtype)
            change(self, step)
            self.optimizer.step()
        return self.taken + self.optimizer._plan.taken  # type: ignore[no-any-return]


CHANGES: dict[str, tuple[Callable[[Run], Any], int]] = {}  # and how many of the steps may not be repeated
EACH_STEP: dict[str, tuple[Callable[[Run, int], Any], int]] = {}


def once(slow: int = 2) -> Any:
    """Registers something that happens to an optimizer between two of its steps."""

    def register(change: Callable[[Run], Any]) -> Callable[[Run], Any]:
        CHANGES[change.__name__] = change, slow
        return change

    return register


def always(slow: int = 1) -> Any:
    def register(change: Callable[[Run, int], Any]) -> Callable[[Run, int], Any]:
        EACH_STEP[change.__name__] = change, slow
        return change

    return register


# ---- options ----


@always()
def nothing_changes(run: Run, step: int) -> None:
    pass


@always()
def scheduler_sets_another_rate(run: Run, step: int) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] = group["lr"] * 0.9


@always()
def rate_is_a_number_of_numpy(run: Run, step: int) -> None:
    run.group["lr"] = np.float64(0.1) / (1 + step)


@always(slow=2)
def rate_is_a_tensor_changed_in_place(run: Run, step: int) -> None:
    if step == CHANGED_AT:
        run.group["lr"] = torch.tensor(0.125)
    if step > CHANGED_AT:
        run.group["lr"].mul_(0.5)


@always()
def lists_are_changed_in_place(run: Run, step: int) -> None:
    for key in run.group.keys() & {"betas", "etas", "step_sizes"}:
        if step == 0:
            run.group[key] = list(run.group[key])
        elif step % 5 == 0:
            run.group[key][0] *= 0.5


@once()
def maximizes(run: Run) -> None:
    run.group["maximize"] = not run.group["maximize"]


@once()
def decays(run: Run) -> None:
    run.optimizer.param_groups[1]["weight_decay"] = 0.25


@once()
def clips_from_now_on(run: Run) -> None:
    run.group["max_grad_norm"] = 0.5


@once()
def defaults_change(run: Run) -> None:
    run.optimizer.defaults["ema_decay"] = 0.5


@once()
def group_is_another_dictionary(run: Run) -> None:
    run.optimizer.param_groups[0] = dict(reversed(run.group.items()))


@once()
def groups_change_places(run: Run) -> None:
    run.optimizer.param_groups.reverse()


@once()
def group_is_added(run: Run) -> None:
    param = Parameter(torch.ones(3))
    run.params.append(param)
    param.grad = torch.ones(3)
    run.optimizer.add_param_group({"params": [param], "lr": 0.5})


# ---- parameters and gradients ----


@once()
def data_is_replaced(run: Run) -> None:
    run.params[1].data = run.params[1].data * 2


@once()
def data_is_replaced_by_another_dtype(run: Run) -> None:
    run.params[1].data = run.params[1].data.double()
    run.params[1].grad = torch.full_like(run.params[1], 0.5)


@once()
def parameter_is_transposed(run: Run) -> None:
    run.params[1].data = run.params[1].data.t().contiguous().t()


@once()
def parameter_leaves(run: Run) -> None:
    del run.group["params"][1]


@once()
def parameters_change_places(run: Run) -> None:
    run.group["params"].reverse()


@once()
def parameter_comes_for_another(run: Run) -> None:
    run.params[1] = run.group["params"][1] = Parameter(torch.full((5, 3), 2.0))
    run.params[1].grad = torch.ones(5, 3)


@always()
def some_have_no_gradient(run: Run, step: int) -> None:
    for number in (step % 3, 3 + step % 4):
        run.params[number].grad = None if step else run.params[number].grad


@always(slow=2)
def gradient_comes_late(run: Run, step: int) -> None:
    if step < CHANGED_AT:
        run.params[1].grad = None


@always(slow=3)
def is_frozen_and_let_go_again(run: Run, step: int) -> None:
    if 3 < step < CHANGED_AT:
        run.params[1].requires_grad_(False)
        run.params[1].grad = None
    run.params[1].requires_grad_(not 3 < step < CHANGED_AT)


@always()
def gradients_are_filled_anew(run: Run, step: int) -> None:
    if step > 0:
        grads, run.kept = [p.grad for p in run.params], run.kept  # type: ignore[attr-defined,has-type]
        for param, kept, grad in zip(run.params, run.kept, grads, strict=True):
            param.grad = kept.copy_(grad)
    else:
        run.kept = [p.grad for p in run.params]  # type: ignore[attr-defined]


@once()
def gradient_is_another_parameter(run: Run) -> None:
    run.params[1].grad = run.params[0].data


@once()
def gradient_is_its_parameter(run: Run) -> None:
    run.params[1].grad = run.params[1].data


@once()
def gradient_lies_in_a_state(run: Run) -> None:
    state = [value for value in run.state(0).values() if isinstance(value, Tensor) and value.dim()]
    run.params[1].grad = state[0] if state else run.params[1].grad


@once(slow=3)
def gradient_has_other_strides(run: Run) -> None:
    run.params[1].grad = run.params[1].grad.t().contiguous().t()  # type: ignore[union-attr]


@once(slow=3)
def gradient_has_another_dtype(run: Run) -> None:
    run.params[1].grad.data = run.params[1].grad.data.bfloat16()  # type: ignore[union-attr]


@once()
def gradient_has_its_negative_bit_set(run: Run) -> None:
    if not run.group.get("fused"):  # torch's kernels refuse it
        run.params[2].grad = torch._neg_view(run.params[2].grad)


@once(slow=3)
def gradient_is_expanded(run: Run) -> None:
    run.params[1].grad = torch.ones(1, 1).type_as(run.params[1]).expand(5, 3)


# ---- states ----


def replace_states(run: Run, replace: Callable[[Tensor], Any], kind: str = "") -> None:
    for key, value in list(run.state(1).items()):
        if not kind or (kind == "numbers") == (value.dim() == 0):
            run.state(1)[key] = replace(value)


@once()
def states_are_replaced(run: Run) -> None:
    replace_states(run, lambda value: value * 2)


@once()
def states_move(run: Run) -> None:
    replace_states(run, lambda value: value.set_(value * 2))


@once()
def data_of_states_is_replaced(run: Run) -> None:
    for value in run.state(1).values():
        value.data = value.data * 2


@once()
def states_are_wider(run: Run) -> None:
    replace_states(run, torch.Tensor.double, "tensors")


@once()
def numbers_are_set(run: Run) -> None:
    replace_states(run, lambda value: value.fill_(2.0), "numbers")


@once(slow=STEPS)
def numbers_are_those_of_python(run: Run) -> None:
    replace_states(run, float, "numbers")


@once()
def state_is_deleted(run: Run) -> None:
    run.optimizer.state.pop(run.params[1], None)


@once()
def state_is_another_dictionary(run: Run) -> None:
    if run.state(1):
        run.optimizer.state[run.params[1]] = {k: v * 2 for k, v in run.state(1).items()}


@once()
def states_change_places(run: Run) -> None:
    for key in list(run.state(1))[:-1]:
        run.state(1)[key] = run.state(1).pop(key)


@once()
def state_of_all_is_another_dictionary(run: Run) -> None:
    run.optimizer.state = defaultdict(dict, reversed(run.optimizer.state.items()))


@once()
def somebody_keeps_a_state_too(run: Run) -> None:
    run.optimizer.state[run.params[1]]["note"] = "mine"


# ---- the optimizer ----


@once()
def checkpoint_is_loaded(run: Run) -> None:
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))


@once()
def is_copied(run: Run) -> None:
    grads = [param.grad for param in run.params]
    optimizer, run.params = copy.deepcopy((run.optimizer, run.params))
    for param, grad in zip(run.params, grads, strict=True):
        param.grad = grad
    run.use(optimizer)


@once()
def is_pickled(run: Run) -> None:
    grads = [param.grad for param in run.params]
    optimizer, run.params = pickle.loads(pickle.dumps((run.optimizer, run.params)))
    for param, grad in zip(run.params, grads, strict=True):
        param.grad = grad
    run.use(optimizer)


@once()
def clears_gradients_once(run: Run) -> None:
    run.optimizer.step(zero_grad=True)
    for param in run.params:
        param.grad = torch.ones_like(param)


def compare(name: str, change: Callable[[Run, int], Any], slow: int, **more: Any) -> None:
    for options in rule_options(name):
        dtypes = (torch.float32, torch.bfloat16) if not options else (torch.float32,)
        for dtype in dtypes:
            runs = [Run(name, planned, dtype, {**options, **more}) for planned in (True, False)]
            repeated = [run.go(change) for run in runs]
            for run in runs:
                run.optimizer._plan = Plan()
            mine, right = (tensors(run.optimizer) for run in runs)
            for a, b in zip(mine, right, strict=True):
                assert a == b if isinstance(b, float | str) else same_bits(a, b), (options, dtype)
            assert repeated[1] == 0
            if options.keys().isdisjoint({"capturable", "differentiable"}):
                assert repeated[0] >= STEPS - slow, (options, dtype, repeated)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NAMES)
def test_once(name: str, change: str) -> None:
    happen, slow = CHANGES[change]
    compare(name, lambda run, step: happen(run) if step == CHANGED_AT else None, slow)


@pytest.mark.parametrize("change", EACH_STEP)
@pytest.mark.parametrize("name", NAMES)
def test_at_each_step(name: str, change: str) -> None:
    compare(name, *EACH_STEP[change])


@pytest.mark.parametrize("change", ["nothing_changes", "some_have_no_gradient"])
@pytest.mark.parametrize("rounding", ["nearest", "kahan"])
@pytest.mark.parametrize("name", NAMES)
def test_extras(name: str, rounding: str, change: str) -> None:
    compare(name, *EACH_STEP[change], max_grad_norm=0.5, ema_decay=0.75, rounding=rounding)


# ---- what must not be repeated ----


def warm(name: str, *params: Parameter, **options: Any) -> Any:
    """An optimizer that repeats its steps."""
    optimizer = make(name, True, **with_states(name), **options)(list(params) or [one() for _ in range(3)])
    optimizer.step()
    optimizer.step()
    assert optimizer._plan.taken == 1
    return optimizer


def refuses(optimizer: Any, kinds: Any, match: str | None = None) -> None:
    """The step raises; then everything, and whether the next one is repeated, is as it was."""
    before = [torch.as_tensor(t).clone() for t in tensors(optimizer)]
    taken = optimizer._plan.taken
    with pytest.raises(kinds, match=match):
        optimizer.step()
    assert all(same_bits(torch.as_tensor(a), b) for a, b in zip(tensors(optimizer), before, strict=True))
    assert optimizer._plan.taken == taken


@pytest.mark.parametrize("name", NAMES)
def test_inference_tensors(name: str) -> None:
    """Also if the memory is that of before."""
    for of_before in (True, False):
        params = [one(), one()]
        optimizer = warm(name, *params)
        with torch.inference_mode():
            data = params[1].detach().numpy() if of_before else np.ones(5, np.float32)
            params[1].data = torch.from_numpy(data)
        refuses(optimizer, RuntimeError, "Inplace update to inference tensor")


@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_do_not_fit(name: str) -> None:
    params = [one(), one(), one()]
    optimizer = warm(name, *params)
    params[1].grad.resize_(7)
    refuses(optimizer, RuntimeError)
    params[1].grad.resize_(5)
    params[1].grad.untyped_storage().resize_(0)
    refuses(optimizer, RuntimeError, "has been freed")
    params[1].grad = torch.ones(5)
    optimizer.step()
    optimizer.step()
    assert optimizer._plan.taken >= 2


@pytest.mark.parametrize("name", NAMES)
def test_states_that_do_not_fit(name: str) -> None:
    params = [one(size=1), one(size=1), one(size=1)]
    optimizer = warm(name, *params)
    state = optimizer.state[params[1]]
    key = next(key for key, value in state.items() if value.dim())
    kept = state[key]
    bad: list[Any] = [torch.ones(2), torch.ones(1, dtype=torch.int64), torch.ones(1).to_sparse()]
    for wrong in bad if name == "SGD" else [*bad, None]:  # which starts anew without one
        state[key] = wrong
        with pytest.raises((RuntimeError, TypeError)):
            optimizer.step()
    before = params[1].detach().clone()
    state[key] = torch._neg_view(kept.clone())
    with pytest.raises(RuntimeError, match="negative bit"):
        optimizer.step()
    assert torch.equal(params[1].detach(), before)
    state[key] = kept
    optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_states_that_are_one(name: str) -> None:
    """Which of them torch makes of it; it is asked each time."""
    params = [one(), one()]
    optimizer = warm(name, *params)
    key = next(key for key, value in optimizer.state[params[0]].items() if value.dim())
    fusestep.reset_stats()
    optimizer.state[params[0]][key] = optimizer.state[params[1]][key]
    for _ in range(3):
        optimizer.step()
    assert fusestep.stats()[optimizer._rule.op] == {"native": 0, "torch": {"states share memory": 3}}


@pytest.mark.parametrize("option", ["capturable", "differentiable"])
def test_options_that_only_torch_has(option: str) -> None:
    optimizer = warm("RAdam")
    fusestep.reset_stats()
    optimizer.param_groups[0][option] = True
    outcome(optimizer.step)
    assert fusestep.stats()["radam"]["torch"] == {option: 1}


def test_options_that_raise() -> None:
    class Bad:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def __float__(self) -> float:
            raise self.error

    optimizer = warm("Adam")
    for error in (KeyError("mine"), KeyboardInterrupt()):
        optimizer.param_groups[0]["lr"] = Bad(error)
        refuses(optimizer, type(error))
    for key, value in (("max_grad_norm", -1.0), ("betas", (0.9,)), ("lr", "fast")):
        optimizer.param_groups[0].update({"lr": 0.1, key: value})
        refuses(optimizer, ValueError)
        optimizer.param_groups[0].update({"betas": (0.9, 0.99), "max_grad_norm": None})
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    optimizer.step()
    assert optimizer._plan.taken == 2


def test_subclasses_and_modes() -> None:
    class Mine(Tensor):
        pass

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return function(*args, **(kwargs or {}))

    param = one()
    optimizer = warm("Adam", param)
    with Seen():
        optimizer.step()
    assert optimizer._plan.taken == 1
    param.grad = torch.ones(5).as_subclass(Mine)
    optimizer.step()
    assert optimizer._plan.taken == 1


def test_random_rounding_draws_from_torchs_generator() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        param = one(dtype=torch.bfloat16, size=500)
        optimizer = optim.Adam([param], lr=1e-3, rounding="stochastic")
        for _ in range(5):
            optimizer.step()
        results.append((param.detach(), torch.rand(1)))
    assert all(map(torch.equal, *results))


def test_clipping_gives_a_norm_of_its_own_to_each_step() -> None:
    params = [one(), one()]
    optimizer = warm("Adam", *params, max_grad_norm=1.0)
    norms = []
    for scale in (1.0, 2.0):
        for param in params:
            param.grad = torch.full((5,), scale)
        optimizer.step()
        norms.append(optimizer.last_grad_norm)
    for param in params:
        param.grad = None
    optimizer.step()
    assert optimizer.last_grad_norm is norms[1]
    assert [norm.item() for norm in norms] == pytest.approx([10**0.5, 2 * 10**0.5])


def test_plans_of_no_use_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is made seldom, until one has been of use."""
    made = []
    native = _native.CachedPlan
    monkeypatch.setattr(_native, "CachedPlan", lambda *args: made.append(1) or native(*args))
    param = one()
    optimizer = optim.Adam([param])
    kept = []
    for _ in range(200):
        kept.append(param.data)
        param.data = param.data.clone()
        optimizer.step()
    assert len(made) < 10
    for _ in range(100):
        optimizer.step()
    assert optimizer._plan.taken > 30


# ---- hooks, schedulers, profilers ----


def test_hooks_see_every_step() -> None:
    seen: list[Any] = []
    optimizer = warm("Adam")
    closure = torch.ones(()).clone
    handles = [
        optimizer.register_step_pre_hook(
            lambda o, args, kwargs: seen.append((o is optimizer, args[1:], kwargs))
        ),
        optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("post")),
        register_optimizer_step_pre_hook(lambda *_: seen.append("all")),
        register_optimizer_step_post_hook(lambda *_: seen.append("all post")),
    ]
    optimizer.step()
    assert seen == ["all", (True, (), {}), "post", "all post"]
    optimizer.step(closure)
    optimizer.step(closure=closure, zero_grad=True)
    assert seen[5] == (True, (closure,), {})
    assert seen[9] == (True, (), {"closure": closure, "zero_grad": True})
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(seen) == 12
    assert optimizer._plan.taken == 3


def test_hook_may_change_what_is_stepped() -> None:
    param = one()
    optimizer = warm("SGD", param, lr=1.0)
    before = param.detach().clone()

    def halve(*_: Any) -> None:
        param.grad = torch.zeros(5)
        optimizer.param_groups[0]["momentum"] = 0.0

    optimizer.register_step_pre_hook(halve)
    optimizer.step()
    assert same_bits(param, before)


@pytest.mark.parametrize("calls", ["before", "after"])
def test_subclass_with_a_step_of_its_own_has_its_hooks_called_once(calls: str) -> None:
    class Mine(optim.Adam):
        def step(self, closure: Any = None, *, zero_grad: bool = False) -> Any:
            seen.append("mine")
            return super().step(closure, zero_grad=zero_grad)

    seen: list[str] = []
    if calls == "after":
        optim.Adam([one()]).step()
    optimizer = Mine([one()])
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.step()
    assert seen == ["pre", "mine"]


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize("existing", [True, False])
def test_hooks_of_a_class_whose_step_was_replaced(
    existing: bool, wraps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(optim.Adam):
        pass

    seen: list[str] = []
    step = Mine.step
    optimizer = Mine([one()]) if existing else None

    def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Mine, "step", functools.wraps(step)(replaced) if wraps else replaced)
    optimizer = optimizer or Mine([one()])
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.step()
    assert seen == ["pre"]


def test_profiler_sees_repeated_steps() -> None:
    optimizer = warm("Adam")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.step()
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["Optimizer.step#Adam.step"] == 2
    assert optimizer._plan.taken == 3


def test_scheduler_knows_that_a_step_was_taken() -> None:
    optimizer = warm("Adam", lr=0.1)
    with pytest.warns(UserWarning, match=r"before `optimizer.step\(\)`"):
        torch.optim.lr_scheduler.StepLR(optimizer, 1).step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert optimizer._plan.taken == 1 + 4  # the schedulers have added an option
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-7)


# ---- lifetimes, threads, processes ----


@pytest.mark.parametrize("through", ["hook", "attribute"])
@pytest.mark.parametrize("name", NAMES)
def test_cycle_through_a_parameter_is_collected(name: str, through: str) -> None:
    """As with torch's optimizers, which one through a post_accumulate_grad_hook keeps alive."""

    def cycle() -> list[weakref.ref[Any]]:
        param = one()
        optimizer = warm(name, param)
        if through == "hook":
            param.register_hook(lambda _: optimizer.step() and None)
        else:
            param.owner = optimizer  # type: ignore[attr-defined]
        (param.sum() * 2).backward()
        optimizer.step()
        return [weakref.ref(optimizer), weakref.ref(param)]

    references = cycle()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


@pytest.mark.parametrize("name", NAMES)
def test_plan_keeps_nothing_alive(name: str) -> None:
    params = [one(), one(), one()]
    optimizer = warm(name, *params)
    gc.collect()
    gc.disable()
    try:
        state = optimizer.state[params[1]]
        key = next(key for key, value in state.items() if value.dim())
        references = [weakref.ref(params[1]), weakref.ref(params[1].grad), weakref.ref(state[key])]
        assert None not in [reference() for reference in references]
        del optimizer.param_groups[0]["params"][1], optimizer.state[params[1]], state, params[1]
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()


def test_versions_are_raised() -> None:
    params = [one(), one()]
    optimizer = warm("Adam", *params)
    losses = [(param**2).sum() for param in params]
    params[0].grad = None
    optimizer.step()
    assert optimizer._plan.taken == 2
    losses[0].backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses[1].backward()


def test_steps_are_counted() -> None:
    optimizer = warm("Adam")
    fusestep.reset_stats()
    for _ in range(3):
        optimizer.step()
    assert fusestep.stats() == {"adam": {"native": 3, "torch": {}}}


def test_states_and_gradients_freed_by_another_thread() -> None:
    """The GIL is released while the kernel runs; what it writes to must not be freed."""
    param = Parameter(torch.zeros(3_000_000))
    param.grad = torch.ones_like(param)
    optimizer = warm("Adam", param)
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            param.grad = torch.ones_like(param)
            state = optimizer.state[param]
            state["exp_avg"] = torch.zeros_like(param)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(40):
            optimizer.step()
    finally:
        done.set()
        thread.join()
    assert torch.isfinite(param).all()


def test_one_optimizer_in_many_threads() -> None:
    params = [Parameter(torch.zeros(400_000)) for _ in range(3)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = warm("Adam", *params)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(optimizer.step) for _ in range(40)]:
            done.result()
    assert all(torch.isfinite(t).all() for t in tensors(optimizer))


FORKED = """
import os, torch, fusestep.optim as optim
params = [torch.nn.Parameter(torch.ones(n)) for n in (5, 60_000)]
for param in params:
    param.grad = torch.ones_like(param)
optimizer = optim.Adam(params)
for _ in range(3):
    optimizer.step()
child = os.fork()
for _ in range(3):
    optimizer.step()
assert optimizer._plan.taken == 5
if child == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_child_process_repeats_the_steps_of_its_parent() -> None:
    in_new_process(FORKED)


def test_gradient_in_the_memory_of_another_parameter_is_no_repetition() -> None:
    params = [one(), one()]
    optimizer = warm("Adam", *params)
    params[1].grad = params[0].data
    optimizer.step()
    assert optimizer._plan.taken == 1


def test_state_that_has_become_that_of_another() -> None:
    param = one()
    optimizer = warm("Adam", param)
    optimizer.state[one()] = optimizer.state.pop(param)
    optimizer.step()
    assert optimizer.state[param]["step"] == 1
