"""L-BFGS against torch's, in torch and in NumPy, and its two kernels alone."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
import fusestep.numpy as fnp
import fusestep.optim as optim
from cases import DTYPES, ISAS, assert_accurate
from fusestep import _native

Loss = Callable[[list[Tensor]], Tensor]
STATE = [
    "func_evals",
    "n_iter",
    "al",
    "d",
    "t",
    "old_dirs",
    "old_stps",
    "ro",
    "H_diag",
    "prev_flat_grad",
    "prev_loss",
]


def quadratic(params: list[Tensor]) -> Tensor:
    (x,) = params
    scale = torch.linspace(0.1, 10.0, x.numel(), dtype=x.dtype)
    coupled = x[1:] * x[:-1]
    return (scale * (x - 1) ** 2).sum() / 2 + 0.04 * coupled.sum()


def rosenbrock(params: list[Tensor]) -> Tensor:
    (x,) = params
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def regression(params: list[Tensor]) -> Tensor:
    w1, b1, w2, b2 = params
    x = torch.linspace(-1, 1, 3 * 40, dtype=w1.dtype).view(40, 3).sin()
    return ((torch.tanh(x @ w1 + b1) @ w2 + b2).squeeze(1) - x.sum(1).cos()).square().mean()


PROBLEMS: dict[str, tuple[Loss, list[tuple[int, ...]]]] = {
    "quadratic": (quadratic, [(30,)]),
    "rosenbrock": (rosenbrock, [(2,)]),
    "long rosenbrock": (rosenbrock, [(12,)]),
    "regression": (regression, [(3, 8), (8,), (8, 1), (1,)]),
}


class Training:
    """A problem, an optimizer of ours or of torch, and how often the closure was called."""

    def __init__(self, ours: bool, problem: str, dtype: torch.dtype = torch.float64, **options: Any) -> None:
        self.loss, shapes = PROBLEMS[problem]
        generator = torch.Generator().manual_seed(3)
        start = [torch.randn(s, generator=generator, dtype=torch.float64) * 0.5 for s in shapes]
        self.params = [Parameter(p.float().to(dtype)) for p in start]
        self.optimizer = (optim if ours else torch.optim).LBFGS(self.params, **options)
        self.calls = 0

    def closure(self) -> Tensor:
        assert torch.is_grad_enabled()
        self.calls += 1
        self.optimizer.zero_grad()
        loss = self.loss(self.params)
        loss.backward()
        return loss

    def step(self, steps: int = 1) -> list[float]:
        return [self.optimizer.step(self.closure).item() for _ in range(steps)]

    @property
    def flat(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.params]).clone()

    @property
    def state(self) -> dict[str, Any]:
        return self.optimizer.state[self.params[0]]

    def resumed(self, ours: bool) -> Training:
        """A fresh optimizer that has loaded what this one saved."""
        file = io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        file.seek(0)
        other = copy.copy(self)
        other.params = [Parameter(p.detach().clone()) for p in self.params]
        other.optimizer = (optim if ours else torch.optim).LBFGS(other.params)
        other.optimizer.load_state_dict(torch.load(file, weights_only=True))
        return other


def assert_native(calls: int) -> None:
    assert fusestep.stats()["lbfgs"] == {"native": calls, "torch": {}}


CASES = [
    ("quadratic", {}),
    ("quadratic", {"lr": 0.5, "history_size": 3}),
    ("quadratic", {"history_size": 1, "max_iter": 3, "lr": torch.tensor(0.3)}),
    ("quadratic", {"tolerance_grad": 0.1, "max_iter": 50}),
    ("quadratic", {"tolerance_change": 1e-3, "max_iter": 50}),
    ("quadratic", {"max_eval": 3}),
    ("regression", {"lr": 0.5, "max_iter": 5}),
    ("regression", {"line_search_fn": "strong_wolfe", "max_iter": 4}),
    ("regression", {"line_search_fn": "strong_wolfe", "max_iter": 8, "max_eval": 5}),
    ("regression", {"line_search_fn": "strong_wolfe", "max_iter": 1}),
    ("regression", {"line_search_fn": "strong_wolfe", "history_size": 3, "lr": 4.0, "max_iter": 6}),
    ("rosenbrock", {"line_search_fn": "strong_wolfe", "max_iter": 4}),
    ("rosenbrock", {"line_search_fn": "strong_wolfe", "max_iter": 30, "lr": 0.1}),
    ("long rosenbrock", {"line_search_fn": "strong_wolfe", "history_size": 1, "max_iter": 5}),
    ("long rosenbrock", {"line_search_fn": "strong_wolfe", "history_size": 5, "max_iter": 5}),
    ("long rosenbrock", {"line_search_fn": "strong_wolfe", "max_iter": 5, "lr": 0.01}),
]


@pytest.mark.parametrize(("problem", "options"), CASES)
def test_follows_torch_in_float64(problem: str, options: dict[str, Any]) -> None:
    ours, theirs = (Training(mine, problem, **options) for mine in (True, False))
    for step in range(6):
        (a,), (b,) = ours.step(), theirs.step()
        assert ours.calls == theirs.calls, f"step {step}"
        torch.testing.assert_close(ours.flat, theirs.flat, rtol=1e-7, atol=1e-7)
        assert a == pytest.approx(b, rel=1e-7, abs=1e-9)
        for key in ("func_evals", "n_iter"):
            assert ours.state[key] == theirs.state[key]
    assert_native(6)


@pytest.mark.parametrize(("problem", "options"), CASES)
def test_float32_is_as_near_to_float64_as_torchs(problem: str, options: dict[str, Any]) -> None:
    ours, theirs = (Training(mine, problem, torch.float32, **options) for mine in (True, False))
    oracle = Training(False, problem, **options)
    for step in range(3):
        for training in (ours, theirs, oracle):
            training.step()
        if not ours.calls == theirs.calls == oracle.calls:
            assert step > 0
            return  # rounding has decided a comparison: the ways part
        error, torchs = ((t.flat.double() - oracle.flat).abs().max() for t in (ours, theirs))
        assert error <= 2 * torchs + 1e-4 * oracle.flat.abs().max(), f"step {step}: {error} > 2 * {torchs}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_finds_the_minimum(problem: str, dtype: torch.dtype) -> None:
    training = Training(True, problem, dtype, line_search_fn="strong_wolfe", history_size=20)
    losses = training.step(15)
    enough = {torch.float64: 1e-5, torch.float32: 1e-4}.get(dtype, math.inf)
    if problem != "quadratic":
        assert training.loss(training.params).item() < enough
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("lr", [0.02, 1.0, 30.0])
def test_line_searches_on_wiggly_functions(lr: float) -> None:
    """Every way through the search, place for place torch's: brackets, zooms, and searches that fail."""
    parted = []
    for seed in range(60):
        waves = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        results = []
        for module in (optim, torch.optim):
            x = Parameter(waves[0, 0].clone())
            tolerance = -1.0 if seed % 3 == 0 else 1e-9
            optimizer = module.LBFGS(
                [x], lr, 5, max_eval=4 + seed % 9, tolerance_change=tolerance, line_search_fn="strong_wolfe"
            )
            places = []

            def closure(
                x: Tensor = x, optimizer: Any = optimizer, waves: Tensor = waves, places: list[Any] = places
            ) -> Tensor:
                places.append(x.detach().clone())
                optimizer.zero_grad()
                loss = (waves[0] * torch.sin(3 * waves[1] * x + waves[2])).sum() + 0.05 * (x**2).sum()
                loss.backward()
                return loss

            for _ in range(2):
                optimizer.step(closure)
            results.append(torch.stack([*places, x.detach()]))
        ours, theirs = results
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5):
            parted.append(seed)
    # A cubic through two close points may send a rounding error anywhere.
    assert len(parted) <= 6, parted


