"""Bad input: the exception torch raises, naming the argument, and nothing written."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from torch.nn import Parameter

import fusestep.nn.functional as F
import fusestep.numpy as fnp
import fusestep.optim as optim
from cases import LOSSES, MOST_DIMS, ROWWISE, loss_inputs, optimizer_names, public_name, torch_optimizer
from fusestep import _native

BIG = 2**31
X = torch.randn(3, 4)
Y = torch.tensor([0, 1, 3])


def raises_as_torch(name: str, *args: Any, match: str | None = None, **kwargs: Any) -> None:
    name = public_name(name)
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - the type is what is compared
        getattr(torch_functional, name)(*args, **kwargs)
    with pytest.raises(theirs.type, match=match):
        getattr(F, name)(*args, **kwargs)


# Those that torch has, so that there is an exception to compare with.
TORCHS = [op for op in LOSSES if hasattr(torch_functional, public_name(op))]


@pytest.mark.parametrize("op", TORCHS)
@pytest.mark.parametrize("reduction", ["nonsense", "", "MEAN"])
def test_reduction(op: str, reduction: str) -> None:
    raises_as_torch(op, *loss_inputs(op, (3, 4), torch.float32), reduction=reduction, match=reduction or None)


@pytest.mark.parametrize("op", TORCHS)
@pytest.mark.parametrize("bad", [np.ones((3, 4), np.float32), [[1.0]], None, "text", 3.0], ids=type)
def test_not_a_tensor(op: str, bad: Any) -> None:
    operands = list(loss_inputs(op, (3, 4), torch.float32))
    for i in range(len(operands)):
        if op == "gaussian_nll_loss" and i > 0 and isinstance(bad, float):
            continue  # a number will do
        raises_as_torch(op, *operands[:i], bad, *operands[i + 1 :])


@pytest.mark.parametrize("op", ["log_cosh_loss", "sigmoid_focal_loss"])
def test_bad_input_of_losses_that_torch_does_not_have(op: str) -> None:
    function = getattr(F, op)
    with pytest.raises(ValueError, match="nonsense"):
        function(X, X, reduction="nonsense")
    for bad in (np.ones((3, 4), np.float32), [[1.0]], None, "text"):
        for args in ((bad, X), (X, bad)):
            with pytest.raises(TypeError, match="must be a tensor, got"):
                function(*args)
    for alpha in (-0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="`alpha` must be in"):
            F.sigmoid_focal_loss(X, X, alpha)
    with pytest.raises(ValueError, match=r"`targets` must have the shape of `inputs`, \(3, 4\), got \(4,\)"):
        F.sigmoid_focal_loss(X, X[0])


@pytest.mark.parametrize("op", ROWWISE)
@pytest.mark.parametrize("label", [4, -1, BIG, -BIG, 2**62, -(2**63), 10**6])
def test_label_out_of_range(op: str, label: int) -> None:
    for shape, target in (((3, 4), torch.tensor([0, label, 1])), ((2, 4, 2, 3), torch.zeros(2, 2, 3).long())):
        if len(shape) > MOST_DIMS.get(op, 99):
            continue
        target.view(-1)[-1] = label
        for reduction in ("mean", "sum", "none"):
            x = torch.randn(shape, requires_grad=True)
            match = f"Target {label} is out of bounds"
            raises_as_torch(op, x, target, reduction=reduction, match=match)
            raises_as_torch(op, x.detach(), target, reduction=reduction, match=match)
            with pytest.raises(IndexError, match=match):  # whatever torch calls it
                getattr(F, op)(x, target, reduction=reduction)


@pytest.mark.parametrize("op", ROWWISE)
def test_label_changed_behind_autograd(op: str) -> None:
    """Through NumPy nobody raises the version counter: an exception or a finite result, never a bad read.

    torch 2.13 crashes here for four dimensions and reduction none.
    """
    for reduction in ("mean", "none"):
        flat = op in MOST_DIMS
        x = torch.randn((2, 4) if flat else (2, 4, 3, 3), requires_grad=True)
        target = torch.zeros((2,) if flat else (2, 3, 3)).long()
        loss = getattr(F, op)(x, target, reduction=reduction)
        target.numpy()[:] = 10**9
        try:
            loss.sum().backward()
        except IndexError:
            continue
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("op", ROWWISE)
def test_shapes_and_dtypes_of_labels(op: str) -> None:
    raises_as_torch(op, X, torch.tensor([0, 1]))
    raises_as_torch(op, X, torch.zeros(3, 1).long())
    raises_as_torch(op, torch.randn(2, 4, 3), torch.zeros(2, 4).long())
    raises_as_torch(op, torch.randn(2, 4, 3, 3), torch.zeros(2, 3, 4).long())
    raises_as_torch(op, torch.randn(4), torch.zeros(2).long())
    if op != "multi_margin_loss":  # for which a number is a row of one class
        raises_as_torch(op, torch.tensor(1.0), torch.tensor(0))
    for dtype in (torch.int32, torch.int16, torch.bool, torch.float32):
        raises_as_torch(op, X, Y.to(dtype))
    raises_as_torch(op, torch.randn(3, 0), Y)


@pytest.mark.parametrize("op", ROWWISE)
def test_class_weights(op: str) -> None:
    raises_as_torch(op, X, Y, weight=torch.ones(3))
    raises_as_torch(op, X, Y, weight=torch.ones(4, 1))
    raises_as_torch(op, X, Y, weight=torch.ones(4).double())
    raises_as_torch(op, X, Y, weight=torch.ones(4, requires_grad=True))
    raises_as_torch(op, X, Y, weight=torch.ones(4, device="meta"))


@pytest.mark.parametrize("smoothing", [1.1, float("inf")])
def test_smoothing(smoothing: float) -> None:
    raises_as_torch("cross_entropy", X, Y, label_smoothing=smoothing, match="label_smoothing")
    raises_as_torch("cross_entropy", X, X.softmax(1), label_smoothing=smoothing, match="label_smoothing")


def test_shapes_that_do_not_fit() -> None:
    for op in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        with pytest.warns(UserWarning, match="target size"):
            raises_as_torch(op, torch.randn(3), torch.randn(4))
    for op in ("kl_div", "poisson_nll_loss", "hinge_embedding_loss", "soft_margin_loss"):
        raises_as_torch(op, torch.rand(3), torch.rand(4))
    for op in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        raises_as_torch(op, torch.rand(3), torch.rand(4))
        raises_as_torch(op, torch.rand(3, 4), torch.rand(4))
        raises_as_torch(op, torch.rand(3), torch.rand(3), weight=torch.rand(2, 3))
    half = torch.rand(3)
    raises_as_torch("binary_cross_entropy_with_logits", half, half, pos_weight=torch.rand(4))
    raises_as_torch("margin_ranking_loss", half, torch.rand(3, 1), torch.ones(3))
    raises_as_torch("gaussian_nll_loss", torch.rand(3, 4), torch.rand(3, 4), torch.rand(2))
    for op in ("mse_loss", "l1_loss", "huber_loss"):
        raises_as_torch(op, torch.rand(3, 4), torch.rand(3, 4), weight=torch.rand(4))


def test_values_that_are_not_allowed() -> None:
    half = torch.full((5,), 0.5)
    for value in (1 + 1e-6, -1e-6, 2.0, float("nan")):
        for which in (0, 1):
            operands = [half.clone(), half.clone()]
            operands[which][3] = value
            raises_as_torch("binary_cross_entropy", *operands, match="between 0 and 1")
    raises_as_torch("gaussian_nll_loss", half, half, torch.tensor([1.0, 1, -1e-9, 1, 1]), match="negative")
    raises_as_torch("gaussian_nll_loss", half, half, -1.0, match="negative")
    for delta in (0.0, -1.0, float("nan")):
        raises_as_torch("huber_loss", half, half, delta=delta)
    raises_as_torch("smooth_l1_loss", half, half, beta=-1.0)
    raises_as_torch("multi_margin_loss", X, Y, p=3)
    raises_as_torch("cross_entropy", X, X.softmax(1), ignore_index=1)
    raises_as_torch("cross_entropy", X, torch.ones(3, 4).long())


def test_dtypes_that_torch_refuses() -> None:
    half = torch.full((5,), 0.5)
    for other in (torch.float64, torch.int64, torch.bool, torch.bfloat16):
        raises_as_torch("binary_cross_entropy", half, half.to(other))
    for other in (torch.int64, torch.bool):
        raises_as_torch("binary_cross_entropy_with_logits", half, half.to(other))
        raises_as_torch("kl_div", half, half.to(other))
    for op in ("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss"):
        raises_as_torch(op, half.long(), half.long())


def test_softmax() -> None:
    for op in ("softmax", "log_softmax"):
        for dim in (2, -3, 10):
            raises_as_torch(op, X, dim, match="Dimension out of range")
        raises_as_torch(op, Y, 0)
        raises_as_torch(op, "text", 0)
        raises_as_torch(op, X, "text")


def test_native_messages_name_argument_shape_and_dtype() -> None:
    """What our own checks say; they speak where torch's front end has nothing to object."""
    loss, grad = torch.empty(()), torch.empty(3, 4)
    labels = torch.tensor([0, 1])
    cases: list[tuple[type[Exception], str, Callable[[], None]]] = [
        (
            RuntimeError,
            r"`target` must have the shape of `input`, got float32 of shape \(3,\) for float32 "
            r"of shape \(3, 4\)",
            lambda: _native.run("mse_loss", (X, X[:, 0]), (loss,)),
        ),
        (
            ValueError,
            r"`target` must have the batch size of `input`, 3, got int64 of shape \(2,\)",
            lambda: _native.run("cross_entropy", (X, labels), (loss,), (0.0, 0.0, 0.0)),
        ),
        (
            RuntimeError,
            r"`weight` must have one element for each of the 4 classes, got float32 of shape \(2,\)",
            lambda: _native.run("cross_entropy", (X, Y), (loss,), (0.0, 0.0, 0.0), weight=torch.ones(2)),
        ),
        (
            RuntimeError,
            "`weight` must have the dtype of `input`, got float64",
            lambda: _native.run(
                "cross_entropy", (X, Y), (loss,), (0.0, 0.0, 0.0), weight=torch.ones(4).double()
            ),
        ),
        (
            RuntimeError,
            r"`grad_output` must have 1 elements, got float32 of shape \(3, 4\)",
            lambda: _native.run("mse_loss", (X, X), (None, grad), (), "mean", X),
        ),
        (
            ValueError,
            "`loss` must have 12 elements",
            lambda: _native.run("mse_loss", (X, X), (loss,), (), "none"),
        ),
        (
            ValueError,
            "`grad_input` overlaps itself",
            lambda: _native.run("mse_loss", (X, X), (loss, torch.zeros(1, 1).expand(3, 4))),
        ),
        (ValueError, "`grad_input` overlaps", lambda: _native.run("mse_loss", (X, X), (loss, X))),
        (
            TypeError,
            "`input` must be a tensor or a NumPy array, got str",
            lambda: _native.run("mse_loss", ("x", X), (loss,)),
        ),
        (
            ValueError,
            "cross_entropy takes 3 hyper-parameters, got 0",
            lambda: _native.run("cross_entropy", (X, Y), (loss,)),
        ),
        (KeyError, "no op named nothing", lambda: _native.run("nothing", (X, Y), (loss,))),
        (ValueError, "adam is not a loss", lambda: _native.run("adam", (X, Y), (loss,))),
    ]
    for kind, match, call in cases:
        before = X.clone()
        with pytest.raises(kind, match=match):
            call()
        assert torch.equal(X, before)


