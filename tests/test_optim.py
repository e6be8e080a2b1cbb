"""Every optimizer against torch's for-loop and against float64, and everything users do around step()."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import io
import pickle
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
import fusestep.optim as optim
from cases import (
    DTYPES,
    FLAGS,
    ISAS,
    OPS,
    RULES,
    assert_accurate,
    optimizer_names,
    rule_options,
    torch_optimizer,
)
from fusestep import _native

NAMES = optimizer_names()
SHAPES = [(3,), (17, 33), (), (0,), (129,), (4, 3, 5, 5), (9001,)]

Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def make(name: str, ours: bool, **options: Any) -> Make:
    # torch's for-loop: its fused and foreach paths have defects of their own.
    kept = options if ours else {k: v for k, v in options.items() if k not in FLAGS}
    return lambda params: (getattr(optim, name) if ours else torch_optimizer(name))(params, **kept)


def parameters(dtype: torch.dtype = torch.float32, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def train(
    optimizer_of: Make, start: list[Tensor], steps: int, wide: bool = False, first_step: int = 0
) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """Parameters after steps with the same gradients for everybody, rounded to the dtype of `start`.

    In float64 torch's counters are float64 too, if that is the default dtype.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if wide or start[0].dtype is torch.float64 else before)
    try:
        params = [Parameter(p.double() if wide else p.clone()) for p in start]
        optimizer = optimizer_of(params)
        continue_training(optimizer, params, [p.dtype for p in start], steps, first_step)
    finally:
        torch.set_default_dtype(before)
    return [p.detach() for p in params], optimizer


def continue_training(
    optimizer: torch.optim.Optimizer,
    params: list[Any],
    dtypes: list[torch.dtype],
    steps: int,
    first_step: int = 0,
) -> None:
    for step in range(first_step, first_step + steps):
        generator = torch.Generator().manual_seed(step)
        for param, dtype in zip(params, dtypes, strict=True):
            grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(dtype)
            param.grad = grad.to(param.dtype)
        optimizer.step()


def assert_same_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """The same keys with the same bits as when `saved` was made."""
    state = optimizer.state_dict()["state"]
    assert state.keys() == saved["state"].keys()
    for key, entries in state.items():
        assert entries.keys() == saved["state"][key].keys()
        for name, value in entries.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(saved["state"][key][name])), name


def assert_native(op: str, calls: int) -> None:
    assert fusestep.stats()[op] == {"native": calls, "torch": {}}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_fifty_steps_of_every_option(name: str, dtype: torch.dtype) -> None:
    """Parameters, states and counters."""
    start = parameters(dtype)
    for options in rule_options(name):
        fusestep.reset_stats()
        ours, optimizer = train(make(name, True, **options), start, 50)
        assert_native(optimizer._rule.op, 50)
        torchs, theirs = train(make(name, False, **options), start, 50)
        oracle, wide = train(make(name, False, **options), start, 50, wide=True)
        for i, (a, b, c) in enumerate(zip(ours, torchs, oracle, strict=True)):
            assert_accurate(a, b, c, f"{name} {options} parameter {SHAPES[i]}", largest_term=4.0)
        for states in zip(optimizer.state.values(), theirs.state.values(), wide.state.values(), strict=True):
            for key, value in states[0].items():
                ours_state = value.to(states[1][key].dtype)  # fused=True always counts in float32
                others = (other[key] for other in states[1:])
                assert_accurate(ours_state, *others, f"{name} {options} {key}", 4.0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NAMES)
def test_every_size_around_the_vector_width(name: str, isa: str) -> None:
    _native.set_isa(isa)
    start = parameters(shapes=[(n,) for n in range(1, 130)])
    for options in rule_options(name):
        ours, _ = train(make(name, True, **options), start, 2)
        torchs, _ = train(make(name, False, **options), start, 2)
        oracle, _ = train(make(name, False, **options), start, 2, wide=True)
        assert_accurate(torch.cat(ours), torch.cat(torchs), torch.cat(oracle), f"{name} {options}")