def test_a_gradient_that_points_the_wrong_way() -> None:
    """No step improves the loss: each search ends where it began, and its gradient is still needed."""
    results = []
    for module in (optim, torch.optim):
        x = Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        options = {"max_iter": 4, "max_eval": 400, "tolerance_change": -1e-9}
        optimizer = module.LBFGS([x], line_search_fn="strong_wolfe", **options)
        calls = 0

        def closure(x: Tensor = x) -> Tensor:
            nonlocal calls
            calls += 1
            x.grad = -2 * x.detach()
            return (x**2).sum().detach()

        optimizer.step(closure)
        assert torch.equal(optimizer.state[x]["prev_flat_grad"], -2 * x.detach())
        results.append((calls, x.detach(), optimizer.state[x]["d"], optimizer.state[x]["n_iter"]))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    assert results[0][3] == 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_state_says_how_far_it_went(dtype: torch.dtype) -> None:
    x = Parameter(torch.linspace(-2, 1, 33).to(dtype))
    optimizer = optim.LBFGS([x], line_search_fn="strong_wolfe", max_iter=1, max_eval=20, lr=0.001)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ((x - 1) ** 4).float().sum()
        loss.backward()
        return loss

    for _ in range(4):
        before = x.detach().clone()
        optimizer.step(closure)
        t, d = optimizer.state[x]["t"], optimizer.state[x]["d"]
        expected = (before.double() + float(t) * d.double()).to(dtype)
        ulps = 0 if dtype != torch.float64 else 4e-16  # which rounds once more on its way
        torch.testing.assert_close(x.detach(), expected, rtol=ulps, atol=ulps)


