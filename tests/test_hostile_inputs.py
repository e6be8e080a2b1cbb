"""Hostile inputs: rows 1 to 40 of the table of expected outcomes, or what docs/semantics.md says instead."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import cases
import fusestep.nn.functional as F
import fusestep.numpy as fnp
import fusestep.optim as optim
from cases import LOSSES, REDUCTIONS, ROWWISE, SOFT, SOFTMAX, fitting, loss_inputs, ours, theirs
from parity import compare, differentiable, exact

NAN, INF = float("nan"), float("inf")
IGNORING = ["cross_entropy", "nll_loss"]  # losses with ignore_index
SYMMETRIC = [op for op in cases.POINTWISE if len(set(cases.OPERANDS.get(op, ("real",)))) == 1]
OUT_OF_RANGE = [5, -1, 2**31, -(2**31), 2**62, -(2**63)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LIBC = ctypes.CDLL(None) if sys.platform == "linux" and os.uname().machine == "x86_64" else None
COVERED: set[int] = set()


def row(number: int, **values: Any) -> Any:
    """Registers the row of the table that a test stands for, and runs it with each of the values."""
    COVERED.add(number)
    marks = [pytest.mark.parametrize(name, choices, ids=str) for name, choices in values.items()]
    return lambda test: reduce(lambda marked, mark: mark(marked), marks, test)


def outcome(function: Any, *args: Any, **options: Any) -> Any:
    """The value, or the type of the exception."""
    try:
        return function(*args, **options)
    except Exception as error:
        return type(error)


def raises_as_torch(name: str, *args: Any, expected: Any, match: str = ".", **options: Any) -> None:
    assert outcome(getattr(torch_functional, name), *args, **options) is expected
    with pytest.raises(expected, match=match):
        getattr(F, name)(*args, **options)


def close(mine: Any, right: Any) -> None:
    torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-6, equal_nan=True, check_dtype=False)


def gradient(op: str, input: Tensor, *others: Tensor, **options: Any) -> list[Tensor]:
    """The loss and the gradient of the first operand, which is taken as it lies in memory."""
    loss = ours(op)(x := input.detach().requires_grad_(), *others, **options)
    return [loss.detach(), *torch.autograd.grad(loss.sum(), x)]


def exact_gradient(op: str, operands: Any, *seed: Tensor, **options: Any) -> list[Tensor]:
    """The same two by torch in float64."""
    return list(exact(op, operands, *seed, **options).values())[:2]


def labels_for(shape: tuple[int, ...], last: int = 0) -> Tensor:
    target = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
    target.view(-1)[-1:] = last
    return target


@row(1, label=OUT_OF_RANGE, op=ROWWISE)
@row(2)
def test_label_out_of_range_reads_foreign_memory(op: str, label: int) -> None:
    kind = RuntimeError if op == "multi_margin_loss" else IndexError
    shapes = fitting(op, (3, 5), (2, 5, 3, 4), (1, 5, 64, 65))  # the last pixel has the bad one
    for shape, reduction, wanted in product(shapes, REDUCTIONS, (False, True)):
        args = torch.randn(shape, requires_grad=wanted), labels_for(shape, label)
        raises_as_torch(op, *args, expected=kind, match=r"out of (bounds|range)", reduction=reduction)


@row(1, label=OUT_OF_RANGE, op=ROWWISE)
@pytest.mark.gpu
def test_label_out_of_range_does_not_cost_the_cuda_context(op: str, label: int) -> None:
    x, target = torch.randn(3, 5), labels_for((3, 5), label)
    results = [value.cpu() for value in gradient(op, x.cuda(), target.cuda(), reduction="none")]
    close([value[:2] for value in results], exact_gradient(op, (x[:2], target[:2]), reduction="none"))
    assert all(value[2].isnan().all() for value in results)


@row(3, label=[10**9, -(2**62)], op=ROWWISE)  # torch crashes for four dimensions: it is not asked
def test_label_changed_behind_autograd_is_not_written_to(op: str, label: int) -> None:
    for shape, reduction in product(fitting(op, (3, 4), (2, 4, 3, 3)), REDUCTIONS):
        x, target = torch.randn(shape, requires_grad=True), labels_for(shape)
        loss = ours(op)(x, target, reduction=reduction).sum()
        target.numpy()[...] = label
        result = outcome(torch.autograd.grad, loss, x)
        assert issubclass(result, IndexError) if isinstance(result, type) else result[0].isfinite().all()


@row(4, op=LOSSES, reduction=REDUCTIONS)
def test_operand_changed_before_backward_is_noticed(op: str, reduction: str) -> None:
    operands = loss_inputs(op, (3, 5), torch.float32)
    for i in range(len(operands)):
        wanted = zip(operands, differentiable(op, operands), strict=True)
        used = [t.clone().requires_grad_(w) * 1 for t, w in wanted]
        loss = ours(op)(*used, reduction=reduction).sum()
        used[i].detach().zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@row(5, op=IGNORING)
def test_all_labels_ignored_is_not_divided_by_one(op: str) -> None:
    x, target = torch.randn(4, 6), torch.full((4,), 7)
    for reduction, value in (("mean", NAN), ("sum", 0.0), ("none", [0.0] * 4)):
        results = gradient(op, x, target, ignore_index=7, reduction=reduction)
        close(results, [torch.tensor(value), torch.zeros(4, 6)])


@row(6, op=IGNORING, classes=[6, 140])
def test_nan_of_an_ignored_row_reaches_nothing(op: str, classes: int) -> None:
    """Not even the gradient of that row: a departure from torch."""
    x, target = torch.randn(5, classes), torch.tensor([0, -100, 2, 3, -100])
    x[1] = NAN
    for reduction in REDUCTIONS:
        results = gradient(op, x, target, reduction=reduction)
        close(results, exact_gradient(op, (x.nan_to_num(0), target), reduction=reduction))


@row(7, values=[[-INF] * 4, [INF, 0, 0, 0], [INF, 0, INF, 0], [0, NAN, 0, 0]], op=["cross_entropy", *SOFT])
def test_infinite_logits_are_nan_in_their_row_only(op: str, values: list[float]) -> None:
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0], values, [1.0, 0.0, 0.0, 0.0]])
    target = torch.full((3, 4), 0.25) if op in SOFT else torch.tensor([1, 2, 3])
    compare(op, (x, target), reduction="none")
    loss, grad = gradient(op, x, target, reduction="none")
    assert loss.isnan().tolist() == [False, True, False]
    assert grad.isnan().tolist() == [[False] * 4, [True] * 4, [False] * 4]


@row(8, classes=[4, 140])
def test_logit_of_minus_infinity_has_a_gradient(classes: int) -> None:
    """Of the label: loss inf, gradient -1 and 1 / (C - 1). Of another class: all finite, and zero there."""
    x, share = torch.zeros(2, classes), 1 / (classes - 1)
    x[:, 1] = -INF
    compare("cross_entropy", (x, torch.tensor([1, 0])), reduction="none")
    loss, grad = gradient("cross_entropy", x, torch.tensor([1, 0]), reduction="none")
    close(loss, torch.tensor([INF, -np.log(share)]))
    close(grad[:, :3], torch.tensor([[share, -1, share], [share - 1, 0, share]]))


@row(9)
def test_extreme_logits_do_not_overflow_on_the_way() -> None:
    zero, half = torch.tensor([0]), torch.tensor([[-65504.0, 65504.0]], dtype=torch.float16)
    for values, expected in (([3e38, -3e38], 0.0), ([1e30] * 4, np.log(4)), ([1e-45] * 4, np.log(4))):
        compare("cross_entropy", (torch.tensor([values]), zero))
        close(F.cross_entropy(torch.tensor([values]), zero), torch.tensor(expected))
    compare("cross_entropy", (half, zero))
    assert F.cross_entropy(half, zero) == INF  # 131008, which float16 does not have


@row(10, op=IGNORING, reduction=REDUCTIONS)
def test_degenerate_shapes_are_those_of_torch(op: str, reduction: str) -> None:
    for shape in ((3, 1), (0, 5), (0, 0), (2, 5, 0), (2, 0, 0)):
        results = gradient(op, torch.ones(shape), labels_for(shape), reduction=reduction)
        close(results, exact_gradient(op, (torch.ones(shape), labels_for(shape)), reduction=reduction))
    for shape in ((3, 0), (2, 0, 3)):
        with pytest.raises(IndexError):
            ours(op)(torch.zeros(shape), labels_for(shape), reduction=reduction)


@row(11, smoothing=[-0.1, NAN, 1.1, INF], op=["cross_entropy", *SOFT])
def test_smoothing_outside_of_zero_to_one(op: str, smoothing: float) -> None:
    """Above 1 an exception; torch takes a negative one or NaN as none."""
    operands = loss_inputs(op, (4, 6), torch.float32)
    if smoothing > 1:
        raises_as_torch("cross_entropy", *operands, label_smoothing=smoothing, expected=RuntimeError)
    else:
        close(F.cross_entropy(*operands, label_smoothing=smoothing), theirs(op)(*operands))


@row(12, op=ROWWISE)
def test_class_weights_of_wrong_length_or_dtype(op: str) -> None:
    operands = torch.randn(3, 5), torch.tensor([0, 4, 2])
    for wrong in (torch.ones(4), torch.ones(6), torch.ones(0), torch.ones(5).double()):
        raises_as_torch(op, *operands, weight=wrong, expected=RuntimeError)
    for value, expected in ((NAN, NAN), (0.0, 0.0 if op == "multi_margin_loss" else NAN)):  # divides by N
        compare(op, operands, weight=torch.full((5,), value))
        close(ours(op)(*operands, weight=torch.full((5,), value)), torch.tensor(expected))


@row(13, op=IGNORING)
def test_labels_of_other_dtypes_and_shapes_are_not_reinterpreted(op: str) -> None:
    x, target = torch.randn(3, 5), torch.tensor([0, 4, 2])
    dtypes = torch.int32, torch.int8, torch.float32, torch.bool
    for labels in (target[:, None], *(target.to(dtype) for dtype in dtypes)):
        raises_as_torch(op, x, labels, expected=RuntimeError)
    compare(op, (x, torch.tensor([0, 255, 2], dtype=torch.uint8)), ignore_index=255)


@row(14, reduction=REDUCTIONS)
def test_soft_targets_are_neither_checked_nor_normalised(reduction: str) -> None:
    x = torch.randn(4, 6)
    for target in (torch.randn(4, 6), torch.full((4, 6), 3.0), torch.zeros(4, 6), -torch.ones(4, 6)):
        compare("soft_cross_entropy", (x, target), reduction=reduction)
    raises_as_torch("cross_entropy", x, x, ignore_index=3, expected=RuntimeError, match="ignore_index")


VIEWS = {
    "stride 0": ((3, 4), lambda t: t[:1].expand(3, 4)),
    "overlapping": ((3, 4), lambda t: t.as_strided((3, 4), (2, 1))),
    "channels_last": ((2, 5, 3, 4), lambda t: t.contiguous(memory_format=torch.channels_last)),
    "negative bit": ((3, 4), lambda t: torch.view_as_complex(torch.stack([t, -t], -1)).conj().imag),
}


@row(15, op=LOSSES, view=VIEWS)
def test_views_are_read_and_differentiated_as_they_are(op: str, view: str) -> None:
    shape, made = VIEWS[view]
    for reduction in REDUCTIONS if fitting(op, shape) else ():
        x, *others = loss_inputs(op, shape, torch.float32)
        loss = ours(op)(made(leaf := x.clone().requires_grad_()), *others, reduction=reduction)
        right, seed = exact_gradient(op, (made(x).contiguous(), *others), reduction=reduction)
        grad = torch.autograd.grad(made(wide := x.double().requires_grad_()), wide, seed)
        close([loss, *torch.autograd.grad(loss.sum(), leaf)], [right, *grad])


def misaligned(array: np.ndarray) -> np.ndarray:
    copy = np.frombuffer(bytearray(array.nbytes + 1), array.dtype, array.size, 1).reshape(array.shape)
    copy[...] = array
    assert not copy.flags.aligned
    return copy


@row(16, op=LOSSES)
def test_data_one_byte_off_its_alignment(op: str) -> None:
    """An aligned load of it is a SIGBUS or a SIGSEGV. The bits are those of aligned data."""
    for dtype, shape in product((torch.float32, torch.float64, torch.float16), ((3, 7), (5, 130))):
        operands = loss_inputs(op, shape, dtype)
        moved = [torch.from_numpy(misaligned(t.numpy())) for t in operands]
        for reduction in ("mean", "none"):
            results = [gradient(op, *given, reduction=reduction) for given in (moved, operands)]
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@row(16)
def test_parameter_one_byte_off_its_alignment() -> None:
    start, params = torch.randn(37), []
    for module, place in ((optim, misaligned), (torch.optim, np.copy)):
        params.append(torch.from_numpy(place(start.numpy())).requires_grad_())
        params[-1].grad = torch.from_numpy(place(start.cos().numpy()))
        module.Adam([params[-1]], lr=0.1).step()
    close(*params)


@row(17, op=LOSSES)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_read_only_memory_is_never_written(op: str) -> None:
    operands = loss_inputs(op, (9, 33), torch.float32)
    arrays = [np.frombuffer(t.numpy().tobytes(), t.numpy().dtype).reshape(t.shape) for t in operands]
    for reduction in REDUCTIONS:
        results = gradient(op, *map(torch.from_numpy, arrays), reduction=reduction)
        close(results, exact_gradient(op, operands, reduction=reduction))
    loss, *_ = getattr(fnp, cases.public_name(op))(*arrays)
    close(torch.as_tensor(loss), exact(op, operands)["loss"])
    assert all(np.array_equal(array, t) for array, t in zip(arrays, operands, strict=True))


@row(18, op=LOSSES, bad=[np.ones(2, np.float32), [[1.0]], None, "text"])
def test_what_is_no_tensor_is_a_type_error(op: str, bad: Any) -> None:
    operands = loss_inputs(op, (3, 4), torch.float32)
    for i in range(len(operands)):
        args = [*operands[:i], bad, *operands[i + 1 :]]
        refused = outcome(getattr(torch_functional, cases.public_name(op), None), *args)
        assert outcome(ours(op), *args) in (TypeError, refused)
    for name in SOFTMAX:
        assert outcome(getattr(F, name), bad, 1) in (TypeError, AttributeError)


FOREIGN = {
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "complex64": lambda t: t * (1 + 1j),
    "bool": lambda t: t.bool(),
    "int64": lambda t: t.long(),
    "int8": lambda t: t.to(torch.int8),
    "sparse COO": lambda t: t.to_sparse(),
    "sparse CSR": lambda t: t.to_sparse_csr(),
    "mkldnn": lambda t: t.to_mkldnn(),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "nested": lambda t: torch.nested.nested_tensor([t]),
}


@row(19, op=LOSSES, kind=FOREIGN)
@pytest.mark.filterwarnings("ignore")  # of torch, about prototypes
def test_foreign_dtypes_and_layouts_are_not_read_as_floats(op: str, kind: str) -> None:
    """The value that torch makes of them, or an exception where it raises one."""
    operands = loss_inputs(op, (4, 4), torch.float32)
    for i, operand in enumerate(operands):
        if operand.dtype is torch.int64 and kind in ("sparse CSR", "mkldnn", "quantised", "int64"):
            continue
        args = [*operands[:i], FOREIGN[kind](operand), *operands[i + 1 :]]
        mine, right = outcome(ours(op), *args), outcome(theirs(op), *args)
        if isinstance(mine, Tensor) and not hasattr(torch_functional, cases.public_name(op)):
            right = theirs(op)(*(t if t.is_complex() else t.float() for t in args))
        if isinstance(right, Tensor) and not (op == "log_cosh_loss" and kind == "complex64"):
            torch.testing.assert_close(mine, right)
        else:
            assert issubclass(mine, RuntimeError)


@row(20, op=LOSSES)
def test_operands_on_two_devices_are_named(op: str) -> None:
    operands = loss_inputs(op, (3, 4), torch.float32)
    for i in range(len(operands)):
        args = [*operands[:i], operands[i].to("meta"), *operands[i + 1 :]]
        with pytest.raises(RuntimeError, match="meta" if i == 2 else r"cpu.*meta|meta.*cpu"):  # 2: var < 0?
            ours(op)(*args)


class Recorder(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


@row(21, op=LOSSES, reduction=REDUCTIONS)
def test_subclasses_modes_and_fake_tensors_are_not_bypassed(op: str, reduction: str) -> None:
    operands = loss_inputs(op, (3, 4), torch.float32)
    right = theirs(op)(*operands, reduction=reduction)
    subclass = type("Traced", (Tensor,), {})  # only __torch_function__ gives its type to a result
    result = ours(op)(operands[0].as_subclass(subclass), *operands[1:], reduction=reduction)
    assert type(result) is subclass
    close(result.as_subclass(Tensor), right)
    with Recorder() as recorder:
        close(ours(op)(*operands, reduction=reduction), right)
    assert recorder.calls > 0
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) for t in operands]
        fake, expected = (outcome(f(op), *fakes, reduction=reduction) for f in (ours, theirs))
    # torch's gaussian_nll_loss asks whether a variance is negative, which a fake tensor cannot say
    assert fake is expected if isinstance(expected, type) else fake.shape == right.shape


@row(22, op=["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "log_cosh_loss"])
def test_shapes_that_differ_are_broadcast_with_a_warning_or_refused(op: str) -> None:
    with pytest.warns(UserWarning, match="different to the input size"), pytest.raises(RuntimeError):
        ours(op)(torch.randn(3), torch.randn(4))
    for reduction in REDUCTIONS:
        with pytest.warns(UserWarning, match="different to the input size"):
            compare(op, (torch.randn(3, 1), torch.randn(3)), reduction=reduction)


@row(23, op=LOSSES, reduction=["nonsense", "", "MEAN", None])
def test_reduction_that_does_not_exist(op: str, reduction: Any) -> None:
    with pytest.raises(ValueError, match=r"reduction|is not a valid value"):
        ours(op)(*loss_inputs(op, (3, 4), torch.float32), reduction=reduction)


@row(24, op=cases.POINTWISE)
def test_scalars_have_a_value_and_nothing_has_none(op: str) -> None:
    for reduction in REDUCTIONS:
        compare(op, loss_inputs(op, (), torch.float32), reduction=reduction)
    for reduction, value in (("mean", NAN), ("sum", 0.0), ("none", [])):
        close(ours(op)(*loss_inputs(op, (0,), torch.float32), reduction=reduction), torch.tensor(value))


@row(25, p=[1, 2], reduction=["mean", "sum"])
def test_multi_margin_of_no_row_is_not_uninitialised_memory(p: int, reduction: str) -> None:
    """torch's is: 0 or NaN, and the same each time, is what is asked of us."""
    seen = set()
    for value in range(500):
        [torch.full((), float(value)) for _ in range(20)]  # freed at once: what the next tensors find
        seen.add(
            str(F.multi_margin_loss(torch.zeros(0, 5), labels_for((0, 5)), p=p, reduction=reduction).item())
        )
    assert seen in ({"0.0"}, {"nan"})


