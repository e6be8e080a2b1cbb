"""Bugs that other fused losses shipped, each by a test named after what it prevents.

The numbers are those of the 26 items distilled from the issues of Liger-Kernel, TransformerEngine (TE),
quack, flash-attention, apex, unsloth, FlagGems, attorch, optax, OneFlow and PyTorch.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_functional
from torch import Tensor

import cases
import fusestep
import fusestep.nn.functional as F
import parity
from cases import DTYPES, LOSSES, REDUCTIONS, ROWWISE, SOFT, SOFTMAX, fitting, loss_inputs, ours, theirs
from parity import compare, differentiable, evaluate, exact

NAN, INF = float("nan"), float("inf")
IGNORING = ["cross_entropy", "nll_loss"]  # losses with ignore_index
MASKING = ["hinge_embedding_loss", "margin_ranking_loss"]  # torch masks where we multiply: no NaN seed

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

COVERED: set[int] = set()


def item(*numbers: int, **values: Any) -> Callable[[Any], Any]:
    """Registers the items that a test stands for, and runs it with each of the values."""
    COVERED.update(numbers)
    marks = [pytest.mark.parametrize(name, choices, ids=str) for name, choices in values.items()]
    return lambda test: reduce(lambda marked, mark: mark(marked), marks, test)


def leaves_of(op: str, operands: tuple[Tensor, ...]) -> list[Tensor]:
    wanted = differentiable(op, operands)
    return [t.clone().requires_grad_() if want else t for t, want in zip(operands, wanted, strict=True)]


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(*(t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (a, b)))


def check(op: str, function: Any, operands: Any, device: str = "cpu", layout: Any = None, **o: Any) -> None:
    """Loss and gradients on the device, of operands laid out anew inside the graph, against float64."""
    layout = layout or (lambda t: t)
    wide = [t.double() if t.is_floating_point() else t for t in operands]
    right = evaluate(op, lambda *a: theirs(op)(*map(layout, a), **o), wide)
    results = evaluate(op, lambda *a: function(*map(layout, a), **o), [t.to(device) for t in operands])
    for name, value in results.items():
        eps = 64 * torch.finfo(value.dtype).eps
        torch.testing.assert_close(value.cpu().double(), right[name], rtol=eps, atol=eps, equal_nan=True)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """New memory of torch is NaN, and torch refuses what is not deterministic."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(64).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@item(1, op=LOSSES, reduction=REDUCTIONS)  # TE#2139, NeMo-Automodel#3853, quack#126, Liger#678, Liger#968
def test_upstream_gradient_is_not_applied_twice_nor_to_other_rows(op: str, reduction: str) -> None:
    """With stride 0, strided, transposed; and zero for the first row, which is ignored where it can be."""
    for shape in fitting(op, (4, 7), (2, 3, 4, 5)):
        operands = loss_inputs(op, shape, torch.float32)
        rows = theirs(op)(*operands, reduction=reduction).shape
        values = [1.0, 0.0, -2.0, 0.5, NAN][: 4 if op in MASKING else 5]
        seeds = [torch.tensor(value).expand(rows) for value in values]
        if reduction == "none":
            turned = torch.randn(rows[::-1]).permute(*range(len(rows))[::-1])
            for seed in (torch.randn(*rows, 3)[..., 1], turned):
                seed[0] = 0
                seeds.append(seed)
        for seed in seeds:
            compare(op, operands, seed, reduction=reduction)


@item(2, op=LOSSES, dtype=DTYPES)  # unsloth-zoo#610
def test_second_backward_is_not_scaled_by_the_first(op: str, dtype: torch.dtype) -> None:
    """A saved gradient that was scaled in place gives 3 + 3 * 2 instead of 3 + 2."""

    def already_once(*leaves: Tensor) -> Tensor:
        loss = ours(op)(*leaves, reduction="mean")
        loss.backward(torch.full_like(loss, 3), retain_graph=True)
        return loss

    operands, eps = loss_inputs(op, (5, 9), dtype), torch.finfo(dtype).eps
    results = evaluate(op, already_once, operands, torch.tensor(2.0))
    right = exact(op, operands, torch.tensor(5.0), reduction="mean")
    for name in results.keys() - {"loss"}:
        torch.testing.assert_close(results[name].double(), right[name], rtol=4 * eps, atol=2 * eps)