def test_what_cuda_kernels_do_not_raise_is_found_by_a_check_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FUSESTEP_DEBUG=1: the CPU engine sees copies of the operands and raises what it raises."""
    from fusestep.nn import _autograd
    from fusestep.nn._call import LossCall

    labels = LossCall(
        "cross_entropy", torch.nn.functional.cross_entropy, "none", torch.float32, (0.0,) * 3, -100
    )
    _autograd.check_on_cpu(labels, (X, Y), None)
    with pytest.raises(IndexError, match="Target 9 is out of bounds"):
        _autograd.check_on_cpu(labels, (X, Y + 9), None)
    entropy = LossCall(
        "binary_cross_entropy", torch.nn.functional.binary_cross_entropy, "mean", torch.float32
    )
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        _autograd.check_on_cpu(entropy, (X, X), None)
    code = "from fusestep.nn import _autograd; print(_autograd._DEBUG)"
    for value, expected in (("1", "True"), ("0", "False"), ("", "False")):
        environment = {**os.environ, "FUSESTEP_DEBUG": value}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected


@pytest.mark.gpu
def test_cuda_puts_nan_where_a_label_or_a_probability_is_out_of_range() -> None:
    x, y = X.cuda().requires_grad_(), Y.cuda().clone()
    y[1] = 4
    loss = F.cross_entropy(x, y, reduction="none")
    loss.nan_to_num().sum().backward()
    assert loss.isnan().tolist() == [False, True, False]
    p = torch.tensor([0.5, 1.5, 0.25], device="cuda")
    assert F.binary_cross_entropy(p, p.clamp(0, 1), reduction="none").isnan().tolist() == [False, True, False]


def test_a_tensor_without_memory_is_never_read() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    fake = FakeTensorMode().from_tensor(X)
    with pytest.raises(_native.Unsupported, match="`input`"):
        _native.run("mse_loss", (fake, fake), (torch.empty(()),))


# ---- optimizers ----


@pytest.mark.parametrize("name", optimizer_names())
def test_constructor(name: str) -> None:
    """The constructor is torch's, so is what it refuses."""
    leaf = Parameter(torch.ones(2))
    nan = float("nan")
    bad: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (([],), {}),
        ((leaf,), {}),
        ((None,), {}),
        ((["a"],), {}),
        (([np.ones(2)],), {}),
        (([leaf * 2],), {}),
        (([{"lr": 1.0}],), {}),
        (([{"params": [leaf]}, {"params": [leaf]}],), {}),
        *((([leaf],), {"lr": value}) for value in (-1.0, nan, "0.1", None, torch.ones(2))),
        (([leaf],), {"weight_decay": -0.1}),
        (([leaf],), {"weight_decay": nan}),
        (([leaf],), {"betas": (1.0, 0.9)}),
        (([leaf],), {"betas": (0.9, nan)}),
        (([leaf],), {"momentum": -1.0}),
        (([leaf],), {"nesterov": True}),
        (([leaf],), {"unknown": 1}),
    ]
    for args, kwargs in bad:
        outcomes = []
        for make in (getattr(torch.optim, name, torch.optim.AdamW), getattr(optim, name)):
            try:
                make(*args, **kwargs)
                outcomes.append("accepted")
            except Exception as error:
                outcomes.append(f"{type(error)}: {error}".replace(make.__name__, name))
        assert outcomes[0] == outcomes[1]


