"""Values and gradients of every loss against float64, for every dtype, reduction, option and layout."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_functional
from torch import Tensor

import fusestep
import fusestep.nn.functional as F
from cases import (
    DTYPES,
    ISAS,
    LOSSES,
    OPS,
    POINTWISE,
    REDUCTIONS,
    ROWWISE,
    assert_accurate,
    cast_options,
    loss_inputs,
    loss_options,
)
from fusestep import _native


def evaluate(
    function: Callable[..., Tensor],
    input: Tensor,
    target: Tensor,
    grad_output: Tensor | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Loss and gradients with respect to whatever floats, on leaves of their own."""
    x = input.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    t = target.detach()
    if t.is_floating_point():
        t = t.clone(memory_format=torch.preserve_format).requires_grad_()
    loss = function(x, t, **options)
    if grad_output is None:
        grad_output = torch.ones_like(loss)
    loss.backward(grad_output.to(loss.dtype))
    results = {"loss": loss.detach(), "grad_input": x.grad}
    if t.requires_grad:
        results["grad_target"] = t.grad
    return results  # type: ignore[return-value]


def compare(
    op: str, input: Tensor, target: Tensor, grad_output: Tensor | None = None, **options: Any
) -> None:
    """Ours and torch's against torch in float64 on the same rounded inputs."""
    wide = target.double() if target.is_floating_point() else target
    theirs = getattr(torch_functional, op)
    oracle = evaluate(theirs, input.double(), wide, grad_output, **cast_options(options, torch.float64))
    cast = cast_options(options, input.dtype)
    torchs = evaluate(theirs, input, target, grad_output, **cast)
    before = fusestep.stats().get(op, {}).get("native", 0)
    ours = evaluate(getattr(F, op), input, target, grad_output, **cast)
    assert fusestep.stats()[op]["native"] == before + 1, f"fell back: {fusestep.stats()[op]}"
    for name, value in ours.items():
        assert_accurate(value, torchs[name], oracle[name], f"{op} {name} {options}")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", LOSSES)
def test_every_option(op: str, dtype: torch.dtype, reduction: str) -> None:
    for shape in ((37, 21), (3, 130), (4, 5, 6, 7)):
        for options in loss_options(op, shape[1]):
            ignored = options.get("ignore_index", -100)
            inputs = loss_inputs(op, shape, dtype, ignored=ignored)
            compare(op, *inputs, reduction=reduction, **options)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", LOSSES)
def test_every_size_around_the_vector_width(op: str, dtype: torch.dtype, isa: str) -> None:
    _native.set_isa(isa)
    for size in range(1, 130):
        for reduction in ("mean", "none"):
            compare(op, *loss_inputs(op, (3, size), dtype, size), reduction=reduction)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", LOSSES)
def test_many_blocks(op: str, dtype: torch.dtype) -> None:
    for shape in ((5, 4096), (3, 10001), (4097, 7)):
        compare(op, *loss_inputs(op, shape, dtype))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("op", LOSSES)
def test_layouts(op: str, reduction: str) -> None:
    """Transposed, sliced, expanded, channels-last and unaligned operands, against contiguous copies."""
    base, target = loss_inputs(op, (6, 10, 4, 5), torch.float32)
    wide = torch.randn(6, 20, 4, 5)
    layouts = [
        base.transpose(1, 3).contiguous().transpose(1, 3),
        base.contiguous(memory_format=torch.channels_last),
        wide[:, ::2],
        wide[:, 3:13],
        torch.randn(1, 10, 1, 1).expand(6, 10, 4, 5),
        torch.randn(6 * 10 * 4 * 5 + 1)[1:].view(6, 10, 4, 5),
    ]
    for layout in layouts:
        targets = [target, target.transpose(0, -1).contiguous().transpose(0, -1)]
        for t in targets:
            ours = evaluate(getattr(F, op), layout, t, reduction=reduction)
            copy = evaluate(getattr(F, op), layout.contiguous(), t.contiguous(), reduction=reduction)
            for name in ours:
                assert torch.equal(ours[name], copy[name]), f"{name} of strides {layout.stride()}"


