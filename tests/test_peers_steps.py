"""Between and around steps: bugs that other fused optimizers shipped, each test named after one.

The numbers are those of 63 items distilled from the issues of PyTorch, Apex, TransformerEngine (TE),
DeepSpeed, ColossalAI, bitsandbytes (bnb), torchao, FlagGems and others. torch's for-loop is the reference,
or float64: its fused and foreach paths are among the peers.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.optim.optimizer as optimizers
from torch.nn import Parameter

import cases
import fusestep.optim as optim
from peers import (
    FUSED,
    NAN,
    accepted,
    as_torch,
    close,
    item,
    native_calls,
    one,
    same_bits,
    tensors,
    with_states,
)
from test_optim import NAMES, continue_training, make, parameters

# ---- what changes between steps ----


@item(29, name=NAMES)
def test_replaced_parameters_and_gradients_are_remembered_by_address(name: str) -> None:
    """Tied ones are updated once, views in turn; data of another size, place or dtype is seen."""

    def script(optimizer_of: Any) -> Any:
        first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        with torch.no_grad():
            for p in (*first.parameters(), *second.parameters()):
                p.copy_(torch.linspace(-1, 1, p.numel()).view(p.shape))
        second.weight = first.weight
        model = torch.nn.Sequential(first, second)
        optimizer = optimizer_of(model.parameters())
        for step in range(6):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            if step == 2:
                first.weight.data = first.weight.data * 0.5
            if step == 3:
                first.bias.data = torch.zeros(8)[::2].copy_(first.bias.data)
            if step == 4:
                first.weight.grad = first.weight.grad.t().contiguous().t()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    as_torch(name, script, lr=0.01, **with_states(name))

    def views(optimizer_of: Any) -> Any:
        base = torch.linspace(1, 2, 12)
        params = [Parameter(base[:8]), Parameter(base[4:]), Parameter(base.view(3, 4)[:, 1])]
        optimizer = optimizer_of(params)
        for _ in range(3):
            for p in params:
                p.grad = p.detach() * 0.5
            optimizer.step()
        return base

    as_torch(name, views, **with_states(name))


@item(29, name=NAMES, dtype=[torch.float64, torch.bfloat16, torch.float16])
def test_dtype_of_the_model_changes_under_the_optimizer(name: str, dtype: torch.dtype) -> None:
    """States keep theirs, and the result is that of float64, rounded."""
    results = []
    for ours in (True, False):
        model = torch.nn.Linear(3, 2)
        torch.nn.init.ones_(model.weight)
        torch.nn.init.ones_(model.bias)
        if not ours:
            model.double()
        optimizer = make(name, ours, lr=0.01, **with_states(name))(model.parameters())
        for step in range(4):
            if step == 2 and ours:
                model.to(dtype)
            for p in model.parameters():
                p.grad = torch.full_like(p, 0.5)
            optimizer.step()
        results.append([p.detach().double() for p in model.parameters()])
        assert not ours or native_calls(name) == 4
    eps = torch.finfo(dtype).eps if dtype is not torch.float64 else 1e-6
    close(*results, rtol=4 * eps, atol=4 * eps)


@item(29, name=NAMES)
@pytest.mark.gpu
def test_model_moved_to_another_device_after_construction(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        model = torch.nn.Linear(3, 2)
        torch.nn.init.ones_(model.weight)
        torch.nn.init.ones_(model.bias)
        optimizer = optimizer_of(model.parameters())
        if name == "Adagrad":  # its states are made at construction, and stay
            optimizer.share_memory()
        model.cuda()
        for state in optimizer.state.values():
            state.update({k: v.cuda() for k, v in state.items() if v.dim()})
        for _ in range(3):
            for p in model.parameters():
                p.grad = torch.full_like(p, 0.5)
            optimizer.step()
        return [p.detach().cpu() for p in model.parameters()]

    as_torch(name, script, **with_states(name))


@item(30, name=NAMES)
def test_replaced_states_are_remembered_by_address(name: str) -> None:
    """By hand, by loading in between, and by hooks that keep them elsewhere between steps."""

    def script(optimizer_of: Any) -> Any:
        param = Parameter(torch.linspace(-1, 1, 40))
        optimizer, kept = optimizer_of([param]), {}

        def fetch(*_: Any) -> None:
            optimizer.state[param].update({k: torch.from_numpy(v.copy()) for k, v in kept.items()})

        def put_away(*_: Any) -> None:
            for key, value in optimizer.state[param].items():
                if value.dim():
                    kept[key] = value.numpy().copy()
                    value.fill_(NAN)

        optimizer.register_step_pre_hook(fetch)
        optimizer.register_step_post_hook(put_away)
        for step in range(6):
            param.grad = torch.full((40,), 0.1 * step)
            optimizer.step()
            if step == 2:
                fetch()
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            if step == 3:
                for value in kept.values():
                    value *= 0.5
        fetch()
        return tensors(optimizer)

    as_torch(name, script, **with_states(name))


COUNTING = [name for name in NAMES if "step" in cases.OPS[getattr(optim, name)._rule.op]["numbers"]]
STEPS: dict[str, Callable[[], Any]] = {
    "int": lambda: 3,
    "float": lambda: 3.0,
    "one dimension": lambda: torch.tensor([3.0]),
    "float64": lambda: torch.tensor(3.0, dtype=torch.float64),
    "int64": lambda: torch.tensor(3),
    "bfloat16": lambda: torch.tensor(3.0, dtype=torch.bfloat16),
}


@item(31, name=COUNTING, kind=STEPS)  # pytorch#96776, pytorch#173901
def test_step_of_an_older_checkpoint_is_misread(name: str, kind: str) -> None:
    """As torch's loading leaves it, and as it lies in a state that somebody has filled by hand."""
    for loaded in (True, False):
        results = []
        for ours in (True, False):
            param = one()
            optimizer = make(name, ours)([param])
            for _ in range(3):
                optimizer.step()
            if loaded:
                saved = optimizer.state_dict()
                saved["state"][0]["step"] = STEPS[kind]()
                optimizer.load_state_dict(saved)
            elif ours:  # torch's loop wants a tensor here
                optimizer.state[param]["step"] = STEPS[kind]()
            optimizer.step()
            results.append((param.detach(), float(optimizer.state[param]["step"])))
        close(*results)
        assert results[0][1] == 4