def snapshot(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    states = [v for p in params for v in optimizer.state.get(p, {}).values() if isinstance(v, Tensor)]
    return [t.detach().clone() for t in (*params, *states)]


def break_gradient_shape(param: Parameter, state: dict[str, Any]) -> None:
    param.data = param.data[:5]


def break_state_shape(param: Parameter, state: dict[str, Any]) -> None:
    key = next(key for key in reversed(state) if key != "step")
    state[key] = torch.zeros(3)


def break_state_by_deleting(param: Parameter, state: dict[str, Any]) -> None:
    del state[next(key for key in reversed(state) if key != "step")]


def break_state_device(param: Parameter, state: dict[str, Any]) -> None:
    key = next(key for key in reversed(state) if key != "step")
    state[key] = torch.zeros(7, device="meta")


def break_gradient_memory(param: Parameter, state: dict[str, Any]) -> None:
    param.grad.untyped_storage().resize_(0)


@pytest.mark.parametrize(
    "damage",
    [
        break_gradient_shape,
        break_state_shape,
        break_state_by_deleting,
        break_state_device,
        break_gradient_memory,
    ],
)
@pytest.mark.parametrize("name", optimizer_names())
def test_a_failed_step_changes_nothing(
    name: str, damage: Callable[[Parameter, dict[str, Any]], None]
) -> None:
    """The third of five parameters is bad: the other four, their states and steps stay as they were."""
    options = {"momentum": 0.9} if name == "SGD" else {}
    params = [Parameter(torch.ones(7)) for _ in range(5)]
    optimizer = getattr(optim, name)(params, **options)
    for step in range(2):
        for param in params:
            param.grad = torch.full((7,), 0.5)
        if step == 0:
            optimizer.step()
    if damage is break_state_by_deleting and len(optimizer.state[params[2]]) < 3:
        pytest.skip("with its only state gone it is a parameter not stepped yet")
    damage(params[2], optimizer.state[params[2]])
    before = snapshot(optimizer)
    with pytest.raises((RuntimeError, KeyError)):
        optimizer.step()
    after = snapshot(optimizer)
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        if a.device.type == "cpu":
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", optimizer_names())
def test_a_failed_first_step_leaves_no_states(name: str) -> None:
    options = {"momentum": 0.9} if name == "SGD" else {}
    params = [Parameter(torch.ones(7)) for _ in range(3)]
    optimizer = getattr(optim, name)(params, **options)
    for param in params:
        param.grad = torch.full((7,), 0.5)
    fresh = {key: sorted(state) for key, state in optimizer.state.items()}
    params[2].data = torch.ones(5)
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert fresh == {key: sorted(state) for key, state in optimizer.state.items() if state}
    assert torch.equal(params[0].detach(), torch.ones(7))


@pytest.mark.parametrize("name", optimizer_names())
def test_overlapping_parameter_is_refused_as_by_torch(name: str) -> None:
    for make in (torch_optimizer(name), getattr(optim, name)):
        param = Parameter(torch.ones(1).expand(4))
        param.grad = torch.ones(4)
        with pytest.raises(RuntimeError, match="memory location"):
            make([param]).step()


def test_hyper_parameters_spoiled_later() -> None:
    param = Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = optim.Adam([param])
    del optimizer.param_groups[0]["betas"]
    with pytest.raises(KeyError, match="betas"):
        optimizer.step()
    optimizer = optim.Adam([param])
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    assert torch.equal(param.detach(), torch.ones(3))


# ---- NumPy ----


def test_numpy_losses() -> None:
    x, y = np.ones((3, 4), np.float32), np.array([0, 1, 3])
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (TypeError, "`input` must be a NumPy array, got str", lambda: fnp.mse_loss("x", x)),
        (TypeError, "`input` must be a NumPy array, got Tensor", lambda: fnp.mse_loss(X, X)),
        (TypeError, "masked", lambda: fnp.mse_loss(np.ma.masked_equal(x, 1), x)),
        (TypeError, "int64", lambda: fnp.mse_loss(np.ones(3, np.int64), np.ones(3))),
        (TypeError, "complex64", lambda: fnp.mse_loss(x.astype(np.complex64), x)),
        (TypeError, "object", lambda: fnp.mse_loss(x.astype(object), x)),
        (ValueError, r"`target` must have the shape of `input`, \(3, 4\)", lambda: fnp.mse_loss(x, x[0])),
        (ValueError, "`reduction`", lambda: fnp.mse_loss(x, x, "average")),
        (ValueError, "inhomogeneous", lambda: fnp.mse_loss([[1.0], [1.0, 2.0]], x)),
        (IndexError, "Target 4 is out of bounds", lambda: fnp.cross_entropy(x, y + 1)),
        (IndexError, "Target -1 ", lambda: fnp.cross_entropy(x, np.array([0, -1, 0], np.int8))),
        (IndexError, "out of bounds", lambda: fnp.cross_entropy(x, np.full(3, 2**64 - 5, np.uint64))),
        (TypeError, "class indices", lambda: fnp.cross_entropy(x, y.astype(np.float32))),
        (TypeError, "bool", lambda: fnp.cross_entropy(x, y.astype(bool))),
        (ValueError, "batch size", lambda: fnp.cross_entropy(x, y[:2])),
        (RuntimeError, "weight", lambda: fnp.cross_entropy(x, y, np.ones(3, np.float32))),
        (ValueError, "label_smoothing", lambda: fnp.cross_entropy(x, y, label_smoothing=float("nan"))),
    ]
    for kind, match, call in cases:
        with pytest.raises(kind, match=match):
            call()


