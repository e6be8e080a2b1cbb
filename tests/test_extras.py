"""What torch's optimizers do not do: clipping, averaging, clearing and rounding in the pass of the step."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
import fusestep.numpy as fnp
import fusestep.optim as optim
from cases import ISAS, assert_accurate, optimizer_names, torch_optimizer
from fusestep import _native

NAMES = optimizer_names()
SHAPES = [(3,), (0,), (17, 33), (9001,), ()]
EXTRAS: dict[str, Any] = {"max_grad_norm": 0.5, "ema_decay": 0.9}


def parameters(dtype: torch.dtype = torch.float32, wide: bool = False) -> list[Parameter]:
    generator = torch.Generator().manual_seed(7)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]
    return [Parameter(value.double() if wide else value) for value in start]


def set_gradients(params: Iterable[Tensor], step: int, dtype: torch.dtype = torch.float32) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in params:
        grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(dtype)
        param.grad = grad.to(param.dtype)


def by_hand(name: str, params: list[Parameter], steps: int, dtype: torch.dtype, **options: Any) -> Any:
    """torch's loop with clip_grad_norm_, AveragedModel and zero_grad around it; returns the averages."""
    optimizer = torch_optimizer(name)(params, **options)
    model = torch.nn.ParameterList(params)
    average_of = torch.optim.swa_utils.get_ema_multi_avg_fn(EXTRAS["ema_decay"])
    averages = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average_of)
    for step in range(steps):
        set_gradients(params, step, dtype)
        norm = torch.nn.utils.clip_grad_norm_(params, EXTRAS["max_grad_norm"])
        optimizer.step()
        averages.update_parameters(model)
    return [p.detach() for p in averages.module.parameters()], norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_clip_step_average_and_clear_as_by_hand(name: str, dtype: torch.dtype) -> None:
    fusestep.reset_stats()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    params = parameters(dtype)
    ours = getattr(optim, name)(params, lr=0.05, **EXTRAS)
    for step in range(10):
        set_gradients(params, step, dtype)
        ours.step(zero_grad=True)
        assert all((param.grad == 0).all() for param in params)
    torchs = parameters(dtype)
    averages, _ = by_hand(name, torchs, 10, dtype, lr=0.05)
    torch.set_default_dtype(torch.float64)
    exact = parameters(dtype, wide=True)
    exact_averages, norm = by_hand(name, exact, 10, dtype, lr=0.05)
    torch.set_default_dtype(before)
    assert fusestep.stats()[ours._rule.op] == {"native": 10, "torch": {}}
    for a, b, c in zip(params, torchs, exact, strict=True):
        assert_accurate(a.detach(), b.detach(), c.detach(), name, largest_term=4.0)
    for a, b, c in zip(params, averages, exact_averages, strict=True):
        assert_accurate(ours.state[a]["ema"], b, c, f"{name} average", largest_term=4.0)
    assert ours.last_grad_norm.dtype is torch.float64
    assert ours.last_grad_norm.item() == pytest.approx(
        norm.item(), rel=1e-6 if dtype.itemsize == 4 else 1e-13
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_small_norm_clips_nothing(name: str) -> None:
    params, others = parameters(), parameters()
    ours = getattr(optim, name)(params, max_grad_norm=1e6)
    plain = getattr(optim, name)(others)
    for step in range(3):
        set_gradients(params, step)
        set_gradients(others, step)
        ours.step()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_gradients_that_are_not_finite_are_clipped_as_by_torch(value: float) -> None:
    results = []
    for ours in (True, False):
        params = [Parameter(torch.ones(20)), Parameter(torch.ones(3))]
        for param in params:
            param.grad = torch.ones_like(param)
        params[0].grad[17] = value  # type: ignore[index]
        if ours:
            optimizer = optim.SGD(params, lr=0.1, max_grad_norm=1.0)
        else:
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer = torch.optim.SGD(params, lr=0.1)  # type: ignore[assignment]
        optimizer.step()
        results.append(torch.cat([p.detach() for p in params]))
    torch.testing.assert_close(*results, equal_nan=True)


def test_groups_may_clip_to_norms_of_their_own() -> None:
    """The norm is that of all groups that clip; one that does not is left out."""
    a, b, c = (Parameter(torch.zeros(4)) for _ in range(3))
    groups = [{"params": [a]}, {"params": [b], "max_grad_norm": 2.0}, {"params": [c], "max_grad_norm": None}]
    optimizer = optim.SGD(groups, lr=1.0, max_grad_norm=1.0)
    for param in (a, b, c):
        param.grad = torch.full((4,), 3.0)
    optimizer.step()
    norm = (8 * 9) ** 0.5
    assert optimizer.last_grad_norm.item() == pytest.approx(norm)
    torch.testing.assert_close(a.detach(), torch.full((4,), -3.0 / norm))
    torch.testing.assert_close(b.detach(), torch.full((4,), -6.0 / norm))
    torch.testing.assert_close(c.detach(), torch.full((4,), -3.0))


@pytest.mark.parametrize("isa", ISAS)
def test_norm_of_any_sizes_strides_and_dtypes(isa: str) -> None:
    _native.set_isa(isa)
    grads = [torch.randn(n) for n in range(130)]
    grads += [torch.randn(70, 100).t(), torch.randn(20_000)[3:], torch.randn(1).expand(50)]
    grads += [torch.randn(999, dtype=dtype) for dtype in (torch.float64, torch.bfloat16, torch.float16)]
    grads += [torch.full((100,), 1e30)]
    params = []
    for grad in grads:
        params.append(Parameter(torch.zeros(grad.shape, dtype=grad.dtype)))
        params[-1].grad = grad
    optimizer = optim.SGD(params, max_grad_norm=1.0)
    optimizer.step()
    exact = torch.cat([grad.double().flatten() for grad in grads]).norm()
    assert optimizer.last_grad_norm.item() == pytest.approx(exact.item(), rel=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_extras_are_bit_identical_for_any_number_of_threads(name: str) -> None:
    results = []
    for threads in (1, 2, 7):
        fusestep.set_num_threads(threads)
        torch.manual_seed(0)
        params = [Parameter(torch.linspace(-1, 1, n).bfloat16()) for n in (100_003, 5, 70_000)]
        optimizer = getattr(optim, name)(params, rounding="stochastic", **EXTRAS)
        for step in range(3):
            set_gradients(params, step, torch.bfloat16)
            optimizer.step()
        states = [value for param in params for value in optimizer.state[param].values()]
        results.append([*(p.detach() for p in params), *states, optimizer.last_grad_norm])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# ---- averages ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_swap_ema(dtype: torch.dtype) -> None:
    param, late = Parameter(torch.ones(5, dtype=dtype)), Parameter(torch.ones(2, dtype=dtype))
    optimizer = optim.SGD([param, late], lr=0.25, ema_decay=0.5)
    for _ in range(3):
        param.grad = torch.ones_like(param)
        optimizer.step()
    trained = param.detach().clone()
    average = optimizer.state[param]["ema"]
    assert average.dtype is torch.float32
    # 0.75, then halfway from it to 0.5, then halfway from there to 0.25.
    assert torch.equal(average, torch.full((5,), 0.4375))
    with optimizer.swap_ema():
        assert torch.equal(param.detach(), average.to(dtype))
        assert torch.equal(late.detach(), torch.ones(2, dtype=dtype))
        with pytest.raises(RuntimeError, match="inside swap_ema"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="inside swap_ema"), optimizer.swap_ema():
            pass
    assert torch.equal(param.detach(), trained)
    with pytest.raises(KeyError), optimizer.swap_ema():
        raise KeyError
    assert torch.equal(param.detach(), trained)
    optimizer.step()
    with (
        pytest.raises(RuntimeError, match="needs an optimizer with `ema_decay`"),
        optim.SGD([param]).swap_ema(),
    ):
        pass


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
def test_the_average_is_that_of_the_stored_values(rounding: str, dtype: torch.dtype) -> None:
    param = Parameter(torch.linspace(0.5, 2, 777).to(dtype))
    optimizer = optim.SGD([param], lr=0.003, ema_decay=0.75, rounding=rounding)
    expected = None
    for step in range(5):
        set_gradients([param], step, dtype)
        optimizer.step()
        stored = param.detach().float()
        expected = stored if expected is None else expected + 0.25 * (stored - expected)
    torch.testing.assert_close(optimizer.state[param]["ema"], expected, rtol=3e-7, atol=0)


def test_a_graph_from_before_the_swap_is_refused() -> None:
    param = Parameter(torch.ones(3))
    optimizer = optim.SGD([param], ema_decay=0.9)
    param.grad = torch.ones(3)
    optimizer.step()
    loss = (param**2).sum()
    with optimizer.swap_ema(), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rounding", ["nearest", "kahan"])
def test_extras_survive_checkpoints_copies_and_pickles(name: str, rounding: str) -> None:
    options = {**EXTRAS, "rounding": rounding}
    dtype = torch.bfloat16
    expected = parameters(dtype)
    optimizer = getattr(optim, name)(expected, **options)
    for step in range(6):
        set_gradients(expected, step, dtype)
        optimizer.step()

    params = parameters(dtype)
    first = getattr(optim, name)(params, **options)
    for step in range(3):
        set_gradients(params, step, dtype)
        first.step()
    resumed = [copy.deepcopy((first, params)), pickle.loads(pickle.dumps((first, params)))]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    loaded_params = copy.deepcopy(params)
    loaded = getattr(optim, name)(loaded_params, **options)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other, theirs in [*resumed, (loaded, loaded_params)]:
        for step in range(3, 6):
            set_gradients(theirs, step, dtype)
            other.step()
        for a, b in zip(theirs, expected, strict=True):
            assert torch.equal(a, b)
            for key, value in optimizer.state[b].items():
                assert value.dtype == other.state[a][key].dtype, key
                assert torch.equal(value, other.state[a][key]), key


def test_a_checkpoint_of_torch_does_not_switch_the_extras_off() -> None:
    param = Parameter(torch.ones(3))
    param.grad = torch.full((3,), 100.0)
    theirs = torch.optim.SGD([param], lr=1.0)
    ours = optim.SGD([param], lr=1.0, max_grad_norm=1.0, ema_decay=0.5)
    ours.load_state_dict(theirs.state_dict())
    ours.step()
    assert param.min() > 0
    assert "ema" in ours.state[param]


def test_groups_keep_options_of_their_own_through_a_checkpoint_of_torch() -> None:
    a, b = Parameter(torch.ones(3)), Parameter(torch.ones(3))
    groups = [{"params": [a]}, {"params": [b], "ema_decay": None, "max_grad_norm": 0.5}]
    ours = optim.SGD(groups, lr=1.0, ema_decay=0.9)
    ours.load_state_dict(torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=1.0).state_dict())
    a.grad, b.grad = torch.ones(3), torch.full((3,), 100.0)
    ours.step()
    assert "ema" in ours.state[a]
    assert "ema" not in ours.state[b]
    assert b.min() > 0.5


def test_an_average_that_torch_narrowed_is_widened() -> None:
    """In bfloat16 it would never move again."""
    param = Parameter(torch.ones(3, dtype=torch.bfloat16))
    first = optim.SGD([param], lr=0.5, ema_decay=0.999)
    param.grad = torch.ones_like(param)
    first.step()
    through = torch.optim.SGD([param])
    through.load_state_dict(first.state_dict())
    second = optim.SGD([param], lr=0.5, ema_decay=0.999)
    second.load_state_dict(through.state_dict())
    before = second.state[param]["ema"].float()
    second.step()
    assert second.state[param]["ema"].dtype is torch.float32
    assert (second.state[param]["ema"] < before).all()


def test_a_checkpoint_with_extras_loads_in_torch() -> None:
    param = Parameter(torch.ones(3))
    ours = optim.Adam([param], **EXTRAS)
    param.grad = torch.ones(3)
    ours.step()
    theirs = torch.optim.Adam([param])
    theirs.load_state_dict(ours.state_dict())
    theirs.step()


def test_nothing_is_kept_that_was_not_asked_for() -> None:
    param = Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    ours, theirs = optim.Adam([param]), torch.optim.Adam([param])
    ours.step(zero_grad=True)
    assert ours.param_groups == theirs.param_groups
    assert ours.defaults == theirs.defaults
    assert ours.state[param].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert ours.last_grad_norm is None


# ---- gradients ----


@pytest.mark.parametrize("name", NAMES)
def test_shared_gradients_are_read_by_all_before_they_are_cleared(name: str) -> None:
    results = []
    for ours in (True, False):
        params = [Parameter(torch.ones(50)) for _ in range(3)]
        shared = torch.linspace(-1, 1, 50)
        for param in params:
            param.grad = shared
        optimizer = (getattr(optim, name) if ours else torch_optimizer(name))(params)
        if ours:
            optimizer.step(zero_grad=True)
            assert (shared == 0).all()
        else:
            optimizer.step()
        results.append(torch.cat([p.detach() for p in params]))
    torch.testing.assert_close(*results)


def test_a_gradient_that_cannot_be_cleared_is_refused_before_anything_is_written() -> None:
    param, other = Parameter(torch.ones(4)), Parameter(torch.ones(4))
    other.grad = torch.ones(4)
    param.grad = torch.ones(1).expand(4)
    with pytest.raises(RuntimeError, match="overlaps itself"):
        optim.SGD([other, param]).step(zero_grad=True)
    assert torch.equal(other.detach(), torch.ones(4))
    assert torch.equal(other.grad, torch.ones(4))


def test_clearing_strided_and_mixed_gradients() -> None:
    base = torch.ones(6, 8)
    grads = [base[:, ::2], torch.ones(3, 5).t(), torch.ones(40, dtype=torch.float16), torch.ones(())]
    params = []
    for grad in grads:
        params.append(Parameter(torch.ones(grad.shape, dtype=grad.dtype)))
        params[-1].grad = grad
    optim.Adam(params).step(zero_grad=True)
    assert all((grad == 0).all() for grad in grads)
    assert (base[:, 1::2] == 1).all(), "neighbours written"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("overflow", [False, True])
def test_scaled_gradients_with_everything(name: str, overflow: bool) -> None:
    """GradScaler under fused=True: unscale, clip, step, average, clear; or clear alone."""
    params, plain = parameters(), parameters()
    optimizer = getattr(optim, name)(params, lr=0.05, **EXTRAS)
    reference = getattr(optim, name)(plain, lr=0.05, **EXTRAS)
    fresh = copy.deepcopy(optimizer.state_dict())
    set_gradients(params, 0)
    set_gradients(plain, 0)
    for param in params:
        param.grad.mul_(8.0)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(2.0 if overflow else 0.0)
    optimizer.step(zero_grad=True)
    if overflow:
        assert str(optimizer.state_dict()) == str(fresh)
        assert all(torch.equal(a, b) for a, b in zip(params, plain, strict=True))
    else:
        reference.step()
        assert all(torch.equal(a, b) for a, b in zip(params, plain, strict=True))
        assert torch.equal(optimizer.last_grad_norm, reference.last_grad_norm)
    assert all((param.grad == 0).all() for param in params)


def test_cleared_gradients_have_no_graph_behind_them() -> None:
    """As with zero_grad(set_to_none=False); else a second backward would keep every graph before it."""
    for dtype in (torch.float32, torch.complex64):  # ours, and torch's step
        param = Parameter(torch.ones(3, dtype=dtype))
        optimizer = optim.SGD([param], lr=0.1)
        for _ in range(2):
            (param.grad,) = torch.autograd.grad((param**3).abs().sum(), param, create_graph=True)
            optimizer.step(zero_grad=True)
            assert param.grad.grad_fn is None
            assert not param.grad.requires_grad
            assert (param.grad == 0).all()


def test_differentiable_steps_do_not_clip_behind_autograd() -> None:
    leaf = torch.ones(3, requires_grad=True)
    param = leaf.clone()
    param.grad = leaf**3
    optimizer = optim.SGD([leaf], differentiable=True, max_grad_norm=1.0)
    optimizer.param_groups[0]["params"] = [param]
    with pytest.raises(RuntimeError, match="does not support `differentiable`"):
        optimizer.step()


def test_the_norm_of_a_skipped_step_is_not_that_of_the_last() -> None:
    param = Parameter(torch.ones(3))
    optimizer = optim.Adam([param], max_grad_norm=1.0, fused=True)
    param.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.last_grad_norm is not None
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert optimizer.last_grad_norm is None


# ---- rounding ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_small_updates_are_lost_to_the_nearest_only(dtype: torch.dtype) -> None:
    """A thousand updates of 1e-4, far below half the distance of 1 to its neighbour."""
    moved = {}
    for rounding in ("nearest", "stochastic", "kahan"):
        torch.manual_seed(0)
        param = Parameter(torch.ones(4096, dtype=dtype))
        optimizer = optim.SGD([param], lr=1e-4, rounding=rounding)
        for _ in range(1000):
            param.grad = torch.ones_like(param)
            optimizer.step()
        moved[rounding] = 1 - param.double().mean().item()
    assert moved["nearest"] == 0
    assert moved["stochastic"] == pytest.approx(0.1, abs=2e-3)
    assert moved["kahan"] == pytest.approx(0.1, abs=5e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_stochastic_rounding_is_right_in_the_mean_and_one_of_two_neighbours(dtype: torch.dtype) -> None:
    """Normal and denormal values of both signs, and zero."""
    torch.manual_seed(1)
    tiny = torch.finfo(dtype).smallest_normal
    for value in (0.3, -0.3, 1.7, -250.1, tiny * 0.37, -tiny * 0.61, 1.0):
        param = Parameter(torch.zeros(20_000, dtype=dtype))
        optimizer = optim.SGD([param], lr=abs(value), maximize=value > 0, rounding="stochastic")
        param.grad = torch.ones_like(param)
        optimizer.step()
        near = torch.tensor(value, dtype=torch.float64)
        stored = param.detach().double()
        gap = stored.max() - stored.min()
        assert len(stored.unique()) <= 2
        assert stored.min() <= near.float() <= stored.max()
        assert abs(stored.mean() - near.float()) <= 4 * gap / 20_000**0.5


@pytest.mark.parametrize("name", NAMES)
def test_kahan_follows_float32(name: str) -> None:
    """Parameter and compensation together have 16 bits; bfloat16 alone would be far off after 200 steps."""
    errors = {}
    wide = Parameter(torch.linspace(-2, 2, 333).bfloat16().float())
    reference = getattr(optim, name)([wide], lr=1e-3)
    start = wide.detach().clone()
    grads = [torch.randn(333, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(200)]
    for grad in grads:
        wide.grad = grad.float()
        reference.step()
    for rounding in ("nearest", "kahan"):
        param = Parameter(start.bfloat16())
        optimizer = getattr(optim, name)([param], lr=1e-3, rounding=rounding)
        for i, grad in enumerate(grads):
            param.grad = grad
            optimizer.step()
            if i == 0:  # moments as wide as those of the reference
                state = optimizer.state[param]
                wider = {
                    k: v.float() for k, v in state.items() if v.shape == param.shape and k != "compensation"
                }
                state.update(wider)
        value = param.detach().double()
        if rounding == "kahan":
            value += optimizer.state[param]["compensation"].double()
        errors[rounding] = (value - wide.detach().double()).abs().max().item()
    assert errors["kahan"] < 0.02
    assert errors["kahan"] < errors["nearest"] or errors["nearest"] == 0


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wide_parameters_are_not_rounded(dtype: torch.dtype, rounding: str) -> None:
    a, b = Parameter(torch.ones(9, dtype=dtype)), Parameter(torch.ones(9, dtype=dtype))
    one, two = optim.Adam([a], rounding=rounding), optim.Adam([b])
    for param, optimizer in ((a, one), (b, two)):
        param.grad = torch.ones_like(param)
        optimizer.step()
    assert torch.equal(a, b)
    assert one.state[a].keys() == two.state[b].keys()


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_values_that_are_not_finite_stay_so(rounding: str, dtype: torch.dtype) -> None:
    """Overflow to infinity, infinity, NaN; their neighbours are finite."""
    largest = torch.finfo(dtype).max
    param = Parameter(torch.tensor([largest, float("inf"), float("nan"), 1.0], dtype=dtype))
    optimizer = optim.SGD([param], lr=1.0, rounding=rounding)
    for _ in range(3):
        param.grad = torch.tensor([-largest, 0.0, 0.0, 0.0], dtype=dtype)
        optimizer.step()
    assert param[0] == float("inf")
    assert param[1] == float("inf")
    assert torch.isnan(param[2])
    assert param[3] == 1


def test_a_seed_repeats_stochastic_rounding() -> None:
    """On whatever device new tensors are made by default."""
    with torch.device("meta"):
        param = Parameter(torch.ones(3, dtype=torch.bfloat16, device="cpu"))
        param.grad = torch.ones_like(param)
        optim.SGD([param], rounding="stochastic").step()
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        params = [Parameter(torch.ones(100, dtype=torch.bfloat16)) for _ in range(2)]
        optimizer = optim.SGD(params, lr=1e-3, rounding="stochastic")
        for _ in range(20):
            for param in params:
                param.grad = torch.ones_like(param)
            optimizer.step()
        results.append([p.detach() for p in params])
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][0], results[2][0])
    assert not torch.equal(results[0][0], results[0][1]), "two parameters got the same random bits"


# ---- where torch steps ----


@pytest.mark.parametrize("name", NAMES)
def test_extras_hold_where_torch_steps(name: str) -> None:
    """Complex parameters go to torch's own step; clipping, averaging and clearing go along."""
    fusestep.reset_stats()
    results = []
    for dtype in (torch.complex64, torch.float32):
        value = torch.linspace(-1, 1, 12).view(6, 2)
        param = Parameter(torch.view_as_complex(value) if dtype.is_complex else value)
        optimizer = getattr(optim, name)([param], lr=0.05, **EXTRAS)
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            grad = torch.randn(6, 2, generator=generator)
            param.grad = torch.view_as_complex(grad) if dtype.is_complex else grad
            given = param.grad.clone()
            optimizer.step()
            assert torch.equal(param.grad, given)
        optimizer.step(zero_grad=True)
        assert (param.grad == 0).all()
        average = optimizer.state[param]["ema"]
        parts = [param.detach(), average]
        results.append([torch.view_as_real(x) if dtype.is_complex else x for x in parts])
        results[-1].append(optimizer.last_grad_norm)
    counts = fusestep.stats()[optimizer._rule.op]
    assert counts["native"] == 5
    assert sum(counts["torch"].values()) == 5
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_rounding_where_torch_steps_is_refused() -> None:
    param = Parameter(torch.ones(3, dtype=torch.bfloat16))
    param.grad = torch.ones_like(param)
    optimizer = optim.SGD([param], rounding="kahan", differentiable=True)
    with pytest.raises(RuntimeError, match="`rounding` is 'kahan'"):
        optimizer.step()
    assert (param == 1).all()


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_extras_in_a_compiled_step(name: str) -> None:
    results = []
    for compiled in (True, False):
        params = [Parameter(torch.ones(4)), Parameter(torch.ones(2, 2))]
        optimizer = getattr(optim, name)(params, lr=0.1, **EXTRAS)
        for param in params:
            param.grad = torch.full_like(param, 0.5)
        step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
        step()
        step(zero_grad=True)
        results.append([*(p.detach() for p in params), optimizer.state[params[0]]["ema"]])
        assert all((param.grad == 0).all() for param in params)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()


# ---- bad options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_grad_norm": 0}, "Invalid max_grad_norm value: 0"),
        ({"max_grad_norm": -1.0}, "Invalid max_grad_norm"),
        ({"max_grad_norm": float("nan")}, "Invalid max_grad_norm"),
        ({"ema_decay": 1.0}, "Invalid ema_decay value: 1.0"),
        ({"ema_decay": -0.1}, "Invalid ema_decay"),
        ({"ema_decay": float("nan")}, "Invalid ema_decay"),
        ({"rounding": "up"}, "Invalid rounding value: 'up'"),
        ({"rounding": None}, "Invalid rounding"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    param = Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        optim.Adam([param], **options)
    with pytest.raises(ValueError, match=message):
        optim.Adam([{"params": [param], **options}])
    optimizer = optim.Adam([param])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [Parameter(torch.ones(2))], **options})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0].update(options)
    param.grad = torch.ones(2)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(param.detach(), torch.ones(2))


