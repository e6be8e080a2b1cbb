"""Hostile steps: rows 41 to 70 of the table of expected outcomes, or what docs/semantics.md says instead."""

from __future__ import annotations

import _thread
import copy
import gc
import inspect
import io
import pickle
import signal
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import cases
import fusestep
import fusestep.numpy as fnp
import fusestep.optim as optim
from cases import DTYPES, torch_optimizer
from peers import one, outcome, tensors, with_states
from test_optim import NAMES, assert_same_state, make

NAN, INF = float("nan"), float("inf")
ALL = [*NAMES, "SparseAdam"]
WITH_BETAS = [name for name in ALL if "betas" in inspect.signature(getattr(optim, name)).parameters]
COUNTING = [name for name in NAMES if "step" in cases.OPS[getattr(optim, name)._rule.op]["numbers"]]
COVERED: set[int] = set()


def row(number: int, **values: Any) -> Any:
    """Registers the row of the table that a test stands for, and runs it with each of the values."""
    COVERED.add(number)
    marks = [pytest.mark.parametrize(name, choices, ids=str) for name, choices in values.items()]
    return lambda test: reduce(lambda marked, mark: mark(marked), marks, test)


def close(mine: Any, right: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    torch.testing.assert_close(mine, right, rtol=rtol, atol=atol, equal_nan=True)


def as_torch(name: str, script: Callable[[Any], Any], **options: Any) -> None:
    """The script returns the same with our optimizer and with torch's for-loop, tensors or an exception."""
    mine, right = (outcome(script, make(name, ours, **options)) for ours in (True, False))
    if isinstance(right, type):
        assert mine is right
    else:
        close(mine, right)


def five(name: str, **options: Any) -> tuple[list[Any], torch.optim.Optimizer]:
    """Five parameters after one step."""
    params = [one(float(i)) for i in range(5)]
    optimizer = make(name, True, **with_states(name), **options)(params)
    optimizer.step()
    return params, optimizer


def refuses(optimizer: Any, kinds: Any, watched: list[Any], **options: Any) -> None:
    """The step raises one of the kinds; what is watched keeps its bits."""
    before = [t.detach().clone() for t in watched]
    numbers = [float(s["step"]) for s in optimizer.state.values() if "step" in s]
    with pytest.raises(kinds):
        optimizer.step(**options)
    assert all(torch.equal(a.detach(), b) for a, b in zip(watched, before, strict=True))
    assert numbers == [float(s["step"]) for s in optimizer.state.values() if "step" in s]


def largest(state: dict[str, Any]) -> str:
    """The last of the states that have the shape of the parameter."""
    return [key for key, value in state.items() if isinstance(value, Tensor) and value.dim()][-1]


# ---- construction ----


LISTS: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "nothing": (list, ValueError),
    "a tensor": (lambda: torch.ones(2), TypeError),
    "None": (lambda: None, TypeError),
    "strings": (lambda: ["weight"], TypeError),
    "arrays": (lambda: [np.ones(2)], TypeError),
    "not a leaf": (lambda: [one() * 2], ValueError),
    "a group without params": (lambda: [{"lr": 0.1}], KeyError),
    "two groups": (lambda: [{"params": p} for p in [[one()]] * 2], ValueError),
}


@row(41, name=[*ALL, "LBFGS"], kind=LISTS)
def test_what_is_no_list_of_parameters_is_stepped(name: str, kind: str) -> None:
    params, expected = LISTS[kind]
    with pytest.raises(expected):
        getattr(optim, name)(params())
    if hasattr(torch.optim, name):
        with pytest.raises(expected):
            getattr(torch.optim, name)(params())


@row(42, name=ALL)
def test_parameter_twice_in_a_group_goes_unnoticed(name: str) -> None:
    param = one()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        getattr(optim, name)([param, param])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        getattr(optim, name)([{"params": [param, one(), param]}])


