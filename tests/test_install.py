"""torch accelerated in place: on our kernels, and still torch's to whoever looks."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import inspect
import pickle
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fusestep
import fusestep.optim
from cases import LOSSES, SOFTMAX, loss_inputs, public_name, torch_optimizer
from fusestep import _install
from fusestep.optim._fused import unhooked

TORCHS = {function.__name__: function for function in _install.FUNCTIONS}
NAMED = [op for op in (*LOSSES, *SOFTMAX) if public_name(op) in TORCHS]
OPTIMIZERS = [theirs.__name__ for theirs in _install.OPTIMIZERS]


@pytest.fixture
def installed() -> Iterator[None]:
    with fusestep.install():
        yield


def model_of(name: str) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(1)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (7,))]
    options = {"lr": 0.01} if name == "SGD" else {}
    return params, torch_optimizer(name)(params, **options)


class Special(torch.optim.Adam):
    """Changes what torch's step does inside."""

    def _init_group(self, *args: Any, **kwargs: Any) -> Any:
        return super()._init_group(*args, **kwargs)


def train(params: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    sparse = type(optimizer).__name__ == "SparseAdam"

    def closure() -> Tensor:
        loss = sum(((param - 1) ** 2).sum() for param in params)
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        for param in params:
            if sparse:
                param.grad = param.grad.to_sparse(1)  # type: ignore[union-attr]
        return loss

    for _ in range(steps):
        optimizer.step(closure)


# ---- functions ----


def test_every_function_of_torch_with_a_kernel_is_replaced() -> None:
    expected = {name for name in fusestep.nn.functional.KERNELS if hasattr(F, name)}
    assert set(TORCHS) == expected
    assert {"cross_entropy", "mse_loss", "softmax"} <= expected


@pytest.mark.parametrize("op", NAMED)
@pytest.mark.usefixtures("installed")
def test_functions_run_our_kernels(op: str) -> None:
    name = public_name(op)
    rest = (1,) if op in SOFTMAX else loss_inputs(op, (4, 5), torch.float32)[1:]
    input = loss_inputs("mse_loss" if op in SOFTMAX else op, (4, 5), torch.float32)[0].requires_grad_()
    result = getattr(F, name)(input, *rest)
    result.sum().backward()
    assert fusestep.stats()[op]["native"] == 1
    torch.testing.assert_close(result, TORCHS[name](input, *rest))


def test_modules_of_torch_made_before_and_after() -> None:
    before = nn.CrossEntropyLoss(label_smoothing=0.1)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    plain = before(x, y)
    with fusestep.install():
        torch.testing.assert_close(before(x, y), plain)
        torch.testing.assert_close(nn.CrossEntropyLoss(label_smoothing=0.1)(x, y), plain)
    assert fusestep.stats()["cross_entropy"]["native"] == 2
    before(x, y)
    assert fusestep.stats()["cross_entropy"]["native"] == 2


def test_names_that_modules_have_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("somebodys_module")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("from torch.nn.functional import mse_loss as error, l1_loss\nother = [l1_loss]", vars(module))
    with fusestep.install():
        assert module.error is F.mse_loss
        exec("from torch.nn.functional import huber_loss", vars(module))
        module.error(torch.ones(2), torch.zeros(2))
        assert fusestep.stats()["mse_loss"]["native"] == 1
        held = F.huber_loss
    assert module.error is TORCHS["mse_loss"] is F.mse_loss
    assert module.l1_loss is TORCHS["l1_loss"] is module.other[0]
    assert module.huber_loss is TORCHS["huber_loss"]
    held(torch.ones(2), torch.zeros(2))  # somebody has kept ours
    assert "huber_loss" not in fusestep.stats()


@pytest.mark.usefixtures("installed")
def test_functions_look_like_torchs() -> None:
    for name, torchs in TORCHS.items():
        function = getattr(F, name)
        assert function is not torchs
        assert (function.__module__, function.__qualname__) == (torchs.__module__, torchs.__qualname__)
        assert inspect.signature(function) == inspect.signature(torchs)
        assert function.__doc__ == torchs.__doc__
        assert pickle.loads(pickle.dumps(function)) is function
        assert b"fusestep" not in pickle.dumps(function)


@pytest.mark.usefixtures("installed")
def test_pickles_of_modules_are_torchs() -> None:
    class_bytes = pickle.dumps(nn.Sequential(nn.CrossEntropyLoss(), nn.Softmax(1)))
    assert b"fusestep" not in class_bytes


@pytest.mark.usefixtures("installed")
def test_torch_takes_what_the_kernels_cannot() -> None:
    complex_input = torch.randn(3, dtype=torch.complex64)
    F.l1_loss(complex_input, torch.zeros(3, dtype=torch.complex64))
    assert fusestep.stats()["l1_loss"]["torch"]
    with pytest.raises(ValueError, match="batch size"):
        F.cross_entropy(torch.randn(3, 2), torch.zeros(4, dtype=torch.int64))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("call", [F.softmax, nn.Softmax()], ids=["function", "module"])
def test_a_warning_names_the_line_of_the_caller(call: Any) -> None:
    call = F.softmax if inspect.isfunction(call) else call
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(torch.randn(2, 3))
    theirs = "torch" in caught[0].filename and not inspect.isfunction(call)
    assert theirs or caught[0].filename == __file__


@pytest.mark.usefixtures("installed")
def test_torchscript_and_compile() -> None:
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    scripted = torch.jit.script(nn.CrossEntropyLoss())
    compiled = torch.compile(lambda a, b: F.cross_entropy(a, b), fullgraph=True, backend="eager")
    torch.testing.assert_close(scripted(x, y), compiled(x, y))


@pytest.mark.usefixtures("installed")
def test_ours_are_not_accelerated_twice() -> None:
    fusestep.nn.MSELoss()(torch.ones(2), torch.zeros(2))
    assert fusestep.stats()["mse_loss"] == {"native": 1, "torch": {}}


# ---- optimizers ----


def test_every_optimizer_of_torch_with_a_kernel_is_accelerated() -> None:
    assert set(OPTIMIZERS) == {name for name in fusestep.optim.KERNELS if hasattr(torch.optim, name)}
    assert len(OPTIMIZERS) >= 13


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_do_what_ours_do(name: str) -> None:
    """Bit for bit, from steps before, through steps accelerated, to steps after; and stay torch's."""
    params, optimizer = model_of(name)
    own = [nn.Parameter(param.detach().clone()) for param in params]
    ours = getattr(fusestep.optim, name)(own, **({"lr": 0.01} if name == "SGD" else {}))
    step = vars(type(optimizer)).get("step")
    with fusestep.install():
        train(params, optimizer)
        made = fusestep.stats()
        assert all(count["native"] == 4 and not count["torch"] for count in made.values())
        assert len(made) == 1
        assert type(optimizer) is getattr(torch.optim, name)
        assert type(pickle.loads(pickle.dumps(optimizer))) is type(optimizer)
        assert b"fusestep" not in pickle.dumps(optimizer)
        train(own, ours)
        assert all(map(torch.equal, params, own))
        assert repr(optimizer) == repr(model_of(name)[1])
        twin = copy.deepcopy(optimizer)
        assert twin.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert vars(type(optimizer)).get("step") is step
    counted = fusestep.stats()
    train(params, optimizer, 1)
    assert fusestep.stats() == counted


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_checkpoints_go_both_ways(name: str) -> None:
    params, optimizer = model_of(name)
    with fusestep.install():
        train(params, optimizer, 2)
    other = [nn.Parameter(param.detach().clone()) for param in params]
    plain = torch_optimizer(name)(other, **({"lr": 0.01} if name == "SGD" else {}))
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(other, plain, 2)
    with fusestep.install():
        train(params, optimizer, 2)
    for mine, torchs in zip(params, other, strict=True):
        torch.testing.assert_close(mine, torchs)


@pytest.mark.usefixtures("installed")
def test_hooks_get_the_optimizer_itself_and_once() -> None:
    params, optimizer = model_of("Adam")
    seen: list[Any] = []
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: seen.append(optimizer))
    optimizer.register_step_post_hook(lambda optimizer, args, kwargs: seen.append(optimizer))
    train(params, optimizer, 1)
    assert [one is optimizer for one in seen] == [True, True]


