"""Values and gradients of every loss against float64, for every dtype, reduction, option and layout."""

from __future__ import annotations

import warnings
from itertools import product

import pytest
import torch
from torch import Tensor

import fusestep
from cases import (
    DTYPES,
    ISAS,
    LOSSES,
    OPERANDS,
    OPS,
    POINTWISE,
    REDUCTIONS,
    ROWWISE,
    SOFT,
    assert_accurate,
    fitting,
    loss_inputs,
    loss_options,
    ours,
    theirs,
)
from fusestep import _native
from parity import compare, differentiable, evaluate, exact


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", LOSSES)
def test_every_option(op: str, dtype: torch.dtype, reduction: str) -> None:
    for shape in fitting(op, (37, 21), (3, 130), (4, 5, 6, 7)):
        for options in loss_options(op, shape):
            ignored = options.get("ignore_index", -100)
            inputs = loss_inputs(op, shape, dtype, ignored=ignored)
            compare(op, inputs, reduction=reduction, **options)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", LOSSES)
def test_every_size_around_the_vector_width(op: str, dtype: torch.dtype, isa: str) -> None:
    _native.set_isa(isa)
    for size in range(1, 130):
        for reduction in ("mean", "none"):
            compare(op, loss_inputs(op, (3, size), dtype, size), reduction=reduction)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", LOSSES)
def test_many_blocks(op: str, dtype: torch.dtype) -> None:
    for shape in ((5, 4096), (3, 10001), (4097, 7)):
        compare(op, loss_inputs(op, shape, dtype))


def layouts(base: Tensor) -> list[Tensor]:
    """The same numbers transposed, sliced, channels-last and unaligned."""
    wide = torch.zeros(*base.shape[:1], 2 * base.shape[1], *base.shape[2:], dtype=base.dtype)
    every_other, inside = wide.clone()[:, ::2], wide.clone()[:, 3 : 3 + base.shape[1]]
    unaligned = torch.empty(base.numel() + 1, dtype=base.dtype)[1:].view(base.shape)
    copies = [view.copy_(base) for view in (every_other, inside, unaligned)]
    copies.append(base.transpose(1, -1).contiguous().transpose(1, -1))
    if base.dim() == 4:
        copies.append(base.contiguous(memory_format=torch.channels_last))
    return copies


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("op", LOSSES)
def test_layouts(op: str, reduction: str) -> None:
    """Any layout of each operand gives the bits of contiguous copies."""
    for shape in fitting(op, (6, 10, 4, 5), (6, 170)):
        operands = loss_inputs(op, shape, torch.float32)
        expected = evaluate(op, ours(op), operands, reduction=reduction)
        for i, operand in enumerate(operands):
            if operand.dim() < 2:
                continue
            for layout in layouts(operand):
                moved = (*operands[:i], layout, *operands[i + 1 :])
                results = evaluate(op, ours(op), moved, reduction=reduction)
                for name, value in results.items():
                    assert torch.equal(value, expected[name]), f"{name} of strides {layout.stride()}"


@pytest.mark.parametrize("op", LOSSES)
def test_expanded_operands(op: str) -> None:
    """Stride 0: one element stands for many."""
    for shape in fitting(op, (6, 10, 4, 5), (6, 170)):
        operands = loss_inputs(op, shape, torch.float32)
        for i, operand in enumerate(operands):
            if not operand.is_floating_point():
                continue
            one = operand[(slice(0, 1),) * operand.dim()].expand(shape)
            moved = (*operands[:i], one, *operands[i + 1 :])
            results = evaluate(op, ours(op), moved, reduction="none")
            copied = evaluate(op, ours(op), [t.contiguous() for t in moved], reduction="none")
            for name, value in results.items():
                assert torch.equal(value, copied[name]), name


