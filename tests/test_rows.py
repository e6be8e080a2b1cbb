"""Losses of rows of classes: labels and probabilities, extreme scores, ignored rows, weights, smoothing."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as torch_functional

import fusestep
import fusestep.nn
import fusestep.nn.functional as F
from cases import REDUCTIONS, ROWWISE, SOFT, fitting, loss_inputs, ours, theirs
from parity import compare, evaluate, exact

IGNORING = ["cross_entropy", "nll_loss"]  # losses with ignore_index, whose mean divides by class weights
NORMALISING = ["cross_entropy", *SOFT]  # losses that take a logsumexp


@pytest.mark.parametrize("op", [*ROWWISE, *SOFT])
@pytest.mark.parametrize("offset", [1e4, -1e4, -200.0, 3e38])
def test_common_offset(op: str, offset: float) -> None:
    """Rows far from zero: a maximum that starts at 0 or at the smallest positive float fails here."""
    for classes in (37, 137):  # short rows and long ones have loops of their own
        input, target = loss_inputs(op, (6, classes), torch.float32)
        compare(op, (torch.round(input) + offset, target))
        compare(op, (torch.full_like(input, offset), target))


@pytest.mark.parametrize("op", [*ROWWISE, *SOFT])
def test_one_dimension_and_one_class(op: str) -> None:
    for shape in fitting(op, (5,), (1,), (4, 1), (3, 1, 2)):
        input, target = loss_inputs(op, shape, torch.float32)
        for reduction in REDUCTIONS:
            if shape == (1,) and op in ROWWISE:
                target = torch.tensor(0)
            compare(op, (input, target), reduction=reduction)
    if op in ROWWISE:
        input, label = torch.randn(5), torch.tensor(2)
        compare(op, (input, label), reduction="none")
        one = evaluate(op, ours(op), (input, label[None]), reduction="none")  # torch's backward raises here
        assert torch.equal(one["grad_input"], evaluate(op, ours(op), (input, label))["grad_input"])


@pytest.mark.parametrize("op", IGNORING)
def test_all_ignored(op: str) -> None:
    """mean is NaN with zero gradient, sum is 0, none is zeros."""
    target = torch.full((4,), -100)
    for reduction, input in product(REDUCTIONS, (torch.randn(4, 6), torch.randn(4, 206))):
        weight = torch.rand(input.shape[1])
        for options in ({}, {"weight": weight}, {"label_smoothing": 0.1}, {"lse_square_scale": 0.1}):
            if op == "nll_loss" and not options.keys() <= {"weight"}:
                continue
            results = evaluate(op, ours(op), (input, target), reduction=reduction, **options)
            assert torch.equal(results["grad_input"], torch.zeros_like(input))
            expected = theirs(op)(input, target, reduction=reduction, **options)
            torch.testing.assert_close(results["loss"], expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("op", IGNORING)
def test_ignored_rows_do_not_count(op: str) -> None:
    input, target = loss_inputs(op, (8, 6), torch.float32)
    compare(op, (input, target))
    # A departure: torch lets a NaN in an ignored row through to the gradient of that row.
    target[1] = -100
    input[1] = float("nan")
    results = evaluate(op, ours(op), (input, target))
    assert torch.isfinite(results["loss"])
    assert torch.equal(results["grad_input"][1], torch.zeros(6))
    assert torch.isfinite(results["grad_input"]).all()
    compare(op, (torch.randn(8, 6), torch.tensor([9, 0, 1, 2, 3, 4, 5, 9])), ignore_index=9)


@pytest.mark.parametrize("op", ROWWISE)
def test_weight_of_the_labels_is_zero(op: str) -> None:
    input = torch.randn(3, 4)
    weight = torch.tensor([1.0, 0.0, 2.0, 3.0])
    compare(op, (input, torch.tensor([1, 1, 1])), weight=weight)
    compare(op, (input, torch.tensor([1, 0, 2])), weight=weight)


@pytest.mark.parametrize("op", ROWWISE)
@pytest.mark.parametrize("weight", [float("inf"), float("nan")])
def test_weight_of_an_absent_class(op: str, weight: float) -> None:
    """N / (C * bincount) is infinite for a class that the data do not have: it must stay there."""
    for classes in (3, 203):
        weights = torch.ones(classes)
        weights[1] = weight
        compare(op, (torch.randn(4, classes), torch.tensor([0, 2, 0, 2])), weight=weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_mean_far_below_the_smallest_float(dtype: torch.dtype) -> None:
    """The sum is kept in double; on its way to a half type it passes below the smallest float."""
    for value in (0.0, 1e-4):
        logits = torch.zeros(100, 2, dtype=dtype)
        logits[:, 0] = 120
        logits[0, 0] = 100
        compare("cross_entropy", (logits, torch.zeros(100, dtype=torch.int64)))
        x = torch.zeros(1000, dtype=dtype)
        x[0] = value * 1e-18
        compare("mse_loss", (x, torch.zeros(1000, dtype=dtype)))


SPECIAL_ROWS = [
    ([-float("inf")] * 4, 0),
    ([float("inf"), 0, 0, 0], 1),
    ([float("inf"), float("inf"), 0, 0], 1),
    ([0, -float("inf"), 1, 2], 1),
    ([0, -float("inf"), 1, 2], 2),
    ([3e38, -3e38, 0, 0], 0),
    ([1e30] * 4, 2),
    ([1e-45] * 4, 2),
]


@pytest.mark.parametrize("op", [*ROWWISE, *SOFT])
def test_special_rows(op: str) -> None:
    for row, label in SPECIAL_ROWS:
        for options in ({}, {"label_smoothing": 0.2}):
            if options and op not in NORMALISING:
                continue
            short = torch.tensor([row, [0.0, 1.0, 2.0, 3.0]])
            long = torch.cat([short] + 30 * [torch.tensor([[row[3]], [1.0]])], 1)
            long = torch.cat([long] + 4 * [long[:, 4:]], 1)
            for rows in (short, long):
                target = torch.tensor([label, 0])
                if op in SOFT:
                    target = torch_functional.one_hot(target, rows.shape[1]).float() * 0.75 + 0.125
                compare(op, (rows, target), **options)
    compare("cross_entropy", (torch.tensor([[65504.0, -65504.0]], dtype=torch.float16), torch.tensor([1])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", NORMALISING)
def test_confident_prediction(op: str, dtype: torch.dtype) -> None:
    """p − 1 must not cancel: the gradient of the true class within 0.5 % of the exact one."""
    for p, classes in product((0.9, 0.99, 0.999, 1 - 1e-6, 1 - 1e-9), (10, 1000)):
        logits = torch.zeros(3, classes, dtype=torch.float64)
        logits[:, 7] = torch.log(torch.tensor(p / (1 - p) * (classes - 1), dtype=torch.float64))
        logits = logits.to(dtype)
        target = torch.full((3,), 7)
        if op in SOFT:
            target = torch_functional.one_hot(target, classes).to(dtype)
        results = evaluate(op, ours(op), (logits, target), reduction="sum")
        wide = logits.double()
        others = torch.exp(wide[:, :1] - wide[:, 7:8]).mul(classes - 1)
        right = -(others / (1 + others)).squeeze(1)
        spacing = 6e-8 if dtype is torch.float16 else 0.0  # of its denormals
        torch.testing.assert_close(results["grad_input"][:, 7].double(), right, rtol=5e-3, atol=spacing)
        rtol = 1e-6 if dtype is torch.float32 else 5e-3
        torch.testing.assert_close(
            results["loss"].double(), torch.log1p(others).sum(), rtol=rtol, atol=spacing
        )


@pytest.mark.parametrize("op", IGNORING)
def test_uint8_labels(op: str) -> None:
    input, target = torch.randn(5, 7), torch.tensor([0, 6, 255, 3, 255], dtype=torch.uint8)
    compare(op, (input, target), ignore_index=255)


@pytest.mark.parametrize("op", NORMALISING)
def test_negative_or_nan_smoothing_is_none(op: str) -> None:
    input, target = loss_inputs(op, (5, 7), torch.float32)
    plain = ours(op)(input, target)
    for smoothing in (-0.1, float("nan")):
        assert torch.equal(ours(op)(input, target, label_smoothing=smoothing), plain)


# ---- probability targets ----


def test_probabilities_that_do_not_add_up_to_one() -> None:
    """The gradient is softmax times their sum, minus them; nothing is checked or normalised."""
    input, target = torch.randn(6, 9), torch.randn(6, 9) * 3
    compare("soft_cross_entropy", (input, target))
    compare("soft_cross_entropy", (input, target), label_smoothing=0.3, weight=torch.rand(9).double())


def test_probability_zero_at_minus_infinity_is_nan_as_in_torch() -> None:
    input, target = torch.randn(2, 5), torch.tensor([[0.0, 1, 0, 0, 0], [0.5, 0.5, 0, 0, 0]])
    input[:, 3] = -float("inf")
    compare("soft_cross_entropy", (input, target))
    target[0, 3] = 0.25
    compare("soft_cross_entropy", (input, target), reduction="none")


def test_weights_of_probability_targets_promote() -> None:
    input, target = torch.randn(4, 5), torch.rand(4, 5).double()
    weight = torch.rand(5)
    loss = F.cross_entropy(input, target, weight)
    expected = torch_functional.cross_entropy(input, target, weight)
    assert loss.dtype is expected.dtype is torch.float64
    torch.testing.assert_close(loss, expected)
    half = F.cross_entropy(input.bfloat16(), target.bfloat16(), weight.bfloat16())
    assert half.dtype is torch.bfloat16


def test_labels_that_look_like_probabilities() -> None:
    """(C) against (C): torch decides by the shape, then refuses the dtype."""
    for function in (F.cross_entropy, torch_functional.cross_entropy):
        with pytest.raises(RuntimeError, match="floating point type for target with class probabilities"):
            function(torch.randn(3, 3), torch.zeros(3, 3).long())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_batches_that_torch_answers(reduction: str) -> None:
    for shape in ((0, 5), (3, 0), (2, 5, 0)):
        input = torch.zeros(shape)
        loss = F.cross_entropy(input, input, reduction=reduction)
        expected = torch_functional.cross_entropy(input, input, reduction=reduction)
        torch.testing.assert_close(loss, expected, equal_nan=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_multi_margin_of_an_empty_batch_is_not_left_over_memory(reduction: str) -> None:
    loss = F.multi_margin_loss(torch.zeros(0, 5), torch.zeros(0).long(), reduction=reduction)
    expected = {"mean": torch.tensor(float("nan")), "sum": torch.tensor(0.0), "none": torch.zeros(0)}[
        reduction
    ]
    torch.testing.assert_close(loss, expected, equal_nan=True)


# ---- z-loss and softcap ----


@pytest.mark.parametrize("op", NORMALISING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_z_loss_and_softcap(op: str, dtype: torch.dtype) -> None:
    for shape in ((6, 9), (6, 190), (2, 5, 3, 4)):
        operands = loss_inputs(op, shape, dtype)
        operands = (operands[0] * 5, *operands[1:])
        for options in (
            {"lse_square_scale": 1e-2},
            {"softcap": 3.0},
            {"lse_square_scale": 1.0, "softcap": 1.0},
        ):
            for reduction in REDUCTIONS:
                compare(op, operands, reduction=reduction, **options)


def test_softcap_must_be_positive() -> None:
    for cap in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="`softcap` must be positive"):
            F.cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]), softcap=cap)


def test_extras_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        F.cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]), None, None, -100, None, "mean", 0.0, 1e-4)


def test_softcap_of_infinite_scores_is_finite() -> None:
    input = torch.tensor([[float("inf"), 0.0, -float("inf")]])
    compare("cross_entropy", (input, torch.tensor([1])), softcap=5.0)


# ---- multi-margin ----


@pytest.mark.parametrize("weight", [float("inf"), float("nan")])
def test_multi_margin_that_is_met_does_not_see_its_weight(weight: float) -> None:
    for classes in (3, 203):
        x = torch.full((2, classes), -3.0)
        x[:, 1] = 3
        weights = torch.ones(classes)
        weights[1] = weight
        for p in (1, 2):
            compare("multi_margin_loss", (x, torch.tensor([1, 1])), weight=weights, p=p, reduction="none")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_multi_margin_has_half_types_and_a_second_derivative(dtype: torch.dtype) -> None:
    input, target = loss_inputs("multi_margin_loss", (5, 7), dtype)
    with pytest.raises(NotImplementedError):
        torch_functional.multi_margin_loss(input, target)
    right = exact("multi_margin_loss", (input, target))["loss"]
    torch.testing.assert_close(F.multi_margin_loss(input, target).double(), right, rtol=1e-2, atol=0)
    leaf = input.double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a: F.multi_margin_loss(a, target, p=2), leaf)


# ---- manners ----


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_probabilities_take_weights_of_any_dtype(weight_dtype: torch.dtype) -> None:
    for dtypes in (
        (torch.float32, torch.float32),
        (torch.float64, torch.float32),
        (torch.float32, torch.float64),
    ):
        x, t = torch.randn(4, 3).to(dtypes[0]), torch.rand(4, 3).to(dtypes[1])
        weight = torch.rand(3).to(weight_dtype)
        results = [f.cross_entropy(x, t, weight) for f in (F, torch_functional)]
        assert results[0].dtype is results[1].dtype
        torch.testing.assert_close(*results)
    assert fusestep.stats()["soft_cross_entropy"] == {"native": 3, "torch": {}}


@pytest.mark.parametrize("op", ["cross_entropy", "nll_loss"])
def test_exceptions_of_label_shapes_are_torchs(op: str) -> None:
    cases = [((4, 3), ()), ((1, 3), ()), ((3,), (2, 4)), ((3,), (1, 1)), ((3,), (2,)), ((), (1,)), ((), ())]
    for shape, labels in cases:
        types = []
        for module in (F, torch_functional):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - the type is what is compared
                getattr(module, op)(torch.randn(shape), torch.zeros(labels).long())
            types.append(caught.type)
        assert issubclass(types[0], types[1]), (shape, labels, types)


@pytest.mark.parametrize("op", ["cross_entropy", "nll_loss"])
def test_second_derivative_of_unusual_labels(op: str) -> None:
    for input, target in (
        (torch.randn(5), torch.tensor([2])),
        (torch.randn(2, 5, 3), torch.ones(2, 3, dtype=torch.uint8)),
    ):
        x = input.requires_grad_()
        (grad,) = torch.autograd.grad(getattr(F, op)(x, target), x, create_graph=True)
        plain = target.long().reshape(() if x.dim() == 1 else target.shape)
        (expected,) = torch.autograd.grad(getattr(torch_functional, op)(x, plain), x, create_graph=True)
        torch.testing.assert_close(grad, expected)
        if op == "cross_entropy":
            seconds = [torch.autograd.grad(g.square().sum(), x)[0] for g in (grad, expected)]
            torch.testing.assert_close(*seconds)


def test_ignored_rows_stay_zero_under_an_infinite_seed_when_compiled() -> None:
    x, labels = torch.randn(3, 5, requires_grad=True), torch.tensor([0, -100, 1])
    compiled = torch.compile(lambda a: F.cross_entropy(a, labels), fullgraph=True, backend="aot_eager")
    compiled(x).backward(torch.tensor(float("inf")))
    assert torch.equal(x.grad[1], torch.zeros(5))
    torch._dynamo.reset()


def test_ignore_index_must_be_an_integer() -> None:
    for bad in (None, 1.5):
        for op in IGNORING:
            with pytest.raises(TypeError):
                ours(op)(torch.randn(2, 3), torch.tensor([0, 1]), ignore_index=bad)


def test_an_infinite_softcap_is_none() -> None:
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    assert torch.equal(F.cross_entropy(x, y, softcap=float("inf")), F.cross_entropy(x, y))


def test_modules_show_their_extras() -> None:
    loss = fusestep.nn.CrossEntropyLoss(lse_square_scale=1e-4, softcap=30.0)
    assert repr(loss) == "CrossEntropyLoss(lse_square_scale=0.0001, softcap=30.0)"
    assert repr(fusestep.nn.SigmoidFocalLoss()) == "SigmoidFocalLoss(alpha=0.25, gamma=2)"