@pytest.mark.parametrize("pairs", [1, 3, 40])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_direction_is_as_accurate_as_torchs(dtype: torch.dtype, pairs: int) -> None:
    """From the same history and gradient, held against torch's in float64."""
    generator = torch.Generator().manual_seed(1)

    def draw() -> Tensor:
        return torch.randn(700, generator=generator, dtype=torch.float64).to(dtype)

    bend = torch.linspace(0.3, 3.0, 700, dtype=torch.float64)
    stps = [draw() for _ in range(pairs)]
    dirs = [(s.double() * bend + 0.1 * draw().double()).to(dtype) for s in stps]
    d, grad, before = draw(), draw(), draw()
    ys = [torch.dot(s.double(), y.double()) for s, y in zip(stps, dirs, strict=True)]
    state = {
        "func_evals": 9,
        "n_iter": 9,
        "al": [None] * 50,
        "d": d,
        "t": 1e-30,  # the pair of this step is not stored
        "old_dirs": dirs,
        "old_stps": stps,
        "ro": [1 / y for y in ys],
        "H_diag": ys[-1] / dirs[-1].double().square().sum(),
        "prev_flat_grad": before,
        "prev_loss": 1.0,
    }

    def direction(module: Any, dtype: torch.dtype) -> Tensor:
        x = Parameter(torch.zeros(700, dtype=dtype))
        x.grad = grad.to(dtype)
        optimizer = module.LBFGS([x], lr=1e-30, max_iter=1, history_size=50)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": {0: copy.deepcopy(state)}, "param_groups": groups})
        optimizer.step(lambda: 1.0)
        assert len(optimizer.state[x]["old_dirs"]) == pairs
        return optimizer.state[x]["d"]

    oracle = direction(torch.optim, torch.float64)
    torchs = direction(torch.optim, dtype)
    assert_accurate(direction(optim, dtype), torchs, oracle, f"{pairs} pairs", oracle.abs().max().item())