@pytest.mark.parametrize("op", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty(op: str, reduction: str) -> None:
    if op in ("multi_margin_loss", *SOFT):
        pytest.skip("torch's own runs: see test_empty_batches_that_torch_answers")
    for shape in ((0, 5), (0, 5, 3), (2, 5, 0)):
        compare(op, loss_inputs(op, shape, torch.float32), reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("op", LOSSES)
def test_grad_output(op: str, reduction: str) -> None:
    """Any seed, not only 1: scalars, one per element, strided, with NaN and zero (peers' bug family)."""
    for classes in (33, 133):
        _check_seeds(op, reduction, loss_inputs(op, (9, classes), torch.float32))


def _check_seeds(op: str, reduction: str, operands: tuple[Tensor, ...]) -> None:
    loss = theirs(op)(*operands, reduction=reduction)
    seeds = [torch.full_like(loss, v) for v in (1.0, 0.0, -2.0, 0.3)]
    if op not in ("hinge_embedding_loss", "margin_ranking_loss"):  # where torch masks and we multiply
        seeds.append(torch.full_like(loss, float("nan")))
    if reduction == "none":
        seeds += [torch.randn_like(loss), torch.randn(1).expand(loss.shape)]
        seeds.append(torch.randn(*loss.shape, 2)[..., 0])
        seeds[-3].view(-1)[0] = 0
    for seed in seeds:
        compare(op, operands, seed, reduction=reduction)


@pytest.mark.parametrize("op", LOSSES)
def test_finite_differences(op: str) -> None:
    for reduction in REDUCTIONS:
        for options in loss_options(op, (4, 5)):
            ignored = options.get("ignore_index", -100)
            operands = loss_inputs(op, (4, 5), torch.float64, ignored=ignored)
            if op == "gaussian_nll_loss" and "eps" in options:
                continue  # torch's gradient goes through the clamp, and so does ours
            wanted = differentiable(op, operands)
            leaves = [t.requires_grad_() if want else t for t, want in zip(operands, wanted, strict=True)]
            torch.autograd.gradcheck(
                lambda *a, o=options, r=reduction: ours(op)(*a, reduction=r, **o), leaves
            )
    assert fusestep.stats()[op]["torch"] == {}


@pytest.mark.parametrize("op", LOSSES)
def test_no_grad_and_value_alone(op: str) -> None:
    input, *others = loss_inputs(op, (17, 40), torch.float32)
    with_grad = evaluate(op, ours(op), (input, *others))["loss"]
    assert torch.equal(ours(op)(input, *others), with_grad)
    with torch.no_grad():
        loss = ours(op)(input.clone().requires_grad_(), *others)
    assert torch.equal(loss, with_grad)
    assert not loss.requires_grad


# Overflow in torch's form of them, or in our definition; their limits are tested apart.
OVERFLOWING = {"log_cosh_loss", "sigmoid_focal_loss", "soft_margin_loss"}


@pytest.mark.parametrize("op", LOSSES)
def test_nan_and_infinity(op: str) -> None:
    """Non-finite inputs reach the same outputs as in torch, and no others."""
    values = [float("nan")] if op in OVERFLOWING else [float("nan"), float("inf"), -float("inf")]
    for value, classes in product(values, (31, 131)):
        for at in ((0, 0), (1, 6), (2, 30)):
            input, *others = loss_inputs(op, (4, classes), torch.float32)
            if op in ROWWISE:
                others = [torch.tensor([3, 6, 0, 1])]
            input[at] = value
            for reduction in REDUCTIONS:
                if OPS[op]["domain"] and "input" in OPS[op]["domain"]:
                    with pytest.raises(RuntimeError, match="between 0 and 1"):
                        ours(op)(input, *others, reduction=reduction)
                else:
                    compare(op, (input, *others), reduction=reduction)


@pytest.mark.parametrize("dtypes", [(a, b) for a in DTYPES for b in DTYPES if a != b], ids=str)
@pytest.mark.parametrize("op", [*POINTWISE, *SOFT])
def test_mixed_dtypes(op: str, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    if op == "binary_cross_entropy":
        pytest.skip("torch refuses them: see test_dtypes_that_torch_refuses")
    input, target, *others = loss_inputs(op, (7, 33), torch.float64)
    operands = [input.to(dtypes[0]), target.to(dtypes[1]), *(t.to(dtypes[0]) for t in others)]
    for reduction in REDUCTIONS:
        oracle = exact(op, operands, reduction=reduction)
        loss = theirs(op)(*operands, reduction=reduction)  # torch's backward refuses some of these
        results = evaluate(op, ours(op), operands, reduction=reduction)
        assert results["loss"].dtype is loss.dtype
        for name, value in results.items():
            if name == "loss":
                assert_accurate(value, loss, oracle[name], name)
            else:
                assert value.dtype is dict(zip(OPS[op]["operands"], operands, strict=False))[name[5:]].dtype
                assert_accurate(value, oracle[name].to(value.dtype), oracle[name], name)


BROADCAST = [
    op for op in POINTWISE if op not in ("binary_cross_entropy", "sigmoid_focal_loss", "soft_margin_loss")
]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("op", BROADCAST)
def test_broadcast_sums_the_gradient_back(op: str) -> None:
    for shapes in (((4, 1), (4,)), ((1, 5), (3, 5)), ((), (6,)), ((2, 3, 4), (4,))):
        input, *others = loss_inputs(op, shapes[0], torch.float32)
        target = loss_inputs(op, shapes[1], torch.float32)[1]
        if op == "margin_ranking_loss" and len(shapes[0]) != len(shapes[1]):
            continue
        if op == "binary_cross_entropy_with_logits":
            with pytest.raises(ValueError, match="must be the same"):
                ours(op)(input, target)
            continue
        compare(op, (input, target, *others[1:]))


@pytest.mark.parametrize("op", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "log_cosh_loss"])
def test_broadcasting_warns_the_caller(op: str) -> None:
    with pytest.warns(UserWarning, match="different to the input size") as caught:
        ours(op)(torch.randn(4, 1), torch.randn(4))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("op", POINTWISE)
def test_scalars(op: str) -> None:
    for reduction in REDUCTIONS:
        compare(op, loss_inputs(op, (), torch.float32), reduction=reduction)


@pytest.mark.parametrize("op", [op for op in POINTWISE if len(set(OPERANDS.get(op, ("real",)))) == 1])
def test_input_is_target(op: str) -> None:
    x = loss_inputs(op, (33,), torch.float32)[0].requires_grad_()
    y = x.detach().clone().requires_grad_()
    ours(op)(x, x).backward()
    theirs(op)(y, y).backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("op", LOSSES)
def test_float16_sum_beyond_65504(op: str) -> None:
    """The sum is kept in more than float16, so a mean does not overflow on the way."""
    input, *others = loss_inputs(op, (8000, 40), torch.float16)
    if OPERANDS.get(op, ("real",))[0] == "real":
        input = input * 20
    loss = ours(op)(input, *others, reduction="mean")
    oracle = exact(op, (input, *others), reduction="mean")["loss"]
    assert torch.isfinite(loss)
    assert loss == oracle.half()


@pytest.mark.parametrize("op", LOSSES)
def test_float16_gradient_survives_loss_scaling(op: str) -> None:
    """Scaled before it is rounded: at 1/N a float16 gradient would underflow (GradScaler's purpose)."""
    if op == "gaussian_nll_loss":
        pytest.skip("torch composes it of operations that autocast leaves in float16")
    input, *others = loss_inputs(op, (3000, 100), torch.float16)
    if OPERANDS.get(op, ("real",))[0] == "real":
        input *= 1e-3
    x = input.clone().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        loss = ours(op)(x, *others, reduction="mean")
    (loss * 65536.0).backward()
    wide = exact(op, (input, *others), torch.tensor(65536.0), reduction="mean")[
        f"grad_{OPS[op]['operands'][0]}"
    ]
    torch.testing.assert_close(x.grad.double(), wide, rtol=1e-3, atol=6e-8)
    assert x.grad.count_nonzero() > 0.9 * wide.count_nonzero()


def test_every_loss_is_in_nn() -> None:
    import fusestep.nn as nn

    for op in [*POINTWISE, *ROWWISE]:
        name = OPS[op]["class_name"]
        parent = getattr(torch.nn, name, torch.nn.Module)
        assert issubclass(getattr(nn, name), parent)


# ---- edges of single losses ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_binary_cross_entropy_at_0_and_1_is_clamped(dtype: torch.dtype) -> None:
    """log at −100, the denominator of the gradient at 1e-12, also where 1e-12 is no half number."""
    p = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=dtype)
    t = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.25, 0.75], dtype=dtype)
    results = evaluate("binary_cross_entropy", ours("binary_cross_entropy"), (p, t), reduction="none")
    oracle = exact("binary_cross_entropy", (p, t), reduction="none")
    for name, value in results.items():  # torch's 1e-12 is a float32, in float64 too
        torch.testing.assert_close(value, oracle[name].to(dtype), rtol=1e-7, atol=0, msg=name)