# ---- NumPy ----


@pytest.mark.parametrize("rounding", ["nearest", "kahan"])
@pytest.mark.parametrize("name", NAMES)
def test_numpy_does_the_same_bits(name: str, rounding: str) -> None:
    options = {**EXTRAS, "rounding": rounding}
    start = [np.linspace(-1, 1, n).astype(np.float16) for n in (5, 0, 5000)]
    arrays = [a.copy() for a in start]
    params = [Parameter(torch.from_numpy(a.copy())) for a in start]
    ours, theirs = getattr(fnp, name)(arrays, **options), getattr(optim, name)(params, **options)
    for step in range(4):
        rng = np.random.default_rng(step)
        grads = [rng.normal(size=a.shape).astype(np.float16) for a in arrays]
        for param, grad in zip(params, grads, strict=True):
            param.grad = torch.from_numpy(grad.copy())
        ours.step(grads, zero_grad=True)
        theirs.step()
        assert all((grad == 0).all() for grad in grads)
        assert ours.last_grad_norm == theirs.last_grad_norm.item()
    for index, (array, param) in enumerate(zip(arrays, params, strict=True)):
        np.testing.assert_array_equal(array, param.detach().numpy())
        state = theirs.state[param]
        assert ours.state[index].keys() == state.keys()
        for key, value in state.items():
            np.testing.assert_array_equal(ours.state[index][key], value.numpy())
            assert ours.state[index][key].dtype == value.numpy().dtype
    kept = [a.copy() for a in arrays]
    with ours.swap_ema():
        np.testing.assert_array_equal(arrays[0], ours.state[0]["ema"].astype(np.float16))
        with pytest.raises(RuntimeError, match="inside swap_ema"):
            ours.step([None] * 3)
    assert all((a == b).all() for a, b in zip(arrays, kept, strict=True))


