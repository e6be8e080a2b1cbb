"""No time without a right result: what is timed is held against float64 first, whole or in samples.

The tolerance is that of the tests: at most twice torch's own error in float32, rounded to the dtype, plus a
few units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
from bench import ROOT as ROOT  # makes the modules of the tests importable
from cases import OPS, POINTWISE, assert_accurate, theirs
from parity import DIFFERENCES, by_torch, exact

if not __debug__:
    raise RuntimeError("the checks of the benchmark are assertions: run python without -O")

CHUNK = 2**22  # elements whose float64 fits anywhere
MOST_GRADED = 32  # chunks whose gradient is checked; of all but a case of a billion elements, all


@contextmanager
def native(op: str) -> Iterator[None]:
    """Our kernels ran, and nothing fell back to torch."""
    fusestep.reset_stats()
    yield
    stats = fusestep.stats().get(op, {"native": 0, "torch": {}})
    if not stats["native"] or stats["torch"]:
        raise AssertionError(f"{op} was not run by our kernel: {stats}")


def _chunks(input: Tensor) -> list[slice]:
    rows = max(1, CHUNK // max(1, input[:1].numel()))
    return [slice(at, at + rows) for at in range(0, len(input), rows)]


def loss(op: str, operands: Sequence[Tensor], value: Tensor, grad: Tensor | None) -> None:
    """The mean and, if there is one, the elements of the gradient of the first operand."""
    input = operands[0]
    count = input.numel() if op in POINTWISE else len(input)
    key = f"grad_{OPS[op]['operands'][0]}"
    total = magnitude = torch.zeros((), dtype=torch.float64)
    chunks = _chunks(input)
    graded = {*range(0, len(chunks), -(-len(chunks) // MOST_GRADED)), len(chunks) - 1}
    for i, rows in enumerate(chunks):
        part = [operand[rows] for operand in operands]
        if grad is None or i not in graded:
            with torch.no_grad():  # in float64 where they are
                wide = (t.double() if t.is_floating_point() else t for t in part)
                terms = theirs(op)(*wide, reduction="none")
        else:
            part = [operand.cpu() for operand in part]
            shape = part[0].shape if op in POINTWISE else part[0].shape[:1]
            seed = torch.full(shape, 1 / count, dtype=torch.float64)
            single = [t.float() if t.is_floating_point() else t for t in part]
            oracle = exact(op, part, seed, reduction="none")
            torchs = by_torch(op, single, seed, reduction="none")[key].to(input.dtype)
            largest = float(oracle[key].abs().max()) if (op, key) in DIFFERENCES else 0.0
            assert_accurate(grad[rows].cpu(), torchs, oracle[key], f"{op} {key}", largest)
            terms = oracle["loss"]
        total, magnitude = total + terms.sum().cpu(), magnitude + terms.abs().sum().cpu()
    mean = total / count
    assert_accurate(value.cpu(), mean.to(value.dtype), mean, f"{op} loss", float(magnitude / count))


def matrix(
    op: str, input: Tensor, output: Tensor, seed: Tensor | None = None, grad: Tensor | None = None
) -> None:
    """Every element of what a function of rows returns, and of its gradient for a seed."""
    for rows in _chunks(input):
        results: list[list[Tensor]] = []
        for dtype in (torch.float64, torch.float32):
            leaf = input[rows].detach().cpu().to(dtype).requires_grad_()
            out = theirs(op)(leaf, 1)
            results.append([out.detach()])
            if seed is not None:
                results[-1] += torch.autograd.grad(out, leaf, seed[rows].cpu().to(dtype))
        ours = [output[rows].cpu()] + ([] if grad is None else [grad[rows].cpu()])
        for what, mine, wide, torchs in zip(("output", "gradient"), ours, *results, strict=False):
            largest = float(wide.abs().max()) if what == "gradient" else 0.0
            assert_accurate(mine, torchs.to(mine.dtype), wide, f"{op} {what}", largest)


def train(
    make: Callable[[list[Any]], Any], start: Sequence[Tensor], grads: Sequence[Tensor], steps: int, wide: bool
) -> list[Tensor]:
    """Parameters after steps of a torch optimizer with the same gradients, in float64 if ``wide``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if wide else before)  # of torch's counters
    try:
        params = [Parameter(p.double() if wide else p.clone()) for p in start]
        optimizer = make(params)
        for _ in range(steps):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.double() if wide else grad.clone()
            optimizer.step()
    finally:
        torch.set_default_dtype(before)
    return [param.detach() for param in params]


def steps(
    what: str,
    ours: Sequence[Tensor],
    make: Callable[[list[Any]], Any],
    start: Sequence[Tensor],
    grads: Sequence[Tensor],
    count: int,
) -> None:
    """Our parameters after steps, against the same steps of torch's optimizer."""
    start, grads, ours = ([t.cpu() for t in tensors] for tensors in (start, grads, ours))
    torchs, oracle = (train(make, start, grads, count, wide) for wide in (False, True))
    flat = (torch.cat([t.reshape(-1) for t in tensors]) for tensors in (ours, torchs, oracle))
    assert_accurate(*flat, what)