@row(26, op=SYMMETRIC)
def test_input_that_is_or_overlaps_its_target(op: str) -> None:
    """The gradients of both are added; overlapping views are as good as copies of them."""
    buffer = loss_inputs(op, (40,), torch.float32)[0]
    for shift, results in ((0, []), (1, []), (7, [])):
        for function, leaf in ((ours(op), buffer.clone()), (theirs(op), buffer.double())):
            loss = function(leaf.requires_grad_()[: 40 - shift], leaf[shift:])
            results.append([loss, *torch.autograd.grad(loss, leaf)])
        close(*results)


@row(27, op=LOSSES)
def test_grad_output_of_any_layout_and_dtype(op: str) -> None:
    operands = loss_inputs(op, (4, 6), torch.float32)
    rows = theirs(op)(*operands, reduction="none").shape
    turned = torch.randn(rows[::-1]).t() if len(rows) > 1 else torch.randn(8)[::2]
    for seed in (torch.tensor(0.5).expand(rows), turned, turned.double(), turned.half()):
        loss = ours(op)(x := operands[0].clone().requires_grad_(), *operands[1:], reduction="none")
        (grad,) = torch.autograd.grad(loss, x, seed)
        close(grad, exact_gradient(op, operands, seed, reduction="none")[1])
    loss, grad = gradient(op, *(t[:0] for t in operands), reduction="none")
    assert (loss.numel(), grad.shape) == (0, (0, 6))