# ---- state and checkpoints ----


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_state_is_torchs(line_search: str | None) -> None:
    def kind(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.dtype, value.shape
        return [kind(entry) for entry in value] if isinstance(value, list) else type(value)

    for dtype in (torch.float32, torch.float64):
        for max_iter in (1, 3):
            options = {"line_search_fn": line_search, "max_iter": max_iter, "history_size": 4, "lr": 0.9}
            pair = [Training(mine, "regression", dtype, **options) for mine in (True, False)]
            for step in range(6):
                for training in pair:
                    training.step()
                ours, theirs = (training.state for training in pair)
                assert list(ours) == list(theirs)
                for key in ours.keys() - {"t"}:
                    assert kind(ours[key]) == kind(theirs[key]), key
                if line_search is None:
                    assert kind(ours["t"]) == kind(theirs["t"]), f"step {step}"
                if dtype == torch.float64:
                    for key in ("d", "H_diag", "prev_flat_grad", "ro", "old_dirs", "old_stps"):
                        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-9)
            a, b = (training.optimizer.state_dict()["param_groups"] for training in pair)
            assert a == b


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("first", [True, False], ids=["ours to torch", "torch to ours"])
def test_checkpoints_go_both_ways(first: bool, line_search: str | None) -> None:
    options = {"line_search_fn": line_search, "max_iter": 4, "history_size": 6, "lr": 0.8}
    training, expected = (Training(mine, "regression", **options) for mine in (first, False))
    training.step(3)
    other = training.resumed(not first)
    other.step(3)
    expected.step(6)
    torch.testing.assert_close(other.flat, expected.flat, rtol=1e-7, atol=1e-7)
    assert other.calls == expected.calls
    again = training.resumed(first)
    again.step(3)
    torch.testing.assert_close(again.flat, expected.flat, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_resumed_training_is_bit_identical(line_search: str | None, dtype: torch.dtype) -> None:
    """Products kept from step to step and products made anew from the history are the same."""
    options = {"line_search_fn": line_search, "max_iter": 3, "history_size": 11, "lr": 0.7}
    training = Training(True, "regression", dtype, **options)
    training.step(6)
    copies = [training.resumed(True), copy.deepcopy(training), pickle.loads(pickle.dumps(training))]
    training.step(4)
    for other in copies:
        other.step(4)
        assert torch.equal(other.flat, training.flat)
        assert other.calls == training.calls
    assert_native(6 + 4 + 3 * 4)


def test_torchs_own_step_works_after_unpickling() -> None:
    training = pickle.loads(pickle.dumps(Training(True, "quadratic")))
    training.optimizer._torch_step(training.closure)
    assert training.state["n_iter"] > 0


def test_a_state_dict_that_was_kept_does_not_change() -> None:
    training = Training(True, "regression", history_size=3, max_iter=7, line_search_fn="strong_wolfe")
    training.step(2)
    kept = dict(training.optimizer.state_dict()["state"][0])
    before = copy.deepcopy(kept)
    training.step(3)
    for key, value in before.items():
        torch.testing.assert_close(kept[key], value, rtol=0, atol=0)


def test_a_replaced_history_is_seen() -> None:
    """Whether tensors were exchanged or written to."""
    for exchange in (True, False):
        training = Training(True, "regression", max_iter=2)
        training.step(3)
        for key in ("old_dirs", "old_stps"):
            for i, vector in enumerate(training.state[key]):
                factor = 1.5 if key == "old_dirs" else 0.5
                if exchange:
                    training.state[key][i] = vector * factor
                else:
                    vector.mul_(factor)
        other = training.resumed(True)
        for each in (training, other):
            each.step(2)
        assert torch.equal(training.flat, other.flat)


def test_history_size_can_be_changed() -> None:
    """torch goes on growing after it was made smaller, until it fails."""
    training = Training(True, "regression", history_size=5, max_iter=3)
    training.step(3)
    for size in (2, 8):
        training.optimizer.param_groups[0]["history_size"] = size
        training.step(4)
        state = training.state
        assert len(state["old_dirs"]) == len(state["old_stps"]) == len(state["ro"]) == size
        assert len(state["al"]) == size


# ---- corner cases ----


def both(make: Callable[[Any], Any]) -> tuple[Any, Any]:
    return make(optim), make(torch.optim)


def test_constructor_and_errors() -> None:
    x = Parameter(torch.ones(2))
    assert isinstance(optim.LBFGS([x]), torch.optim.LBFGS)
    for wrong in ({"lr": -1}, {"lr": torch.ones(2)}):
        messages = []
        for module in (optim, torch.optim):
            with pytest.raises(ValueError) as error:  # noqa: PT011
                module.LBFGS([x], **wrong)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
    with pytest.raises(ValueError, match="parameter groups"):
        optim.LBFGS([{"params": [x]}, {"params": [Parameter(torch.ones(1))]}])
    training = Training(True, "quadratic", line_search_fn="armijo")
    before = training.flat
    with pytest.raises(RuntimeError, match="only 'strong_wolfe' is supported"):
        training.step()
    assert torch.equal(training.flat, before)
    with pytest.raises(TypeError):
        optim.LBFGS([x]).step()
    assert optim.LBFGS([x]).defaults == torch.optim.LBFGS([x]).defaults


def test_nothing_to_do_leaves_only_counts() -> None:
    for training in (Training(mine, "quadratic", tolerance_grad=1e9) for mine in (True, False)):
        before = training.flat
        training.step()
        assert training.state == {"func_evals": 1, "n_iter": 0}
        assert list(training.state) == ["func_evals", "n_iter"]
        assert torch.equal(training.flat, before)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_a_number(value: float, line_search: str | None) -> None:
    """From the third call on; counts and places stay torch's."""
    results = []
    for mine in (True, False):
        training = Training(mine, "quadratic", line_search_fn=line_search, max_iter=6)
        inner = training.loss
        training.loss = lambda params, t=training, f=inner: f(params) * (value if t.calls > 2 else 1.0)
        training.optimizer.step(training.closure)
        results.append((training.calls, training.state["n_iter"], training.flat.isfinite()))
    assert results[0][:2] == results[1][:2]
    assert torch.equal(results[0][2], results[1][2])


def test_pairs_without_curvature_are_skipped() -> None:
    def run(module: Any) -> tuple[int, Tensor]:
        x = Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        optimizer = module.LBFGS([x], lr=0.1, max_iter=1)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = -(x**2).sum() if optimizer.state[x].get("n_iter", 0) < 3 else (x**2).sum()
            loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
        return len(optimizer.state[x]["old_dirs"]), x.detach()

    (count, ours), (other_count, theirs) = both(run)
    assert count == other_count == 2  # of four
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_parameters_of_every_kind() -> None:
    """Complex, without a gradient, with a sparse one, empty, without dimensions, of other dtypes."""

    def run(module: Any) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        params = {
            "complex": Parameter(torch.complex(draw(3), draw(3))),
            "unused": Parameter(draw(2)),
            "table": Parameter(draw(5, 2)),
            "empty": Parameter(draw(0)),
            "matrix": Parameter(draw(4, 3)),
            "number": Parameter(draw()),
            "small": Parameter(draw(3, dtype=torch.float32)),
        }
        optimizer = module.LBFGS(params.values(), line_search_fn="strong_wolfe", max_iter=10)

        def closure() -> Tensor:
            optimizer.zero_grad()
            rows = torch.nn.functional.embedding(torch.tensor([1, 3]), params["table"], sparse=True)
            loss = (params["complex"] - (1 + 2j)).abs().square().sum() + (rows - 1).pow(4).sum()
            loss = loss + (params["matrix"].cos().sum() - params["number"]) ** 2
            loss = loss + (params["small"].double() ** 2).sum() + params["empty"].sum()
            loss.backward()
            return loss

        for _ in range(2):
            optimizer.step(closure)
        return [p.detach() for p in params.values()]

    for ours, theirs in zip(*both(run), strict=True):
        tolerance = 1e-9 if ours.dtype != torch.float32 else 1e-6
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert_native(2)


def test_strided_parameters() -> None:
    """Which torch takes only as long as their gradients are dense."""
    start = torch.linspace(-1, 1, 12).view(4, 3)
    results = []
    for x in (
        Parameter(start.clone()),
        Parameter(start.t().clone().t()),
        Parameter(start.clone().expand(1, 4, 3)),
    ):
        optimizer = optim.LBFGS([x], line_search_fn="strong_wolfe", max_iter=4)

        def closure(x: Tensor = x, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (x.reshape(4, 3).contiguous() - 1).pow(4).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        results.append(x.detach().reshape(4, 3))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert_native(3)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_a_closure_that_raises(line_search: str | None) -> None:
    """Parameters stay where torch leaves them, and the state is that of the way there."""
    trainings = [Training(mine, "regression", line_search_fn=line_search) for mine in (True, False)]
    for training in trainings:
        training.step()
        inner, calls = training.loss, training.calls

        def failing(
            params: list[Tensor], inner: Loss = inner, t: Training = training, at: int = calls
        ) -> Tensor:
            if t.calls == at + 4:
                raise KeyError("mine")
            return inner(params)

        training.loss = failing
        with pytest.raises(KeyError, match="mine"):
            training.step()
        training.loss = inner
    ours, theirs = trainings
    torch.testing.assert_close(ours.flat, theirs.flat, rtol=1e-8, atol=1e-8)
    state = ours.state
    assert list(state) == STATE
    grad_before, moved = state["prev_flat_grad"], float(state["t"]) * state["d"]
    with torch.no_grad():
        for param, part in zip(ours.params, moved.split([p.numel() for p in ours.params]), strict=True):
            param -= part.view_as(param)
    ours.closure()
    grad = torch.cat([p.grad.reshape(-1) for p in ours.params])
    torch.testing.assert_close(grad, grad_before, rtol=1e-8, atol=1e-9)
    ours.step(3)


def test_a_first_closure_that_raises_changes_nothing() -> None:
    training = Training(True, "quadratic")
    training.step()
    before, state = training.flat, dict(training.state)
    with pytest.raises(ZeroDivisionError):
        training.optimizer.step(lambda: 1 / 0)
    assert torch.equal(training.flat, before)
    assert all(training.state[key] is value for key, value in state.items())


def test_hooks_and_schedulers() -> None:
    results = []
    for mine in (True, False):
        training = Training(mine, "regression", max_iter=3)
        seen: list[str] = []
        training.optimizer.register_step_pre_hook(lambda *_, seen=seen: seen.append("pre"))
        training.optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append("post"))
        scheduler = torch.optim.lr_scheduler.StepLR(training.optimizer, 2, 0.5)
        for _ in range(6):
            training.step()
            scheduler.step()
        results.append(training.flat)
        assert seen == ["pre", "post"] * 6
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


def test_a_learning_rate_tensor_may_be_written_to() -> None:
    lr = torch.tensor(0.5)
    training = Training(True, "quadratic", lr=lr, max_iter=2)
    training.step(2)
    lr.mul_(0.1)
    assert float(training.state["t"]) == 0.5
    assert isinstance(training.state["t"], Tensor)


def test_an_older_graph_is_refused() -> None:
    training = Training(True, "quadratic")
    (x,) = training.params
    loss = (x**3).sum()
    training.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("why", ["subclass", "overlap", "dispatch mode"])
def test_torch_takes_what_the_kernels_cannot(why: str) -> None:
    class Wrapped(Tensor):
        pass

    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    x = torch.ones(4)
    x = x.as_subclass(Wrapped).requires_grad_() if why == "subclass" else x.requires_grad_()
    if why == "overlap":
        x = torch.ones(1).expand(4).requires_grad_()
    optimizer = optim.LBFGS([x])
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = ((x - 3) ** 2).sum()
        loss.backward()
        return loss

    if why == "overlap":
        with pytest.raises(RuntimeError, match="more than one element"):
            optimizer.step(closure)
        assert calls == 1
        return
    if why == "dispatch mode":
        with Mode():
            optimizer.step(closure)
    else:
        optimizer.step(closure)
    assert fusestep.stats()["lbfgs"]["native"] == 0
    torch.testing.assert_close(x.detach().as_subclass(Tensor), torch.full((4,), 3.0))


# ---- same bits ----


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_threads_do_not_change_a_bit(line_search: str | None) -> None:
    results = []
    for threads in (1, 2, 5):
        _native.set_num_threads(threads)
        x = Parameter(torch.linspace(-2, 2, 100_003))
        optimizer = optim.LBFGS([x], line_search_fn=line_search, history_size=4, max_iter=8)

        def closure(x: Parameter = x) -> Tensor:
            with torch.no_grad():
                x.grad = 4 * (x - 0.5) ** 3 + x.sin()
                return torch.tensor(float(np.sum((x.numpy() - 0.5).astype(float) ** 4 - np.cos(x.numpy()))))

        optimizer.step(closure)
        results.append(x.detach())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert results[0].isfinite().all()


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets_agree(isa: str) -> None:
    expected = Training(True, "regression", line_search_fn="strong_wolfe")
    expected.step(2)
    _native.set_isa(isa)
    training = Training(True, "regression", line_search_fn="strong_wolfe")
    training.step(2)
    torch.testing.assert_close(training.flat, expected.flat, rtol=1e-8, atol=1e-8)


class Twin:
    """The same training with NumPy: gradients come from torch, on the same memory."""

    def __init__(self, problem: str, dtype: torch.dtype, **options: Any) -> None:
        training = Training(True, problem, dtype)
        self.loss, self.params = training.loss, training.params
        self.arrays = [p.detach().numpy() for p in self.params]
        self.optimizer = fnp.LBFGS(self.arrays, **options)

    def closure(self) -> tuple[float, list[Any]]:
        for param in self.params:
            param.grad = None
        loss = self.loss(self.params)
        loss.backward()
        return loss.item(), [p.grad.numpy() for p in self.params]

    @property
    def flat(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.params])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_numpy_has_the_bits_of_torch(line_search: str | None, dtype: torch.dtype) -> None:
    options = {"line_search_fn": line_search, "max_iter": 4, "history_size": 5, "lr": 0.7}
    torchs, twin = Training(True, "regression", dtype, **options), Twin("regression", dtype, **options)
    for _ in range(4):
        assert torchs.step() == [twin.optimizer.step(twin.closure)]
        assert torch.equal(torchs.flat, twin.flat)
    ours, theirs = twin.optimizer.state[0], torchs.state
    assert list(ours) == list(theirs)

    def as_torch(value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)):
            return torch.from_numpy(np.array(value))
        return [as_torch(entry) for entry in value] if isinstance(value, list) else value

    converted = {key: as_torch(value) for key, value in ours.items()}
    for key, value in theirs.items():
        assert type(converted[key]) is type(value), key
        filled = [v for v in converted[key] if v is not None] if key == "al" else converted[key]
        torch.testing.assert_close(
            filled, [v for v in value if v is not None] if key == "al" else value, rtol=0, atol=0
        )
    # Its state loads in torch, and torch's in it.
    loaded = torch.optim.LBFGS([Parameter(p.detach().clone()) for p in twin.params])
    loaded.load_state_dict(
        {"state": {0: converted}, "param_groups": torchs.optimizer.state_dict()["param_groups"]}
    )
    assert len(loaded.state[loaded.param_groups[0]["params"][0]]["old_dirs"]) == 5
    fresh = Twin("regression", dtype, **options)
    for array, value in zip(fresh.arrays, twin.arrays, strict=True):
        array[...] = value
    fresh.optimizer.load_state_dict(twin.optimizer.state_dict())
    twin.optimizer.step(twin.closure)
    fresh.optimizer.step(fresh.closure)
    assert torch.equal(twin.flat, fresh.flat)