@item(3, op=LOSSES, reduction=REDUCTIONS)  # Liger#272, Liger#343, unsloth#5002, apex
def test_logits_and_upstream_gradient_are_not_overwritten(op: str, reduction: str) -> None:
    """tanh and softmax save their output: whoever writes it spoils their gradient, unseen by autograd."""
    raw, *others = loss_inputs(op, (4, 7), torch.float32)
    for upstream in (torch.sigmoid if op == "binary_cross_entropy" else torch.tanh, lambda t: t.softmax(-1)):
        logits = upstream(leaf := raw.clone().requires_grad_())
        loss = ours(op)(logits, *others, reduction=reduction)
        seed = torch.full_like(loss, 0.5)
        before = [t.clone() for t in (upstream(raw), seed, *others)]
        loss.backward(seed)
        for tensor, value in zip((logits, seed, *others), before, strict=True):
            assert same_bits(tensor, value)
        assert logits._version == 0
        right = exact(op, (upstream(raw), *others), seed, reduction=reduction)
        (grad,) = torch.autograd.grad(upstream(leaf.double()), leaf, list(right.values())[1])
        torch.testing.assert_close(leaf.grad, grad, rtol=1e-5, atol=1e-6)


@item(4, op=LOSSES)
def test_double_backward_is_not_silently_zero(op: str) -> None:
    """A gradient saved in forward is a constant to autograd: the Hessian must come from somewhere else."""
    options = {"p": 2} if op == "multi_margin_loss" else {}
    shape = (2, 1000) if options else (3, 5)  # torch's own multi_margin_loss has no second derivative
    results = []
    for function in (ours(op), theirs(op)):
        leaves = leaves_of(op, loss_inputs(op, shape, torch.float64))
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        loss = function(*leaves, reduction="sum", **options)
        grads = torch.autograd.grad(loss, wanted, create_graph=True)
        penalty = sum((g * g + 3 * g * leaf).sum() for g, leaf in zip(grads, wanted, strict=True))
        results.append(torch.autograd.grad(penalty, wanted))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


@item(5, op=["cross_entropy", *SOFT], dtype=DTYPES)  # Liger#1329, Liger#1341, Liger#1419, TE#3193
def test_true_class_gradient_of_a_confident_row_does_not_cancel(op: str, dtype: torch.dtype) -> None:
    """softmax - 1 rounded to bfloat16 is off by 20 % at p = 0.99 and by all of it at 0.999."""
    confidence = torch.tensor([0.9, 0.99, 0.999, 1 - 1e-6], dtype=torch.float64)
    logits = torch.zeros(4, 5, dtype=torch.float64)
    logits[:, 2] = torch.log(4 * confidence / (1 - confidence))
    target = torch.eye(5, dtype=dtype)[[2] * 4] if op in SOFT else torch.full((4,), 2)
    operands = logits.to(dtype), target
    scale = torch.tensor(1024.0)  # lifts float16 above its denormals
    grad = evaluate(op, ours(op), operands, scale, reduction="sum")["grad_input"]
    right = exact(op, operands, scale, reduction="sum")["grad_input"]
    torch.testing.assert_close(grad.double(), right, rtol=5e-3, atol=0)


@item(6, 21, op=LOSSES, dtype=[torch.bfloat16, torch.float16])  # optax#1020, TE#3193, Liger
def test_half_precision_is_rounded_to_more_than_once(op: str, dtype: torch.dtype) -> None:
    """The loss of the same numbers in float32, rounded once; under autocast, not rounded at all."""
    for shape, reduction in product(((9, 33), (300, 100)), REDUCTIONS):
        operands = loss_inputs(op, shape, dtype)
        right = exact(op, operands, reduction=reduction)["loss"]
        with torch.autocast("cpu", dtype):
            wide = ours(op)(*operands, reduction=reduction)
        # torch composes gaussian_nll_loss of operations that autocast leaves alone
        assert wide.dtype is (dtype if op == "gaussian_nll_loss" else torch.float32)
        for loss in (ours(op)(*operands, reduction=reduction), wide):
            half_ulp = torch.finfo(loss.dtype).eps / 2 * right.abs()
            assert ((loss.double() - right).abs() <= half_ulp + 2**-20 * (1 + right.abs().max())).all()