def test_numpy_stochastic_rounding_follows_numpys_seed() -> None:
    results = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        array = np.ones(1000, np.float16)
        optimizer = fnp.SGD([array], lr=1e-4, rounding="stochastic")
        for _ in range(100):
            optimizer.step([np.ones(1000, np.float16)])
        results.append(array)
    assert (results[0] == results[1]).all()
    assert not (results[0] == results[2]).all()
    assert results[0].astype(float).mean() == pytest.approx(0.99, abs=1e-3)


def test_numpy_gradients_that_are_one_array() -> None:
    a, b, grad = np.ones(3), np.ones(3), np.full(3, 0.5)
    fnp.SGD([a, b], lr=1.0).step([grad, grad], zero_grad=True)
    assert (a == 0.5).all()
    assert (b == 0.5).all()
    assert (grad == 0).all()


def test_numpy_gradients_that_cannot_be_cleared_are_refused() -> None:
    for grad in (np.ones(3, ">f4"), [1.0, 1.0, 1.0]):
        array = np.ones(3, np.float32)
        with pytest.raises(TypeError, match="native byte order"):
            fnp.SGD([array]).step([grad], zero_grad=True)
        assert (array == 1).all()
        fnp.SGD([array], lr=1.0).step([grad])
        assert (array == 0).all()