def test_numpy_errors() -> None:
    x = np.ones(3)
    with pytest.raises(ValueError, match="parameter groups"):
        fnp.LBFGS([{"params": [x]}, {"params": [np.ones(2)]}])
    with pytest.raises(ValueError, match="learning rate"):
        fnp.LBFGS([x], lr=-1)
    optimizer = fnp.LBFGS([x])
    with pytest.raises(ValueError, match="1 gradients"):
        optimizer.step(lambda: (1.0, []))
    with pytest.raises(RuntimeError, match="shape"):
        optimizer.step(lambda: (1.0, [np.ones(4)]))
    with pytest.raises(TypeError, match="floating point"):
        optimizer.step(lambda: (1.0, [np.ones(3, int)]))
    assert optimizer.state == [{}]
    assert optimizer.step(lambda: (2.5, [None])) == 2.5
    assert (x == 1).all()


# ---- the kernels alone ----


def vectors(number: int, count: int, dtype: torch.dtype, layout: str = "dense") -> list[Tensor]:
    wide = torch.randn(number, 2 * count + 3, dtype=torch.float64).to(dtype)
    if layout == "strided":
        return [row[1 : 2 * count + 1 : 2] for row in wide]
    return [row[1 : count + 1] if layout == "offset" else row[:count].clone() for row in wide]


