"""What PyTorch users do with a loss besides calling backward once."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fusestep
import fusestep.nn as nn
import fusestep.nn.functional as F
from cases import (
    DTYPES,
    LOSSES,
    MOST_DIMS,
    OPS,
    POINTWISE,
    REDUCTIONS,
    ROWWISE,
    loss_inputs,
    loss_options,
    public_name,
)
from cases import ours as ours_of
from cases import theirs as theirs_of
from parity import differentiable

DATA_DEPENDENT = {"gaussian_nll_loss"}  # torch's own looks at the variances, so it refuses as well


def leaves(
    op: str, shape: tuple[int, ...] = (6, 9), dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Operands of the op, the first of them a leaf that wants its gradient."""
    input, *others = loss_inputs(op, shape, dtype)
    return (input.requires_grad_(), *others)


def widened(operands: list[Tensor]) -> list[Tensor]:
    return [t.double() if t.is_floating_point() else t for t in operands]


def functions(op: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Ours and torch's, reduced by the mean unless told otherwise."""
    return partial(ours_of(op), reduction="mean"), partial(theirs_of(op), reduction="mean")


@pytest.mark.parametrize("op", LOSSES)
def test_backward_twice_with_other_seeds(op: str) -> None:
    """A gradient kept from forward must not be scaled twice."""
    for dtype in DTYPES:
        for first in (1.0, 3.0):
            ours, theirs = functions(op)
            x, *rest = leaves(op, dtype=dtype)
            loss = ours(x, *rest)
            loss.backward(torch.full_like(loss, first), retain_graph=True)
            once = x.grad.clone()
            loss.backward(torch.full_like(loss, 2.0))
            wide = x.detach().double().requires_grad_()
            theirs(wide, *widened(rest)).backward()
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(once.double(), first * wide.grad, rtol=4 * eps, atol=eps)
            torch.testing.assert_close(x.grad.double(), (first + 2) * wide.grad, rtol=4 * eps, atol=eps)


@pytest.mark.parametrize("op", LOSSES)
def test_the_gradient_handed_out_may_be_changed(op: str) -> None:
    x, *rest = leaves(op)
    loss = functions(op)[0](x, *rest)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    expected = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(second, expected)


@pytest.mark.parametrize("op", LOSSES)
def test_backward_without_retain_graph_twice_is_refused(op: str) -> None:
    x, *rest = leaves(op)
    loss = functions(op)[0](x, *rest)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("op", LOSSES)
def test_inputs_are_never_written(op: str) -> None:
    """Logits that came out of softmax or sigmoid are needed by their own backward."""
    raw = torch.randn(6, 9)
    grads = []
    for function in functions(op):
        leaf = raw.clone().requires_grad_()
        logits = torch.sigmoid(leaf)
        before, version = logits.detach().clone(), logits._version
        _, *rest = leaves(op)
        function(logits, *rest).backward()
        assert torch.equal(logits, before)
        assert logits._version == version
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("op", LOSSES)
def test_changed_in_place_between_forward_and_backward(op: str) -> None:
    for which in range(len(leaves(op))):
        x, *rest = leaves(op)
        operands = [x * 1.0, *rest]
        loss = functions(op)[0](*operands)
        with torch.no_grad():
            operands[which].zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("op", LOSSES)
def test_double_backward(op: str) -> None:
    """A fused gradient saved in forward has a silently wrong Hessian unless this is handled."""
    ours, theirs = functions(op)
    for reduction in REDUCTIONS:
        for options in loss_options(op, (3, 4)):
            ignored = options.get("ignore_index", -100)
            operands = loss_inputs(op, (3, 4), torch.float64, ignored=ignored)
            wanted = differentiable(op, operands)
            inputs = [t.requires_grad_() if want else t for t, want in zip(operands, wanted, strict=True)]
            if op == "gaussian_nll_loss" and "eps" in options:
                continue  # torch's gradient goes through the clamp, and so does ours
            assert torch.autograd.gradgradcheck(
                lambda *a, o=options, r=reduction: ours(*a, reduction=r, **o), inputs
            )
    if op == "multi_margin_loss":
        return  # torch's own cannot be differentiated twice
    x, *rest = leaves(op, (3, 4), torch.float64)
    hessians = [torch.autograd.functional.hessian(lambda a, f=f: f(a, *rest), x) for f in (ours, theirs)]
    torch.testing.assert_close(*hessians)


@pytest.mark.parametrize("op", LOSSES)
def test_gradient_penalty(op: str) -> None:
    results = []
    for function in functions(op) if op != "multi_margin_loss" else [functions(op)[0]] * 2:
        x, *rest = leaves(op)
        (grad,) = torch.autograd.grad(function(x, *rest), x, create_graph=True)
        if grad.requires_grad:  # or the loss is linear in x, in torch's eyes as in ours
            grad.pow(2).sum().backward()
        results.append(torch.zeros(()) if x.grad is None else x.grad)
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("op", [op for op in LOSSES if op not in DATA_DEPENDENT])
def test_functorch_and_forward_ad_fall_back(op: str) -> None:
    x, *rest = leaves(op)
    x = x.detach()
    results = []
    for function in functions(op):
        per_sample = torch.func.vmap(torch.func.grad(function))(x, *rest)
        if op == "multi_margin_loss":  # torch's has no forward-mode derivative
            results.append((per_sample,))
            continue
        _, tangent = torch.func.jvp(lambda a, f=function: f(a, *rest), (x,), (torch.ones_like(x),))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            forward = torch.autograd.forward_ad.unpack_dual(function(dual, *rest)).tangent
        results.append((per_sample, tangent, forward))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    reasons = set(fusestep.stats()[public_name(op)]["torch"])
    assert reasons <= {"functorch transform", "forward-mode AD"}
    assert reasons


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("op", [op for op in LOSSES if op not in DATA_DEPENDENT])
def test_modes_and_subclasses_see_torchs_own_operations(op: str) -> None:
    x, *rest = leaves(op)
    with Recorder() as recorder:
        functions(op)[0](x, *rest)
    assert recorder.seen
    result = functions(op)[0](x.detach().as_subclass(Subclass), *rest)
    assert type(result) is Subclass
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    fakes = [mode.from_tensor(t.detach()) for t in (x, *rest)]
    assert functions(op)[0](*fakes).shape == ()  # a tensor without memory must not be read
    with mode:
        assert functions(op)[0](*fakes).shape == ()


@pytest.mark.parametrize("op", [op for op in LOSSES if hasattr(torch_functional, public_name(op))])
def test_complex_integer_sparse_and_meta_are_torchs(op: str) -> None:
    """Whatever torch does with these, value or exception, we do."""
    x, *rest = leaves(op, (4, 4))
    x = x.detach()
    inputs = [x.to(torch.complex64), x.to(torch.int64), x.to_sparse(), x.to("meta"), x.bool()]
    for input in inputs:
        outcomes = []
        for function in functions(op):
            try:
                outcomes.append(function(input, *rest))
            except Exception as error:  # the type is what is compared
                outcomes.append(type(error))
        assert type(outcomes[0]) is type(outcomes[1])
        if isinstance(outcomes[0], type):
            assert outcomes[0] is outcomes[1]


@pytest.mark.parametrize("op", LOSSES)
def test_negative_bit(op: str) -> None:
    """A view of a conjugated complex tensor has its sign in a flag that DLPack does not carry."""
    ours, theirs = functions(op)
    for shape in ((4, 5), (1, 1)):
        input, *rest = loss_inputs(op, shape, torch.float32)
        negative = torch.complex(torch.zeros(shape), -input).conj().imag
        assert negative.is_neg()
        torch.testing.assert_close(ours(negative, *rest), theirs(input, *rest))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", LOSSES)
def test_autocast_gives_torchs_dtype(op: str, dtype: torch.dtype) -> None:
    """float32, but for what torch composes of operations that autocast leaves alone."""
    results = []
    for function in functions(op):
        x, *rest = leaves(op, dtype=dtype)
        with torch.autocast("cpu", dtype):
            loss = function(x, *rest)
        loss.backward()
        assert x.grad.dtype is dtype
        results.append((loss.detach(), x.grad))
    if not hasattr(torch_functional, public_name(op)):
        assert results[0][0].dtype is torch.float32
        torch.testing.assert_close(results[0], results[1], rtol=2e-2, atol=2e-3, check_dtype=False)
        return
    assert results[0][0].dtype is results[1][0].dtype
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("op", LOSSES)
def test_double_backward_under_autocast(op: str) -> None:
    x, *rest = leaves(op, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = functions(op)[0](x * 1, *rest)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    if grad.requires_grad:  # a piecewise linear loss has a constant gradient
        grad.sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("op", LOSSES)
def test_compile_fullgraph(op: str, reduction: str) -> None:
    ours, theirs = functions(op)
    for dtype in (torch.float32, torch.float16):

        def train(x: Tensor, *rest: Tensor) -> Tensor:
            return ours(x * 0.5, *rest, reduction=reduction).sum() * 0.5

        compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
        if dtype is torch.float16 and op == "multi_margin_loss":
            continue  # torch has none
        x, *rest = leaves(op, dtype=dtype)
        compiled(x, *rest).backward()
        y = x.detach().clone().requires_grad_()
        (theirs(y * 0.5, *rest, reduction=reduction).sum() * 0.5).backward()
        tolerance = {} if dtype is torch.float32 else {"rtol": 4e-3, "atol": 2e-4}
        torch.testing.assert_close(x.grad, y.grad, **tolerance)
        with torch.no_grad():
            expected = theirs(x * 0.5, *rest, reduction=reduction).sum() * 0.5
            torch.testing.assert_close(compiled(x, *rest), expected, **tolerance)
        torch._dynamo.reset()


def test_compile_a_module_with_inductor() -> None:
    model = torch.nn.Linear(8, 5)
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)
    x, y = torch.randn(16, 8), torch.randint(0, 5, (16,))
    compiled = torch.compile(lambda: loss_function(model(x), y), fullgraph=True)
    compiled().backward()
    grad = model.weight.grad.clone()
    model.zero_grad()
    torch_functional.cross_entropy(model(x), y, label_smoothing=0.1).backward()
    torch.testing.assert_close(grad, model.weight.grad)
    torch._dynamo.reset()


@pytest.mark.parametrize("op", LOSSES)
def test_the_compiled_operators_pass_torchs_own_check(op: str) -> None:
    operands = loss_inputs(op, (6, 9), torch.float32)
    operands[0].requires_grad_()
    tensors = [*operands, None][:3]
    hyper = [1.0] * len(OPS[op]["hyper"])
    options = (hyper, "mean", -100 if op in ROWWISE else None, 0, torch.float32)
    first = [True, False, False]
    torch.library.opcheck(torch.ops.fusestep.loss.default, (op, *tensors, None, *options, first))
    tensors[0] = operands[0].detach()
    args = (op, *tensors, None, torch.tensor(2.0), *options, first)
    torch.library.opcheck(torch.ops.fusestep.loss_backward.default, args)


def test_compile_with_options_and_sizes_that_change() -> None:
    """Weights, third operands, probabilities, and a divisor that is a symbolic size."""
    w, p = torch.rand(5), torch.rand(5)

    def losses(x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        return (
            F.kl_div(x, y, reduction="batchmean")
            + F.binary_cross_entropy_with_logits(x, y, weight=w, pos_weight=p)
            + F.cross_entropy(x, y, label_smoothing=0.1)
            + F.cross_entropy(x, labels, weight=w, ignore_index=1, softcap=5.0, lse_square_scale=1e-3)
            + F.gaussian_nll_loss(x, y, y + 0.5)
            + F.softmax(x, 1).square().sum()
        )

    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (3, 7, 12):
        x = torch.randn(rows, 5, requires_grad=True)
        y, labels = torch.rand(rows, 5), torch.arange(rows) % 5
        results = []
        for function in (compiled, losses):
            loss = function(x, y, labels)
            results.append((loss.detach(), *torch.autograd.grad(loss, x)))
        torch.testing.assert_close(results[0], results[1])
    torch._dynamo.reset()


@pytest.mark.parametrize("op", [op for op in LOSSES if op not in DATA_DEPENDENT])
def test_export_gives_a_portable_graph(op: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
            return ours_of(op)(x, *rest)

    x, *rest = leaves(op)
    program = torch.export.export(Model(), (x.detach(), *rest))
    assert not any("fusestep" in str(node.target) for node in program.graph.nodes)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("op", LOSSES)
def test_jit_trace(op: str) -> None:
    x, *rest = leaves(op)
    traced = torch.jit.trace(lambda *a: functions(op)[0](*a), (x.detach(), *rest))
    other = loss_inputs(op, x.shape, x.dtype, seed=5)[0]
    torch.testing.assert_close(traced(other, *rest), functions(op)[1](other, *rest))


@pytest.mark.parametrize("op", [*POINTWISE, *ROWWISE])
def test_modules(op: str) -> None:
    name = OPS[op]["class_name"]
    ours = getattr(nn, name)(reduction="sum")
    assert isinstance(ours, torch.nn.Module)
    x, *rest = leaves(op)
    expected = theirs_of(op)(x, *rest, reduction="sum")
    if hasattr(torch.nn, name):
        theirs = getattr(torch.nn, name)(reduction="sum")
        assert isinstance(ours, type(theirs))
        assert repr(ours) == repr(theirs)
        expected = theirs(x, *rest)
    torch.testing.assert_close(ours(x, *rest), expected)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(copied) is type(ours)
        assert torch.equal(copied(x, *rest), ours(x, *rest))
    assert fusestep.stats()[op]["torch"] == {}


MODULE_OPTIONS = [
    ("SmoothL1Loss", {"beta": 0.3}),
    ("HuberLoss", {"delta": 0.3}),
    ("BCELoss", {"weight": torch.rand(9)}),
    ("BCEWithLogitsLoss", {"weight": torch.rand(9), "pos_weight": torch.rand(9)}),
    ("KLDivLoss", {"log_target": True, "reduction": "batchmean"}),
    ("PoissonNLLLoss", {"log_input": False, "full": True, "eps": 1e-2}),
    ("GaussianNLLLoss", {"full": True, "eps": 0.2}),
    ("HingeEmbeddingLoss", {"margin": 0.3}),
    ("MarginRankingLoss", {"margin": 0.3}),
    ("NLLLoss", {"weight": torch.rand(9), "ignore_index": 1}),
    ("MultiMarginLoss", {"p": 2, "margin": 0.3, "weight": torch.rand(9)}),
    ("CrossEntropyLoss", {"weight": torch.rand(9), "ignore_index": 1, "label_smoothing": 0.1}),
]


@pytest.mark.parametrize(("name", "options"), MODULE_OPTIONS, ids=[name for name, _ in MODULE_OPTIONS])
def test_options_of_modules_reach_the_kernel(name: str, options: dict[str, object]) -> None:
    op = next(op for op, info in OPS.items() if info["class_name"] == name)
    operands = loss_inputs(op, (6, 9), torch.float32, ignored=1)
    torch.testing.assert_close(
        getattr(nn, name)(**options)(*operands), getattr(torch.nn, name)(**options)(*operands)
    )
    assert fusestep.stats()[op] == {"native": 1, "torch": {}}


def test_modules_that_torch_does_not_have() -> None:
    x, t = torch.randn(6, 9), torch.rand(6, 9)
    assert torch.equal(nn.SigmoidFocalLoss(0.5, 1)(x, t), F.sigmoid_focal_loss(x, t, 0.5, 1))
    loss = nn.CrossEntropyLoss(lse_square_scale=1e-3, softcap=4.0)
    assert torch.equal(loss(x, t), F.cross_entropy(x, t, lse_square_scale=1e-3, softcap=4.0))
    old = torch.nn.CrossEntropyLoss()
    old.__class__ = nn.CrossEntropyLoss  # a module pickled before the extras existed
    assert torch.equal(old(x, t), F.cross_entropy(x, t))


def test_class_weights_move_with_the_module() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    assert list(loss.state_dict()) == ["weight"]
    x, t = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    torch.testing.assert_close(
        loss.double()(x, t), torch_functional.cross_entropy(x, t, weight=loss.weight.double())
    )


def test_legacy_arguments() -> None:
    x, t = leaves("mse_loss")
    with pytest.warns(UserWarning, match="size_average and reduce"):
        assert torch.equal(F.mse_loss(x, t, size_average=False), F.mse_loss(x, t, reduction="sum"))


@pytest.mark.parametrize("op", ["mse_loss", "l1_loss", "huber_loss", "cross_entropy", "nll_loss"])
def test_a_weight_that_wants_its_gradient_is_torchs(op: str) -> None:
    """Whatever torch does: a gradient for some, RuntimeError for others."""
    outcomes = []
    for function in functions(op):
        x, *rest = leaves(op)
        w = torch.rand(6, 9) if op.endswith("_loss") and op != "nll_loss" else torch.rand(9)
        w.requires_grad_()
        try:
            function(x, *rest, weight=w).backward()
            outcomes.append("gradient" if w.grad is not None else "none")
        except RuntimeError:
            outcomes.append("refused")
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("op", LOSSES)
def test_eight_threads_are_bit_equal_to_one(op: str) -> None:
    x, *rest = leaves(op, (64, 1000))
    expected = torch.autograd.grad(functions(op)[0](x, *rest), x)[0]
    results: list[Tensor] = []

    def work() -> None:
        for _ in range(20):
            results.append(torch.autograd.grad(functions(op)[0](x, *rest), x)[0])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 160
    assert all(torch.equal(result, expected) for result in results)


def test_inference_mode() -> None:
    with torch.inference_mode():
        x, t = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
        torch.testing.assert_close(F.cross_entropy(x, t), torch_functional.cross_entropy(x, t))


def test_retained_gradient_and_hooks() -> None:
    seen = []
    x, t = leaves("cross_entropy", (4, 3))
    logits = x * 1
    logits.retain_grad()
    logits.register_hook(lambda grad: seen.append(grad.clone()))
    F.cross_entropy(logits, t).backward()
    assert torch.equal(seen[0], logits.grad)
    assert torch.equal(x.grad, logits.grad)


@pytest.mark.parametrize("op", LOSSES)
def test_batches_of_seeds(op: str) -> None:
    """vmap over the backward alone: is_grads_batched, and the vectorised Jacobian."""
    for reduction in ("none", "mean"):
        results = []
        for function in functions(op):
            x, *rest = leaves(op, (3, 4))
            loss = function(x, *rest, reduction=reduction)
            seeds = torch.randn(5, *loss.shape, generator=torch.Generator().manual_seed(1))
            batch = torch.autograd.grad(loss, x, seeds, is_grads_batched=True)[0]
            jacobian = torch.autograd.functional.jacobian(
                lambda a, f=function, rest=rest, r=reduction: f(a, *rest, reduction=r), x, vectorize=True
            )
            results.append((batch, jacobian))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("op", LOSSES)
def test_unusual_seeds(op: str) -> None:
    """A seed with its negative bit set, and one with more dimensions than can be merged."""
    results = []
    for function in functions(op):
        x, *rest = leaves(op, (3, 4))
        loss = function(x, *rest, reduction="none")
        shape = loss.shape
        generator = torch.Generator().manual_seed(1)
        seed = torch.view_as_complex(torch.randn(*shape, 2, generator=generator)).conj().imag
        results.append(torch.autograd.grad(loss, x, seed)[0])
    torch.testing.assert_close(*results)
    results = []
    for function in functions(op):
        if op in MOST_DIMS:
            return
        y, *rest = loss_inputs(op, (2,) * 10, torch.float32)
        y = y.permute(*reversed(range(10))).clone(memory_format=torch.preserve_format)
        y = y[..., :1].expand([2] * 10).requires_grad_()
        results.append(torch.autograd.grad(function(y, *rest), y)[0])
    torch.testing.assert_close(*results)


def test_negative_bit_of_a_scalar() -> None:
    scalar = torch.tensor(1 + 2j).conj().imag
    assert F.mse_loss(scalar, torch.tensor(0.5)) == 6.25
    x = torch.tensor(1.0, requires_grad=True)
    F.mse_loss(x, torch.tensor(0.0), reduction="none").backward(scalar)
    assert x.grad == -4


@pytest.mark.parametrize("op", LOSSES)
def test_functional_transforms_inside_compile(op: str) -> None:
    """They must not be lost: the tangent would silently be zero."""
    for transform in (
        lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
        lambda f, x: torch.func.grad(f)(x),
    ):
        results = []
        for function in functions(op):
            if op == "multi_margin_loss":
                return  # torch's has no forward-mode derivative
            x, *rest = leaves(op)
            compiled = torch.compile(
                lambda a, f=function, g=transform, r=rest: g(lambda b: f(b, *r), a), backend="aot_eager"
            )
            results.append(compiled(x.detach()))
            torch._dynamo.reset()
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("op", [op for op in LOSSES if op not in DATA_DEPENDENT])
def test_compile_falls_back_where_the_kernels_would_refuse(op: str) -> None:
    if op in MOST_DIMS:
        return
    x, *rest = loss_inputs(op, (2,) * 9, torch.float32)
    x = x.permute(*reversed(range(9))).requires_grad_()
    ours, theirs = functions(op)
    compiled = torch.compile(lambda a: ours(a, *rest), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), theirs(x, *rest))
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_compile_with_broadcasting() -> None:
    x, t = torch.randn(3, 1, requires_grad=True), torch.randn(4)
    compiled = torch.compile(lambda: F.mse_loss(x, t), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(), ((x - t) ** 2).mean())
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_class_weights_under_autocast(dtype: torch.dtype) -> None:
    """An imbalanced classifier with mixed precision: half logits, float32 weights."""
    model, x, y = torch.nn.Linear(5, 3), torch.randn(4, 5), torch.tensor([0, 2, 0, 1])
    for weight in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]).to(dtype)):
        results = []
        for function in functions("cross_entropy"):
            with torch.autocast("cpu", dtype):
                loss = function(model(x), y, weight=weight, label_smoothing=0.1)
            (grad,) = torch.autograd.grad(loss, model.weight, create_graph=True)
            (second,) = torch.autograd.grad(grad.sum(), model.weight)
            (plain,) = torch.autograd.grad(function(model(x), y, weight=weight.float()), model.weight)
            results.append((loss, grad, second, plain))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3)
    assert fusestep.stats()["cross_entropy"]["torch"] == {}


@pytest.mark.parametrize("op", LOSSES)
@pytest.mark.parametrize("reduction", [None, 3, b"mean"])
def test_reduction_that_is_no_string(op: str, reduction: object) -> None:
    x, *rest = leaves(op)
    with pytest.raises(ValueError, match="reduction"):
        functions(op)[0](x, *rest, reduction=reduction)