@row(28, op=LOSSES)
def test_misused_backward_raises_what_torch_raises(op: str) -> None:
    """Twice; from another thread; with a hook that fails; of a tensor made in inference mode."""
    x, *others = operands = loss_inputs(op, (4, 6), torch.float32)
    loss = ours(op)(x.requires_grad_(), *others, reduction="mean")
    with ThreadPoolExecutor() as pool:
        pool.submit(loss.backward).result()
    close(x.grad, exact_gradient(op, operands, reduction="mean")[1])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    inner = x * 1
    inner.register_hook(lambda grad: {}["of the hook"])
    with pytest.raises(KeyError, match="of the hook"):
        ours(op)(inner, *others, reduction="mean").backward()
    with torch.inference_mode():
        frozen = [t.clone() for t in others]
    mine, right = outcome(ours(op), x, *frozen), outcome(theirs(op), x, *frozen)
    assert mine is right is RuntimeError or type(mine) is type(right)  # torch need not save them all


@row(29)
def test_bce_outside_of_zero_to_one_is_refused() -> None:
    p, y = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    results = gradient("binary_cross_entropy", p, y, reduction="none")
    close(results, [torch.tensor([0.0, 100.0, 100.0, 0.0]), torch.tensor([0.0, -1e12, 1e12, 0.0])])
    for bad in (1 + 2e-7, -1e-6, NAN, 2.0, INF):
        for args in ((torch.full((4,), bad), y), (y, torch.full((4,), bad))):
            raises_as_torch("binary_cross_entropy", *args, expected=RuntimeError, match="between 0 and 1")