@item(31, name=COUNTING)  # UniRL#441
@pytest.mark.gpu
def test_step_on_the_gpu_without_capturable(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        param = Parameter(torch.ones(5, device="cuda"))
        optimizer = optimizer_of([param])
        for step in range(3):
            param.grad = torch.full_like(param, 0.5)
            optimizer.step()
            if step == 0:
                state = optimizer.state[param]
                state["step"] = state["step"].cuda()
        return [t.cpu() for t in tensors(optimizer)]

    as_torch(name, script)


@item(32, name=NAMES)
def test_groups_added_and_parameters_removed_later(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        params = [one(float(i)) for i in range(5)]
        optimizer = optimizer_of(params[:2])
        optimizer.step()
        optimizer.add_param_group({"params": params[2:4], "lr": 0.1})
        optimizer.add_param_group({"params": [params[4]], "maximize": True})
        optimizer.step()
        assert set(optimizer.state) >= (set(params) if with_states(name) or name != "SGD" else set())
        del optimizer.param_groups[0]["params"][0]
        optimizer.step()
        return [p.detach() for p in params], tensors(optimizer)

    as_torch(name, script, **with_states(name))
    assert native_calls(name) == 3


@item(33, name=[*NAMES, "SparseAdam"])
def test_copies_and_pickles_hold_hooks_or_native_handles(name: str) -> None:
    param, extras = one(), {} if name == "SparseAdam" else {"ema_decay": 0.5, "max_grad_norm": 1.0}
    if name == "SparseAdam":
        param.grad = param.grad.to_sparse()
    optimizer = getattr(optim, name)([param], **extras)
    optimizer.register_step_pre_hook(lambda *_: None)  # a lambda, which no pickle takes
    optimizer.step()
    mine, right = vars(optimizer), vars(getattr(torch.optim, name, torch.optim.SGD)([one()]))
    assert mine.keys() - right.keys() <= {"last_grad_norm"}
    optimizer.public = "kept"
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(other) is type(optimizer)
        assert other.defaults.items() >= optimizer.defaults.items()
        again = other.param_groups[0]["params"][0]
        again.grad = param.grad.clone()
        other._optimizer_step_pre_hooks.clear()
        other.step()
        assert again.data_ptr() != param.data_ptr()
        assert not torch.equal(again, param)
    assert len(pickle.loads(pickle.dumps(optimizer))._optimizer_step_pre_hooks) == 0
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    optimizer.step()


# ---- around the step ----


@item(34, name=[*NAMES, "SparseAdam"])
def test_hooks_are_skipped_or_their_arguments_lost(name: str) -> None:
    param, seen = one(), []
    if name == "SparseAdam":
        param.grad = param.grad.to_sparse()
    optimizer = getattr(optim, name)([param])
    note = partial(lambda what, *_: seen.append(what))
    first = optimizers.register_optimizer_step_pre_hook(partial(note, "global pre"))
    last = optimizers.register_optimizer_step_post_hook(partial(note, "global post"))
    try:
        optimizer.register_step_pre_hook(lambda self, *_: ((self, lambda: seen.append("closure") or 42), {}))
        optimizer.register_step_post_hook(partial(note, "post"))
        assert optimizer.step() == 42
    finally:
        first.remove()
        last.remove()
    assert seen == ["global pre", "closure", "post", "global post"]
    optimizer.register_step_pre_hook(lambda *_: "nonsense")
    before = param.detach().clone()
    with pytest.raises(RuntimeError, match="new_args"):
        optimizer.step()
    assert torch.equal(param.detach(), before)


@item(34, 35, name=NAMES)
def test_schedulers_warn_or_are_not_seen(name: str) -> None:
    """A warning, such as of a step that the scheduler did not see, is an error in this suite."""

    def script(optimizer_of: Any) -> Any:
        params = [Parameter(p.clone()) for p in parameters()]
        optimizer = optimizer_of(params)
        lr, momentum = torch.optim.lr_scheduler, optimizer.defaults.get("momentum", 1)
        cycles = bool({"betas", "momentum"} & optimizer.defaults.keys()) and momentum != 0
        schedulers = [
            lr.OneCycleLR(optimizer, 0.1, total_steps=12, cycle_momentum=cycles),
            lr.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, cycle_momentum=cycles),
        ]
        seen = []
        for step in range(10):
            continue_training(optimizer, params, [p.dtype for p in params], 1, step)
            assert optimizer._opt_called
            schedulers[step % 2].step()
            group = optimizer.param_groups[0]
            seen.append((group["lr"], group.get("momentum"), group.get("betas")))
        return [p.detach() for p in params], [[v for v in s if v is not None] for s in seen]

    as_torch(name, script, **accepted(name, momentum=0.5))
    assert native_calls(name) == 10


@item(36, name=[*NAMES, "SparseAdam"])
def test_cleared_gradients_keep_their_graph_or_are_shared(name: str) -> None:
    for fused in (None, True):
        param = Parameter(torch.ones(3))
        grad = (torch.ones(3, requires_grad=True) * 2).requires_grad_()
        assert grad.grad_fn is not None
        param.grad = grad
        optimizer = getattr(optim, name)([param], **({"fused": fused} if name in FUSED else {}))
        optimizer.zero_grad(set_to_none=False)
        assert param.grad is not None
        assert not param.grad.requires_grad
        assert param.grad.grad_fn is None
        assert torch.equal(param.grad, torch.zeros(3))
        optimizer.zero_grad()
        assert param.grad is None


@item(37, name=NAMES)
def test_gradient_through_the_step_is_cut(name: str) -> None:
    """differentiable=True is torch's, and its gradient the same; with fused=True it is refused."""
    if name == "Lion":
        with pytest.raises(TypeError, match="differentiable"):
            optim.Lion([one()], differentiable=True)
        return

    def script(optimizer_of: Any) -> Any:
        start = torch.linspace(0.5, 1, 4, dtype=torch.float64, requires_grad=True)
        factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        param = start.clone()
        optimizer = optimizer_of([start])
        optimizer.param_groups[0]["params"] = [param]
        for state in (optimizer.state.pop(start, None),):  # Adagrad has made it
            if state:
                optimizer.state[param] = state
        param.grad = start * factor
        optimizer.step()
        return [param.detach(), *torch.autograd.grad(param.square().sum(), (start, factor))]

    as_torch(name, script, differentiable=True)
    assert native_calls(name) == 0
    if name in FUSED:
        with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
            getattr(optim, name)([one()], fused=True, differentiable=True)


@item(38, name=NAMES, dtype=[torch.complex64, torch.complex128])
def test_modulus_is_used_for_the_parts_of_a_complex_number(name: str, dtype: torch.dtype) -> None:
    """As if the parameter were its real view."""
    start = torch.randn(6, 2, dtype=torch.float64)
    grads = torch.randn(3, 6, 2, dtype=torch.float64)
    results = []
    for as_real in (False, True):
        values = torch.view_as_complex(start).to(dtype)
        param = Parameter(torch.view_as_real(values) if as_real else values)
        optimizer = make(name, True, lr=0.1, **with_states(name))([param])
        for grad in grads:
            given = torch.view_as_complex(grad).to(dtype)
            param.grad = torch.view_as_real(given) if as_real else given
            optimizer.step()
        results.append(param.detach() if as_real else torch.view_as_real(param.detach()))
    close(*results)


CAPTURABLE = [name for name in NAMES if accepted(name, capturable=True)]


@item(39, name=CAPTURABLE)
@pytest.mark.gpu
def test_captured_steps_replay_frozen_numbers(name: str) -> None:
    """Three replays count three steps; a learning rate in a tensor may change in between."""
    results = []
    for captured in (True, False):
        lr = torch.tensor(0.1, device="cuda")
        param = Parameter(torch.ones(33, device="cuda"))
        param.grad = torch.full_like(param, 0.5)
        optimizer = make(name, captured, lr=lr, capturable=True)([param])
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                optimizer.step()
        for value in (0.1, 0.01, 0.5):
            lr.fill_(value)
            param.grad.fill_(value)
            graph.replay() if captured else optimizer.step()
        results.append([t.cpu() for t in tensors(optimizer)])
    close(*results)


@item(39, name=["Adam", "AdamW", "SGD"])
@pytest.mark.gpu
def test_overflow_inside_a_graph_is_not_skipped(name: str) -> None:
    param = Parameter(torch.ones(33, device="cuda"))
    param.grad = torch.full_like(param, 0.5)
    optimizer = make(name, True, fused=True, **accepted(name, capturable=True))([param])
    optimizer.grad_scale, optimizer.found_inf = torch.ones((), device="cuda"), torch.zeros((), device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    before = [t.clone() for t in tensors(optimizer)]
    optimizer.found_inf.fill_(1)
    graph.replay()
    assert all(same_bits(a, b) for a, b in zip(tensors(optimizer), before, strict=True))
    optimizer.found_inf.fill_(0)
    graph.replay()
    assert not same_bits(param, before[0])


@item(39, name=CAPTURABLE)
def test_capturable_is_ignored_where_nothing_can_be_captured(name: str) -> None:
    """On the CPU torch refuses it, so it is refused here, and nothing is changed."""
    for ours in (True, False):
        param = one()
        with pytest.raises(AssertionError, match="capturable"):
            getattr(optim if ours else torch.optim, name)([param], capturable=True).step()
        assert same_bits(param, torch.ones(5))


@item(40, name=NAMES)  # FlagGems: lr is a constant of the kernel
def test_compiled_steps_are_compiled_again_at_each_step(name: str) -> None:
    compilations: list[int] = []

    def backend(module: Any, inputs: Any) -> Any:
        compilations.append(1)
        return module.forward

    def script(optimizer_of: Any) -> Any:
        params = [one(), one(2.0)]
        optimizer = optimizer_of(params)
        optimizer.step()
        torch._dynamo.reset()
        compiled, counts = torch.compile(optimizer.step, backend=backend), []
        for step in range(5):
            for p in params:
                p.grad = torch.full_like(p, 0.1 * step + 0.1)
            optimizer.param_groups[0]["lr"].fill_(0.1 / (step + 1))
            compiled()
            counts.append(len(compilations))
        assert counts[1] == counts[-1], counts
        compilations.clear()
        return [p.detach() for p in params]

    lr = torch.tensor(0.1)
    mine = script(make(name, True, lr=lr.clone(), **accepted(name, foreach=False)))
    close(mine, script(make(name, False, lr=lr.clone())))
    torch._dynamo.reset()