def exact_dot(a: Tensor, b: Tensor) -> tuple[float, float]:
    products = a.double() * b.double()
    return math.fsum(products.tolist()), products.abs().sum().item()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dots(dtype: torch.dtype, isa: str) -> None:
    _native.set_isa(isa)
    for count in (*range(131), 4095, 4096, 4097, 70_001):
        layout = ("dense", "offset", "strided")[count % 3]
        a, b = vectors(1 + count % 4, count, dtype, layout), vectors(1 + count % 5, count, dtype)
        out = np.full((len(a), len(b)), np.nan)
        _native.dots(a, b, out)
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b))]
        for i, j in pairs if count < 1000 else pairs[:2]:
            expected, magnitude = exact_dot(a[i], b[j])
            assert abs(out[i, j] - expected) <= 1e-15 * magnitude, (count, i, j)
            alone = np.empty(1)
            _native.dots([b[j]], [a[i]], alone)
            assert alone[0] == out[i, j]


def test_dots_of_many_columns_and_special_values() -> None:
    a, b = vectors(3, 100_000, torch.float32), vectors(11, 100_000, torch.float32)
    results = []
    for threads in (1, 2, 3):
        _native.set_num_threads(threads)
        results.append(np.empty((3, 11)))
        _native.dots(a, b, results[-1])
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()
    expected = torch.stack(a).double() @ torch.stack(b).double().T
    np.testing.assert_allclose(results[0], expected.numpy(), rtol=1e-10, atol=1e-10)
    for value in (math.nan, math.inf, -math.inf):
        for at in (0, 4100, 99_999):
            x, out = a[0].clone(), np.empty((1, 1))
            x[at] = value
            _native.dots([x], [torch.ones(100_000)], out)
            assert str(out[0, 0]) == str(value)
    empty, mixed = np.empty((0, 2)), np.empty(1)
    _native.dots([], b[:2], empty)
    _native.dots([a[0]], [b[0].double()], mixed)
    assert mixed[0] == pytest.approx(exact_dot(a[0], b[0])[0], rel=1e-9)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_combine(dtype: torch.dtype, isa: str) -> None:
    _native.set_isa(isa)
    for count in (*range(131), 4095, 4096, 4097, 70_001):
        layout = ("dense", "offset", "strided")[count % 3]
        v = vectors(1 + count % 11, count, dtype, layout)
        c = torch.randn(len(v), dtype=torch.float64)
        wide = sum(x.double() * k for x, k in zip(v, c.tolist(), strict=True))
        largest = sum(x.double().abs() * abs(k) for x, k in zip(v, c.tolist(), strict=True))
        out = v[0] if count % 2 else vectors(1, count, dtype, layout)[0]
        _native.combine([(out, c.tolist(), v)])
        error = (out.double() - wide).abs()
        eps = torch.finfo(dtype).eps
        allowed = 0.51 * eps * wide.abs() + 1e-15 * largest + torch.finfo(dtype).smallest_normal * eps
        assert bool((error <= allowed).all()), count