def test_hinge_embedding_of_labels_other_than_1_and_minus_1() -> None:
    """torch adds both branches."""
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])
    for label in (0.0, 2.0, -3.0, 1.0, -1.0):
        compare("hinge_embedding_loss", (x, torch.full_like(x, label)), reduction="none")


def test_limits_of_losses_that_overflow_in_torchs_form() -> None:
    inf = float("inf")
    x = torch.tensor([inf, -inf, 1e4, -1e4, 100.0, -100.0], requires_grad=True)
    y = ours("soft_margin_loss")(x, torch.ones(6), reduction="none")
    assert y.tolist() == [0.0, inf, 0.0, 1e4, float(torch.exp(torch.tensor(-100.0))), 100.0]
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.tolist()[:4] == [0.0, -1.0, 0.0, -1.0]
    z = ours("log_cosh_loss")(x, torch.zeros(6), reduction="none")
    assert z.tolist()[:2] == [inf, inf]
    torch.testing.assert_close(z[2:], x[2:].abs() - 0.6931472)
    assert torch.autograd.grad(z.sum(), x)[0].tolist() == [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]


def test_poisson_gradient_of_a_count_of_zero_is_finite() -> None:
    """torch's Stirling term multiplies 0 by ∞ there."""
    x, t = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, 1.0, 3.0])
    results = evaluate("poisson_nll_loss", ours("poisson_nll_loss"), (x, t), full=True, reduction="none")
    oracle = exact("poisson_nll_loss", (x, t), full=True, reduction="none")
    torch.testing.assert_close(results["loss"].double(), oracle["loss"], rtol=1e-6, atol=1e-6)
    assert oracle["grad_target"].isnan().tolist() == [True, False, False]
    assert results["grad_target"][0] == -0.5