@item(
    7, op=[*ROWWISE, *SOFT, *SOFTMAX], offset=[1e4, -1e4, -200.0]
)  # FlagGems' running maximum, pytorch#195829
def test_row_maximum_that_starts_at_zero(op: str, offset: float) -> None:
    """Rows far below zero underflow against it; rows far above overflow without a maximum."""
    for classes in (5, 37, 137):
        input, *others = loss_inputs(op, (3, classes), torch.float32)
        if op in SOFTMAX:
            check(op, ours(op), (input + offset,), dim=1)
        else:
            compare(op, (input + offset, *others))


@item(8)  # pytorch#85786, pytorch#90793, flash-attn c79de85f, quack d45300e
@pytest.mark.skipif(sys.platform != "linux", reason="needs zeros that cost no memory before they are written")
def test_offset_beyond_2_to_the_32_does_not_wrap() -> None:
    """Of the last rows, and of the last element; nor does the divisor of a mean."""
    size, count = 65537, 2**31 + 8
    logits, labels = torch.from_numpy(np.zeros((size, size), np.float16)), torch.full((size,), size - 1)
    logits[-2:, -1] = torch.tensor([-3.0, 5.0])
    assert F.nll_loss(logits, labels, reduction="none").tolist() == [0.0] * (size - 2) + [3.0, -5.0]
    labels[:-2] = -100
    losses = F.cross_entropy(logits, labels, reduction="none")
    right = torch_functional.cross_entropy(logits[-2:].double(), labels[-2:], reduction="none")
    assert torch.equal(losses, torch.cat([torch.zeros(size - 2), right]).half())
    input, zeros = torch.from_numpy(np.zeros(count, np.float16)), torch.zeros(1).half().expand(count)
    input[-1] = 3
    assert F.l1_loss(input, zeros, reduction="sum") == 3
    assert F.mse_loss(torch.full((1,), 2.0).expand(count), zeros) == 4


LARGE = [(65537, 32768), (65537, 32768, 1, 1), (65536, 50257), (18423, 131072)]
ASKED = pytest.mark.skipif("FUSESTEP_LARGE_TESTS" not in os.environ, reason="9 GB: set FUSESTEP_LARGE_TESTS")
ON_CPU = [pytest.param("cpu", shape, marks=ASKED) for shape in LARGE[:2]]
ON_CUDA = [pytest.param("cuda", shape, marks=pytest.mark.gpu) for shape in LARGE]


@item(8)  # pytorch#190139
@pytest.mark.parametrize(("device", "shape"), [*ON_CPU, *ON_CUDA])
def test_gradient_of_the_last_row_beyond_2_to_the_31_elements(device: str, shape: tuple[int, ...]) -> None:
    logits = torch.zeros(shape, dtype=torch.bfloat16, device=device)
    rows, kept = torch.zeros(3, shape[1]).bfloat16(), [0, -2, -1]
    rows[1:].normal_()
    logits[-2:] = rows[1:].view(2, *shape[1:]).to(device)
    labels = torch.full((shape[0], *shape[2:]), -100, device=device)
    labels[kept] = shape[1] - 1
    loss = F.cross_entropy(logits.requires_grad_(), labels, reduction="sum")
    loss.backward()
    right = exact("cross_entropy", (rows, torch.full((3,), shape[1] - 1)), reduction="sum")
    torch.testing.assert_close(loss.double().cpu(), right["loss"], rtol=2**-8, atol=0)
    grad = logits.grad[kept].flatten(1).double().cpu()
    torch.testing.assert_close(grad, right["grad_input"], rtol=2**-7, atol=1e-12)
    assert not logits.grad[1:-2:4096].any()