# ---- drop-in: state, checkpoints, schedulers, hooks ----


@pytest.mark.parametrize("name", NAMES)
def test_state_is_torchs(name: str) -> None:
    """Same keys in the same order, same dtypes, shapes and devices, same parameter groups."""
    for dtype in (torch.float32, torch.bfloat16):
        for options in rule_options(name):
            _, ours = train(make(name, True, **options), parameters(dtype), 2)
            theirs_of = functools.partial(torch_optimizer(name), **options)  # flags too: groups have them
            _, theirs = train(theirs_of, parameters(dtype), 2)
            a, b = ours.state_dict(), theirs.state_dict()
            assert list(a) == list(b)
            assert a["param_groups"] == b["param_groups"]
            assert [list(group) for group in a["param_groups"]] == [list(g) for g in b["param_groups"]]
            assert list(a["state"]) == list(b["state"])
            for key, state in a["state"].items():
                assert list(state) == list(b["state"][key])
                for name_, value in state.items():
                    other = b["state"][key][name_]
                    assert (value.dtype, value.shape, value.device) == (
                        other.dtype,
                        other.shape,
                        other.device,
                    )


@pytest.mark.parametrize("direction", ["ours to torch", "torch to ours"])
@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_go_both_ways(name: str, direction: str) -> None:
    first, second = (True, False) if direction == "ours to torch" else (False, True)
    for options in rule_options(name):
        start = parameters()
        before, saver = train(make(name, first, **options), start, 5)
        file = io.BytesIO()
        torch.save(saver.state_dict(), file)
        file.seek(0)
        params = [Parameter(p.clone()) for p in before]
        loader = make(name, second, **options)(params)
        loader.load_state_dict(torch.load(file, weights_only=True))
        continue_training(loader, params, [p.dtype for p in start], 5, first_step=5)
        expected, _ = train(make(name, False, **options), start, 10)
        for a, b in zip(params, expected, strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_training_is_bit_identical(name: str) -> None:
    """deepcopy, pickle, and save and load with weights_only, in the middle of a run."""
    for options in rule_options(name):
        start = parameters()
        expected, _ = train(make(name, True, **options), start, 8)
        params = [Parameter(p.clone()) for p in start]
        optimizer = make(name, True, **options)(params)
        continue_training(optimizer, params, [p.dtype for p in params], 3)
        bundles = [copy.deepcopy((optimizer, params)), pickle.loads(pickle.dumps((optimizer, params)))]
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        loaded_params = copy.deepcopy(params)
        loaded = make(name, True, **options)(loaded_params)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        for resumed, theirs in [*bundles, (loaded, loaded_params), (optimizer, params)]:
            continue_training(resumed, theirs, [p.dtype for p in params], 5, first_step=3)
            for a, b in zip(theirs, expected, strict=True):
                assert torch.equal(a.detach(), b)


@pytest.mark.parametrize("name", NAMES)
def test_pickles_hold_no_native_handle(name: str) -> None:
    _, optimizer = train(make(name, True), parameters(), 1)
    assert type(pickle.loads(pickle.dumps(optimizer))) is type(optimizer)
    assert isinstance(optimizer, getattr(torch.optim, name, torch.optim.Optimizer))
    assert type(optimizer).__name__ == name
    assert vars(optimizer).keys() == vars(train(make(name, False), parameters(), 1)[1]).keys()


@pytest.mark.parametrize("name", NAMES)
def test_groups_with_options_of_their_own(name: str) -> None:
    results = []
    for ours in (True, False):
        params = [Parameter(p.clone()) for p in parameters()]
        groups = [{"params": params[:3], "lr": 0.5}, {"params": params[3:5], "weight_decay": 0.2}]
        optimizer = make(name, ours, lr=0.01)(groups)
        continue_training(optimizer, params, [p.dtype for p in params], 3)
        optimizer.add_param_group({"params": params[5:], "lr": 0.3, "maximize": True})
        continue_training(optimizer, params, [p.dtype for p in params], 3, 3)
        results.append([p.detach() for p in params])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_closure_and_hooks(name: str) -> None:
    param = Parameter(torch.ones(3))
    optimizer = make(name, True)([param])
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))

    def closure() -> Tensor:
        seen.append("closure")
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 3.0
    assert seen == ["pre", "closure", "post"]
    assert not torch.equal(param.detach(), torch.ones(3))

    before = param.detach().clone()
    with pytest.raises(KeyError, match="mine"):
        optimizer.step(lambda: {}["mine"])
    assert torch.equal(param.detach(), before)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_run_once_when_torch_takes_over(name: str) -> None:
    make(name, False)([Parameter(torch.ones(1))])  # makes torch wrap the step of its own class
    param = Parameter(torch.ones(3, dtype=torch.complex64))
    param.grad = torch.ones_like(param)
    optimizer = make(name, True)([param])
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.step()
    assert seen == ["pre"]


