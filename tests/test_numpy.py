"""The NumPy API: against torch, without torch, and on every kind of array."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_functional

import fusestep.numpy as fnp
from cases import (
    FLAGS,
    LOSSES,
    MODES,
    OPS,
    REDUCTIONS,
    SOFTMAX,
    cast_options,
    loss_inputs,
    loss_options,
    optimizer_names,
    ours,
    public_name,
    rule_options,
    torch_optimizer,
)
from fusestep import _native
from parity import evaluate

DTYPES = [np.float32, np.float64, np.float16]


def to_numpy(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("op", LOSSES)
def test_losses_equal_the_torch_api_bit_for_bit(op: str, reduction: str) -> None:
    """Value, and gradients of every operand that has one, with every option."""
    for dtype in (torch.float32, torch.float64, torch.float16):
        for options in loss_options(op, (9, 21)):
            ignored = options.get("ignore_index", -100)
            operands = loss_inputs(op, (9, 21), dtype, ignored=ignored)
            cast = cast_options(options, dtype)
            expected = evaluate(op, ours(op), operands, reduction=reduction, **cast)
            arrays = [to_numpy(t) for t in operands]
            extras = {k: to_numpy(v) for k, v in cast.items()}
            function = getattr(fnp, public_name(op))
            names = [name.removeprefix("grad_") for name in expected if name != "loss"]
            loss, *grads = function(*arrays, reduction=reduction, with_grad=names, **extras)
            alone = function(*arrays, reduction=reduction, with_grad=False, **extras)
            by_default = function(*arrays, reduction=reduction, **extras)
            np.testing.assert_array_equal(loss, expected["loss"].numpy())
            np.testing.assert_array_equal(loss, alone)
            np.testing.assert_array_equal(by_default[1], grads[0])
            assert isinstance(loss, np.ndarray if reduction == "none" else np.floating)
            for name, grad in zip(names, grads, strict=True):
                np.testing.assert_array_equal(grad, expected[f"grad_{name}"].numpy())
                assert grad.dtype == expected[f"grad_{name}"].numpy().dtype


@pytest.mark.parametrize("op", [op for op in LOSSES if hasattr(torch_functional, public_name(op))])
def test_defaults_of_losses_are_torchs(op: str) -> None:
    assert public_name(op) in fnp.__all__
    ours = inspect.signature(getattr(fnp, public_name(op))).parameters
    theirs = inspect.signature(getattr(torch_functional, public_name(op))).parameters
    for name in ours.keys() & theirs.keys():
        assert ours[name].default == theirs[name].default
    assert theirs.keys() - ours.keys() <= {"size_average", "reduce"}
    assert [name for name in ours if name in theirs] == [name for name in theirs if name in ours]


@pytest.mark.parametrize("op", LOSSES)
def test_layouts(op: str) -> None:
    x, *rest = [to_numpy(t) for t in loss_inputs(op, (6, 10), torch.float32)]
    function = getattr(fnp, public_name(op))
    expected = function(x, *rest)
    wide = np.empty((6, 20), np.float32)
    wide[:, ::2] = x
    odd = np.frombuffer(bytes(1) + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    frozen = x.copy()
    frozen.flags.writeable = False
    layouts = {
        "Fortran order": np.asfortranarray(x),
        "negative strides": x[::-1, ::-1].copy()[::-1, ::-1],
        "every other column": wide[:, ::2],
        "aligned to one byte": odd,
        "swapped bytes": x.astype(">f4"),
        "read-only": frozen,
    }
    for name, layout in layouts.items():
        loss, grad = function(layout, *rest)
        np.testing.assert_array_equal(loss, expected[0], name)
        np.testing.assert_array_equal(grad, expected[1], name)
    loss, _ = function(x.tolist(), *(array.tolist() for array in rest))
    assert loss.dtype == np.float64
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)


@pytest.mark.parametrize("op", SOFTMAX)
def test_softmax_and_its_gradient(op: str) -> None:
    for shape, dim in (((5, 7), -1), ((5, 7), 0), ((4, 200, 3), 1), ((), 0), ((3,), -1)):
        x, g = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
        leaf = torch.tensor(x, requires_grad=True)
        expected = ours(op)(leaf, dim)
        expected.backward(torch.tensor(g))
        y = getattr(fnp, op)(x, dim)
        np.testing.assert_array_equal(y, expected.detach().numpy())
        np.testing.assert_array_equal(getattr(fnp, op + "_backward")(y, g, dim), leaf.grad.numpy())
    assert getattr(fnp, op)(x.astype(np.float16), dtype=np.float32).dtype == np.float32
    with pytest.raises(IndexError, match="Dimension out of range"):
        getattr(fnp, op)(x, 3)
    with pytest.raises(TypeError, match="floating point"):
        getattr(fnp, op)(np.arange(3))


def test_which_gradients() -> None:
    x, t = np.random.default_rng(0).normal(size=(2, 3, 4))
    loss, grad_t, grad_x = fnp.mse_loss(x, t, with_grad=("target", "input"))
    np.testing.assert_array_equal(grad_t, -grad_x)
    assert fnp.mse_loss(x, t, with_grad=()) == loss
    np.testing.assert_array_equal(fnp.mse_loss(x, t, with_grad="target")[1], grad_t)
    for bad, labels in (("weight", t), ("target", np.array([0, 1, 2]))):
        function = fnp.mse_loss if labels is t else fnp.cross_entropy
        with pytest.raises(ValueError, match="`with_grad` must name operands among"):
            function(x, labels, with_grad=bad)


def test_what_must_be_given() -> None:
    x = np.random.default_rng(0).random((3, 4))
    for call in (lambda: fnp.gaussian_nll_loss(x, x, None), lambda: fnp.margin_ranking_loss(x, x, None)):
        with pytest.raises(TypeError, match="must be a NumPy array, got NoneType"):
            call()
    with pytest.raises(ValueError, match="`ignore_index` does not go with probabilities"):
        fnp.cross_entropy(x, x, ignore_index=1)


def test_whole_numbers_and_broadcasting() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4))
    labels = np.where(x > 0, 1, -1)
    assert fnp.soft_margin_loss(x, labels)[0] == fnp.soft_margin_loss(x, labels.astype(float))[0]
    weight, var = np.arange(4.0), np.ones((3, 1))
    assert fnp.mse_loss(x, x + 1, weight=weight)[0] == 1.0
    assert np.isfinite(fnp.gaussian_nll_loss(x, x, var)[0])
    positive = fnp.binary_cross_entropy_with_logits(x, x > 0, pos_weight=2.0)
    np.testing.assert_allclose(
        positive[0], fnp.binary_cross_entropy_with_logits(x, (x > 0) * 1.0, weight=1 + (x > 0))[0]
    )
    with pytest.raises(ValueError, match="`weight` must broadcast"):
        fnp.mse_loss(x, x, weight=np.ones(3))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_label_dtypes(dtype: str) -> None:
    x, t = loss_inputs("cross_entropy", (6, 10), torch.float32, ignored=1)
    expected = fnp.cross_entropy(x.numpy(), t.numpy())
    loss, grad = fnp.cross_entropy(x.numpy(), t.numpy().astype(dtype))
    assert loss == expected[0]
    np.testing.assert_array_equal(grad, expected[1])


def test_scalars_and_empty_arrays() -> None:
    loss, grad = fnp.mse_loss(np.float32(3), np.float32(1))
    assert (loss, grad) == (4, 4)
    assert grad.shape == ()
    empty = np.empty((0, 3), np.float32)
    assert fnp.mse_loss(empty, empty, "sum")[0] == 0
    assert np.isnan(fnp.mse_loss(empty, empty)[0])
    assert np.isnan(fnp.cross_entropy(empty, np.empty(0, np.int64))[0])
    assert fnp.cross_entropy(np.empty((0, 3, 2), np.float32), np.empty((0, 2), int))[1].shape == (0, 3, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", optimizer_names())
def test_optimizers_equal_the_torch_api_bit_for_bit(name: str, dtype: type) -> None:
    import fusestep.optim as optim

    accepted = inspect.signature(getattr(fnp, name)).parameters
    for options in rule_options(name):
        if not options.keys() <= accepted.keys():
            continue
        rng = np.random.default_rng(0)
        arrays = [np.asarray(rng.normal(size=shape), dtype) for shape in ((3,), (17, 5), (), (0,), (4097,))]
        params = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in arrays]
        ours, theirs = getattr(fnp, name)(arrays, **options), getattr(optim, name)(params, **options)
        for step in range(4):
            grads = [np.asarray(rng.normal(size=a.shape), dtype) for a in arrays]
            for param, grad in zip(params, grads, strict=True):
                param.grad = torch.from_numpy(grad.copy())
            late: list[Any] = [None if step < 2 and i == 1 else g for i, g in enumerate(grads)]
            params[1].grad = None if step < 2 else params[1].grad
            ours.step(late)
            theirs.step()
        for array, param in zip(arrays, params, strict=True):
            np.testing.assert_array_equal(array, param.detach().numpy())
        saved = theirs.state_dict()["state"]
        mine = ours.state_dict()["state"]
        assert mine.keys() == saved.keys()
        for index, state in mine.items():
            assert list(state) == list(saved[index])
            for key, value in state.items():
                np.testing.assert_array_equal(value, saved[index][key].numpy())
                assert value.dtype == saved[index][key].numpy().dtype


@pytest.mark.parametrize("name", optimizer_names())
def test_a_state_trained_in_numpy_continues_in_torch(name: str) -> None:
    array = np.ones(10, np.float32)
    ours = getattr(fnp, name)([array])
    for _ in range(3):
        ours.step([np.full(10, 0.5, np.float32)])
    param = torch.nn.Parameter(torch.from_numpy(array.copy()))
    theirs = torch_optimizer(name)([param])
    state = ours.state_dict()
    tensors = {i: {k: torch.tensor(v) for k, v in s.items()} for i, s in state["state"].items()}
    theirs.load_state_dict({"state": tensors, "param_groups": state["param_groups"]})
    param.grad = torch.full((10,), 0.25)
    theirs.step()
    ours.step([np.full(10, 0.25, np.float32)])
    np.testing.assert_allclose(array, param.detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", optimizer_names())
def test_defaults_are_torchs(name: str) -> None:
    assert name in fnp.__all__
    ours = inspect.signature(getattr(fnp, name)).parameters
    theirs = inspect.signature(torch_optimizer(name)).parameters
    assert [p for p in theirs if p in ours] == [p for p in ours if p != "extras"]
    assert {p for p in theirs if p not in ours} <= MODES | FLAGS
    for parameter, value in ours.items():
        if parameter == "extras":
            assert value.kind is value.VAR_KEYWORD
            continue
        assert value.default == theirs[parameter].default
    rule = OPS[getattr(fnp, name)._rule.op]["class_name"]
    assert rule == name or issubclass(getattr(fnp, name), getattr(fnp, rule))


def test_checkpoint_copy_and_pickle() -> None:
    array, other = np.ones(10, np.float32), np.ones(10, np.float32)
    one, two = fnp.Adam([array], lr=0.1), fnp.Adam([other])
    grad = np.linspace(-1, 1, 10, dtype=np.float32)
    one.step([grad])
    other[:] = array
    two.load_state_dict(pickle.loads(pickle.dumps(one.state_dict())))
    for optimizer in (one, two):
        optimizer.step([grad])
    np.testing.assert_array_equal(array, other)
    three = copy.deepcopy(one)
    three.step([grad])
    one.step([grad])
    np.testing.assert_array_equal(three.param_groups[0]["params"][0], array)
    with pytest.raises(ValueError, match="parameter groups"):
        fnp.Adam([array, other]).load_state_dict(one.state_dict())


def test_groups_and_learning_rate() -> None:
    a, b = np.zeros(3), np.zeros(3)
    optimizer = fnp.SGD([{"params": [a]}, {"params": b, "lr": 2.0}], lr=1.0)
    optimizer.step([np.ones(3), np.ones(3)])
    assert (a == -1).all()
    assert (b == -2).all()
    assert optimizer.lr == 1.0
    optimizer.lr = 0.5
    optimizer.step([np.ones(3), np.ones(3)])
    assert (b == -2.5).all()
    with pytest.raises(ValueError, match="learning rate"):
        optimizer.lr = float("nan")


def test_bfloat16_arrays() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays come from ml_dtypes")
    x = np.linspace(-1, 1, 33).astype(ml_dtypes.bfloat16)
    loss, grad = fnp.mse_loss(x, np.zeros_like(x))
    assert loss.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(grad.astype(np.float32), x.astype(np.float32) * 2 / 33, rtol=4e-3)


def test_works_where_torch_cannot_be_imported() -> None:
    code = """
