"""What a step of every rule costs and how far fifty of them drift: the table in docs/optimizers.md.

Errors are the largest distance from float64 (torch's for-loop, same rounded gradients), in units of the
largest parameter's last place, ours and torch's own for-loop in that dtype. Bytes are those an element of
a float32 parameter, gradient and states costs in one pass; calls are counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/optimizers.md"
MARK = "<!-- table: written by `python tools/optimizers.py` -->\n"
sys.path.insert(0, str(ROOT / "tests"))

import fusestep.optim as optim  # noqa: E402
from cases import DTYPES, bytes_per_element, optimizer_names, torch_optimizer  # noqa: E402
from fusestep import _native  # noqa: E402

STEPS, COUNT = 50, 20_000
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adam", {"amsgrad": True}),
]


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in (*optimizer_names(), "SparseAdam"):
        yield name, {}
        yield from (case for case in OPTIONS if case[0] == name)


def train(make: Any, options: dict[str, Any], dtype: torch.dtype, wide: bool = False) -> tuple[Tensor, Any]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(COUNT, generator=generator, dtype=torch.float64).to(dtype)
    param = Parameter(start.double() if wide else start)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if param.dtype is torch.float64 else default)
    optimizer = make([param], **options)
    for _ in range(STEPS):
        grad = torch.randn(COUNT, generator=generator, dtype=torch.float64).to(dtype).to(param.dtype)
        param.grad = grad.to_sparse() if isinstance(optimizer, torch.optim.SparseAdam) else grad
        optimizer.step()
    torch.set_default_dtype(default)
    return param.detach(), optimizer


def errors(name: str, options: dict[str, Any], dtype: torch.dtype) -> tuple[float, float]:
    exact, _ = train(torch_optimizer(name), options, dtype, wide=True)
    unit = torch.finfo(dtype).eps * exact.abs().max()
    both = (getattr(optim, name), torch_optimizer(name))
    ours, torchs = (
        float((train(make, options, dtype)[0].double() - exact).abs().max() / unit) for make in both
    )
    return ours, torchs


def calls(name: str, options: dict[str, Any]) -> tuple[int, int]:
    """Native calls of a step over three groups of ten parameters, and how many states each has."""
    count, native = 0, _native.step

    def counting(*args: Any) -> bool:
        nonlocal count
        count += 1
        return native(*args)

    params = [Parameter(torch.ones(3)) for _ in range(30)]
    for param in params:
        param.grad = torch.ones(3).to_sparse() if name == "SparseAdam" else torch.ones(3)
    groups = [{"params": params[i::3], "lr": 0.01 * (i + 1)} for i in range(3)]
    optimizer = getattr(optim, name)(groups, **options)
    _native.step = counting  # type: ignore[assignment]
    try:
        optimizer.step()
    finally:
        _native.step = native
    return count, sum(
        torch.is_tensor(value) and value.shape == (3,) for value in optimizer.state[params[0]].values()
    )


def table() -> str:
    """The Markdown table."""
    lines = [
        "| rule | states | bytes an element | native calls | "
        + " | ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        + " |",
        "|---" * (4 + len(DTYPES)) + "|",
    ]
    for name, options in variants():
        count, states = calls(name, options)
        pairs = (errors(name, options, dtype) for dtype in DTYPES)
        cells = " | ".join(f"{ours:.2f} / {torchs:.2f}" for ours, torchs in pairs)
        label = name + (f" ({', '.join(options)})" if options else "")
        lines.append(f"| {label} | {states} | {bytes_per_element(name, options)} | {count} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    head, _, tail = PAGE.read_text().split(MARK)
    PAGE.write_text(head + MARK + table() + MARK + tail)