@item(9, op=IGNORING, reduction=REDUCTIONS)  # Liger and TE return 0, CCE and torchtune raise
def test_mean_over_no_row_divides_by_zero(op: str, reduction: str) -> None:
    """All ignored: mean is NaN with a gradient of zeros, sum 0, none zeros. One row alone; N, C or d of 0."""
    smoothed = [{}, {"label_smoothing": 0.1}][: 2 if op == "cross_entropy" else 1]
    expected = {"mean": torch.tensor(NAN), "sum": torch.tensor(0.0), "none": torch.zeros(4)}[reduction]
    for first, second in product(smoothed, ({}, {"weight": torch.rand(6)})):
        options = {"reduction": reduction, **first, **second}
        input, target = torch.randn(4, 6), torch.full((4,), -100)
        results = evaluate(op, ours(op), (input, target), **options)
        torch.testing.assert_close(results["loss"], expected, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(results["grad_input"], torch.zeros(4, 6))
        target[2] = 5
        compare(op, (input, target), **options)
    for shape in ((0, 5), (2, 5, 0), (0, 5, 3), (0, 0), (3, 1)):
        target = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
        check(op, ours(op), (torch.randn(shape), target), reduction=reduction)


@item(10, label=[-1, 5, 6, 2**31, 2**31 + 3, 2**32 + 3, -(2**31)], op=ROWWISE)
def test_label_of_2_to_the_31_wraps_around(op: str, label: int) -> None:
    """In 32 bits 2^32 + 3 is the valid label 3, and 2^31 is negative."""
    for shape, reduction in product(fitting(op, (3, 5), (2, 5, 2)), REDUCTIONS):
        target = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
        target.view(-1)[-1] = label
        with pytest.raises((IndexError, RuntimeError), match=r"out of (bounds|range)"):
            ours(op)(torch.randn(shape, requires_grad=True), target, reduction=reduction)


@item(
    10, 11, ignored=[-1, -100, -7, 7, 100], op=IGNORING
)  # quack 66d8016, pytorch#69339, pytorch#91383, pytorch#72056
def test_score_and_weight_at_the_ignored_label_are_not_used(op: str, ignored: int) -> None:
    """Both lie outside of the row and of the weights: NaN there must not reach the result."""
    input, weights = torch.full((400,), NAN)[200:214].view(2, 7), torch.full((400, 3), NAN)[200:207]
    input.normal_()
    weights[:, 0], weights[:, 1] = torch.linspace(0.5, 2, 7), 0  # strided, and with a sum of zero
    target = torch.tensor([ignored, 3])
    compare(op, (input, target), ignore_index=ignored)
    for weight in (weights[:, 0], weights[:, 1], torch.tensor(2.0).expand(7)):
        compare(op, (input, target), ignore_index=ignored, weight=weight)
    with pytest.raises(IndexError, match=f"Target {ignored} is out of bounds"):
        ours(op)(input, target, ignore_index=0)  # -100 is ignored by default, not always


GUARDED = """
import ctypes, mmap, sys, numpy as np
sys.path.insert(0, {tests!r})
from cases import LOSSES, loss_inputs, ours, torch
page, kept = mmap.PAGESIZE, []
def guarded(tensor, at_end):
    array = tensor.contiguous().numpy()
    end = -(-array.nbytes // page) * page + page
    region = mmap.mmap(-1, end + page)
    kept.append(region)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    for wall in (start, start + end):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(page), 0) == 0
    copy = np.frombuffer(region, array.dtype, array.size, end - array.nbytes if at_end else page)
    copy[...] = array.reshape(-1)
    return torch.from_numpy(copy.reshape(array.shape))
for op in LOSSES:
    for shape in ((3, 1), (5, 7), (2, 33), (1, 130), (130, 3)):
        for dtype, at_end in ((torch.float32, 0), (torch.float32, 1), (torch.float16, 0), (torch.float16, 1)):
            operands, results = loss_inputs(op, shape, dtype), []
            for input, *others in (operands, [guarded(t, at_end) for t in operands]):
                x = input.detach().requires_grad_()
                loss = ours(op)(x, *others, reduction="mean")
                results.append(torch.stack([loss.detach(), *torch.autograd.grad(loss, x)[0].view(-1)]))
            assert torch.equal(*(r.view(torch.uint8) for r in results)), op
"""


@item(10, 11)  # attorch, apex, FlagGems
@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_no_byte_before_or_after_an_operand_is_read() -> None:
    """Labels of -100 before the first row, tails after the last one: the pages around are forbidden."""
    code = GUARDED.format(tests=os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"


LAYOUTS = {
    "every other element": lambda t: torch.stack([t, t], -1)[..., 0],
    "padded and off by one": lambda t: torch_functional.pad(t, (1, 4), value=99)[..., 1:-4],
    "transposed": lambda t: t.transpose(-1, -min(2, t.dim())).contiguous().transpose(-1, -min(2, t.dim())),
    "one row": lambda t: t[-1:].expand(t.shape),
    "one element": lambda t: t.reshape(-1)[-1:].expand(t.shape),
}


@item(10, 12, op=[*ROWWISE, *SOFT], layout=LAYOUTS)  # flash-attn bedf8774
def test_strides_of_logits_and_labels_are_not_assumed(op: str, layout: str) -> None:
    """Padded vocabularies, 8 but not 16 bytes aligned labels, one row for all; int32 labels are refused."""
    for shape, dtype in product(fitting(op, (9, 7), (3, 7, 5)), (torch.float32, torch.bfloat16)):
        for reduction in REDUCTIONS:
            check(op, ours(op), loss_inputs(op, shape, dtype), layout=LAYOUTS[layout], reduction=reduction)
    for label_dtype in (torch.int32, torch.int16, torch.bool) if op in ROWWISE else ():
        with pytest.raises(RuntimeError):
            ours(op)(torch.randn(3, 5), torch.zeros(3, dtype=label_dtype))


@item(
    11, 12, op=LOSSES, shape=[(1025, 10), (3001, 3), (4099, 1), (2, 50257), (2, 262147)]
)  # attorch: its buffer of partial sums had N // BLOCK slots
def test_tail_after_the_last_full_block_is_not_dropped(op: str, shape: tuple[int, ...]) -> None:
    """In the sum; and in a gradient that only the last row has."""
    operands = loss_inputs(op, shape, torch.float32, seed=5)
    seed = torch.zeros(theirs(op)(*operands, reduction="none").shape)
    seed[-1] = 1
    compare(op, operands, seed, reduction="none")
    compare(op, operands, reduction="sum")


@item(13, op=[*ROWWISE, *SOFT])  # pytorch#195829
def test_masked_classes_and_poisoned_rows_stay_apart(op: str) -> None:
    """-inf masks a class; a row that is all -inf or has a NaN is NaN, and changes no bit of the others."""
    for classes in (6, 140):
        input, target = loss_inputs(op, (5, classes), torch.float32)
        target = target if op in SOFT else torch.arange(5)
        clean = evaluate(op, ours(op), (input, target), reduction="none")
        for row in ([NAN] + [0.0] * (classes - 1), [-INF] * classes, [0.0] * 5 + [-INF] * (classes - 5)):
            spoiled = input.clone()
            spoiled[1] = torch.tensor(row)
            compare(op, (spoiled, target), reduction="none")
            for name, value in evaluate(op, ours(op), (spoiled, target), reduction="none").items():
                assert same_bits(value[[0, 2, 3, 4]], clean[name][[0, 2, 3, 4]]), name


@item(14, smoothing=[0.1, 1.0], reduction=REDUCTIONS)  # pytorch#73205, pytorch#104776
def test_smoothing_divides_by_the_weights_of_kept_rows(smoothing: float, reduction: str) -> None:
    input, target = loss_inputs("cross_entropy", (11, 7), torch.float32)  # some are ignored
    masked = input.clone()
    masked[1, 6] = -INF  # makes the loss of this row infinite, unless it is ignored
    without = torch.where(torch.arange(11) == 1, -100, target)
    for weight in ({}, {"weight": torch.linspace(0, 2, 7)}):
        for operands in ((input, target), (masked, target), (masked, without)):
            compare("cross_entropy", operands, label_smoothing=smoothing, reduction=reduction, **weight)


@item(15, reduction=REDUCTIONS)
def test_probability_targets_have_a_gradient_and_need_not_add_up(reduction: str) -> None:
    """FlagGems has none for the target; softmax - t is wrong where t does not sum to 1."""
    op, input, target = "soft_cross_entropy", torch.randn(5, 7), torch.rand(5, 7) * 3
    for dtype, smoothing in product((torch.float32, torch.bfloat16), (0.0, 0.2)):
        compare(op, (input.to(dtype), target.to(dtype)), reduction=reduction, label_smoothing=smoothing)
    compare(op, (torch.tensor([[0.0, -INF, 1.0], [0.0, 1.0, 2.0]]), torch.eye(3)[:2]), reduction=reduction)
    check(op, ours(op), (input, target.double()), reduction=reduction)


@item(16, threshold=[1.0, 0.25, 3.0])  # attorch#13
@pytest.mark.parametrize(("op", "option"), [("smooth_l1_loss", "beta"), ("huber_loss", "delta")])
def test_threshold_is_not_compared_with_the_signed_difference(op: str, option: str, threshold: float) -> None:
    """Negative differences, and those exactly at the threshold."""
    d = torch.tensor([-5.0, -3.0, -1.0, -0.25, -0.1, 0.0, 0.1, 0.25, 1.0, 3.0, 5.0])
    for dtype, reduction in product(DTYPES, REDUCTIONS):
        compare(op, (d.to(dtype), torch.zeros(11, dtype=dtype)), reduction=reduction, **{option: threshold})


@item(16, beta=[0.0, 1e-50, 1e-310], dtype=DTYPES, device=DEVICES)  # pytorch#96813
def test_beta_of_zero_does_not_divide_zero_by_zero(beta: float, dtype: torch.dtype, device: str) -> None:
    """Identical inputs: 0 * 0 / 0 is NaN, in float32 also for a beta that rounds to zero."""
    d = torch.tensor([0.0, -0.0, 1.0, -1.0] * 9, dtype=dtype)
    check("smooth_l1_loss", F.smooth_l1_loss, (d, torch.zeros_like(d)), device, beta=beta)


@item(
    17, op=[op for op in (*cases.POINTWISE, *SOFT) if op != "binary_cross_entropy"]
)  # pytorch#76646, pytorch#36553
def test_backward_of_every_pair_of_dtypes(op: str) -> None:
    """Found dtype Float but expected Double: the loss is promoted, each gradient is not."""
    for first, second in product(DTYPES, DTYPES):
        input, target, *others = loss_inputs(op, (3, 5), torch.bfloat16)
        operands = input.to(first), target.to(second), *(t.to(first) for t in others)
        check(op, ours(op), operands, reduction="sum")
        assert ours(op)(*operands).dtype is theirs(op)(*operands).dtype


@item(17, op=["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "log_cosh_loss", "kl_div"])
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_gradient_of_broadcast_operands_has_their_shape(op: str) -> None:
    for shapes in (((3, 1), (1, 4)), ((4,), (3, 4)), ((), (5,)), ((2, 3, 1), (4,))):
        operands = tuple(loss_inputs(op, shape, torch.float32, i)[i] for i, shape in enumerate(shapes))
        for reduction in REDUCTIONS:
            compare(op, operands, reduction=reduction)


@item(18, dtype=DTYPES)  # Oneflow#7476
def test_clamp_of_bce_does_not_vanish_in_half_precision(dtype: torch.dtype) -> None:
    """1e-12 is 0 in float16: log(0 + eps) was -inf, and 0 / eps NaN."""
    p, y = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5], [0.0, 1.0, 0.0, 1.0, 0.5]], dtype=dtype)
    results = evaluate("binary_cross_entropy", F.binary_cross_entropy, (p, y), reduction="none")
    right = exact("binary_cross_entropy", (p, y), reduction="none")
    assert results["loss"].tolist()[:4] == [0, 100, 100, 0]
    torch.testing.assert_close(results["grad_input"], right["grad_input"].to(dtype))
    for bad in (1 + torch.finfo(dtype).eps, -torch.finfo(dtype).tiny, NAN):
        with pytest.raises(RuntimeError, match="between 0 and 1"):
            F.binary_cross_entropy(torch.full_like(y, bad), y)


@item(18, magnitude=[40.0, 100.0, 700.0])  # pytorch#195529, pytorch#195677
def test_saturated_logits_of_either_sign_are_symmetric(magnitude: float) -> None:
    """1 + exp(-40) is 1 in float64: log1p(exp(-40)) is not 0, and neither is its gradient."""
    tiny = math.exp(-magnitude)
    x = torch.tensor([-magnitude, magnitude], dtype=torch.float64, requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, torch.tensor([0.0, 1.0]).double(), reduction="none")
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([tiny, tiny], rel=1e-14, abs=0)
    assert x.grad.tolist() == pytest.approx([tiny, -tiny], rel=1e-14, abs=0)


@item(19, reduction=REDUCTIONS)  # pytorch#89558, optax#1786, Liger#1453, Liger#769
def test_probabilities_that_underflow_give_no_new_nan(reduction: str) -> None:
    """t = 0, t < 0, -inf, and logarithms with an exponential of 0: NaN only where torch has it."""
    finite, infinite = [0.0, -1.0, -150.0, -1e4], [-INF, -1.0]
    for log_target, x, t in (
        (False, finite + infinite, [0.0, 1e-45, 0.5, 1.0, -0.5]),
        (True, finite, [-105.0, -150.0, -1e4, -0.5, 0.0]),
        (True, infinite, [-1e4, -0.5, 0.0, -INF]),
    ):
        pairs = torch.tensor(list(product(x, t)))
        compare("kl_div", pairs.t().contiguous().unbind(), reduction=reduction, log_target=log_target)


@item(20, op=LOSSES, device=DEVICES)  # pytorch#17350
@pytest.mark.usefixtures("poisoned_memory")
def test_reductions_do_not_depend_on_the_run_or_on_threads(op: str, device: str) -> None:
    """20 runs, 1 to 5 threads, and no float atomics; torch refuses its own N-d loss on CUDA here."""
    for shape, reduction in product(fitting(op, (37, 1500), (4, 19, 40, 20)), ("mean", "sum")):
        operands = [t.to(device) for t in loss_inputs(op, shape, torch.float32)]
        reference = evaluate(op, ours(op), operands, reduction=reduction)
        for run in range(20):
            fusestep.set_num_threads(run % 5 + 1)
            for name, value in evaluate(op, ours(op), operands, reduction=reduction).items():
                assert same_bits(value, reference[name]), name


@item(21, device=DEVICES)
def test_mean_whose_sum_is_beyond_float16(device: str) -> None:
    """1e8 elements: neither the sum nor their number fits into float16."""
    three, zero = (torch.full((1,), v, device=device).half().expand(10**8) for v in (3.0, 0.0))
    for op, right in (("mse_loss", 9.0), ("l1_loss", 3.0), ("huber_loss", 2.5)):
        assert ours(op)(three, zero, reduction="mean") == right
        assert ours(op)(three, zero, reduction="sum") == INF


@item(22, op=LOSSES, compiled=[False, True], device=DEVICES)  # Liger#1338
@pytest.mark.usefixtures("poisoned_memory")
def test_outputs_of_skipped_rows_are_written(op: str, compiled: bool, device: str) -> None:
    """An early return for an ignored row left what was in memory, which here is NaN."""
    function = torch.compile(ours(op), backend="aot_eager", fullgraph=True) if compiled else ours(op)
    shapes = fitting(op, (6, 7)) if compiled else fitting(op, (6, 7), (2, 5, 3, 4))
    for shape, reduction in product(shapes, ["none"] if compiled else REDUCTIONS):
        operands = loss_inputs(op, shape, torch.float32)
        assert op not in IGNORING or (operands[1] == -100).any()
        check(op, function, operands, device, reduction=reduction)
    torch._dynamo.reset()


@item(23, op=LOSSES)  # tritonbench#477, Liger#1292, Liger#1401
@pytest.mark.gpu
def test_a_step_waits_for_nothing_and_can_be_captured(op: str) -> None:
    """On a side stream; a replayed graph reads new inputs. And the device need not be the current one."""
    device = f"cuda:{torch.cuda.device_count() - 1}"  # cuda:0 is the current one
    check(op, ours(op), loss_inputs(op, (64, 5000), torch.float32), device, reduction="mean")
    leaves = leaves_of(op, tuple(t.cuda() for t in loss_inputs(op, (64, 50), torch.float32)))

    def step() -> list[Tensor]:
        loss = ours(op)(*leaves, reduction="mean")
        return [loss.detach(), *torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad])]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(side):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for leaf, value in zip(leaves, fresh := loss_inputs(op, (64, 50), torch.float32, seed=1), strict=True):
        leaf.detach().copy_(value)
    graph.replay()
    for value, right in zip(captured, exact(op, fresh, reduction="mean").values(), strict=True):
        torch.testing.assert_close(value.cpu().double(), right, rtol=1e-4, atol=1e-6)