@row(30, device=DEVICES)
def test_bce_under_autocast_is_float32_or_refused(device: str) -> None:
    operands = [t.to(device) for t in loss_inputs("binary_cross_entropy", (4, 6), torch.bfloat16)]
    with torch.autocast(device, torch.bfloat16):
        mine, right = (outcome(m.binary_cross_entropy, *operands) for m in (F, torch_functional))
    assert mine is right is RuntimeError if device == "cuda" else mine.dtype is torch.float32
    if device == "cpu":
        torch.testing.assert_close(mine, right)


@row(31)
def test_saturated_logits_do_not_overflow() -> None:
    x, y = torch.tensor([1e4, -1e4, INF, -INF]), torch.full((4,), 0.3)
    compare("binary_cross_entropy_with_logits", (x, y), reduction="none")
    loss, grad = gradient("binary_cross_entropy_with_logits", x, y, reduction="none")
    close(loss[:2], torch.tensor([7000.0, 3000.0]))
    close(grad, torch.tensor([0.7, -0.3, 0.7, -0.3]))


@row(32)
def test_thresholds_that_make_no_sense_are_refused() -> None:
    one, zero = torch.ones(3), torch.zeros(3)
    for delta in (0.0, -1.0, NAN):
        raises_as_torch("huber_loss", one, zero, delta=delta, expected=RuntimeError, match="delta")
    assert F.huber_loss(one, zero, delta=INF) == 0.5
    raises_as_torch("smooth_l1_loss", one, zero, beta=-1.0, expected=RuntimeError, match="beta")
    compare("smooth_l1_loss", (torch.tensor([0.0, 2.0, -3.0]), zero), beta=0.0)