def test_smooth_l1_of_width_zero_is_l1_at_nan_too() -> None:
    x = torch.tensor([float("nan"), 1.0, -2.0, 0.0])
    compare("smooth_l1_loss", (x, torch.zeros(4)), beta=0.0, reduction="none")


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
def test_focal_loss_of_certain_predictions_is_finite(gamma: float) -> None:
    """p rounds to the target, so that q = 0 and q^(γ−1) is infinite."""
    x = torch.tensor([200.0, -200.0, 1e4, -1e4, 200.0, -200.0])
    t = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    results = evaluate("sigmoid_focal_loss", ours("sigmoid_focal_loss"), (x, t), gamma=gamma)
    assert all(value.isfinite().all() for value in results.values())
    assert results["loss"][:4].tolist() == [0.0] * 4
    torch.testing.assert_close(results["loss"][4:], torch.tensor([150.0, 50.0]))


# ---- dtypes, layouts and manners ----


@pytest.mark.parametrize("op", [*POINTWISE, *SOFT])
def test_a_number_beside_a_tensor_has_torchs_dtype(op: str) -> None:
    """0-dimensional operands do not widen what torch composes of its operations."""
    kinds = len(loss_inputs(op, (3,), torch.float32))
    for dtypes in product((torch.float32, torch.float64, torch.float16), repeat=2):
        for which in range(kinds):
            if op in SOFT or op in (
                "binary_cross_entropy",
                "sigmoid_focal_loss",
                "soft_margin_loss",
                "log_cosh_loss",
            ):
                continue
            operands = [t.to(dtypes[1]) for t in loss_inputs(op, (3,), torch.float64)]
            operands[which] = loss_inputs(op, (), torch.float64)[which].to(dtypes[0])
            outcomes = []
            for function in (ours(op), theirs(op)):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        outcomes.append(function(*operands, reduction="none").dtype)
                except (RuntimeError, ValueError) as error:
                    outcomes.append(type(error))
            assert outcomes[0] == outcomes[1], (dtypes, which)


