"""What only a CUDA device can show: that nobody waits for it, that streams and graphs keep their order, that
runs repeat, and that a mistake leaves the process and its context alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
import fusestep.nn.functional as F
import fusestep.optim as optim
from cases import LOSSES, fitting, loss_inputs, optimizer_names, ours
from parity import evaluate
from peers import same_bits

pytestmark = pytest.mark.gpu

ROW_LENGTHS = (1, 10, 100, 1000, 8193, 50_257, 262_144)  # held by a thread, a warp, a block; staged; beyond


def native_only(op: str) -> None:
    assert fusestep.stats()[op]["torch"] == {}, fusestep.stats()[op]


@pytest.mark.parametrize("op", LOSSES)
def test_two_runs_have_the_same_bits(op: str) -> None:
    for shape in fitting(op, (100_003, 7), (33, 1000), (5, 50_257)):
        operands = [t.cuda() for t in loss_inputs(op, shape, torch.float32)]
        first, second = (evaluate(op, ours(op), operands, reduction="mean") for _ in range(2))
        assert all(same_bits(first[name], second[name]) for name in first)
        native_only(op)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", ROW_LENGTHS)
def test_rows_of_every_length(classes: int, dtype: torch.dtype) -> None:
    """Against float64, rows aligned and not, with weights and without, with options that few use."""
    for rows, offset in ((37, 0), (5, 1)):
        memory = torch.randn(rows * classes + offset, device="cuda").to(dtype)
        x = memory[offset:].view(rows, classes)
        y = torch.randint(classes, (rows,), device="cuda")
        weight = torch.rand(classes, device="cuda").to(dtype) + 0.5
        for options in ({}, {"label_smoothing": 0.1}, {"softcap": 5.0}, {"weight": weight}):
            mine, exact = x.clone().requires_grad_(), x.double().requires_grad_()
            loss = F.cross_entropy(mine, y, **options)
            right = F.cross_entropy(
                exact, y, **{k: v.double() if k == "weight" else v for k, v in options.items()}
            )
            loss.backward()
            right.backward()
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(loss.double(), right, rtol=8 * eps, atol=eps)
            largest = float(exact.grad.abs().max())
            torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=8 * eps, atol=8 * eps * largest)


@pytest.mark.parametrize("name", optimizer_names())
def test_a_step_waits_for_nothing(name: str) -> None:
    params = [Parameter(torch.ones(n, device="cuda")) for n in (1, 33, 100_003)]
    optimizer = getattr(optim, name)(params, lr=torch.tensor(0.1, device="cuda"))
    for _ in range(3):
        for param in params:
            param.grad = torch.full_like(param, 0.5)
        torch.cuda.set_sync_debug_mode("error" if optimizer.state else "default")  # torch makes states
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    native_only(optimizer._rule.op)


FUSED: list[tuple[str, dict[str, Any]]] = [
    ("Adam", {}),
    ("AdamW", {"amsgrad": True}),
    ("SGD", {"momentum": 0.9}),
    ("Adagrad", {}),
]


@pytest.mark.parametrize("extras", [{}, {"max_grad_norm": 0.5, "ema_decay": 0.9}], ids=["plain", "extras"])
@pytest.mark.parametrize(("name", "options"), FUSED)
def test_gradscaler_stays_on_the_device(name: str, options: dict[str, Any], extras: dict[str, Any]) -> None:
    """As torch's fused step under GradScaler, through an overflow, with unscale_() and without."""

    def run(make: Callable[..., torch.optim.Optimizer], **asked: Any) -> list[Tensor]:
        param = Parameter(torch.ones(1000, device="cuda"))
        optimizer = make([param], lr=0.1, fused=True, **options, **asked)
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
        for step in range(6):
            optimizer.zero_grad()
            scaler.scale((param * (float("inf") if step == 2 else step + 1.0)).sum()).backward()
            if step % 2 == 1:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        steps = [state["step"] for state in optimizer.state.values() if "step" in state]
        return [param.detach(), *steps]

    mine = run(getattr(optim, name), **extras)
    native_only(getattr(optim, name)._rule.op)
    if not extras:
        for a, b in zip(mine, run(getattr(torch.optim, name)), strict=True):
            torch.testing.assert_close(a, b)
    assert torch.isfinite(mine[0]).all()


@pytest.mark.parametrize(("groups", "tensors"), [(465, 1), (1, 1000)])
def test_many_tensors_take_one_launch(groups: int, tensors: int) -> None:
    """Each group with a learning rate of its own."""
    params = [[Parameter(torch.randn(64, device="cuda")) for _ in range(tensors)] for _ in range(groups)]
    optimizer = optim.Adam([{"params": own, "lr": 1e-3 * (i + 1)} for i, own in enumerate(params)])
    for own in params:
        for param in own:
            param.grad = torch.randn_like(param)
    optimizer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        optimizer.step()
        torch.cuda.synchronize()
    assert sum("update_kernel" in event.name for event in profile.events()) == 1
    native_only("adam")


def test_two_streams_do_not_share_partial_sums() -> None:
    x = [torch.randn(1 << 22, device="cuda") for _ in range(2)]
    right = [F.mse_loss(a, torch.zeros_like(a)) for a in x]
    streams, found = [torch.cuda.Stream() for _ in x], []
    torch.cuda.synchronize()
    for _ in range(50):
        for a, stream in zip(x, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(F.mse_loss(a, torch.zeros_like(a)))
    torch.cuda.synchronize()
    assert all(same_bits(loss, right[i % 2]) for i, loss in enumerate(found))


def test_labels_out_of_range_leave_the_context_alive() -> None:
    x = torch.randn(5, 7, device="cuda", requires_grad=True)
    y = torch.tensor([0, 7, -1, 2**40, 6], device="cuda")
    loss = F.cross_entropy(x, y, reduction="none")
    loss.sum().backward()
    torch.cuda.synchronize()
    assert torch.isnan(loss).tolist() == [False, True, True, True, False]
    assert torch.isnan(x.grad).any(1).tolist() == [False, True, True, True, False]


def test_operands_on_two_devices_are_refused() -> None:
    x, y = torch.randn(5, 7, device="cuda"), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="device"):
        F.cross_entropy(x, y)
    with pytest.raises(RuntimeError, match="device"):
        F.mse_loss(x, torch.zeros(5, 7))


def test_more_than_2_31_elements() -> None:
    n = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 6 * n:
        pytest.skip("needs 13 GB of device memory")
    x = torch.full((n,), 2.0, dtype=torch.bfloat16, device="cuda")
    assert float(F.mse_loss(x, x.new_zeros(()).expand(n), reduction="mean")) == 4
    rows = x[: 2**31].view(2**14, 2**17).requires_grad_()
    F.cross_entropy(rows, torch.zeros(2**14, dtype=torch.int64, device="cuda")).backward()
    expected = (2.0**-17 - 1) / 2**14
    assert abs(float(rows.grad[-1, 0]) / expected - 1) < 0.01