@pytest.mark.usefixtures("installed")
def test_subclasses() -> None:
    class Counting(torch.optim.AdamW):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            self.steps += 1
            return super().step(closure)

    params, _ = model_of("Adam")
    counting = Counting(params)
    train(params, counting, 3)
    assert counting.steps == 3
    assert fusestep.stats()["adam"]["native"] == 3
    train(params, Special(params), 3)  # changes what torch's step does inside: so torch's it is
    assert fusestep.stats()["adam"] == {"native": 3, "torch": {}}


def test_a_subclass_that_torch_has_wrapped_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its first instance torch puts a wrapped step into a class, also where that is inherited."""
    monkeypatch.setattr(torch.optim.RMSprop, "step", unhooked(torch.optim.RMSprop.step))

    class Mine(torch.optim.RMSprop):
        pass

    params, _ = model_of("Adam")
    train(params, Mine(params), 1)
    wrapped = vars(Mine)["step"]
    with fusestep.install():
        train(params, Mine(params), 2)
        assert fusestep.stats()["rmsprop"] == {"native": 2, "torch": {}}
    assert vars(Mine)["step"] is wrapped


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_freed(name: str) -> None:
    """Also one that knows itself, as by a hook or by the step that a scheduler has wrapped."""
    params, optimizer = model_of(name)
    optimizer.register_step_post_hook(lambda *_, optimizer=optimizer: None)
    optimizer.itself = optimizer  # type: ignore[attr-defined]
    train(params, optimizer, 2)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None


def test_what_a_group_holds_is_no_option_of_ours() -> None:
    results = []
    for accelerated in (False, True):
        params, _ = model_of("SGD")
        names: dict[str, Any] = {"max_grad_norm": 1e-3, "ema_decay": 0.5, "rounding": 7}
        optimizer = torch.optim.SGD([{"params": params, **names}], lr=0.01)
        with fusestep.install() if accelerated else contextlib.nullcontext():
            train(params, optimizer, 2)
        assert "ema" not in optimizer.state[params[0]]
        results.append(params)
    assert fusestep.stats()["sgd"] == {"native": 2, "torch": {}}
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(plain, ours)


@pytest.mark.usefixtures("installed")
def test_an_optimizer_without_a_hash_and_one_of_another_class() -> None:
    class Equal(torch.optim.Adam):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    params, _ = model_of("Adam")
    optimizer = Equal(params)
    train(params, optimizer, 2)
    assert fusestep.stats()["adam"]["native"] == 2
    optimizer.__class__ = Special
    train(params, optimizer, 2)
    assert fusestep.stats()["adam"]["native"] == 2


def test_patches_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def patched(kind: type, name: str) -> Any:
        step = kind.step  # type: ignore[attr-defined]

        @functools.wraps(step)
        def around(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return step(*args, **kwargs)

        return around

    monkeypatch.setattr(torch.optim.Adagrad, "step", patched(torch.optim.Adagrad, "before"))
    before = torch.optim.SGD.step
    with fusestep.install():
        for name in ("Adagrad", "SGD"):
            train(*model_of(name), 1)
        torch.optim.SGD.step = after = patched(torch.optim.SGD, "while")  # type: ignore[method-assign]
        train(*model_of("SGD"), 1)
    assert torch.optim.SGD.step is after or unhooked(torch.optim.SGD.step) is after
    train(*model_of("SGD"), 1)
    torch.optim.SGD.step = before  # type: ignore[method-assign]
    assert calls == ["before", "while", "while"]
    assert fusestep.stats()["sgd"] == {"native": 2, "torch": {}}
    assert "adagrad" not in fusestep.stats()


@pytest.mark.usefixtures("installed")
def test_our_own_optimizers_go_on() -> None:
    params, _ = model_of("Adam")
    train(params, fusestep.optim.Adam(params), 2)
    assert fusestep.stats()["adam"] == {"native": 2, "torch": {}}
    params[0].grad = torch.ones_like(params[0]).to_sparse()
    fusestep.optim.SGD(params, lr=0.01).step()  # back to torch's own step
    assert fusestep.stats()["sgd"] == {"native": 0, "torch": {"sparse gradient": 1}}


@pytest.mark.usefixtures("installed")
def test_schedulers_and_compiled_steps() -> None:
    params, optimizer = model_of("SGD")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for param in params:
        param.grad = torch.ones_like(param)
    before = params[0].detach().clone()
    optimizer.step()
    scheduler.step()
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), before - 0.015)
    torch.compile(optimizer.step, backend="eager")()
    torch.testing.assert_close(params[0].detach(), before - 0.02)
    assert fusestep.stats()["sgd"]["native"] == 2


def test_gradscaler_sees_what_torchs_class_says() -> None:
    """Only under ``fused=True`` it hands over its scale; else it unscales, and skips."""
    for fused in (False, True):
        with fusestep.install():
            param = nn.Parameter(torch.ones(3))
            optimizer = torch.optim.Adam([param], lr=0.1, fused=fused)
            scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
            scaler.scale((param * torch.tensor([1.0, 2.0, float("inf")])).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(param, torch.ones(3))
            optimizer.zero_grad()
            scaler.scale((param * 2).sum()).backward()
            scaler.step(optimizer)
            assert (param - 0.9).abs().max() < 1e-6


# ---- on and off ----


def test_it_can_be_said_again_and_nested() -> None:
    fusestep.install()
    try:
        with fusestep.install():
            assert F.mse_loss is not TORCHS["mse_loss"]
        assert F.mse_loss is not TORCHS["mse_loss"]  # the first has not ended
    finally:
        fusestep.uninstall()
    assert F.mse_loss is TORCHS["mse_loss"]
    fusestep.uninstall()
    with pytest.raises(KeyError), fusestep.install():
        raise KeyError
    assert F.mse_loss is TORCHS["mse_loss"]


def test_calls_are_counted_and_closures_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(_install, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(_install._now, "usage", None)
    _install.measure()
    params, optimizer = model_of("Adam")
    with fusestep.install():
        train(params, optimizer, 2)
        F.mse_loss(torch.ones(2), torch.zeros(2))
    # A tick before and after; and of four, the two around the closure and what lies between are not ours.
    assert _install.usage() == {"Adam.step": _install.Usage(2, 4.0), "mse_loss": _install.Usage(1, 1.0)}


def test_arguments_of_functions_are_left_alone_when_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_install._now, "usage", None)
    _install.measure()
    with fusestep.install():
        graph = torch.fx.symbolic_trace(lambda x: F.softmax(x, 1))
    assert torch.equal(graph(torch.zeros(1, 2)), torch.full((1, 2), 0.5))


def test_without_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
import fusestep
try:
    fusestep.install()
except ModuleNotFoundError as error:
    assert "torch" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