@pytest.mark.parametrize("name", NAMES)
def test_complex_and_differentiable_are_torchs(name: str) -> None:
    for options in ({}, {"differentiable": True}):
        if options.keys() - inspect.signature(torch_optimizer(name)).parameters.keys():
            continue
        results = []
        for ours in (True, False):
            dtype = torch.float32 if options else torch.complex64
            leaf = torch.ones(3, dtype=dtype, requires_grad=True)
            param = leaf if not options else leaf.clone()
            param.grad = torch.full_like(param, 0.5)
            optimizer = make(name, ours, **options)([{"params": [param]}] if not options else [leaf])
            if options:
                optimizer.param_groups[0]["params"] = [param]
            optimizer.step()
            results.append(param.detach().clone())
        assert torch.equal(*results)
    assert all(count["native"] == 0 for count in fusestep.stats().values())


def test_sparse_gradients() -> None:
    """SGD takes them, by torch's code; Adam refuses them, and changes nothing."""
    for name, works in (("SGD", True), ("Adam", False), ("RMSprop", False)):
        embedding = torch.nn.Embedding(5, 3, sparse=True)
        dense = Parameter(torch.ones(2))
        dense.grad = torch.ones(2)
        before = embedding.weight.detach().clone()
        optimizer = make(name, True)([dense, embedding.weight])
        embedding(torch.tensor([1, 3])).sum().backward()
        if works:
            optimizer.step()
            assert not torch.equal(embedding.weight, before)
        else:
            with pytest.raises(RuntimeError, match="sparse"):
                optimizer.step()
            assert torch.equal(dense.detach(), torch.ones(2))
            assert torch.equal(embedding.weight, before)
            assert not any(optimizer.state.values())


@pytest.mark.parametrize("name", NAMES)
def test_compiled_training_step(name: str) -> None:
    params = [Parameter(torch.ones(4)), Parameter(torch.ones(2, 2))]
    optimizer = make(name, True)(params)
    for param in params:
        param.grad = torch.full_like(param, 0.5)
    compiled = torch.compile(optimizer.step, backend="aot_eager")
    compiled()
    other = [Parameter(torch.ones(4)), Parameter(torch.ones(2, 2))]
    reference = make(name, False)(other)
    for param in other:
        param.grad = torch.full_like(param, 0.5)
    reference.step()
    for a, b in zip(params, other, strict=True):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", optim.KERNELS)
