"""What the tests of bugs that other fused optimizers shipped have in common (test_peers_*.py)."""

from __future__ import annotations

import inspect
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
import fusestep.optim as optim
from cases import torch_optimizer
from fusestep import _native
from test_optim import NAMES, make

NAN, INF = float("nan"), float("inf")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
FUSED = [name for name in NAMES if "fused" in inspect.signature(torch_optimizer(name)).parameters]
ASKED = pytest.mark.skipif("FUSESTEP_LARGE_TESTS" not in os.environ, reason="9 GB: set FUSESTEP_LARGE_TESTS")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs memory that costs nothing until written")


def item(*numbers: int, **values: Any) -> Callable[[Any], Any]:
    """Names the items that a test stands for, and runs it with each of the values."""
    marks = [pytest.mark.parametrize(name, choices, ids=str) for name, choices in values.items()]
    assert numbers, "see test_every_item_of_the_list_has_a_test"
    return lambda test: reduce(lambda marked, mark: mark(marked), marks, test)


def with_states(name: str) -> dict[str, Any]:
    """Options under which the optimizer keeps states."""
    return {"momentum": 0.9} if name == "SGD" else {}


def accepted(name: str, **options: Any) -> dict[str, Any]:
    """Those of the options that the optimizer has."""
    known = inspect.signature(torch_optimizer(name)).parameters
    return {key: value for key, value in options.items() if key in known}


def close(mine: Any, right: Any, rtol: float = 1e-5, atol: float = 1e-6, **options: Any) -> None:
    torch.testing.assert_close(mine, right, rtol=rtol, atol=atol, equal_nan=True, **options)


def as_torch(name: str, script: Callable[[Any], Any], tolerance: float = 1e-6, **options: Any) -> None:
    """The script returns the same tensors whether it gets our optimizer or torch's for-loop."""
    mine, right = (script(make(name, ours, **options)) for ours in (True, False))
    close(mine, right, atol=tolerance)


def tensors(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Parameters and states, detached."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    states = [value for p in params for value in optimizer.state.get(p, {}).values()]
    return [t.detach() if isinstance(t, Tensor) else t for t in (*params, *states)]


def one(
    value: float = 1.0, size: int = 5, dtype: torch.dtype = torch.float32, grad: float = 0.5
) -> Parameter:
    param = Parameter(torch.full((size,), value, dtype=dtype))
    param.grad = torch.full_like(param, grad)
    return param


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(*(t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (a, b)))


def outcome(function: Any, *args: Any, **options: Any) -> Any:
    """The value, or the type of the exception."""
    try:
        return function(*args, **options)
    except Exception as error:
        return type(error)


def native_calls(name: str) -> Any:
    return fusestep.stats().get(getattr(optim, name)._rule.op, {}).get("native", 0)


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """How many parameters each call of the native step got."""
    calls: list[int] = []
    native = _native.step

    def step(op: str, groups: Any, *rest: Any) -> Any:
        calls.append(sum(len(group.params) for group in groups))
        return native(op, groups, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "step", step)
        yield calls


def in_new_process(code: str, **environment: str) -> None:
    command, here = [sys.executable, "-c", code], os.path.dirname(__file__)
    subprocess.run(command, cwd=here, env={**os.environ, **environment}, check=True, timeout=120)


def sparse_grad(rows: Any, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.sparse_coo_tensor(torch.as_tensor(rows), values, shape, check_invariants=True)


SPARSE: dict[str, Callable[[], Tensor]] = {
    "duplicates": lambda: sparse_grad([[3, 1, 3, 0, 3]], torch.randn(5, 4), (6, 4)),
    "sorted": lambda: sparse_grad([[1, 3]], torch.randn(2, 4), (6, 4)).coalesce(),
    "nothing": lambda: sparse_grad(torch.empty(1, 0, dtype=torch.int64), torch.empty(0, 4), (6, 4)),
    "two sparse dimensions": lambda: sparse_grad([[5, 0, 5], [1, 3, 1]], torch.randn(3), (6, 4)),
    "strided values": lambda: sparse_grad([[4, 2]], torch.randn(4, 2).t(), (6, 4)),
    "int32 indices": lambda: sparse_grad(torch.tensor([[2, 2]], dtype=torch.int32), torch.ones(2, 4), (6, 4)),
    "zeros": lambda: sparse_grad([[2, 5]], torch.zeros(2, 4), (6, 4)),
}


def follow(
    name: str, grads: list[Any], wide: bool = False, ours: bool = True, size: int = 5, **options: Any
) -> list[Any]:
    """Parameter and states of ours in float32, or of torch in float64, after constant gradients."""
    param = Parameter(torch.full((size,), 1.0, dtype=torch.float64 if wide else torch.float32))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if wide else before)
    try:
        optimizer = make(name, ours and not wide, **options)([param])
        for grad in grads:
            param.grad = torch.full_like(param, grad)
            optimizer.step()
    finally:
        torch.set_default_dtype(before)
    return [t.double() for t in tensors(optimizer)]


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def lbfgs(
    optimizer_of: Any,
    loss_of: Callable[..., Tensor] = rosenbrock,
    start: tuple[Tensor, ...] = (torch.linspace(-1.2, 1, 6, dtype=torch.float64),),
    steps: int = 3,
    reload_at: int = -1,
    **options: Any,
) -> tuple[list[Any], torch.optim.Optimizer]:
    """Parameters, losses, numbers of evaluations and of iterations of a few steps."""
    params = [Parameter(p.clone()) for p in start]
    optimizer, losses, calls = optimizer_of(params, **options), [], []

    def closure() -> Tensor:
        optimizer.zero_grad()
        assert torch.is_grad_enabled()
        calls.append(1)
        loss = loss_of(*params)
        loss.backward()
        return loss

    for step in range(steps):
        if step == reload_at:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = optimizer_of(params, **options)
            optimizer.load_state_dict(torch.load(file, weights_only=False))
        losses.append(optimizer.step(closure).detach())
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    counts = [len(calls), state["func_evals"], state["n_iter"], len(state.get("old_dirs") or ())]
    return [[p.detach() for p in params], losses, torch.tensor(counts)], optimizer