def test_combine_copies_and_keeps_special_values() -> None:
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 3e38])
    out = torch.empty(7)
    _native.combine([(out, [1.0], [x])])
    assert torch.equal(out.view(torch.int32)[:4], x.view(torch.int32)[:4])
    assert out[4].isnan()
    assert torch.equal(out[5:], x[5:])
    _native.combine([(out, [2.0, -2.0], [x, x])])
    assert out[:2].tolist() == [0.0, 0.0]
    assert out[2:5].isnan().all()


def test_kernels_refuse_what_does_not_fit() -> None:
    x, y, out = torch.ones(8), torch.ones(9), torch.zeros(8)
    for wrong in (np.empty(2), np.empty(1, np.float32)):
        with pytest.raises(ValueError, match="float64 array of 1"):
            _native.dots([x], [x], wrong)
    with pytest.raises(RuntimeError, match="8 elements"):
        _native.dots([x], [y], np.empty(1))
    with pytest.raises(RuntimeError, match="8 elements"):
        _native.combine([(out, [1.0], [y])])
    with pytest.raises(ValueError, match="coefficients"):
        _native.combine([(out, [1.0, 2.0], [x])])
    with pytest.raises(ValueError, match="at least one"):
        _native.combine([(out, [], [])])
    with pytest.raises(_native.Unsupported, match="floating point"):
        _native.combine([(out, [1.0], [torch.ones(8, dtype=torch.int64)])])
    with pytest.raises(_native.Unsupported, match="overlaps"):
        _native.combine([(y[:8], [1.0], [y[1:]])])
    with pytest.raises(_native.Unsupported, match="overlaps itself"):
        _native.combine([(torch.ones(1).expand(8), [1.0], [x])])
    frozen = np.ones(8)
    frozen.flags.writeable = False
    before = out.clone()
    with pytest.raises(ValueError, match="read-only"):
        _native.combine([(out, [3.0], [x]), (frozen, [1.0], [x])])
    assert torch.equal(out, before)