@item(24, op=LOSSES)  # TE#2476, Liger#259, Liger#262
def test_the_comparison_can_fail(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value or a gradient off by 1e-4, a NaN too many, a wrong dtype, no kernel: each is found."""
    loss, operands = ours(op), loss_inputs(op, (5, 9), torch.float32)
    for damage in (
        lambda y, x: y * (1 + 1e-4),
        lambda y, x: y + (y - y.detach()) * 1e-4,
        lambda y, x: y + (x - x.detach()).sum() * NAN,
        lambda y, x: y.double(),
    ):
        monkeypatch.setattr(parity, "ours", lambda op, d=damage: lambda x, *y, **o: d(loss(x, *y, **o), x))
        with pytest.raises(AssertionError):
            compare(op, operands, reduction="mean")
    monkeypatch.setattr(parity, "ours", theirs)
    with pytest.raises(AssertionError, match="fell back"):
        compare(op, operands, reduction="mean")


@item(25, dtype=[torch.float32, torch.float64])  # Keras and optax cancel
def test_log_cosh_does_not_cancel_near_zero_nor_overflow_far_from_it(dtype: torch.dtype) -> None:
    """x + softplus(-2x) - log 2 has lost every digit at 3e-4; cosh(1e4) is infinite."""
    sizes = torch.tensor([10.0**-k for k in range(1, 7)] + [0.5, 1.0, 3.0, 20.0], dtype=dtype)
    eps, far = torch.finfo(dtype).eps, torch.tensor([1e4, -1e4, INF, -INF, NAN], dtype=dtype)
    x = torch.cat([sizes, -sizes, far]).requires_grad_()
    near, limit = x.detach().double()[:-5], far.double().abs() - math.log(2)
    loss = F.log_cosh_loss(x, torch.zeros_like(x), reduction="none")
    grad, again = (
        torch.autograd.grad(loss.sum(), x, retain_graph=True, create_graph=graph)[0]
        for graph in (False, True)
    )
    (second,) = torch.autograd.grad(again.sum(), x)
    value = torch.cat([torch.log1p(2 * torch.sinh(near / 2) ** 2), limit])
    torch.testing.assert_close(loss.double(), value, rtol=8 * eps, atol=0, equal_nan=True)
    torch.testing.assert_close(grad.double(), x.double().tanh(), rtol=8 * eps, atol=0, equal_nan=True)
    torch.testing.assert_close(second[:-5].double(), near.cosh() ** -2, rtol=1e-5, atol=4 * eps)


@item(26, op=LOSSES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_compile_vmap_and_jvp_do_not_lose_the_gradient(op: str) -> None:
    """Compiled, the whole loss is in one graph; under vmap and jvp it is torch's, or torch's exception."""
    operands = loss_inputs(op, (4, 6), torch.float32)
    check(op, torch.compile(ours(op), backend="aot_eager", fullgraph=True), operands, reduction="mean")
    torch._dynamo.reset()
    wide = [t.double() if t.is_floating_point() else t for t in operands]
    for transform in (
        lambda f, x, *rest: torch.func.jvp(lambda a: f(a, *rest), (x,), (torch.ones_like(x),))[1],
        lambda f, *all: torch.func.vmap(torch.func.grad(lambda *a: f(*a).sum()))(*all),
    ):
        try:
            right = transform(theirs(op), *wide)
        except (RuntimeError, NotImplementedError) as refused:
            with pytest.raises(type(refused)):
                transform(ours(op), *operands)
            continue
        torch.testing.assert_close(transform(ours(op), *operands).double(), right, rtol=1e-4, atol=1e-5)


def test_every_item_of_the_list_has_a_test() -> None:
    assert set(range(1, 27)) == COVERED