def test_an_instance_can_be_given_another_class(name: str) -> None:
    """As Lightning does: its layout in memory is that of torch's."""

    class Wrapper(torch.optim.Optimizer):
        def __init__(self) -> None:
            pass

    wrapper = Wrapper()
    wrapper.__class__ = type("Wrapped", (Wrapper, getattr(optim, name)), {})
    assert isinstance(wrapper, getattr(optim, name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fused", [None, True])
def test_grad_scaler(name: str, fused: bool | None) -> None:
    """An overflow skips the step, even the first one, and leaves no trace; others are unscaled once."""
    accepts = "fused" in inspect.signature(torch_optimizer(name)).parameters
    options: dict[str, Any] = {"fused": fused} if accepts else {}
    options |= {"momentum": 0.9} if name == "SGD" else {}
    results = []
    for ours in (True, False):
        param = Parameter(torch.ones(5))
        optimizer = make(name, ours, **options)([param])
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for value in (float("inf"), 1.0, 2.0, float("nan"), -1.0):
            optimizer.zero_grad()
            scaler.scale((param * value).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append((param.detach(), optimizer.state[param]))
    torch.testing.assert_close(results[0][0], results[1][0])
    if "step" in results[0][1]:
        assert results[0][1]["step"] == 3


# ---- what peers got wrong (reference: bugs of fused optimizers) ----


@pytest.mark.parametrize("name", NAMES)
def test_late_first_gradient(name: str) -> None:
    options = {"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {}
    results = []
    for ours in (True, False):
        params = [Parameter(torch.ones(3)), Parameter(torch.ones(4))]
        optimizer = make(name, ours, **options)(params)
        for step in range(5):
            params[0].grad = torch.full((3,), 0.1 * step)
            params[1].grad = torch.full((4,), 0.2) if step in (2, 4) else None
            optimizer.step()
        results.append([p.detach() for p in params])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_strides_of_parameter_and_gradient_differ(name: str) -> None:
    """torch's fused CPU optimizers pair the wrong elements here, or write into the neighbours."""
    base = torch.randn(6, 8, 4)
    views = {
        "transposed gradient": (base.clone(), base.transpose(0, 2).contiguous().transpose(0, 2)),
        "parameter is a slice": (base.clone()[:, ::2], torch.randn(6, 4, 4)),
        "transposed parameter": (base.clone().transpose(0, 1), torch.randn(8, 6, 4)),
        "expanded gradient": (base.clone(), torch.randn(1, 8, 1).expand(6, 8, 4)),
        "unaligned": (torch.randn(193)[1:], torch.randn(193)[1:]),
    }
    for what, (value, grad) in views.items():
        results = []
        for ours in (True, False):
            storage = torch.zeros_like(base) if what == "parameter is a slice" else None
            data = value if storage is None else storage[:, ::2].copy_(value)
            param = Parameter(
                data.detach() if storage is not None else data.clone(memory_format=torch.preserve_format)
            )
            optimizer = make(name, ours)([param])
            for _ in range(3):
                param.grad = grad
                optimizer.step()
            results.append(param.detach().clone())
            if storage is not None:
                assert torch.equal(storage[:, 1::2], torch.zeros_like(storage[:, 1::2])), "neighbours written"
        torch.testing.assert_close(*results, msg=what)


@pytest.mark.parametrize("name", NAMES)
def test_float16_zero_gradient_is_no_nan(name: str) -> None:
    """eps rounds to zero in float16; the arithmetic must not be done in it."""
    param = Parameter(torch.ones(67, dtype=torch.float16))
    optimizer = make(name, True)([param])
    for _ in range(3):
        param.grad = torch.zeros_like(param)
        optimizer.step()
    assert torch.isfinite(param).all()


def test_centered_rmsprop_under_constant_gradients_is_no_nan() -> None:
    """torch: 667 of 1000 parameters become NaN here."""
    for alpha in (0.5, 0.99):
        param = Parameter(torch.zeros(1000))
        grad = torch.rand(1000)
        optimizer = optim.RMSprop([param], alpha=alpha, centered=True)
        for _ in range(200):
            param.grad = grad
            optimizer.step()
        assert torch.isfinite(param).all()


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_in_its_element(name: str) -> None:
    for options in rule_options(name):
        results = []
        for ours in (True, False):
            param = Parameter(torch.ones(20))
            optimizer = make(name, ours, **options)([param])
            for value in (float("nan"), 1.0, float("inf")):
                grad = torch.ones(20)
                grad[0] = grad[17] = value
                param.grad = grad
                optimizer.step()
            states = optimizer.state[param].values()
            results.append([param.detach(), *(state for state in states if state.shape == param.shape)])
        for a, b in zip(*results, strict=True):
            assert torch.equal(torch.isfinite(a), torch.isfinite(b)), options
            assert torch.equal(torch.isnan(a), torch.isnan(b)), options


@pytest.mark.parametrize("name", NAMES)
def test_mixed_dtypes_in_one_group(name: str) -> None:
    start = [p for dtype in DTYPES for p in parameters(dtype, [(33,)])]
    ours, _ = train(make(name, True), start, 5)
    torchs, _ = train(make(name, False), start, 5)
    oracle, _ = train(make(name, False), start, 5, wide=True)
    for a, b, c in zip(ours, torchs, oracle, strict=True):
        assert_accurate(a, b, c, name)


@pytest.mark.parametrize("name", NAMES)
def test_float32_states_of_a_bfloat16_parameter(name: str) -> None:
    """torch raises here on every path."""
    options = {"momentum": 0.9} if name == "SGD" else {}
    param = Parameter(torch.ones(50, dtype=torch.bfloat16))
    optimizer = make(name, True, **options)([param])
    for step in range(3):
        param.grad = torch.full_like(param, 0.5)
        optimizer.step()
        if step == 0:
            state = optimizer.state[param]
            state.update({k: v.float() for k, v in state.items() if k != "step"})
    assert all(v.dtype is torch.float32 for v in optimizer.state[param].values())
    assert_native(optimizer._rule.op, 3)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_replaced_between_steps_is_seen(name: str) -> None:
    """param.data, param.grad and a state tensor: pointers are never remembered."""
    results = []
    for ours in (True, False):
        param = Parameter(torch.ones(40))
        optimizer = make(name, ours)([param])
        for step in range(6):
            param.grad = torch.full((40,), 0.1)
            if step == 2:
                param.data = torch.full((40,), 2.0)
            if step == 3:
                state = optimizer.state[param]
                state.update({k: v.clone() for k, v in state.items()})
            optimizer.step()
        results.append(param.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_share_memory_are_stepped_in_turn(name: str) -> None:
    fusestep.set_num_threads(4)
    results = []
    for ours in (True, False):
        base = torch.ones(100_000)
        # Many, so that two threads at work on them at once lose updates.
        params = [Parameter(base[i:]) for i in range(32)]
        optimizer = make(name, ours, lr=0.1)(params)
        for param in params:
            param.grad = torch.full_like(param, 0.5)
        optimizer.step()
        results.append(base.clone())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_parameter(name: str) -> None:
    results = []
    for ours in (True, False):
        param = Parameter(torch.linspace(-1, 1, 50))
        param.grad = param.data
        optimizer = make(name, ours, lr=0.1)([param])
        optimizer.step()
        results.append(param.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", NAMES)
def test_backward_through_a_graph_from_before_the_step_is_refused(name: str) -> None:
    """torch's fused optimizers forget to raise the version counter: a silently wrong gradient."""
    param = Parameter(torch.ones(3))
    loss = (param**2).sum()
    param.grad = torch.ones(3)
    make(name, True)([param]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", NAMES)
def test_no_gradients_is_no_step(name: str) -> None:
    param = Parameter(torch.ones(3))
    optimizer = make(name, True)([param])
    fresh = copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    assert torch.equal(param.detach(), torch.ones(3))
    assert_same_state(optimizer, fresh)


@pytest.mark.parametrize("name", NAMES)
def test_steps_as_numbers_and_far_on(name: str) -> None:
    if not OPS[getattr(optim, name)._rule.op]["numbers"]:
        return
    for step in (3, 3.0, torch.tensor(float(2**40)), torch.tensor([5.0])):
        param = Parameter(torch.ones(3))
        optimizer = make(name, True)([param])
        param.grad = torch.ones(3)
        optimizer.step()
        optimizer.state[param]["step"] = step
        optimizer.step()
        assert torch.isfinite(param).all()
        assert float(optimizer.state[param]["step"]) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_five_thousand_small_parameters(name: str) -> None:
    start = [torch.full((1,), float(i)) for i in range(5000)]
    ours, _ = train(make(name, True), start, 2)
    theirs, _ = train(make(name, False), start, 2)
    torch.testing.assert_close(torch.cat(ours), torch.cat(theirs))


@pytest.mark.parametrize("name", NAMES)
def test_step_inside_backward(name: str) -> None:
    model = torch.nn.Linear(4, 4)
    optimizers = {p: make(name, True)([p]) for p in model.parameters()}
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    model(torch.randn(2, 4)).sum().backward()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_deleting_an_optimizer_frees_it() -> None:
    optimizer = optim.Adam([Parameter(torch.ones(3))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(optimizer)
        del optimizer
        assert reference() is None
    finally:
        gc.enable()


def test_every_rule_has_a_class() -> None:
    assert {getattr(optim, name)._rule.op for name in optim.KERNELS if name != "LBFGS"} == set(RULES)
    for rule in RULES:
        assert OPS[rule]["class_name"] in optim.KERNELS


@pytest.mark.parametrize("name", NAMES)
def test_the_same_parameter_twice(name: str) -> None:
    results = []
    for ours in (True, False):
        param = Parameter(torch.ones(5))
        with pytest.warns(UserWarning, match="duplicate"):
            optimizer = make(name, ours, lr=0.1)([param, param])
        for value in (1.0, 2.0, 3.0):
            param.grad = torch.full((5,), value)
            optimizer.step()
        results.append((param.detach(), optimizer.state[param].get("step")))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_lies_in_another_parameter(name: str) -> None:
    results = []
    for ours in (True, False):
        params = [Parameter(torch.full((50_000,), float(i))) for i in range(3)]
        optimizer = make(name, ours, lr=0.1)(params)
        params[0].grad = torch.ones(50_000)
        params[1].grad = params[0].data
        params[2].grad = params[1].data
        optimizer.step()
        results.append(torch.cat([p.detach() for p in params]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", NAMES)
def test_states_shared_by_hand(name: str) -> None:
    results = []
    for ours in (True, False):
        a, b = Parameter(torch.ones(5)), Parameter(torch.zeros(5))
        optimizer = make(name, ours, lr=0.1)([a, b])
        for step in range(3):
            a.grad, b.grad = torch.ones(5), torch.full((5,), 0.5)
            optimizer.step()
            if step == 0:
                optimizer.state[b] = optimizer.state[a]
        results.append(torch.stack([a.detach(), b.detach()]))
    torch.testing.assert_close(*results)


def test_a_later_group_that_is_torchs_leaves_no_states_behind() -> None:
    results = []
    for ours in (True, False):
        a, b = Parameter(torch.ones(2)), torch.ones(2, requires_grad=True)
        groups = [{"params": [a]}, {"params": [b], "differentiable": True}]
        optimizer = make("SGD", ours, lr=0.1, momentum=0.9, dampening=0.5)(groups)
        leaf = b.clone()
        optimizer.param_groups[1]["params"] = [leaf]
        for _ in range(2):
            a.grad, leaf.grad = torch.ones(2), torch.ones(2)
            optimizer.step()
        results.append((a.detach(), optimizer.state[a]["momentum_buffer"]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_grad_scaler_with_float16_parameters(name: str) -> None:
    """fused=True lets the optimizer unscale, which GradScaler itself refuses to do in float16."""
    param = Parameter(torch.ones(5, dtype=torch.float16))
    optimizer = make(name, True, fused=True, lr=0.1)([param])
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    wide = Parameter(torch.ones(5))
    reference = make(name, False, lr=0.1)([wide])
    for value in (float("inf"), 1.0, 2.0):
        optimizer.zero_grad()
        scaler.scale((param * value).sum()).backward()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        if value != float("inf"):
            assert torch.equal(param.grad, torch.full_like(param, value)), f"gradient still at scale {scale}"
            wide.grad = torch.full((5,), value)
            reference.step()
        scaler.update()
    torch.testing.assert_close(param.detach().float(), wide.detach(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_found_inf_of_several_devices(name: str) -> None:
    """It is a sum, so 2 is an overflow too; and the first step must leave no trace."""
    param = Parameter(torch.ones(3))
    optimizer = make(name, True, **({"momentum": 0.9} if name == "SGD" else {}))([param])
    fresh = copy.deepcopy(optimizer.state_dict())
    param.grad = torch.full((3,), float("inf"))
    optimizer.found_inf = torch.tensor(2.0)
    optimizer.step()
    assert torch.equal(param.detach(), torch.ones(3))
    assert_same_state(optimizer, fresh)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_after_the_step_keeps_its_states(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is delivered when the native call returns: by then the step has happened."""
    param = Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = make(name, True, **({"momentum": 0.9} if name == "SGD" else {}))([param])
    native = _native.step

    def interrupted(*args: Any) -> None:
        native(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(_native, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert not torch.equal(param.detach(), torch.ones(3))
    assert optimizer.state[param]


@pytest.mark.parametrize("name", NAMES)
def test_states_replaced_by_another_thread(name: str) -> None:
    """The GIL is released while the kernel runs; what it writes to must not be freed."""
    options = {"momentum": 0.9} if name == "SGD" else {}
    param = Parameter(torch.zeros(2_000_000))
    param.grad = torch.ones_like(param)
    optimizer = make(name, True, **options)([param])
    optimizer.step()
    key = next(key for key, value in optimizer.state[param].items() if value.shape == param.shape)
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            optimizer.state[param][key] = torch.zeros_like(param)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(30):
            optimizer.step()
    finally:
        done.set()
        thread.join()
    assert torch.isfinite(param).all()


def test_an_integer_step() -> None:
    for ours in (True, False):
        param = Parameter(torch.ones(3))
        param.grad = torch.ones(3)
        optimizer = make("Adam", ours)([param])
        optimizer.step()
        optimizer.state[param]["step"] = torch.tensor(1)
        optimizer.step()
        assert optimizer.state[param]["step"] == 2


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "betas" in inspect.signature(torch_optimizer(n)).parameters]
)
def test_a_small_first_beta_keeps_small_gradients_after_large_ones(name: str) -> None:
    """m + (g - m) loses g where m is much larger: torch's lerp goes from the nearer end."""
    results = []
    for ours in (True, False):
        param = Parameter(torch.ones(3))
        optimizer = make(name, ours, betas=(0.0, 0.9))([param])
        for value in (1e4, 1e-4):
            param.grad = torch.full((3,), value)
            optimizer.step()
        results.append(optimizer.state[param]["exp_avg"])
    torch.testing.assert_close(*results, rtol=1e-6, atol=0)


def test_sparse_gradients_later_on_change_nothing_before_them() -> None:
    """torch has updated the first group by the time it looks at the second."""
    a, b = Parameter(torch.ones(3)), Parameter(torch.ones(3))
    optimizer = optim.Adam([{"params": [a]}, {"params": [b]}])
    a.grad, b.grad = torch.ones(3), torch.ones(3)
    optimizer.step()
    before = a.detach().clone()
    b.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="Adam does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(a.detach(), before)
    assert optimizer.state[a]["step"] == 1


def test_the_reason_for_torchs_step_is_short() -> None:
    table = torch.nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    optim.SGD(table.parameters()).step()
    assert fusestep.stats()["sgd"]["torch"] == {"sparse gradient": 1}


def test_a_failed_first_step_leaves_no_empty_entries() -> None:
    param = Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = optim.Adam([param])
    param.data = torch.ones(5)
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert optimizer.state_dict()["state"] == {}


def test_states_that_only_seem_to_overlap() -> None:
    """Strides that interleave: the kernels do not look closely, torch's step takes them."""
    param = Parameter(torch.ones(2, 3))
    optimizer = optim.Adam([param])
    for step in range(2):
        param.grad = torch.ones(2, 3)
        optimizer.step()
        if step == 0:
            state = optimizer.state[param]
            state["exp_avg"] = torch.zeros(20).as_strided((2, 3), (3, 2)).copy_(state["exp_avg"])
    assert torch.allclose(param, torch.full((2, 3), 1 - 2e-3))
    assert fusestep.stats()["adam"]["native"] == 1