@row(33, reduction=REDUCTIONS)
def test_variance_of_zero_is_clamped_in_a_copy(reduction: str) -> None:
    *means, var = torch.randn(3, 4), torch.randn(3, 4), torch.zeros(3, 4)
    results = gradient("gaussian_nll_loss", *means, var, eps=1e-3, reduction=reduction)
    close(results, exact_gradient("gaussian_nll_loss", (*means, var), eps=1e-3, reduction=reduction))
    assert (var.any(), var._version) == (False, 0)
    var[2, 3] = -1e-30
    raises_as_torch("gaussian_nll_loss", *means, var, expected=ValueError, match="negative")


@row(34, reduction=REDUCTIONS)
def test_zero_probability_at_minus_infinity_is_nan(reduction: str) -> None:
    compare("kl_div", (torch.tensor([-INF, -INF, -1.0]), torch.tensor([0.0, 0.5, 0.0])), reduction=reduction)
    assert F.kl_div(torch.tensor([-INF]), torch.tensor([0.0]), reduction="sum").isnan()


@row(35, name=SOFTMAX)
def test_softmax_along_no_dimension_and_of_no_float(name: str) -> None:
    for dim in (2, -3, 100):
        raises_as_torch(name, torch.randn(3, 4), dim, expected=IndexError, match="out of range")
    raises_as_torch(name, torch.ones(3, 4).long(), 1, expected=NotImplementedError, match="not implemented")
    x = torch.stack([torch.randn(140), torch.full((140,), -INF), torch.zeros(140)])
    close(getattr(F, name)(x, 1), getattr(torch_functional, name)(x.double(), 1))
    assert getattr(F, name)(x, 1)[1].isnan().all()


