"""softmax and log_softmax: accuracy, dimensions, dtypes, gradients, and what PyTorch users do with them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as torch_functional
from torch import Tensor

import fusestep
import fusestep.nn as nn
from cases import DTYPES, ISAS, SOFTMAX, assert_accurate, ours, theirs
from fusestep import _native

SHAPES = [((5, 7), 1), ((5, 7), 0), ((3, 130), -1), ((4, 5, 6, 7), 1), ((2, 70, 3), 1), ((9,), 0), ((), 0)]


def scores(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * spread).to(dtype)


def results(op: str, function: object, x: Tensor, dim: int, seed: Tensor) -> list[Tensor]:
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = function(leaf, dim)  # type: ignore[operator]
    output.backward(seed.to(output.dtype))
    return [output.detach(), leaf.grad]  # type: ignore[list-item]


def compare(op: str, x: Tensor, dim: int) -> None:
    seed = scores(tuple(x.shape), x.dtype, seed=1)
    exact = results(op, theirs(op), x.double(), dim, seed)
    torchs = results(op, theirs(op), x, dim, seed)
    mine = results(op, ours(op), x, dim, seed)
    for name, value, t, e in zip(("output", "gradient"), mine, torchs, exact, strict=True):
        largest = float(e.abs().nan_to_num(0, 0, 0).max()) if name == "gradient" and e.numel() else 0.0
        assert_accurate(value, t, e, f"{op} {name} of {tuple(x.shape)} along {dim}", largest)
    assert fusestep.stats()[op]["torch"] == {}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", SOFTMAX)
def test_against_float64(op: str, dtype: torch.dtype) -> None:
    for shape, dim in SHAPES:
        for spread in (1.0, 10.0):
            compare(op, scores(shape, dtype, spread=spread), dim)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", SOFTMAX)
def test_every_size_around_the_vector_width(op: str, isa: str) -> None:
    _native.set_isa(isa)
    for size in range(130):
        compare(op, scores((3, size), torch.float32, size), 1)
        compare(op, scores((size, 3), torch.float32, size), 0)


@pytest.mark.parametrize("op", SOFTMAX)
def test_rounding_of_the_difference_is_recovered(op: str) -> None:
    """exp(x − max) with scores of 10 or 100: torch is off by tens of ULP, we by a few."""
    for spread, classes in ((10.0, 1000), (100.0, 50), (30.0, 50257)):
        x = scores((4, classes), torch.float32, spread=spread)
        exact = theirs(op)(x.double(), 1)
        value = ours(op)(x, 1)
        ulp = torch.finfo(torch.float32).eps / 2 * exact.abs() * 2
        if op == "log_softmax":  # the difference itself is the result
            ulp = ulp + torch.finfo(torch.float32).eps
        normal = exact.abs() > 1e-37
        worst = ((value.double() - exact).abs() / ulp)[normal].max()
        assert worst <= 4, f"{spread}, {classes}: {worst} ULP"


def test_log_softmax_near_zero_keeps_its_relative_accuracy() -> None:
    for classes in (4, 40, 400):
        x = torch.zeros(1, classes)
        x[0, 3] = 30
        value = fusestep.nn.functional.log_softmax(x, 1)[0, 3]
        assert abs(float(value) / -math.log1p((classes - 1) * math.exp(-30)) - 1) < 1e-6


@pytest.mark.parametrize("op", SOFTMAX)
def test_special_rows(op: str) -> None:
    inf, nan = float("inf"), float("nan")
    for row in (
        [-inf] * 3,
        [inf, 0, 0],
        [inf, inf, 0],
        [0, -inf, 1],
        [nan, 0, 1],
        [3e38, -3e38, 0],
        [1e30] * 3,
    ):
        for rest in (0, 190):
            x = torch.tensor([row + [row[2]] * rest, [0.0, 1.0, 2.0] + [1.0] * rest])
            assert torch.equal(torch.isnan(ours(op)(x, 1)), torch.isnan(theirs(op)(x, 1)))
            compare(op, x, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [6, 100, 200])
@pytest.mark.parametrize("op", SOFTMAX)
def test_layouts_give_the_same_bits(op: str, classes: int, dtype: torch.dtype) -> None:
    x = scores((4, classes, 5, 7), dtype)
    expected = ours(op)(x, 1)
    assert torch.equal(ours(op)(x.movedim(1, -1).contiguous(), -1), expected.movedim(1, -1))
    for layout in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(0, 3).contiguous().transpose(0, 3),
        torch.empty(x.numel() + 1, dtype=dtype)[1:].view(x.shape).copy_(x),
        torch.empty(4, 2 * classes, 5, 7, dtype=dtype)[:, ::2].copy_(x),
    ):
        assert torch.equal(ours(op)(layout, 1), expected)
        assert ours(op)(layout, 1).stride() == theirs(op)(layout, 1).stride()
    assert torch.equal(ours(op)(x[:1].expand(4, classes, 5, 7), 1)[2], expected[0])


@pytest.mark.parametrize("op", SOFTMAX)
def test_dtype_argument(op: str) -> None:
    x = scores((3, 5), torch.bfloat16).requires_grad_()
    for dtype in (torch.float32, torch.float64):
        output, expected = ours(op)(x, 1, dtype=dtype), theirs(op)(x, 1, dtype=dtype)
        assert output.dtype is dtype
        torch.testing.assert_close(output, expected)
        (grad,) = torch.autograd.grad(output.square().sum(), x)
        torch.testing.assert_close(grad, torch.autograd.grad(expected.square().sum(), x)[0])
        assert grad.dtype is torch.bfloat16
    large = torch.tensor([[1e5, 1.0, 2.0]])  # cast first, as in torch
    torch.testing.assert_close(
        ours(op)(large, 1, dtype=torch.float16), theirs(op)(large, 1, dtype=torch.float16), equal_nan=True
    )
    whole = torch.arange(4)
    assert torch.equal(ours(op)(whole, 0, dtype=torch.float32), theirs(op)(whole, 0, dtype=torch.float32))


@pytest.mark.parametrize("op", SOFTMAX)
def test_dim_none_warns_the_caller_and_picks_as_torch(op: str) -> None:
    module = {"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax}[op]()
    for shape in ((4,), (3, 4), (2, 3, 4), (2, 3, 4, 5)):
        x = torch.randn(shape)
        with pytest.warns(UserWarning, match=f"Implicit dimension choice for {op}") as caught:
            output = ours(op)(x)
        assert caught[0].filename == __file__
        with pytest.warns(UserWarning, match="Implicit"):
            torch.testing.assert_close(output, theirs(op)(x))
        with pytest.warns(UserWarning, match="Implicit"):
            assert torch.equal(module(x), output)


@pytest.mark.parametrize("op", SOFTMAX)
def test_double_backward_and_transforms(op: str) -> None:
    x = scores((3, 4), torch.float64).requires_grad_()
    for dim in (0, 1):
        assert torch.autograd.gradcheck(lambda a, d=dim: ours(op)(a, d), x)
        assert torch.autograd.gradgradcheck(lambda a, d=dim: ours(op)(a, d), x)
    pair = [torch.func.vmap(lambda row, f=f: f(row, 0))(x.detach()) for f in (ours(op), theirs(op))]
    assert torch.equal(*pair)
    tangents = [
        torch.func.jvp(lambda a, f=f: f(a, 1), (x.detach(),), (x.detach(),))[1]
        for f in (ours(op), theirs(op))
    ]
    assert torch.equal(*tangents)
    jacobians = [
        torch.autograd.functional.jacobian(lambda a, f=f: f(a, 1), x.detach(), vectorize=True)
        for f in (ours(op), theirs(op))
    ]
    torch.testing.assert_close(*jacobians)


@pytest.mark.parametrize("op", SOFTMAX)
def test_the_result_is_what_is_saved(op: str) -> None:
    """As in torch: the scores may change afterwards, the result may not."""
    scores_, expected = torch.randn(3, 4, requires_grad=True), None
    for function in (ours(op), theirs(op)):
        x = scores_ * 1
        output = function(x, 1)
        with torch.no_grad():
            x.zero_()
        (grad,) = torch.autograd.grad(output.square().sum(), scores_)
        if expected is not None:
            torch.testing.assert_close(grad, expected)
        expected = grad
        output = function(scores_ * 1, 1)
        with torch.no_grad():
            output.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


@pytest.mark.parametrize("op", SOFTMAX)
def test_modules_and_autocast(op: str) -> None:
    name = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}[op]
    module, original = getattr(nn, name)(dim=1), getattr(torch.nn, name)(dim=1)
    assert isinstance(module, type(original))
    assert repr(module) == repr(original)
    x = torch.randn(3, 4)
    torch.testing.assert_close(module(x), original(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x.bfloat16()).dtype is original(x.bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize("op", SOFTMAX)
def test_a_row_alone_and_many_blocks(op: str) -> None:
    for classes in (10, 1000):
        x = scores((4097, classes), torch.float32)
        output = ours(op)(x, 1)
        torch.testing.assert_close(output, torch_functional.__dict__[op](x.double(), 1).float())
        for row in (0, 63, 64, 4096):
            assert torch.equal(ours(op)(x[row : row + 1], 1)[0], output[row])
