"""What PyTorch users do with a loss besides calling backward once."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fusestep
import fusestep.nn as nn
import fusestep.nn.functional as F
from cases import DTYPES, LOSSES, OPS, REDUCTIONS, loss_inputs


def leaves(
    op: str, shape: tuple[int, ...] = (6, 9), dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    input, target = loss_inputs(op, shape, dtype)
    return input.requires_grad_(), target


def functions(op: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    return getattr(F, op), getattr(torch_functional, op)


@pytest.mark.parametrize("op", LOSSES)
def test_backward_twice_with_other_seeds(op: str) -> None:
    """A gradient kept from forward must not be scaled twice."""
    for dtype in DTYPES:
        for first in (1.0, 3.0):
            ours, theirs = functions(op)
            x, t = leaves(op, dtype=dtype)
            loss = ours(x, t)
            loss.backward(torch.full_like(loss, first), retain_graph=True)
            once = x.grad.clone()
            loss.backward(torch.full_like(loss, 2.0))
            wide = x.detach().double().requires_grad_()
            theirs(wide, t.double() if t.is_floating_point() else t).backward()
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(once.double(), first * wide.grad, rtol=4 * eps, atol=eps)
            torch.testing.assert_close(x.grad.double(), (first + 2) * wide.grad, rtol=4 * eps, atol=eps)


@pytest.mark.parametrize("op", LOSSES)
def test_the_gradient_handed_out_may_be_changed(op: str) -> None:
    x, t = leaves(op)
    loss = functions(op)[0](x, t)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    expected = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(second, expected)


@pytest.mark.parametrize("op", LOSSES)
def test_backward_without_retain_graph_twice_is_refused(op: str) -> None:
    x, t = leaves(op)
    loss = functions(op)[0](x, t)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("op", LOSSES)
def test_inputs_are_never_written(op: str) -> None:
    """Logits that came out of softmax or tanh are needed by their own backward."""
    ours, theirs = functions(op)
    raw = torch.randn(6, 9)
    grads = []
    for function in (ours, theirs):
        leaf = raw.clone().requires_grad_()
        logits = torch.tanh(leaf)
        before, version = logits.detach().clone(), logits._version
        _, t = leaves(op)
        function(logits, t).backward()
        assert torch.equal(logits, before)
        assert logits._version == version
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("op", LOSSES)
def test_changed_in_place_between_forward_and_backward(op: str) -> None:
    for which in (0, 1):
        x, t = leaves(op)
        logits = x * 1.0
        loss = functions(op)[0](logits, t)
        with torch.no_grad():
            (logits, t)[which].zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("op", LOSSES)
def test_double_backward(op: str) -> None:
    """A fused gradient saved in forward has a silently wrong Hessian unless this is handled."""
    ours, theirs = functions(op)
    for reduction in REDUCTIONS:
        x, t = leaves(op, (3, 4), torch.float64)
        differentiable = [x]
        if t.is_floating_point():
            differentiable.append(t.requires_grad_())

        def function(*tensors: Tensor, target: Tensor = t, reduction: str = reduction) -> Tensor:
            operands = tensors if len(tensors) == 2 else (*tensors, target)
            return ours(*operands, reduction=reduction)

        assert torch.autograd.gradgradcheck(function, differentiable)
    x, t = leaves(op, (3, 4), torch.float64)
    hessians = [torch.autograd.functional.hessian(lambda a, f=f: f(a, t), x) for f in (ours, theirs)]
    torch.testing.assert_close(*hessians)


@pytest.mark.parametrize("op", LOSSES)
def test_gradient_penalty(op: str) -> None:
    results = []
    for function in functions(op):
        x, t = leaves(op)
        (grad,) = torch.autograd.grad(function(x, t), x, create_graph=True)
        grad.pow(2).sum().backward()
        results.append(x.grad)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("op", LOSSES)
def test_functorch_and_forward_ad_fall_back(op: str) -> None:
    x, t = leaves(op)
    x = x.detach()
    results = []
    for function in functions(op):
        per_sample = torch.func.vmap(torch.func.grad(function))(x, t)
        _, tangent = torch.func.jvp(lambda a, f=function: f(a, t), (x,), (torch.ones_like(x),))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            forward = torch.autograd.forward_ad.unpack_dual(function(dual, t)).tangent
        results.append((per_sample, tangent, forward))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    assert set(fusestep.stats()[op]["torch"]) == {"functorch transform", "forward-mode AD"}


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("op", LOSSES)
def test_modes_and_subclasses_see_torchs_own_operations(op: str) -> None:
    x, t = leaves(op)
    with Recorder() as recorder:
        functions(op)[0](x, t)
    assert recorder.seen
    result = functions(op)[0](x.detach().as_subclass(Subclass), t)
    assert type(result) is Subclass
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    fakes = mode.from_tensor(x.detach()), mode.from_tensor(t)
    assert functions(op)[0](*fakes).shape == ()  # a tensor without memory must not be read
    with mode:
        assert functions(op)[0](*fakes).shape == ()


@pytest.mark.parametrize("op", LOSSES)
def test_complex_integer_sparse_and_meta_are_torchs(op: str) -> None:
    """Whatever torch does with these, value or exception, we do."""
    x, t = leaves(op, (4, 4))
    x = x.detach()
    inputs = [x.to(torch.complex64), x.to(torch.int64), x.to_sparse(), x.to("meta"), x.bool()]
    for input in inputs:
        outcomes = []
        for function in functions(op):
            try:
                outcomes.append(function(input, t))
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
        negative = torch.view_as_complex(torch.randn(*shape, 2)).conj().imag
        assert negative.is_neg()
        _, t = loss_inputs(op, shape, torch.float32)
        assert torch.equal(ours(negative, t), theirs(negative, t))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", LOSSES)
def test_autocast_gives_float32(op: str, dtype: torch.dtype) -> None:
    results = []
    for function in functions(op):
        x, t = leaves(op, dtype=dtype)
        with torch.autocast("cpu", dtype):
            loss = function(x, t)
        assert loss.dtype is torch.float32
        loss.backward()
        assert x.grad.dtype is dtype
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("op", LOSSES)
def test_double_backward_under_autocast(op: str) -> None:
    x, t = leaves(op, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = functions(op)[0](x, t)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    grad.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("op", LOSSES)
def test_compile_fullgraph(op: str, reduction: str) -> None:
    ours, theirs = functions(op)
    for dtype in (torch.float32, torch.float16):

        def train(x: Tensor, t: Tensor) -> Tensor:
            return ours(x * 2, t, reduction=reduction).sum() * 0.5

        compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
        x, t = leaves(op, dtype=dtype)
        compiled(x, t).backward()
        y = x.detach().clone().requires_grad_()
        (theirs(y * 2, t, reduction=reduction).sum() * 0.5).backward()
        tolerance = {} if dtype is torch.float32 else {"rtol": 4e-3, "atol": 2e-4}
        torch.testing.assert_close(x.grad, y.grad, **tolerance)
        with torch.no_grad():
            expected = theirs(x * 2, t, reduction=reduction).sum() * 0.5
            torch.testing.assert_close(compiled(x, t), expected, **tolerance)
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


def test_the_compiled_operators_pass_torchs_own_check() -> None:
    x, t = leaves("mse_loss")
    args = ("mse_loss", x, t, None, [], "mean", -100, torch.float32, True, False)
    torch.library.opcheck(torch.ops.fusestep.loss.default, args)
    args = ("mse_loss", x.detach(), t, None, torch.tensor(2.0), [], "mean", -100, True, False)
    torch.library.opcheck(torch.ops.fusestep.loss_backward.default, args)


@pytest.mark.parametrize("op", LOSSES)
def test_export_gives_a_portable_graph(op: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return getattr(F, op)(x, t)

    x, t = leaves(op)
    program = torch.export.export(Model(), (x.detach(), t))
    assert not any("fusestep" in str(node.target) for node in program.graph.nodes)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("op", LOSSES)
def test_jit_trace(op: str) -> None:
    x, t = leaves(op)
    traced = torch.jit.trace(lambda a, b: functions(op)[0](a, b), (x.detach(), t))
    other = torch.randn_like(x)
    torch.testing.assert_close(traced(other, t), functions(op)[1](other, t))


@pytest.mark.parametrize("op", LOSSES)
def test_modules(op: str) -> None:
    name = OPS[op]["class_name"]
    ours, theirs = getattr(nn, name)(reduction="sum"), getattr(torch.nn, name)(reduction="sum")
    assert isinstance(ours, torch.nn.Module)
    assert isinstance(ours, getattr(torch.nn, name))
    assert repr(ours) == repr(theirs)
    x, t = leaves(op)
    torch.testing.assert_close(ours(x, t), theirs(x, t))
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(copied) is type(ours)
        assert torch.equal(copied(x, t), ours(x, t))
    assert fusestep.stats()[op]["torch"] == {}


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


def test_weighted_mse_is_torchs() -> None:
    x, t, w = torch.randn(3, 5, 7)
    assert torch.equal(F.mse_loss(x, t, weight=w), torch_functional.mse_loss(x, t, weight=w))
    assert fusestep.stats()["mse_loss"] == {"native": 0, "torch": {"weight": 1}}


@pytest.mark.parametrize("op", LOSSES)
def test_eight_threads_are_bit_equal_to_one(op: str) -> None:
    x, t = leaves(op, (64, 1000))
    expected = torch.autograd.grad(functions(op)[0](x, t), x)[0]
    results: list[Tensor] = []

    def work() -> None:
        for _ in range(20):
            results.append(torch.autograd.grad(functions(op)[0](x, t), x)[0])

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
            x, t = leaves(op, (3, 4))
            loss = function(x, t, reduction=reduction)
            seeds = torch.randn(5, *loss.shape, generator=torch.Generator().manual_seed(1))
            batch = torch.autograd.grad(loss, x, seeds, is_grads_batched=True)[0]
            jacobian = torch.autograd.functional.jacobian(
                lambda a, f=function, t=t, r=reduction: f(a, t, reduction=r), x, vectorize=True
            )
            results.append((batch, jacobian))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("op", LOSSES)
def test_unusual_seeds(op: str) -> None:
    """A seed with its negative bit set, and one with more dimensions than can be merged."""
    results = []
    for function in functions(op):
        x, t = leaves(op, (3, 4))
        loss = function(x, t, reduction="none")
        shape = loss.shape
        generator = torch.Generator().manual_seed(1)
        seed = torch.view_as_complex(torch.randn(*shape, 2, generator=generator)).conj().imag
        results.append(torch.autograd.grad(loss, x, seed)[0])
    torch.testing.assert_close(*results)
    results = []
    for function in functions(op):
        y = torch.randn([2] * 10, generator=torch.Generator().manual_seed(2)).permute(*reversed(range(10)))
        y = y.clone(memory_format=torch.preserve_format)[..., :1].expand([2] * 10).requires_grad_()
        _, t = loss_inputs(op, (2,) * 10, torch.float32)
        results.append(torch.autograd.grad(function(y, t), y)[0])
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
            x, t = leaves(op)
            compiled = torch.compile(
                lambda a, f=function, g=transform, t=t: g(lambda b: f(b, t), a), backend="aot_eager"
            )
            results.append(compiled(x.detach()))
            torch._dynamo.reset()
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("op", LOSSES)
def test_compile_falls_back_where_the_kernels_would_refuse(op: str) -> None:
    x = torch.randn([2] * 9).permute(*reversed(range(9))).requires_grad_()
    _, t = loss_inputs(op, (2,) * 9, torch.float32)
    ours, theirs = functions(op)
    compiled = torch.compile(lambda a: ours(a, t), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), theirs(x, t))
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
    x, t = leaves(op)
    with pytest.raises(ValueError, match="reduction"):
        functions(op)[0](x, t, reduction=reduction)
