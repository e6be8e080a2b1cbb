"""Memory and devices: bugs that other fused optimizers shipped, each test named after one.

The numbers are those of 63 items distilled from the issues of PyTorch, Apex, TransformerEngine (TE),
DeepSpeed, ColossalAI, bitsandbytes (bnb), torchao, FlagGems and others. torch's for-loop is the reference,
or float64: its fused and foreach paths are among the peers.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
import fusestep.optim as optim
from cases import DTYPES, ISAS, rule_options, torch_optimizer
from fusestep import _native
from peers import (
    ASKED,
    DEVICES,
    FUSED,
    INF,
    LINUX,
    NAN,
    SPARSE,
    accepted,
    as_torch,
    close,
    counted_steps,
    item,
    native_calls,
    one,
    outcome,
    same_bits,
    tensors,
    with_states,
)
from test_optim import NAMES, assert_same_state, make, parameters, train

# ---- GradScaler ----


@item(1, name=NAMES)  # torch's fused SGD: parameters of 4.8e11
def test_overflow_at_the_first_step_leaves_garbage_in_a_new_state(name: str) -> None:
    param, wide = one(), one()
    optimizer = make(name, True, **with_states(name), **accepted(name, fused=True))([param])
    reference = make(name, False, **with_states(name))([wide])
    scaler, fresh = torch.amp.GradScaler("cpu", init_scale=8.0), copy.deepcopy(optimizer.state_dict())
    for value in (INF, 1.0, -2.0):
        optimizer.zero_grad()
        scaler.scale((param * value).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        if value == INF:
            assert_same_state(optimizer, fresh)
            assert same_bits(param, torch.ones(5))
        else:
            wide.grad = torch.full((5,), value)
            reference.step()
    close(tensors(optimizer), tensors(reference), check_dtype=False)


@item(7, name=FUSED)  # torch: AssertionError
def test_checkpoint_without_fused_breaks_grad_scaler(name: str) -> None:
    _, saver = train(make(name, False), parameters(), 2)
    results = []
    for ours in (True, False):
        params = [Parameter(p.clone()) for p in parameters()]
        optimizer = make(name, ours, **({"fused": True} if ours else {}))(params)
        optimizer.load_state_dict(copy.deepcopy(saver.state_dict()))
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(sum((p * p).sum() for p in params)).backward()
        scaler.step(optimizer)
        scaler.update()
        results.append(tensors(optimizer))
    close(*results)


@item(9, name=NAMES, found=[1.0, 2.0, 0.5])  # torch's kernels ask whether it is 1
def test_overflow_on_two_devices_is_not_an_overflow(name: str, found: float) -> None:
    param = one(grad=NAN)
    optimizer = make(name, True, **with_states(name))([param])
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(found), torch.tensor(4.0)
    optimizer.step()
    assert same_bits(param, torch.ones(5))
    assert_same_state(optimizer, before)


@item(43, name=FUSED)  # pytorch#95847
def test_overflow_is_forgotten_when_gradients_were_unscaled_before(name: str) -> None:
    param = one()
    optimizer = make(name, True, fused=True)([param])
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for value, moves in ((INF, False), (1.0, True), (NAN, False)):
        before = [t.clone() for t in tensors(optimizer)]
        optimizer.zero_grad()
        scaler.scale((param * value).sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert same_bits(param, before[0]) is not moves
        assert moves or all(same_bits(a, b) for a, b in zip(tensors(optimizer), before, strict=True))
    close(param.grad, torch.full((5,), NAN))


@item(44, name=FUSED, dtype=DTYPES)
def test_gradients_stay_scaled_after_the_step(name: str, dtype: torch.dtype) -> None:
    """Whoever logs them afterwards would see them 8 times too large; also if nothing else is new."""
    params = [Parameter(t) for t in parameters(dtype)]
    optimizer = make(name, True, fused=True)(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(sum((p.float() * 3).sum() for p in params)).backward()
    version = params[0].grad._version
    scaler.step(optimizer)
    assert all(same_bits(p.grad, torch.full_like(p, 3)) for p in params)
    assert params[0].grad._version > version
    assert native_calls(name) == 1


# ---- layouts, dtypes, sizes ----


@item(2, 19, name=NAMES)  # torch's fused SGD: TypeError; apex counts a step for all
def test_gradient_that_is_late_or_missing_is_stepped_with_the_others(name: str) -> None:
    """Neither a state nor a step for a parameter without a gradient."""
    present = [(True, False, True), (True, True, False), (False, True, True), (True, True, True)]

    def script(optimizer_of: Any) -> Any:
        params = [Parameter(torch.full((n,), 1.0)) for n in (3, 4, 40)]
        optimizer, seen = optimizer_of(params), []
        for step, flags in enumerate(present):
            for param, there in zip(params, flags, strict=True):
                param.grad = torch.full_like(param, 0.1 * step + 0.1) if there else None
            optimizer.step()
            seen.append([len(optimizer.state.get(p, {})) for p in params])
        return tensors(optimizer), seen

    for options in ({**with_states(name)}, accepted(name, momentum=0.9, dampening=0.5)):
        as_torch(name, script, **options)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda t: t.clone(),
    "transposed": lambda t: t.transpose(1, 3).contiguous().transpose(1, 3),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "slice": lambda t: torch.zeros(2, 10, 4, 6)[:, ::2].copy_(t),
    "with gaps": lambda t: torch.zeros(2, 5, 4, 9)[..., 1:7].copy_(t),
    "one off": lambda t: torch.zeros(241)[1:].view(2, 5, 4, 6).copy_(t),
}


@item(3, 5, name=NAMES, param_layout=LAYOUTS)  # pytorch#106951, #110758, #126585, #123557
def test_elements_are_paired_by_place_in_memory(name: str, param_layout: str) -> None:
    """Parameter, gradient and states may each be laid out in their own way."""
    value, grad = torch.randn(2, 2, 5, 4, 6).unbind()
    for grad_layout in (*LAYOUTS, "expanded"):

        def script(optimizer_of: Any, grad_layout: str = grad_layout) -> Any:
            param = Parameter(LAYOUTS[param_layout](value))
            assert param.stride() == LAYOUTS[param_layout](value).stride()
            optimizer = optimizer_of([param])
            for step in range(3):
                given = grad[:, :, :1, :1].expand_as(grad) if grad_layout == "expanded" else grad + step
                param.grad = LAYOUTS.get(grad_layout, lambda t: t)(given)
                optimizer.step()
            strides = [t.stride() for t in tensors(optimizer)]
            return tensors(optimizer), strides

        as_torch(name, script, **with_states(name))
    assert native_calls(name) == 3 * 7


@item(4, name=NAMES, dtype=DTYPES)  # torch's fused CPU optimizers; DeepSpeed never updates it
def test_neighbours_of_a_strided_parameter_are_written(name: str, dtype: torch.dtype) -> None:
    for cut in (lambda t: t[:, ::2], lambda t: t[1:-1, 3:5], lambda t: t.t()[::3], lambda t: t[5]):
        base = torch.full((40, 33), 1.0, dtype=dtype)
        param, dense = Parameter(cut(base)), Parameter(cut(base).clone())
        outside = torch.ones_like(base, dtype=torch.bool)
        cut(outside).fill_(False)
        results = []
        for p in (param, dense):
            optimizer = make(name, True, **with_states(name), lr=8.0)([p])
            for step in range(2):
                p.grad = torch.linspace(-1, 1, p.numel()).view(p.shape).to(dtype) + step
                optimizer.step()
            results.append(p)
        assert same_bits(*results)
        assert (base[outside] == 1).all()
        assert not (cut(base) == 1).all()


@item(5, name=NAMES)
def test_parameter_that_overlaps_itself_is_updated_several_times(name: str) -> None:
    """torch refuses what is expanded, and lets its other overlaps pass."""
    shared = torch.ones(1)
    for ours in (True, False):
        param = Parameter(shared.expand(4))
        param.grad = torch.ones(4)
        with pytest.raises(RuntimeError, match="memory location"):
            make(name, ours)([param]).step()
    assert shared == 1

    def script(optimizer_of: Any) -> Any:
        base = torch.ones(5)
        param = Parameter(base.as_strided((3, 3), (1, 1)))
        param.grad = torch.full((3, 3), 0.5)
        optimizer_of([param]).step()
        return base

    as_torch(name, script)
    assert native_calls(name) == 0


@item(6, name=NAMES, dtype=DTYPES)  # torch: NaN in all of 67 elements, or in the 64 of its vectors
def test_vectors_and_their_tail_do_not_compute_the_same(name: str, dtype: torch.dtype) -> None:
    """The same numbers in each element stay the same numbers, with gradient 0 too, and finite."""
    for isa, options in product(ISAS, rule_options(name)):
        _native.set_isa(isa)
        param = Parameter(torch.full((67,), 0.3, dtype=dtype))
        for offset in range(0, 64, 7):
            part = Parameter(param.detach().clone()[offset:])
            optimizer = make(name, True, **options)([part])
            for grad in (0.0, 0.1, 0.0, -3e-4):
                part.grad = torch.full_like(part, grad)
                optimizer.step()
            assert torch.isfinite(part).all(), options
            assert (part == part[-1]).all(), options


@item(8, name=NAMES)  # torch rounds them to bfloat16
def test_wide_states_of_a_narrow_parameter_are_rounded_by_loading(name: str) -> None:
    param = one(dtype=torch.bfloat16)
    optimizer = make(name, True, **with_states(name))([param])
    optimizer.step()
    state = optimizer.state[param]
    state.update({k: torch.full(v.shape, 1 / 3) for k, v in state.items() if v.dim()})
    saved, loader = optimizer.state_dict(), make(name, True, **with_states(name))([param])
    for loaded in (saved, pickle.loads(pickle.dumps(saved))):
        loader.load_state_dict(loaded)
        assert_same_state(loader, saved)
        assert {v.dtype for v in loader.state[param].values()} == {torch.float32}
    loader.step()
    assert native_calls(name) == 2


@item(10, name=NAMES, device=DEVICES)  # torch raises
def test_parameter_gradient_and_state_of_three_dtypes_are_reinterpreted(name: str, device: str) -> None:
    """Each is read and written in its own; the numbers are those of float64, rounded once at the end."""
    for kinds in ((torch.bfloat16, torch.bfloat16, torch.float32), *product(DTYPES[:3], DTYPES, DTYPES[:3])):
        narrowest = max(torch.finfo(kind).eps for kind in (kinds[0], kinds[2]))
        results = []
        for wide in (False, True):
            param = Parameter(torch.linspace(0.5, 2, 41).to(kinds[0]).to(torch.float64 if wide else kinds[0]))
            param = Parameter(param.detach().to(device))
            param.grad_dtype = None
            optimizer = make(name, not wide, **with_states(name), lr=2**-7)([param])
            for step in range(2):
                grad = torch.linspace(-1, 1, 41).to(kinds[1]).to(device)
                param.grad = grad.double() if wide else grad
                optimizer.step()
                state = optimizer.state[param]
                for key, value in state.items() if step == 0 else ():
                    if value.dim():
                        state[key] = value.to(kinds[2]).to(torch.float64 if wide else kinds[2])
            results.append(param.detach().double())
            assert wide or {v.dtype for v in optimizer.state[param].values() if v.dim()} == {kinds[2]}
        close(*results, rtol=8 * narrowest, atol=8 * narrowest)
    assert native_calls(name) == 2 * 37


@item(11, name=NAMES, device=DEVICES)  # torch's _fused_adam reads lr once per device
def test_learning_rate_of_the_first_group_is_used_for_all(name: str, device: str) -> None:
    def script(optimizer_of: Any) -> Any:
        params = [one() for _ in range(3)] + [Parameter(torch.ones(3, device=device)) for _ in range(2)]
        params[3].grad, params[4].grad = (torch.ones(3, device=device) for _ in range(2))
        optimizer = optimizer_of([{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(params)])
        for _ in range(3):
            optimizer.step()
        return [p.detach().cpu() for p in params]

    as_torch(name, script)


@item(12, name=NAMES, device=DEVICES)
def test_learning_rate_in_a_tensor_is_frozen(name: str, device: str) -> None:
    for lr in (torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.1, device=device)):

        def script(optimizer_of: Any, lr: Tensor = lr) -> Any:
            param, rate = Parameter(torch.ones(5, device=device)), lr.clone()
            optimizer = optimizer_of([param])
            optimizer.param_groups[0]["lr"] = rate
            for value in (0.1, 0.01, 0.5):
                rate.fill_(value)
                param.grad = torch.full_like(param, 0.5)
                optimizer.step()
            assert optimizer.param_groups[0]["lr"] is rate
            return param.detach()

        as_torch(name, script)
    single = one()
    make(name, True, lr=torch.tensor([0.1]))([single]).step()
    as_torch(name, lambda optimizer_of: [(p := one()), optimizer_of([p]).step()][0].detach(), lr=0.1)
    number = one()
    make(name, True, lr=0.1)([number]).step()
    close(single.detach(), number.detach())
    if name != "Lion":
        of = getattr(optim, name), torch_optimizer(name)
        mine, right = (outcome(make_one, [one()], lr=torch.tensor(0.1), foreach=True) for make_one in of)
        assert mine is right if isinstance(right, type) else isinstance(mine, type(right))


@item(13, kind=SPARSE, maximize=[False, True])
def test_rows_that_come_twice_or_never_are_stepped_wrongly(kind: str, maximize: bool) -> None:
    """No entry counts as a step, of no row; others stay as they are to the bit."""
    grads = [SPARSE[k]() for k in (kind, "duplicates", kind, kind)]

    def script(optimizer_of: Any) -> Any:
        param = Parameter(torch.linspace(-1, 1, 24).view(6, 4))
        optimizer, seen = optimizer_of([param]), []
        for grad in grads:
            param.grad = grad.clone()
            optimizer.step()
            seen.append(param.detach().clone())
        return seen, dict(optimizer.state[param])

    as_torch("SparseAdam", script, lr=0.1, maximize=maximize)
    assert native_calls("SparseAdam") == 4
    param = Parameter(start := torch.linspace(-1, 1, 24).view(6, 4).clone())
    param.grad = grads[0]
    before, optimizer = start.clone(), optim.SparseAdam([param])
    optimizer.step()
    untouched = torch.ones(6, dtype=torch.bool)
    untouched[grads[0]._indices()[0].long()] = False
    assert same_bits(param[untouched], before[untouched])
    assert optimizer.state[param]["step"] == 1


@item(14, name=NAMES)  # apex drops the last launch, TE#3207 reads out of bounds
def test_empty_parameter_takes_others_with_it(name: str) -> None:
    for shapes in ([(0,)], [(0,), (3,)], [(3,), (0,)], [(3,), (0, 4), (4,)], [(0,), (2, 0), (5,), (0,)]):
        as_torch(
            name,
            lambda optimizer_of, shapes=shapes: tensors(train(optimizer_of, parameters(shapes=shapes), 3)[1]),
            **with_states(name),
        )
    assert native_calls(name) == 15


@item(15, name=NAMES)  # apex#1654, DeepSpeed#7640, TE#2918, bnb#1785, pytorch#101449
@LINUX
def test_offset_beyond_2_to_the_31_wraps(name: str) -> None:
    """Elements that far apart in memory of which only their pages exist."""
    apart = 2**31 + 16
    memory = [torch.from_numpy(np.zeros(2 * apart + 64, np.float16)) for _ in range(2)]
    shape, strides = (3, 2, 5), (apart, 8, 1)
    param, grad = (t.as_strided(shape, strides) for t in memory)
    start, given = torch.linspace(0.5, 1, 30).view(shape).half(), torch.linspace(-1, 1, 30).view(shape).half()
    param.copy_(start)
    grad.copy_(given)
    near = Parameter(start.clone())
    near.grad = given
    far = Parameter(param)
    far.grad = grad
    assert far.stride() == far.grad.stride() == strides
    for p in (near, far):
        make(name, True, lr=0.1)([p]).step()
    assert same_bits(far, near)
    assert not torch.equal(near.detach(), start)
    assert native_calls(name) == 2


@item(15)
def test_number_of_elements_of_a_list_wraps() -> None:
    """2^31 + 2^20 of them, in tensors that share memory: each is one more update of the same numbers."""
    base = torch.zeros(2**22, dtype=torch.float16)
    params = [Parameter(base) for _ in range(2**9 + 1)]
    grad = torch.full((1,), 1.0).half().expand(2**22)
    for param in params:
        param.grad = grad
    with counted_steps() as calls:
        optim.SGD(params, lr=0.5).step()
    assert sum(p.numel() for p in params) > 2**31
    assert calls == [513]
    assert (base == -256.5).all()


@item(15, device=[pytest.param("cpu", marks=ASKED), pytest.param("cuda", marks=pytest.mark.gpu)])
def test_number_of_elements_of_a_tensor_wraps(device: str) -> None:
    count = 2**31 + 11
    param = Parameter(torch.zeros(count, dtype=torch.bfloat16, device=device))
    param.grad = torch.ones(1, dtype=torch.bfloat16, device=device).expand(count)
    optim.SGD([param], lr=0.5).step()
    assert (param.detach() == -0.5).all()


@item(16, name=NAMES)  # TE#3418, rf-detr#1409
def test_long_lists_are_cut_into_several_calls_or_cut_short(name: str) -> None:
    groups = [{"params": [Parameter(torch.full((1,), float(i)))], "lr": 0.1} for i in range(465)]
    many = [Parameter(torch.full((1,), float(i))) for i in range(20_001)] if name in ("SGD", "AdamW") else []
    optimizer = make(name, True)([*groups, *([{"params": many, "lr": 0.1}] if many else [])])
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for param in params:
        param.grad = torch.ones(1)
    with counted_steps() as calls:
        optimizer.step()
    assert calls == [len(params)]
    single = Parameter(
        torch.cat([p.detach() for p in params]).copy_(
            torch.cat([torch.arange(465.0), torch.arange(float(len(many)))])
        )
    )
    single.grad = torch.ones_like(single)
    make(name, True, lr=0.1)([single]).step()
    assert same_bits(torch.cat([p.detach() for p in params]), single)


@item(17, name=NAMES, isa=ISAS)  # DeepSpeed's aligned stores, apex' and torch's n % 4
def test_sizes_and_alignments_around_the_vector_width_change_bits(name: str, isa: str) -> None:
    _native.set_isa(isa)
    values, grads = torch.randn(200), torch.randn(200)
    for dtype in DTYPES:

        def moved(size: int, offset: int, t: Tensor, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(size + offset, dtype=dtype)[offset:].copy_(t[:size])

        places = [(size, 0, 0) for size in range(1, 130)]
        places += [(size, a, b) for size in (5, 33, 100) for a, b in product((0, 1, 3), (0, 1, 2))]
        params = [Parameter(moved(size, a, values)) for size, a, _ in places]
        params.insert(70, Parameter(moved(65, 1, values)))  # one misaligned among the aligned
        for param, b in zip(
            params, [*(b for _, _, b in places[:70]), 1, *(b for _, _, b in places[70:])], strict=True
        ):
            param.grad = moved(param.numel(), b, grads)
        whole = Parameter(values[:129].to(dtype))
        whole.grad = grads[:129].to(dtype)
        for group in (params, [whole]):
            optimizer = make(name, True, **with_states(name))(group)
            optimizer.step()
            optimizer.step()
        assert all(same_bits(p, whole[: p.numel()]) for p in params)


@item(18, name=NAMES)  # ColossalAI, apex: one step for the whole group
def test_step_of_one_parameter_is_used_for_its_group(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        params = [one() for _ in range(4)]
        optimizer = optimizer_of(params)
        for step in range(12):
            for i, param in enumerate(params):
                param.grad = torch.full((5,), 0.1 * (step % 3) + 0.1) if step % (i + 1) == 0 else None
            optimizer.step()
        return tensors(optimizer)

    as_torch(name, script, **with_states(name))
    assert native_calls(name) == 12


@item(20, name=[*NAMES, "SparseAdam"])  # apex
def test_closure_runs_without_gradients(name: str) -> None:
    sparse = name == "SparseAdam"
    layer = torch.nn.Embedding(5, 3, sparse=sparse)
    optimizer = getattr(optim, name)(layer.parameters())

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = layer(torch.tensor([1, 3])).square().sum()
        loss.backward()
        return loss

    before = layer.weight.detach().clone()
    with torch.no_grad():
        loss = optimizer.step(closure)
        assert not torch.is_grad_enabled()
    close(loss.detach(), before[[1, 3]].square().sum())
    assert not torch.equal(layer.weight.detach()[1], before[1])


# ---- devices and streams ----


@item(21, name=NAMES)  # bnb launches on the default stream
@pytest.mark.gpu
def test_kernels_run_beside_the_current_stream(name: str) -> None:
    """The gradient is written, the step taken and the result read on a side stream that is kept busy."""

    def script(optimizer_of: Any) -> Any:
        param, stream = Parameter(torch.ones(1 << 20, device="cuda")), torch.cuda.Stream()
        optimizer = optimizer_of([param])
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for step in range(5):
                param.grad = torch.zeros_like(param)
                torch.cuda._sleep(10_000_000)
                param.grad += 0.1 * step + 0.1
                optimizer.step()
                param.grad.fill_(NAN)  # too late to matter
            result = param.detach().clone()
            event = stream.record_event()
        event.synchronize()
        return result.cpu()

    as_torch(name, script, **with_states(name))


@item(21, name=NAMES)
def test_step_on_the_cpu_returns_before_it_is_done(name: str) -> None:
    """There the calling thread is the stream: what it wrote is read, and what it reads next is new."""
    param = Parameter(torch.ones(2_000_003))
    optimizer, array = make(name, True, lr=0.1)([param]), param.detach().numpy()
    for value in (0.5, 1.0):
        param.grad = torch.full_like(param, value)
        before = array.copy()
        optimizer.step()
        seen = array.copy()
        param.grad.fill_(NAN)
        assert (seen != before).all()
        assert np.array_equal(seen, array)
        assert np.isfinite(array).all()


@item(22, name=NAMES)  # pytorch#126670
def test_gradient_or_state_elsewhere_is_read_as_if_here(name: str) -> None:
    params = [one(), one(), one()]
    optimizer = make(name, True, **with_states(name))(params)
    optimizer.step()
    state = optimizer.state[params[1]]
    key = next(key for key, value in state.items() if value.dim())
    kept, state[key] = state[key], torch.zeros(5, device="meta")
    before = [t.clone() for t in tensors(optimizer)]
    with pytest.raises(RuntimeError, match=r"meta|device"):
        optimizer.step()
    assert all(a.is_meta or same_bits(a, b) for a, b in zip(tensors(optimizer), before, strict=True))
    state[key] = kept
    optimizer.step()


@item(22, name=NAMES)
def test_parameters_of_two_devices_in_one_group(name: str) -> None:
    """A meta parameter has nothing to update; the others are updated as torch updates them."""

    def script(optimizer_of: Any) -> Any:
        params = [one(), Parameter(torch.ones(3, device="meta")), one()]
        params[1].grad = torch.ones(3, device="meta")
        optimizer = optimizer_of(params)
        optimizer.step()
        optimizer.step()
        return [params[0].detach(), params[2].detach()]

    mine, right = (outcome(script, make(name, ours, **with_states(name))) for ours in (True, False))
    if right is RuntimeError:
        assert name == "ASGD"  # torch reads its numbers, on the device of the parameter, which has none
        assert mine is RuntimeError
        return
    close(mine, right)
    reasons = fusestep.stats()[getattr(optim, name)._rule.op]["torch"]
    assert sum(reasons.values()) == 2


@item(22, name=NAMES)
@pytest.mark.gpu
def test_parameters_on_cpu_and_cuda_and_the_current_device(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        params = [one(), Parameter(torch.ones(3, device="cuda")), one()]
        params[1].grad = torch.ones(3, device="cuda")
        optimizer = optimizer_of(params)
        with torch.device("cuda"):
            optimizer.step()
        return [p.detach().cpu() for p in params]

    as_torch(name, script, **with_states(name))