@pytest.mark.parametrize("op", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty(op: str, reduction: str) -> None:
    for shape in ((0, 5), (0, 5, 3), (2, 5, 0)):
        compare(op, *loss_inputs(op, shape, torch.float32), reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("op", LOSSES)
def test_grad_output(op: str, reduction: str) -> None:
    """Any seed, not only 1: scalars, one per element, strided, with NaN and zero (peers' bug family)."""
    for classes in (33, 133):
        _check_seeds(op, reduction, *loss_inputs(op, (9, classes), torch.float32))


def _check_seeds(op: str, reduction: str, input: Tensor, target: Tensor) -> None:
    loss = getattr(torch_functional, op)(input, target, reduction=reduction)
    seeds = [torch.full_like(loss, v) for v in (1.0, 0.0, -2.0, 0.3, float("nan"))]
    if reduction == "none":
        seeds += [torch.randn_like(loss), torch.randn(1).expand(loss.shape)]
        seeds.append(torch.randn(*loss.shape, 2)[..., 0])
        seeds[5].view(-1)[0] = 0
    for seed in seeds:
        compare(op, input, target, seed, reduction=reduction)


@pytest.mark.parametrize("op", LOSSES)
def test_finite_differences(op: str) -> None:
    for reduction in REDUCTIONS:
        for options in loss_options(op, 5):
            ignored = options.get("ignore_index", -100)
            x, t = loss_inputs(op, (4, 5), torch.float64, ignored=ignored)
            operands = (x.requires_grad_(), t.requires_grad_() if t.is_floating_point() else t)
            torch.autograd.gradcheck(
                lambda a, b, o=options, r=reduction: getattr(F, op)(a, b, reduction=r, **o), operands
            )
    assert fusestep.stats()[op]["torch"] == {}


@pytest.mark.parametrize("op", LOSSES)
def test_no_grad_and_value_alone(op: str) -> None:
    input, target = loss_inputs(op, (17, 40), torch.float32)
    with_grad = evaluate(getattr(F, op), input, target)["loss"]
    assert torch.equal(getattr(F, op)(input, target), with_grad)
    with torch.no_grad():
        loss = getattr(F, op)(input.clone().requires_grad_(), target)
    assert torch.equal(loss, with_grad)
    assert not loss.requires_grad


@pytest.mark.parametrize("op", LOSSES)
def test_nan_and_infinity(op: str) -> None:
    """Non-finite inputs reach the same outputs as in torch, and no others."""
    for value, classes in product((float("nan"), float("inf"), -float("inf")), (31, 131)):
        for at in ((0, 0), (1, 6), (2, 30)):
            input, target = loss_inputs(op, (4, classes), torch.float32)
            if not target.is_floating_point():
                target = torch.tensor([3, 6, 0, 1])
            input[at] = value
            for reduction in REDUCTIONS:
                compare(op, input, target, reduction=reduction)


@pytest.mark.parametrize("dtypes", [(a, b) for a in DTYPES for b in DTYPES if a != b], ids=str)
@pytest.mark.parametrize("op", POINTWISE)
def test_mixed_dtypes(op: str, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    input, target = loss_inputs(op, (7, 33), torch.float64)
    input, target = input.to(dtypes[0]), target.to(dtypes[1])
    for reduction in REDUCTIONS:
        compare(op, input, target, reduction=reduction)


@pytest.mark.parametrize("op", POINTWISE)
def test_broadcast_warns_and_sums_the_gradient_back(op: str) -> None:
    for shapes in (((4, 1), (4,)), ((1, 5), (3, 5)), ((), (6,)), ((2, 3, 4), (4,))):
        x, t = torch.randn(shapes[0]), torch.randn(shapes[1])
        with pytest.warns(UserWarning, match="different to the input size"):
            compare(op, x, t)


@pytest.mark.parametrize("op", POINTWISE)
def test_scalars(op: str) -> None:
    for reduction in REDUCTIONS:
        compare(op, torch.tensor(1.5), torch.tensor(-0.25), reduction=reduction)


@pytest.mark.parametrize("op", POINTWISE)
def test_input_is_target(op: str) -> None:
    x = torch.randn(33, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    getattr(F, op)(x, x).backward()
    getattr(torch_functional, op)(y, y).backward()
    assert torch.equal(x.grad, y.grad)


@pytest.mark.parametrize("op", LOSSES)
def test_float16_sum_beyond_65504(op: str) -> None:
    """The sum is kept in more than float16, so a mean does not overflow on the way."""
    input, target = loss_inputs(op, (4000, 40), torch.float16)
    input = input * 20
    loss = getattr(F, op)(input, target)
    oracle = getattr(torch_functional, op)(
        input.double(), target.double() if target.is_floating_point() else target
    )
    assert torch.isfinite(loss)
    assert loss == oracle.half()


@pytest.mark.parametrize("op", LOSSES)
def test_float16_gradient_survives_loss_scaling(op: str) -> None:
    """Scaled before it is rounded: at 1/N a float16 gradient would underflow (GradScaler's purpose)."""
    input, target = loss_inputs(op, (3000, 100), torch.float16)
    input *= 1e-3
    x = input.clone().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        loss = getattr(F, op)(x, target)
    (loss * 65536.0).backward()
    wide = input.double().requires_grad_()
    t = target.double() if target.is_floating_point() else target
    (getattr(torch_functional, op)(wide, t) * 65536.0).backward()
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-3, atol=6e-8)
    assert x.grad.count_nonzero() > 0.9 * wide.grad.count_nonzero()


# ---- rows of classes ----


@pytest.mark.parametrize("op", ROWWISE)
@pytest.mark.parametrize("offset", [1e4, -1e4, -200.0, 3e38])
def test_common_offset(op: str, offset: float) -> None:
    """Rows far from zero: a maximum that starts at 0 or at the smallest positive float fails here."""
    for classes in (37, 137):  # short rows and long ones have loops of their own
        input, target = loss_inputs(op, (6, classes), torch.float32)
        compare(op, torch.round(input) + offset, target)
        compare(op, torch.full_like(input, offset), target)


@pytest.mark.parametrize("op", ROWWISE)
def test_one_dimension_and_one_class(op: str) -> None:
    for shape in ((5,), (1,), (4, 1), (3, 1, 2)):
        input, target = loss_inputs(op, shape, torch.float32)
        for reduction in REDUCTIONS:
            if shape == (1,):
                target = torch.tensor(0)
            compare(op, input, target, reduction=reduction)
    loss = getattr(F, op)(torch.randn(5), torch.tensor([2]), reduction="none")
    assert loss.shape == ()


@pytest.mark.parametrize("op", ROWWISE)
def test_all_ignored(op: str) -> None:
    """mean is NaN with zero gradient, sum is 0, none is zeros."""
    target = torch.full((4,), -100)
    for reduction, input in product(REDUCTIONS, (torch.randn(4, 6), torch.randn(4, 106))):
        for options in ({}, {"label_smoothing": 0.1}):
            ours = evaluate(getattr(F, op), input, target, reduction=reduction, **options)
            assert torch.equal(ours["grad_input"], torch.zeros_like(input))
            compare(op, input, target, reduction=reduction, **options)


@pytest.mark.parametrize("op", ROWWISE)
def test_ignored_rows_do_not_count(op: str) -> None:
    input, target = loss_inputs(op, (8, 6), torch.float32)
    compare(op, input, target)
    # A departure: torch lets a NaN in an ignored row through to the gradient of that row.
    target[1] = -100
    input[1] = float("nan")
    ours = evaluate(getattr(F, op), input, target)
    assert torch.isfinite(ours["loss"])
    assert torch.equal(ours["grad_input"][1], torch.zeros(6))
    assert torch.isfinite(ours["grad_input"]).all()
    compare(op, torch.randn(8, 6), torch.tensor([9, 0, 1, 2, 3, 4, 5, 9]), ignore_index=9)


@pytest.mark.parametrize("op", ROWWISE)
def test_weight_of_the_labels_is_zero(op: str) -> None:
    input = torch.randn(3, 4)
    weight = torch.tensor([1.0, 0.0, 2.0, 3.0])
    compare(op, input, torch.tensor([1, 1, 1]), weight=weight)
    compare(op, input, torch.tensor([1, 0, 2]), weight=weight)


@pytest.mark.parametrize("op", ROWWISE)
@pytest.mark.parametrize("weight", [float("inf"), float("nan")])
def test_weight_of_an_absent_class(op: str, weight: float) -> None:
    """N / (C * bincount) is infinite for a class that the data do not have: it must stay there."""
    for classes in (3, 103):
        weights = torch.ones(classes)
        weights[1] = weight
        compare(op, torch.randn(4, classes), torch.tensor([0, 2, 0, 2]), weight=weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_mean_far_below_the_smallest_float(dtype: torch.dtype) -> None:
    """The sum is kept in double; on its way to a half type it passes below the smallest float."""
    for value in (0.0, 1e-4):
        logits = torch.zeros(100, 2, dtype=dtype)
        logits[:, 0] = 120
        logits[0, 0] = 100
        compare("cross_entropy", logits, torch.zeros(100, dtype=torch.int64))
        x = torch.zeros(1000, dtype=dtype)
        x[0] = value * 1e-18
        compare("mse_loss", x, torch.zeros(1000, dtype=dtype))


@pytest.mark.parametrize("op", ROWWISE)
def test_special_rows(op: str) -> None:
    inf = float("inf")
    rows = [
        ([-inf] * 4, 0),
        ([inf, 0, 0, 0], 1),
        ([inf, inf, 0, 0], 1),
        ([0, -inf, 1, 2], 1),
        ([0, -inf, 1, 2], 2),
        ([3e38, -3e38, 0, 0], 0),
        ([1e30] * 4, 2),
        ([1e-45] * 4, 2),
    ]
    for row, label in rows:
        for options in ({}, {"label_smoothing": 0.2}):
            short = torch.tensor([row, [0.0, 1.0, 2.0, 3.0]])
            compare(op, short, torch.tensor([label, 0]), **options)
            long = torch.cat([short] + 30 * [torch.tensor([[row[3]], [1.0]])], 1)
            long = torch.cat([long] + 4 * [long[:, 4:]], 1)
            compare(op, long, torch.tensor([label, 0]), **options)
    compare(op, torch.tensor([[65504.0, -65504.0]], dtype=torch.float16), torch.tensor([1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", ROWWISE)
def test_confident_prediction(op: str, dtype: torch.dtype) -> None:
    """p − 1 must not cancel: the gradient of the true class within 0.5 % of the exact one."""
    for p, classes in product((0.9, 0.99, 0.999, 1 - 1e-6, 1 - 1e-9), (10, 1000)):
        logits = torch.zeros(3, classes, dtype=torch.float64)
        logits[:, 7] = torch.log(torch.tensor(p / (1 - p) * (classes - 1), dtype=torch.float64))
        logits = logits.to(dtype)
        target = torch.full((3,), 7)
        ours = evaluate(getattr(F, op), logits, target, reduction="sum")
        wide = logits.double()
        others = torch.exp(wide[:, :1] - wide[:, 7:8]).mul(classes - 1)
        exact = -(others / (1 + others)).squeeze(1)
        spacing = 6e-8 if dtype is torch.float16 else 0.0  # of its denormals
        torch.testing.assert_close(ours["grad_input"][:, 7].double(), exact, rtol=5e-3, atol=spacing)
        rtol = 1e-6 if dtype is torch.float32 else 5e-3
        torch.testing.assert_close(ours["loss"].double(), torch.log1p(others).sum(), rtol=rtol, atol=spacing)


@pytest.mark.parametrize("op", ROWWISE)
def test_uint8_labels(op: str) -> None:
    input, target = torch.randn(5, 7), torch.tensor([0, 6, 255, 3, 255], dtype=torch.uint8)
    compare(op, input, target, ignore_index=255)


@pytest.mark.parametrize("op", ROWWISE)
def test_negative_or_nan_smoothing_is_none(op: str) -> None:
    input, target = loss_inputs(op, (5, 7), torch.float32)
    plain = getattr(F, op)(input, target)
    for smoothing in (-0.1, float("nan")):
        assert torch.equal(getattr(F, op)(input, target, label_smoothing=smoothing), plain)


@pytest.mark.parametrize("op", ROWWISE)
def test_probability_targets_run_torchs_own(op: str) -> None:
    input = torch.randn(5, 7)
    target = torch.randn(5, 7).softmax(1)
    assert torch.equal(getattr(F, op)(input, target), getattr(torch_functional, op)(input, target))
    assert fusestep.stats()[op]["torch"] == {"probability targets": 1}


def test_every_loss_is_in_nn() -> None:
    import fusestep.nn as nn

    for op in LOSSES:
        assert issubclass(getattr(nn, OPS[op]["class_name"]), getattr(torch.nn, OPS[op]["class_name"]))
