"""The short way of calls with plain tensors: it must step aside wherever the long way would go to torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torch._functorch.vmap import vmap_increment_nesting
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fusestep import _native
from fusestep.nn._autograd import why_torch

X, Y = torch.ones(3, 4), torch.zeros(3, 4)


class Subclass(Tensor):
    pass


AROUND: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "functorch transform": lambda: vmap_increment_nesting(3, "error"),
    "forward-mode AD": forward_ad.dual_level,
    "dispatch mode": TorchDispatchMode,
    "function mode": TorchFunctionMode,
}


@pytest.mark.parametrize("name", AROUND)
def test_something_around_the_call(name: str) -> None:
    assert _native.common_case((X, Y)) is False
    with AROUND[name]():
        assert _native.common_case((X, Y)) is None
        assert why_torch(X, Y) == name.replace("function mode", "dispatch mode")
    assert _native.common_case((X, Y)) is False


def test_a_trace() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(_native.common_case((x, Y)))
        return x * 2

    torch.jit.trace(function, X, check_trace=False)
    assert seen == [None]


@pytest.mark.parametrize(
    "operands",
    [
        (X.as_subclass(Subclass), Y),
        (X, Y.as_subclass(Subclass)),
        (X.to_sparse(), Y),
        (X, Y.to_sparse()),
        (X.to("meta"), Y),
        (X.long(), Y.long()),
        (X.to(torch.complex64), Y.to(torch.complex64)),
        (X.to(torch.float8_e5m2), Y.to(torch.float8_e5m2)),
        (X.numpy(), Y),
        (X, 1.0),
    ],
    ids=lambda operands: "-".join(type(t).__name__ for t in operands),
)
def test_operands_that_are_not_plain(operands: tuple[Tensor, ...]) -> None:
    assert _native.common_case(operands) is None


@pytest.mark.parametrize(
    "other",
    [Y.double(), Y.bfloat16(), Y.long(), Y[:1], Y[0], Y.view(4, 3)],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}",
)
def test_operands_that_are_not_alike(other: Tensor) -> None:
    assert _native.common_case((X, other)) is None
    assert _native.common_case((X, Y, other)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_whether_autograd_has_to_see_the_call(dtype: torch.dtype) -> None:
    x, leaf = X.to(dtype), torch.nn.Parameter(X.to(dtype))
    assert _native.common_case((x, x)) is False
    assert _native.common_case((x, leaf)) is True
    assert _native.common_case((leaf, x)) is True
    with torch.no_grad():
        assert _native.common_case((leaf, x)) is False
    _native.use_exchange_api(False)
    try:
        assert _native.common_case((leaf, x)) is None  # torch before 2.10: the long way reads them
    finally:
        _native.use_exchange_api(True)