def state_of_the_process() -> list[Any]:
    floats = LIBC.fegetround(), bool(np.float32(1e-40) * np.float32(1) > 0), torch.get_default_dtype()
    flags = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    return [*floats, *flags, torch.get_rng_state().tolist()]


@row(36, op=LOSSES, unusual=[False, True])
@pytest.mark.skipif(LIBC is None, reason="asks glibc on x86-64")
def test_state_of_the_process_is_left_alone(op: str, unusual: bool) -> None:
    """Rounding, upwards; denormals, flushed to zero; the default dtype; flags; threads; random numbers."""
    operands, usual = loss_inputs(op, (300, 400), torch.float32), state_of_the_process()
    try:
        torch.set_flush_denormal(unusual)
        torch.set_default_dtype(torch.float64 if unusual else torch.float32)
        torch.use_deterministic_algorithms(unusual)
        LIBC.fesetround(0x800 if unusual else 0)
        before = state_of_the_process()
        assert [a != b for a, b in zip(before, usual, strict=True)] == [unusual] * 4 + [False] * 2
        gradient(op, *operands, reduction="mean")
        assert state_of_the_process() == before
    finally:
        torch.set_flush_denormal(False)
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        LIBC.fesetround(usual[0])


def in_new_process(code: str, **environment: str) -> None:
    command, here = [sys.executable, "-c", code], os.path.dirname(__file__)
    subprocess.run(command, cwd=here, env={**os.environ, **environment}, check=True, timeout=120)