@row(43, name=ALL)
def test_learning_rate_that_is_none_trains(name: str) -> None:
    """Infinity is torch's to accept, and gives what it gives there; so is NaN, by its SGD."""
    bad = (
        (-1.0, ValueError),
        (NAN, ValueError),
        ("0.1", TypeError),
        (None, TypeError),
        (torch.ones(2), ValueError),
    )
    for lr, expected in bad:
        if name == "SGD" and lr is NAN:
            continue
        with pytest.raises(expected):
            getattr(optim, name)([one()], lr=lr)

    def script(optimizer_of: Any) -> Any:
        param = one()
        param.grad = param.grad.to_sparse() if name == "SparseAdam" else param.grad
        optimizer_of([param]).step()
        return param.detach()

    as_torch(name, script, lr=INF)
    if name == "SGD":
        as_torch(name, script, lr=NAN)


@row(44, name=WITH_BETAS)
def test_betas_that_are_no_two_numbers_below_one(name: str) -> None:
    """Three of them pass torch's constructor, and fail there in the step: nowhere are they ignored."""
    for betas in (
        (1.0, 0.9),
        (0.9, -0.1),
        (0.9,),
        0.9,
        None,
        (NAN, 0.9),
        (0.9, NAN),
        ("0.9", 0.9),
        (),
        (2, 3),
    ):
        with pytest.raises((ValueError, TypeError, IndexError)):
            getattr(optim, name)([one()], betas=betas)
    param = one()
    param.grad = param.grad.to_sparse() if name == "SparseAdam" else param.grad
    with pytest.raises(ValueError, match=r"unpack|two numbers"):
        getattr(optim, name)([param], betas=(0.9, 0.99, 0.999)).step()
    assert (param == 1).all()
    with pytest.raises(ValueError, match="two numbers"):
        getattr(fnp, name)([np.ones(3, np.float32)], betas=(0.9, 0.99, 0.999))