@pytest.mark.parametrize(
    "op", [op for op in POINTWISE if op not in ("gaussian_nll_loss", "soft_margin_loss")]
)
def test_an_unreduced_loss_keeps_the_memory_format(op: str) -> None:
    operands = [
        t.contiguous(memory_format=torch.channels_last) for t in loss_inputs(op, (2, 3, 4, 5), torch.float32)
    ]
    expected = theirs(op)(*operands, reduction="none").stride()
    assert ours(op)(*operands, reduction="none").stride() == expected


def test_weights_of_logits_do_not_change_the_dtype_of_the_loss() -> None:
    x, w = torch.randn(4), torch.ones(4)
    t = torch.rand(4).bfloat16()
    for options in ({"weight": w}, {"pos_weight": w}):
        results = [f("binary_cross_entropy_with_logits")(x, t, **options) for f in (ours, theirs)]
        assert results[0].dtype is results[1].dtype


def test_a_default_device_does_not_switch_the_kernels_off() -> None:
    x, t = torch.randn(4, 3), torch.rand(4, 3)
    with torch.device("cpu"):
        for op in ("mse_loss", "soft_cross_entropy"):
            ours(op)(x, t)
            assert fusestep.stats()[op] == {"native": 1, "torch": {}}


@pytest.mark.parametrize("op", LOSSES)
def test_targets_made_in_inference_mode(op: str) -> None:
    """A teacher's predictions: autograd must not save them, so torch's own decides."""
    with torch.inference_mode():
        _, *others = (t * 1 for t in loss_inputs(op, (6, 9), torch.float32))
    outcomes = []
    for function in (ours(op), theirs(op)):
        x = loss_inputs(op, (6, 9), torch.float32)[0].requires_grad_()
        try:
            function(x, *others).sum().backward()
            outcomes.append(x.grad)
        except RuntimeError:
            outcomes.append(None)
    if outcomes[1] is None:
        assert outcomes[0] is None or op in ("log_cosh_loss", "sigmoid_focal_loss")
    else:
        torch.testing.assert_close(*outcomes)


def test_elementwise_mean_is_the_mean_with_torchs_warning() -> None:
    x = torch.randn(3)
    with pytest.warns(UserWarning, match="deprecated"):
        assert ours("mse_loss")(x, -x, reduction="elementwise_mean") == ours("mse_loss")(x, -x)


def test_legacy_arguments_compile() -> None:
    x = torch.randn(3, 4)
    for options in ({"reduce": False}, {"size_average": False}, {"size_average": True}):
        compiled = torch.compile(
            lambda a, o=options: ours("mse_loss")(a, -a, **o), fullgraph=True, backend="eager"
        )
        with pytest.warns(UserWarning, match="size_average and reduce"):
            expected = theirs("mse_loss")(x, -x, **options)
        torch.testing.assert_close(compiled(x), expected)
        torch._dynamo.reset()
