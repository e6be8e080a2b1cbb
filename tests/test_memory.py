"""The pool that large gradients come from: reuse, ownership, limits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import fusestep
import fusestep.nn.functional as F
import fusestep.numpy as fnp
from fusestep import _native

SIDE = 1024  # 4 MiB of float32
BYTES = SIDE * SIDE * 4


@pytest.fixture(autouse=True)
def fresh_pool() -> Iterator[None]:
    limit = fusestep.cache_stats()["limit"]
    fusestep.empty_cache()
    before = fusestep.cache_stats()["in_use"]
    yield
    fusestep.set_cache_limit(limit)
    fusestep.empty_cache()
    assert fusestep.cache_stats() == {"in_use": before, "idle": 0, "limit": limit}


def gradient(scale: float = 1.0, side: int = SIDE) -> Tensor:
    x = torch.full((side, SIDE), scale, requires_grad=True)
    F.mse_loss(x, torch.zeros(side, SIDE), reduction="sum").backward()
    assert x.grad is not None
    return x.grad


def idle() -> int:
    return fusestep.cache_stats()["idle"]


def test_memory_of_a_dead_gradient_is_used_again() -> None:
    first = gradient()
    address = first.data_ptr()
    assert fusestep.cache_stats()["in_use"] >= BYTES
    del first
    assert idle() == BYTES
    second = gradient(2.0)
    assert second.data_ptr() == address
    assert idle() == 0
    assert torch.equal(second, torch.full((SIDE, SIDE), 4.0))


@pytest.mark.parametrize(
    "keep",
    [
        lambda t: t.detach(),
        lambda t: t[1:, ::2],
        lambda t: t.numpy(),
        lambda t: t.untyped_storage(),
        lambda t: torch.from_dlpack(t),
        lambda t: t.clone().set_(t),
        lambda t: torch.nn.Parameter(t) * 2,  # in a graph
    ],
    ids=["detach", "slice", "numpy", "storage", "dlpack", "set_", "graph"],
)
def test_memory_is_never_handed_out_while_somebody_has_it(keep: object) -> None:
    first = gradient()
    address = first.data_ptr()
    kept = keep(first)  # type: ignore[operator]
    del first
    assert idle() == 0
    assert gradient().data_ptr() != address
    del kept
    assert address in {gradient().data_ptr() for _ in range(2)}


def test_an_accumulated_gradient_is_in_one_piece() -> None:
    x = torch.ones(SIDE, SIDE, requires_grad=True)
    for _ in range(3):
        F.mse_loss(x, torch.zeros(SIDE, SIDE), reduction="sum").backward()
    assert torch.equal(x.grad, torch.full((SIDE, SIDE), 6.0))  # type: ignore[arg-type]


def test_a_retained_graph_gives_memory_of_its_own_each_time() -> None:
    x = torch.ones(SIDE, SIDE, requires_grad=True)
    loss = F.mse_loss(x, torch.zeros(SIDE, SIDE), reduction="sum")
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    first.zero_()
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(second, torch.full((SIDE, SIDE), 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", ["rows", "columns", "every second"])
def test_bits_and_strides_are_those_of_fresh_memory(dtype: torch.dtype, order: str) -> None:
    x = torch.randn(SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = {"rows": x, "columns": x.t(), "every second": x[:, ::2]}[order]
    target = torch.randint(0, x.shape[1], (x.shape[0],), generator=torch.Generator().manual_seed(1))
    results = []
    for limit in (1 << 40, 0):
        fusestep.set_cache_limit(limit)
        for _ in range(2):  # the second time in memory that has been used
            leaf = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(leaf, target), leaf)
            results.append(grad.clone(memory_format=torch.preserve_format))
            assert grad.stride() == torch.empty_like(x).stride()
            del grad
    for other in results[1:]:
        assert torch.equal(results[0], other)


def test_the_limit_is_honoured() -> None:
    fusestep.set_cache_limit(2 * BYTES)
    alive = [gradient() for _ in range(4)]
    assert fusestep.cache_stats()["in_use"] == 4 * BYTES
    alive.clear()
    assert idle() == 2 * BYTES
    fusestep.set_cache_limit(BYTES)
    assert idle() == BYTES
    fusestep.set_cache_limit(0)
    assert idle() == 0
    gradient()
    assert fusestep.cache_stats()["in_use"] == 0


def test_the_limit_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match=r"`limit` must be 0 or more bytes, got -1"):
        fusestep.set_cache_limit(-1)


def test_never_more_is_held_than_was_in_use_at_one_time() -> None:
    for side in (SIDE, 3 * SIDE, 7 * SIDE, 15 * SIDE, 4 * SIDE, 2 * SIDE, 31 * SIDE, SIDE, 9 * SIDE):
        gradient(side=side)
        use = fusestep.cache_stats()
        assert use["in_use"] + use["idle"] <= 31 * BYTES
    fusestep.empty_cache()
    for side in (SIDE, 3 * SIDE, 7 * SIDE, 5 * SIDE):
        gradient(side=side)
    assert idle() <= 7 * BYTES


def test_a_much_larger_block_is_not_wasted_on_a_small_gradient() -> None:
    gradient(side=8 * SIDE)
    small = gradient()
    assert fusestep.cache_stats()["in_use"] == BYTES
    del small


def test_small_gradients_stay_with_malloc() -> None:
    gradient(side=16)
    assert fusestep.cache_stats() == {**fusestep.cache_stats(), "in_use": 0, "idle": 0}


def test_numpy_gradients_come_from_the_pool_too() -> None:
    x = np.ones((SIDE, SIDE), np.float32)
    _, grad = fnp.mse_loss(x, np.zeros_like(x), reduction="sum")
    address, view = grad.ctypes.data, grad[3:]
    assert fusestep.cache_stats()["in_use"] == BYTES
    del grad
    assert idle() == 0
    del view
    assert idle() == BYTES
    _, grad = fnp.mse_loss(x, np.zeros_like(x), reduction="sum")
    assert grad.ctypes.data == address
    assert (grad == 2).all()
    assert grad.flags.writeable


def test_threads_never_share_memory() -> None:
    wrong: list[str] = []

    def work(number: int) -> None:
        kept: list[Tensor] = []
        like = torch.empty(SIDE // 2, SIDE)
        for turn in range(60):
            pooled = _native.empty_like(like)
            assert fusestep.cache_stats()["in_use"] >= (len(kept) + 1) * BYTES // 2
            pooled.fill_(number * 100 + turn)
            kept.append(pooled)
            if turn % 3 == 2:
                if any(not (t == t[0, 0]).all() for t in kept):
                    wrong.append(f"thread {number}, turn {turn}")
                kept.clear()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_gradient_dies_on_another_thread() -> None:
    box = [gradient()]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert idle() == BYTES


def test_a_forked_child_has_a_pool_of_its_own() -> None:
    kept = gradient()
    gradient()
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)  # its OpenMP threads have stayed with the parent
        mine = gradient(3.0)
        good = bool((mine == 6).all() and (kept == 2).all())
        del mine
        fusestep.empty_cache()
        os._exit(0 if good and idle() == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert idle() == BYTES
    assert (kept == 2).all()


def test_interpreter_exit_with_gradients_alive() -> None:
    code = (
        "import sys, numpy as np, torch, fusestep.nn.functional as F, fusestep.numpy as fnp\n"
        "x = torch.ones(1024, 1024, requires_grad=True)\n"
        "F.mse_loss(x, torch.zeros(1024, 1024)).backward()\n"
        "a = np.ones((1024, 1024)); b = fnp.mse_loss(a, a * 2)\n"
        "sys.kept = x.grad, b\n"  # sys is cleared last
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_the_environment_sets_the_limit() -> None:
    code = "import fusestep; print(fusestep.cache_stats()['limit'])"
    env = {**os.environ, "FUSESTEP_CACHE_LIMIT": "12345678"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.stdout.strip() == "12345678"


def test_memory_that_the_system_does_not_have_is_torchs_to_refuse() -> None:
    fusestep.set_cache_limit(1 << 60)
    huge = torch.empty(1, 1).expand(1 << 22, 1 << 23)  # 128 TiB
    with pytest.raises(RuntimeError, match="memory"):
        _native.empty_like(huge, row_major=True)
    assert fusestep.cache_stats()["in_use"] == 0