@row(45, name=ALL)
def test_options_out_of_range_are_taken_as_they_are(name: str) -> None:
    known = inspect.signature(getattr(optim, name)).parameters
    below = (
        "eps",
        "weight_decay",
        "momentum",
        "lr_decay",
        "initial_accumulator_value",
        "momentum_decay",
        "rho",
    )
    bad: list[dict[str, Any]] = [{key: value} for key in below for value in (-0.1, NAN, "x")]
    bad += [{"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, {"rho": 1.5}]
    bad += [{"etas": (1.0, 1.2)}, {"etas": (0.5, 1.0)}, {"etas": (NAN, 1.2)}, {"alpha": -0.1}]
    bad += [{"max_grad_norm": v} for v in (0, -1.0, NAN)] + [{"ema_decay": v} for v in (-0.1, 1.0, NAN)]
    bad += [{"rounding": v} for v in ("up", None, 1)]
    for options in bad:
        if known.keys() >= options.keys() and (name, *options) != ("ASGD", "alpha"):  # torch takes any there
            if name == "SGD" and options in ({"momentum": NAN}, {"weight_decay": NAN}):
                continue  # torch asks whether they are below zero
            with pytest.raises((ValueError, TypeError)):
                getattr(optim, name)([one()], **options)


# ---- gradients ----


@row(46, name=ALL)
def test_no_gradient_makes_states_or_counts(name: str) -> None:
    param = one()
    param.grad = None
    extras = {} if name == "SparseAdam" else {"max_grad_norm": 1.0, "ema_decay": 0.5, "rounding": "kahan"}
    for options in ({}, extras):
        optimizer = getattr(optim, name)([param], **options)
        before = copy.deepcopy(optimizer.state_dict())
        for _ in range(2):
            assert optimizer.step() is None
        assert (param == 1).all()
        assert_same_state(optimizer, before)


@row(47, name=ALL)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradient_is_read_as_dense(name: str) -> None:
    """The value that torch's gives, or its exception with nothing changed."""
    grad = torch.sparse_coo_tensor(torch.tensor([[3, 1, 3]]), torch.ones(3, 2), (5, 2), check_invariants=True)

    def script(optimizer_of: Any) -> Any:
        dense, param = one(), Parameter(torch.ones(5, 2))
        param.grad = grad
        optimizer = optimizer_of([param] if name == "SparseAdam" else [dense, param])
        optimizer.step()
        optimizer.step()
        return dense.detach(), param.detach()

    right = RuntimeError
    if name != "Lion":  # torch has none
        as_torch(name, script, **with_states(name))
        right = outcome(script, make(name, False))
    if isinstance(right, type):
        dense, param = one(), Parameter(torch.ones(5, 2))
        param.grad = grad
        optimizer = make(name, True)([dense, param])
        refuses(optimizer, RuntimeError, [dense, param])
        assert not any(optimizer.state.values())
    assert isinstance(right, type) is (name not in ("SGD", "Adagrad", "SparseAdam"))


@row(48, name=NAMES)
def test_bad_gradient_of_the_third_spoils_the_first_two(name: str) -> None:
    for first in (True, False):
        params, optimizer = five(name, ema_decay=0.5)
        if first:
            params = [one(float(i)) for i in range(5)]
            optimizer = make(name, True, **with_states(name), ema_decay=0.5)(params)
        params[2].grad.resize_(7)
        refuses(optimizer, RuntimeError, tensors(optimizer), zero_grad=True)
        assert all((p.grad == 0.5).all() for p in params if p is not params[2])
        params[2].grad = torch.ones(5)
        optimizer.step()


@row(48)
def test_bad_rows_of_the_third_spoil_the_first_two() -> None:
    params = [Parameter(torch.ones(4, 2)) for _ in range(5)]
    optimizer = optim.SparseAdam(params)
    for rows in ([0, 1], [3, 9], [-1, 0]):
        for i, param in enumerate(params):
            here = torch.tensor([rows if i == 2 else [0, 1]])
            param.grad = torch.sparse_coo_tensor(here, torch.ones(2, 2), (4, 2), check_invariants=False)
        if rows == [0, 1]:
            optimizer.step()
        else:
            refuses(optimizer, (IndexError, RuntimeError), tensors(optimizer)[:5])


@row(49, name=NAMES, size=[3, 8, 0, 1])
def test_parameter_replaced_by_a_longer_one_is_read_beyond_its_gradient(name: str, size: int) -> None:
    params, optimizer = five(name)
    params[2].data = torch.ones(size)
    refuses(optimizer, RuntimeError, tensors(optimizer))
    numpy = getattr(fnp, name)(arrays := [np.ones(5, np.float32), np.ones(5, np.float32)])
    with pytest.raises(RuntimeError, match="shape"):
        numpy.step([np.ones(5, np.float32), np.ones(size, np.float32)])
    assert all((array == 1).all() for array in arrays)


@row(50, name=NAMES, dtype=[torch.float16, torch.bfloat16, torch.float64])
def test_parameter_replaced_by_another_dtype_is_reinterpreted(name: str, dtype: torch.dtype) -> None:
    """The gradient and the states of before are used, and keep their dtype."""
    results = []
    for kind in (dtype, torch.float64):
        param = one(dtype=torch.float32 if kind is dtype else torch.float64)
        optimizer = make(name, kind is dtype, lr=2**-7, **with_states(name))([param])
        optimizer.step()
        param.data = param.data.to(dtype).to(kind)
        optimizer.step()
        assert param.dtype is kind
        results.append(param.detach().double())
    eps = max(torch.finfo(dtype).eps, 2**-23)
    close(*results, rtol=4 * eps, atol=4 * eps)


SPOILED: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "shape": lambda state, key: state.update({key: torch.ones(3)}),
    "longer": lambda state, key: state.update({key: torch.ones(50)}),
    "deleted": lambda state, key: state.pop(key),
    "resized": lambda state, key: state[key].resize_(0),
    "freed": lambda state, key: state[key].untyped_storage().resize_(0),
    "int64": lambda state, key: state.update({key: torch.ones(5, dtype=torch.int64)}),
    "complex": lambda state, key: state.update({key: torch.ones(5, dtype=torch.complex64)}),
    "meta": lambda state, key: state.update({key: torch.ones(5, device="meta")}),
    "None": lambda state, key: state.update({key: None}),
    "sparse": lambda state, key: state.update({key: torch.ones(5).to_sparse()}),
    "expanded": lambda state, key: state.update({key: torch.ones(1).expand(5)}),
}


@row(51, name=NAMES, kind=SPOILED)
def test_state_that_does_not_fit_is_written_through(name: str, kind: str) -> None:
    """Unless it was the only one: without any state a parameter counts as not stepped yet, as in torch."""
    params, optimizer = five(name)
    state = optimizer.state[params[2]]
    only = len(state) == 1
    SPOILED[kind](state, largest(state))
    if only and (kind == "deleted" or (name, kind) == ("SGD", "None")):
        optimizer.step()
        assert torch.isfinite(params[2]).all()
        return
    refuses(optimizer, (RuntimeError, KeyError, TypeError), params)


@row(52, name=NAMES)  # torch: SIGSEGV
def test_freed_memory_is_read_or_written(name: str) -> None:
    params, optimizer = five(name)
    params[2].grad.untyped_storage().resize_(0)
    refuses(optimizer, RuntimeError, params)
    params, optimizer = five(name)
    params[2].untyped_storage().resize_(0)
    refuses(optimizer, RuntimeError, [*params[:2], *params[3:]])


# ---- checkpoints and groups ----


@row(53, name=ALL)
def test_foreign_checkpoint_is_loaded_in_part(name: str) -> None:
    of = getattr(optim, name)
    optimizer, params = of(params := [one(), one()]), params
    fewer = of([one()]).state_dict()
    more = of([{"params": [one()]}, {"params": [one()]}]).state_dict()
    before = copy.deepcopy(optimizer.state_dict())
    for wrong in (fewer, more, {"state": {}}, {"param_groups": []}, {}):
        with pytest.raises((KeyError, ValueError)):
            optimizer.load_state_dict(wrong)
        assert_same_state(optimizer, before)
        assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    other, trained = ("SGD", one()) if name != "SGD" else ("Adam", one())
    saver = getattr(torch.optim, other)([trained, one()], **({"momentum": 0.9} if other == "SGD" else {}))
    saver.step()
    for param in params:
        param.grad = param.grad.to_sparse() if name == "SparseAdam" else param.grad
    # torch takes over the groups of the other, and misses what they lack at the latest in the step
    if outcome(optimizer.load_state_dict, saver.state_dict()) is not KeyError:
        refuses(optimizer, KeyError, params)


LACKING = {
    name: [k for k in inspect.signature(torch_optimizer(name)).parameters if k != "params"] for name in NAMES
}


@row(54, name=NAMES)
def test_option_taken_from_a_group_is_guessed(name: str) -> None:
    """Whatever is deleted: torch's KeyError before anything has changed, or what torch does without it."""
    for key in LACKING[name]:
        if key in ("differentiable", "capturable", "foreach", "fused") or (name, key) == (
            "AdamW",
            "maximize",
        ):
            continue
        params, optimizer = five(name)
        theirs = make(name, False, **with_states(name))([one()])
        theirs.step()
        if key not in optimizer.param_groups[0] or key not in theirs.param_groups[0]:
            continue
        del optimizer.param_groups[0][key], theirs.param_groups[0][key]
        if outcome(theirs.step) is KeyError:
            refuses(optimizer, KeyError, params)
        else:
            optimizer.step()


@row(54, name=NAMES)
@pytest.mark.parametrize(
    "lr", [np.float32(0.125), 1, True, torch.tensor(0.125), 0.0, np.float64(0.125)], ids=repr
)
def test_learning_rate_of_another_type_is_read_as_another_number(name: str, lr: Any) -> None:
    def script(optimizer_of: Any) -> Any:
        param = one()
        optimizer = optimizer_of([param])
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        optimizer.step()
        return param.detach()

    as_torch(name, script)
    if float(lr) == 0 and name != "Rprop":  # whose step sizes are at least 1e-6
        assert torch.equal(script(make(name, True)), torch.ones(5))


@row(55, name=COUNTING)
@pytest.mark.parametrize("step", [2.0**40, 2.0**24, 3, 7.5], ids=str)
def test_step_beyond_32_bits_wraps_in_the_bias_correction(name: str, step: float) -> None:
    """Float32, where torch keeps it, ends counting at 2^24: it stays there, as in torch."""
    results = []
    for ours in (True, False):
        param = one()
        optimizer = make(name, ours)([param])
        optimizer.step()
        optimizer.state[param]["step"].fill_(step)
        for _ in range(3):
            optimizer.step()
        results.append([float(optimizer.state[param]["step"]), param.detach()])
        assert torch.isfinite(param).all()
    close(*results)
    for value in (int(step), float(step)):
        param = one()
        optimizer = make(name, True)([param])
        optimizer.step()
        optimizer.state[param]["step"] = value
        optimizer.step()
        assert optimizer.state[param]["step"] == value + 1
        assert type(optimizer.state[param]["step"]) is type(value)
        assert torch.isfinite(param).all()


# ---- memory and shapes ----


@row(56, name=NAMES)
def test_gradient_that_is_its_parameter_or_has_no_strides(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        params = [Parameter(torch.linspace(-1, 1, 48).view(6, 8)) for _ in range(4)]
        optimizer = optimizer_of(params)
        for step in range(2):
            params[0].grad = params[0].data
            params[1].grad = torch.full((1, 1), 0.5 + step).expand(6, 8)
            params[2].grad = torch.linspace(1, -0.5, 48).view(8, 6).t()
            params[3].grad = params[3].data.clone().t().contiguous().t()
            optimizer.step()
        return [p.detach() for p in params]

    as_torch(name, script, lr=0.01, **with_states(name))

    def overlapping(optimizer_of: Any) -> Any:
        base = torch.linspace(-1, 1, 49)
        param = Parameter(base[1:])
        param.grad = base[:-1]
        optimizer_of([param]).step()
        return base

    as_torch(name, overlapping, lr=0.01)


@row(57, name=NAMES, threads=[1, 4])
def test_views_of_the_same_memory_are_stepped_at_once(name: str, threads: int) -> None:
    fusestep.set_num_threads(threads)

    def script(optimizer_of: Any) -> Any:
        base = torch.linspace(1, 2, 60_000)
        params = [Parameter(v) for v in (base, base[10:], base.view(200, 300)[:, 7], base.view(300, 200).t())]
        optimizer = optimizer_of([{"params": params[:2]}, {"params": params[2:]}])
        for param in params:
            param.grad = torch.full_like(param, 0.25)
        optimizer.step()
        return base

    as_torch(name, script, lr=0.01, **with_states(name))


@row(58, name=NAMES)  # TE#3207
def test_empty_or_tiny_parameters_are_skipped_or_take_others_along(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        shapes = [(), (0,), (3,), (2, 0), (1, 1, 1), *[(1,)] * 5000, (0, 5)]
        params = [Parameter(torch.full(shape, 1.0 + i % 7)) for i, shape in enumerate(shapes)]
        optimizer = optimizer_of(params)
        for _ in range(2):
            for param in params:
                param.grad = torch.full_like(param, 0.5)
            optimizer.step()
        assert all(p.numel() == 0 or not (p == 1.0 + i % 7).any() for i, p in enumerate(params))
        return [torch.cat([p.detach().flatten() for p in params])]

    as_torch(name, script, lr=0.01)


@row(59, name=NAMES)
def test_dtypes_are_mixed_up_in_one_group(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        params = [one(size=40, dtype=dtype) for dtype in (*DTYPES, *DTYPES[::-1])]
        optimizer = optimizer_of(params)
        for _ in range(2):
            optimizer.step()
        return [p.detach() for p in params]

    mine, right = (script(make(name, ours, lr=2**-7)) for ours in (True, False))
    for a, b in zip(mine, right, strict=True):
        eps = max(torch.finfo(a.dtype).eps, 2**-24)
        close(a, b, rtol=8 * eps, atol=8 * eps)
    assert fusestep.stats()[getattr(optim, name)._rule.op]["native"] == 2


FOREIGN: dict[str, Callable[[], Tensor]] = {
    "complex64": lambda: torch.ones(5, dtype=torch.complex64),
    "int32": lambda: torch.ones(5, dtype=torch.int32),
    "int64": lambda: torch.ones(5, dtype=torch.int64),
    "bool": lambda: torch.ones(5, dtype=torch.bool),
    "float8": lambda: torch.ones(5).to(torch.float8_e4m3fn),
    "meta": lambda: torch.ones(5, device="meta"),
    "sparse": lambda: torch.eye(5).to_sparse(),
    "conjugate": lambda: torch.ones(5, dtype=torch.complex64).conj(),
    "negative bit": lambda: torch.ones(5, dtype=torch.complex64).conj().imag,
}


@row(59, name=NAMES, kind=FOREIGN)
def test_foreign_parameter_is_read_as_float(name: str, kind: str) -> None:
    """What torch makes of it, or its exception."""

    def script(optimizer_of: Any) -> Any:
        value = FOREIGN[kind]()
        param = Parameter(value, requires_grad=value.is_floating_point() or value.is_complex())
        param.grad = FOREIGN[kind]()
        optimizer_of([param]).step()
        return [] if param.is_meta else [param.detach().to_dense().resolve_conj().resolve_neg()]

    if name == "Lion" and kind in ("sparse", "conjugate"):  # refused, as by the optimizers of torch
        assert outcome(script, make(name, True)) is outcome(script, make("Adam", False)) is RuntimeError
    else:
        as_torch(name, script, lr=0.125)


@row(59, name=NAMES)
def test_inference_tensor_is_updated_outside_of_inference(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        with torch.inference_mode():
            param = torch.ones(5)
        param.grad = torch.ones(5)
        optimizer_of([param]).step()
        return param

    as_torch(name, script)


@row(60, name=NAMES)
def test_special_gradient_spoils_its_neighbours_or_traps(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        params = [one(size=size) for size in (1, 20, 70)]
        optimizer = optimizer_of(params)
        for param in params:
            param.grad[::7] = NAN
            param.grad[3::7] = INF
            param.grad[5::7] = 1e-42
        optimizer.step()
        for param in params[1:]:
            assert torch.isfinite(param.detach()[1:3]).all()
            assert torch.isfinite(param.detach()[5::7]).all()
        return tensors(optimizer)

    as_torch(name, script, **with_states(name))


@row(61, name=NAMES)
def test_first_gradient_in_the_third_step_is_an_error_or_a_first_step_for_all(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        params = [one(), one()]
        optimizer = optimizer_of(params)
        for step in range(4):
            params[1].grad = None if step < 2 else torch.full((5,), 0.25)
            optimizer.step()
        return tensors(optimizer)

    as_torch(name, script, **with_states(name), **({"dampening": 0.5} if name == "SGD" else {}))


# ---- interruptions, threads, graphs ----


@row(62, name=ALL)
def test_closure_that_raises_leaves_a_step_behind(name: str) -> None:
    param = one()
    param.grad = param.grad.to_sparse() if name == "SparseAdam" else param.grad
    optimizer = getattr(optim, name)([param])
    optimizer.step()
    before, values = copy.deepcopy(optimizer.state_dict()), param.detach().clone()
    for error in (KeyError("mine"), KeyboardInterrupt()):

        def closure(error: BaseException = error) -> Any:
            raise error

        with pytest.raises(type(error)):
            optimizer.step(closure)
        assert torch.equal(param.detach(), values)
        assert_same_state(optimizer, before)
    assert torch.is_grad_enabled()
    optimizer.step()
    assert not torch.equal(param.detach(), values)


@row(63, name=NAMES)
def test_interrupted_training_leaves_parameters_at_different_steps(name: str) -> None:
    """Ctrl-C at any moment: all parameters are the same, as their gradients are, and so they stay."""
    params = [one(size=2000) for _ in range(20)]
    optimizer = make(name, True, **with_states(name), ema_decay=0.5, max_grad_norm=1.0)(params)
    # A process started in the background ignores the signal, and Python then does not hear of it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for delay in (0.0005, 0.001, 0.003):
            timer = threading.Timer(delay, _thread.interrupt_main)
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                timer.start()
                for _ in range(100_000):
                    optimizer.step()
            timer.join()
            for param in params[1:]:
                assert torch.equal(param, params[0])
                for key, value in optimizer.state[param].items():
                    assert torch.equal(value, optimizer.state[params[0]][key])
    finally:
        signal.signal(signal.SIGINT, handler)
    before = params[0].detach().clone()
    optimizer.step()
    assert not torch.equal(params[0], before)


@row(64, name=NAMES)
def test_optimizers_in_several_threads_get_in_each_others_way(name: str) -> None:
    def work(steps: int = 5) -> list[Any]:
        params = [one(size=size) for size in (30_000, 7)]
        optimizer = make(name, True, **with_states(name), max_grad_norm=1.0)(params)
        for _ in range(steps):
            optimizer.step()
        return tensors(optimizer)

    expected = work()
    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(work) for _ in range(8)]:
            assert all(torch.equal(a, b) for a, b in zip(result.result(), expected, strict=True))
    shared = [one(size=30_000), one(size=7)]
    optimizer = make(name, True, **with_states(name))(shared)
    optimizer.step()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(optimizer.step) for _ in range(20)]:
            done.result()
    assert all(torch.isfinite(t).all() for t in tensors(optimizer))


@row(65, name=NAMES)
def test_step_inside_backward_deadlocks_or_is_lost(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        model = torch.nn.Linear(4, 3)
        for p in model.parameters():
            torch.nn.init.constant_(p, 0.5)
        optimizers = {p: optimizer_of([p]) for p in model.parameters()}
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
        for _ in range(2):
            model(torch.ones(2, 4)).square().mean().backward()
        return [p.detach() for p in model.parameters()]

    as_torch(name, script, lr=0.01, **with_states(name))


@row(66, name=ALL)
def test_backward_through_a_graph_of_before_is_silently_wrong(name: str) -> None:
    """Also where the gradient was cleared: it is an operand too."""
    param = one()
    loss = (param**2).sum()
    param.grad = param.grad.to_sparse() if name == "SparseAdam" else param.grad
    getattr(optim, name)([param]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    if name == "SparseAdam":
        return
    kept = one()
    square = (kept.grad.requires_grad_() * kept.grad).sum()
    make(name, True)([kept]).step(zero_grad=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


@row(67, name=ALL)
def test_continuation_from_a_copy_differs(name: str) -> None:
    extras = {} if name == "SparseAdam" else {"ema_decay": 0.5, "rounding": "kahan", "max_grad_norm": 1.0}

    def go_on(optimizer: Any, steps: int) -> list[Any]:
        for step in range(steps):
            for param in optimizer.param_groups[0]["params"]:
                param.grad = torch.full_like(param, 0.25 * step + 0.25)
                param.grad = param.grad.to_sparse() if name == "SparseAdam" else param.grad
            optimizer.step()
        return tensors(optimizer)

    for dtype in (torch.float32,) if name == "SparseAdam" else (torch.float32, torch.bfloat16):
        params = [one(size=37, dtype=dtype), one(size=3, dtype=dtype)]
        optimizer = getattr(optim, name)(params, **extras)
        go_on(optimizer, 2)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        loader = getattr(optim, name)(copy.deepcopy(params), **extras)
        loader.load_state_dict(torch.load(file, weights_only=True))
        others = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), loader]
        expected = go_on(optimizer, 3)
        for other in others:
            for a, b in zip(go_on(other, 3), expected, strict=True):
                assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


@row(68, name=NAMES)
def test_overflow_is_stepped_or_counted(name: str) -> None:
    fused = {"fused": True} if "fused" in inspect.signature(getattr(optim, name)).parameters else {}
    for options in ({}, fused):
        param = one()
        optimizer = make(name, True, **with_states(name), **options)([param])
        optimizer.step()
        scaler, before = torch.amp.GradScaler("cpu", init_scale=2.0), copy.deepcopy(optimizer.state_dict())
        values = param.detach().clone()
        optimizer.zero_grad()
        scaler.scale((param * INF).sum()).backward()
        assert scaler.step(optimizer) is None
        scaler.update()
        assert torch.equal(param.detach(), values)
        assert_same_state(optimizer, before)
        assert scaler.get_scale() == 1.0


@row(69, name=ALL)
def test_deleted_optimizer_waits_for_the_garbage_collector(name: str) -> None:
    param = one()
    param.grad = param.grad.to_sparse() if name == "SparseAdam" else param.grad
    gc.collect()
    gc.disable()
    try:
        extras = {} if name == "SparseAdam" else {"ema_decay": 0.5}
        optimizer = getattr(optim, name)([param], **extras)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        if extras:
            with optimizer.swap_ema():
                pass
        references = [
            weakref.ref(optimizer),
            weakref.ref(optimizer.state[param]["exp_avg"] if name == "Adam" else param),
        ]
        del optimizer
        assert references[0]() is None
        assert name != "Adam" or references[1]() is None
    finally:
        gc.enable()


@row(70, name=[name for name in NAMES if name != "Lion"])
def test_differentiable_step_is_not(name: str) -> None:
    """gradcheck through a step; torch detaches the first gradient that becomes a momentum."""

    def after(grad: Tensor, start: Tensor) -> Tensor:
        leaf = start.detach().requires_grad_()
        optimizer = getattr(optim, name)([leaf], differentiable=True, lr=0.1)
        param = start.clone()
        optimizer.param_groups[0]["params"] = [param]
        if leaf in optimizer.state:
            optimizer.state[param] = optimizer.state.pop(leaf)
        param.grad = grad
        optimizer.step()
        return param

    grad = torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64, requires_grad=True)
    start = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(after, (grad, start))
    assert fusestep.stats()[getattr(optim, name)._rule.op]["native"] == 0


@row(70)
def test_differentiable_without_torch_is_silently_not() -> None:
    for of, param in ((optim.Lion, one()), (optim.SparseAdam, one()), (fnp.Adam, np.ones(3, np.float32))):
        with pytest.raises(TypeError, match="differentiable"):
            of([param], differentiable=True)
    # and a gradient that has a graph of its own is only read
    param = one()
    param.grad = (torch.ones(5, requires_grad=True) * 0.5).requires_grad_()
    optim.Adam([param]).step()
    assert param.grad.grad_fn is not None
    assert param.is_leaf


def test_every_row_of_the_table_has_a_test() -> None:
    assert set(range(41, 71)) == COVERED