@pytest.mark.parametrize("name", optimizer_names())
def test_numpy_optimizers(name: str) -> None:
    make = getattr(fnp, name)
    w = np.ones((3, 4), np.float32)
    frozen = w.copy()
    frozen.flags.writeable = False
    constructors: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ValueError, "empty parameter list", lambda: make([])),
        (TypeError, "sequence of arrays", lambda: make(w)),
        (TypeError, "must be NumPy arrays, got list", lambda: make([[1.0]])),
        (ValueError, "read-only", lambda: make([frozen])),
        (ValueError, "more than once", lambda: make([{"params": [w]}, {"params": [w]}])),
        (ValueError, "Invalid learning rate: nan", lambda: make([w], lr=float("nan"))),
        (ValueError, "Invalid learning rate: -1", lambda: make([w], lr=-1)),
        (TypeError, "unexpected keyword argument.*learning_rate", lambda: make([w], learning_rate=1)),
        (ValueError, "Invalid ema_decay value: 1", lambda: make([w], ema_decay=1)),
        (ValueError, "Invalid max_grad_norm value: nan", lambda: make([w], max_grad_norm=float("nan"))),
        (ValueError, "Invalid rounding value: 'up'", lambda: make([w], rounding="up")),
    ]
    if "weight_decay" in inspect.signature(make).parameters:
        refused = functools.partial(make, [w], weight_decay=-1)
        constructors.append((ValueError, "Invalid weight_decay value", refused))
    for kind, match, call in constructors:
        with pytest.raises(kind, match=match):
            call()

    other = np.ones(5, np.float32)
    optimizer = make([other, w])
    good = np.ones_like(other)
    steps: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "one entry for each of 2 arrays, got 1", [good]),
        (RuntimeError, r"`grad` must have the shape of its parameter", [good, np.ones((4, 3), np.float32)]),
        (TypeError, "floating point", [good, np.ones((3, 4), np.int64)]),
        (TypeError, "`grad` must be a NumPy array", [good, "x"]),
    ]
    for kind, match, grads in steps:
        with pytest.raises(kind, match=match):
            optimizer.step(grads)
        assert (other == 1).all(), "an array before the bad one was updated"
        assert not any(optimizer.state)
    w.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.step([good, np.ones_like(w)])
    assert (other == 1).all()
    spread = np.lib.stride_tricks.as_strided(np.ones(4, np.float32), (4, 2), (4, 0))
    with pytest.raises(TypeError, match="overlaps itself"):
        make([spread]).step([np.ones((4, 2), np.float32)])