LEAKS = """
import gc, pytest, sys
from cases import LOSSES, loss_inputs, ours, torch
operands = {op: loss_inputs(op, (40, 50), torch.float32) for op in LOSSES}
def work(times):
    for op, (x, *others) in operands.items():
        for _ in range(times):
            ours(op)(x.requires_grad_(), *others, reduction="sum").backward()
            x.grad = None
            with pytest.raises(RuntimeError):
                ours(op)(x, others[0].to("meta"), *others[1:], reduction="sum")
    gc.collect()
    counts = [sys.getrefcount(t) for ts in operands.values() for t in ts]
    return int(open("/proc/self/statm").read().split()[1]), counts
work(10)
(pages, counts), (more, same) = work(10), work(25)  # 25 for each of 18 losses: over 400 calls that raise
assert more - pages < 250 and same == counts, more - pages
"""


@row(37)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_over_calls_and_raising_calls() -> None:
    in_new_process(LEAKS)


@row(38, op=LOSSES)
def test_eight_threads_give_the_bits_of_one(op: str) -> None:
    operands = loss_inputs(op, (20, 700), torch.float32)
    expected = gradient(op, *operands, reduction="mean")
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(gradient, op, *operands, reduction="mean") for _ in range(400)]
    results = [call.result() for call in calls]
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, expected, strict=True))


FORK = """
import os, signal
from cases import LOSSES, loss_inputs, ours, torch
torch.set_num_threads(2)
operands = {op: loss_inputs(op, (200, 1000), torch.float32) for op in LOSSES}
def losses():
    return [ours(op)(*operands[op], reduction="sum").item() for op in LOSSES]
expected = losses()
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    os._exit(0 if losses() == expected else 3)
assert os.waitpid(pid, 0)[1] == 0
"""


@row(39, runtime=["openmp", "pool"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_after_threads_does_not_hang(runtime: str) -> None:
    in_new_process(FORK, FUSESTEP_THREADING=runtime)


@row(40, op=LOSSES)
def test_two_to_the_62_elements_are_refused_not_wrapped(op: str) -> None:
    """They have no size in bytes, and in 32 bits are none. 2^31 + 8 elements: see test_peer_bugs.py."""
    operands = [t[-1:].expand(2**61, *t.shape[1:]) for t in loss_inputs(op, (2, 2), torch.float32)]
    for args, reduction in ((operands, "none"), ([operands[0].requires_grad_(), *operands[1:]], "mean")):
        with pytest.raises(RuntimeError, match=r"overflow|allocate"):
            ours(op)(*args, reduction=reduction)


def test_every_row_of_the_table_has_a_test() -> None:
    assert set(range(1, 41)) == COVERED