import sys
sys.modules["torch"] = None
import numpy as np, fusestep, fusestep.numpy as fnp
fusestep.show_config()
w = np.zeros((4, 3), np.float32)
opt = fnp.Adam([w], lr=0.1)
x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])
for _ in range(50):
    loss, grad = fnp.cross_entropy(x @ w, y)
    opt.step([x.T @ grad])
assert loss < 0.1, loss
try:
    import fusestep.nn
except ImportError as error:
    print(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", optimizer_names())
def test_what_the_constructor_and_the_loader_refuse(name: str) -> None:
    make, w = getattr(fnp, name), np.ones(3)
    with pytest.raises(TypeError, match="floating point"):
        make([np.ones(3, np.int64)])
    with pytest.raises(ValueError, match="more than once"):
        make([w, w])
    with pytest.raises(ValueError, match="no option"):
        make([{"params": [w], "learning_rate": 3}])
    if "betas" in inspect.signature(make).parameters:
        with pytest.raises(ValueError, match="two numbers"):
            make([w], betas=(0.9,))
    optimizer = make([w], lr=0.1)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = -5
    with pytest.raises(ValueError, match="learning rate"):
        optimizer.load_state_dict(saved)
    assert optimizer.lr == 0.1


def test_labels_and_ignore_index() -> None:
    x = np.ones((2, 3), np.float32)
    with pytest.raises(IndexError, match="out of bounds"):
        fnp.cross_entropy(x, np.array([0, 2**64 - 100], np.uint64))
    with pytest.raises(TypeError):
        fnp.cross_entropy(x, np.array([0, 1]), ignore_index=1.5)


@pytest.mark.parametrize("name", optimizer_names())
def test_an_interrupt_after_the_step_keeps_its_states(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the torch API: when Ctrl-C is delivered the step has happened."""
    array = np.ones(3)
    optimizer = getattr(fnp, name)([array], **({"momentum": 0.9} if name == "SGD" else {}))
    native = _native.step

    def interrupted(*args: Any) -> None:
        native(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(_native, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step([np.ones(3)])
    assert not (array == 1).all()
    assert optimizer.state[0]


def test_checkpoints_of_older_torch_versions() -> None:
    """Numbers that are Python's, a buffer that is None."""
    one = np.ones(2, np.float32)
    state = {"step": 0, "eta": 1, "mu": 1, "ax": np.zeros(2, np.float32)}
    optimizer = fnp.ASGD([one], lr=1, t0=1, lambd=0.1)
    optimizer.load_state_dict({"state": {0: state}, "param_groups": [{"params": [0]}]})
    fresh = np.ones(2, np.float32)
    reference = fnp.ASGD([fresh], lr=1, t0=1, lambd=0.1)
    for _ in range(4):
        optimizer.step([np.ones(2)])
        reference.step([np.ones(2)])
    np.testing.assert_allclose(one, fresh, rtol=1e-6)
    sgd = fnp.SGD([one], momentum=0.9)
    sgd.load_state_dict({"state": {0: {"momentum_buffer": None}}, "param_groups": [{"params": [0]}]})
    sgd.step([np.ones(2)])
    assert sgd.state[0]["momentum_buffer"].dtype == np.float32


@pytest.mark.parametrize("dtype", [">f4", np.longdouble])
def test_parameters_of_other_layouts_are_refused_at_once(dtype: Any) -> None:
    with pytest.raises(TypeError, match="native byte order"):
        fnp.Adam([np.ones(3, dtype)])
