"""Largest errors of every loss and its gradients, ours and torch's, in ULP against mpmath: docs/accuracy.md.

The same rounded inputs go to our kernel, to torch, and to a definition evaluated with 60 digits; gradients
of the definitions are central differences at that precision. An error is counted in units in the last place
of the exact value rounded to the dtype, and never less than the smallest normal number's.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import mpmath
import torch
from mpmath import mpf
from torch import Tensor

import fusestep

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/accuracy.md"
sys.path.insert(0, str(ROOT / "tests"))

from cases import OPERANDS, ROWWISE, ours, theirs  # noqa: E402

mpmath.mp.dps = 60
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
STEP = mpf(10) ** -25
Exact = Callable[..., Any]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def softplus(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x))


def bce(x: Any, t: Any) -> Any:
    return t * softplus(-x) + (1 - t) * softplus(x)


def focal(x: Any, t: Any) -> Any:
    p = sigmoid(x)
    return (t / 4 + (1 - t) * 3 / 4) * (1 - p * t - (1 - p) * (1 - t)) ** 2 * bce(x, t)


def huber(d: Any) -> Any:
    return d * d / 2 if abs(d) < 1 else abs(d) - mpf(1) / 2


# One element of each pointwise loss at its default options, by definition.
POINTWISE: dict[str, Exact] = {
    "mse_loss": lambda x, t: (x - t) ** 2,
    "l1_loss": lambda x, t: abs(x - t),
    "smooth_l1_loss": lambda x, t: huber(x - t),
    "huber_loss": lambda x, t: huber(x - t),
    "log_cosh_loss": lambda x, t: mpmath.log(mpmath.cosh(x - t)),
    "binary_cross_entropy": lambda x, t: -t * mpmath.log(x) - (1 - t) * mpmath.log1p(-x),
    "binary_cross_entropy_with_logits": bce,
    "sigmoid_focal_loss": focal,
    "kl_div": lambda x, t: t * (mpmath.log(t) - x),
    "poisson_nll_loss": lambda x, t: mpmath.exp(x) - t * x,
    "gaussian_nll_loss": lambda x, t, v: (mpmath.log(v) + (x - t) ** 2 / v) / 2,
    "soft_margin_loss": lambda x, t: softplus(-t * x),
    "hinge_embedding_loss": lambda x, t: x if t == 1 else max(mpf(0), 1 - x),
    "margin_ranking_loss": lambda a, b, t: max(mpf(0), -t * (a - b)),
}


def focal_slope_terms(x: Any, t: Any) -> Any:
    p, a = sigmoid(x), t / 4 + (1 - t) * 3 / 4
    q = p * (1 - t) + (1 - p) * t
    return a * max(
        q * q * p * (1 - t), q * q * (1 - p) * t, abs(2 * q * p * (1 - p) * (1 - 2 * t) * bce(x, t))
    )


# The largest term of what is a difference: its error is counted in ULP of that.
TERMS: dict[tuple[str, str], Exact] = {
    ("kl_div", "loss"): lambda x, t: max(abs(t * mpmath.log(t)), abs(t * x)),
    ("poisson_nll_loss", "loss"): lambda x, t: max(mpmath.exp(x), abs(t * x)),
    ("poisson_nll_loss", "gradient"): lambda x, t: max(mpmath.exp(x), t),
    ("gaussian_nll_loss", "loss"): lambda x, t, v: max(abs(mpmath.log(v)), (x - t) ** 2 / v) / 2,
    ("binary_cross_entropy_with_logits", "gradient"): lambda x, t: max((1 - t) * sigmoid(x), t * sigmoid(-x)),
    ("sigmoid_focal_loss", "gradient"): focal_slope_terms,
    ("soft_cross_entropy", "gradient"): max,
}


def log_sum(row: list[Any]) -> Any:
    top = max(row)
    return top + mpmath.log(sum(mpmath.exp(x - top) for x in row))


def row_softmax(row: list[Any]) -> list[Any]:
    total = log_sum(row)
    return [mpmath.exp(x - total) for x in row]


def row_cross_entropy(row: list[Any], t: Any) -> tuple[Any, list[Any]]:
    p = row_softmax(row)
    if isinstance(t, list):
        mass = sum(t)
        return log_sum(row) * mass - mpmath.fdot(t, row), [a * mass - b for a, b in zip(p, t, strict=True)]
    others = sum(a for c, a in enumerate(p) if c != t)
    return log_sum(row) - row[t], [-others if c == t else a for c, a in enumerate(p)]


def row_nll(row: list[Any], t: int) -> tuple[Any, list[Any]]:
    return -row[t], [mpf(-1) if c == t else mpf(0) for c in range(len(row))]


def row_multi_margin(row: list[Any], t: int) -> tuple[Any, list[Any]]:
    hinges = [max(mpf(0), 1 - row[t] + x) if c != t else mpf(0) for c, x in enumerate(row)]
    slopes = [mpf(1 if h > 0 else 0) / len(row) for h in hinges]
    slopes[t] = -sum(slopes)
    return sum(hinges) / len(row), slopes


ROWS: dict[str, Exact] = {
    "cross_entropy": row_cross_entropy,
    "soft_cross_entropy": row_cross_entropy,
    "nll_loss": row_nll,
    "multi_margin_loss": row_multi_margin,
}


def inputs(kind: str, count: int, generator: torch.Generator) -> Tensor:
    """Moderate, large and small numbers of the kind, in float64."""
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    if kind == "probability":
        edge = 10 ** (-6 * torch.rand(count, generator=generator, dtype=torch.float64))
        return torch.where(u < 0.5, u * 2, torch.where(u < 0.75, edge * 0.5, 1 - edge * 0.5)).clamp(
            1e-6, 0.99
        )
    if kind == "positive":
        return 10 ** (6 * u - 3)
    if kind == "count":
        return (u * 7).floor()
    if kind == "sign":
        return (u < 0.5) * 2.0 - 1
    normal = torch.randn(count, generator=generator, dtype=torch.float64)
    tiny = torch.sign(normal) * 10 ** (-4 * torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.where(u < 0.4, normal, torch.where(u < 0.7, normal * 5, tiny))


def numbers(tensor: Tensor) -> list[Any]:
    return [mpf(v) for v in tensor.double().tolist()]


def slope(definition: Exact, x: Any, *rest: Any) -> Any:
    """The derivative at x; None at a kink."""
    below, here, above = (definition(x + step, *rest) for step in (-STEP, 0, STEP))
    return None if abs(above - 2 * here + below) > STEP * STEP * 10**20 else (above - below) / (2 * STEP)


def ulps(value: Tensor, exact: list[Any], terms: list[Any] | None = None) -> float:
    """The largest error of the values, in ULP of their dtype, where there is an exact one."""
    finfo = torch.finfo(value.dtype)
    worst = mpf(0)
    terms = terms or [mpf(0)] * len(exact)
    for got, right, term in zip(value.double().reshape(-1).tolist(), exact, terms, strict=True):
        if right is None:
            continue
        scale = max(abs(right), term, mpf(finfo.smallest_normal))
        unit = mpf(2) ** (mpmath.floor(mpmath.log(scale, 2))) * finfo.eps
        if abs(right) > finfo.max or got != got:
            continue
        worst = max(worst, abs(mpf(got) - right) / unit)
    return float(worst)


def gradients(function: Callable[..., Tensor], operands: list[Tensor]) -> tuple[Tensor, Tensor]:
    x = operands[0].clone().requires_grad_()
    loss = function(x, *operands[1:], reduction="none")
    (grad,) = torch.autograd.grad(loss, x, torch.ones_like(loss))
    return loss.detach(), grad


Pair = tuple[float, float | None]  # ours, torch's


def measure(op: str, dtype: torch.dtype, count: int) -> Iterator[tuple[str, Pair]]:
    """("loss" | "gradient", errors) of a loss over `count` elements."""
    generator = torch.Generator().manual_seed(7)
    if op in POINTWISE:
        kinds = OPERANDS.get(op, ("real", "real"))
        operands = [inputs(kind, count, generator).to(dtype) for kind in kinds]
        columns = list(zip(*(numbers(t) for t in operands), strict=True))
        definition = POINTWISE[op]
        loss = [definition(*row) for row in columns]
        grad = [slope(definition, *row) for row in columns]
        arguments = columns
    else:
        classes = 40
        rows = max(count // classes, 1)
        spread = torch.where(torch.arange(rows) % 2 == 0, 1.0, 8.0).unsqueeze(1)
        x = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * spread
        target = torch.randint(0, classes, (rows,), generator=generator)
        operands = [x.to(dtype), target]
        labels: list[Any] = target.tolist()
        if op not in ROWWISE:
            operands[1] = (
                torch.randn(rows, classes, generator=generator, dtype=torch.float64).softmax(1).to(dtype)
            )
            labels = [numbers(row) for row in operands[1]]
        results = [ROWS[op](numbers(row), label) for row, label in zip(operands[0], labels, strict=True)]
        loss, grad = [r[0] for r in results], [g for r in results for g in r[1]]
        arguments = []
        if op not in ROWWISE:  # each class's probability and target
            for row, label in zip(operands[0], labels, strict=True):
                arguments += zip(row_softmax(numbers(row)), label, strict=True)
    own = gradients(ours(op), operands)
    try:
        torchs = gradients(theirs(op), operands)
    except NotImplementedError:
        torchs = None
    for i, (name, exact) in enumerate((("loss", loss), ("gradient", grad))):
        measure_terms = TERMS.get((op, name))
        terms = [measure_terms(*a) for a in arguments] if measure_terms else None
        theirs_ = None if torchs is None else ulps(torchs[i], exact, terms)
        yield name, (ulps(own[i], exact, terms), theirs_)


def measure_softmax(op: str, dtype: torch.dtype, spread: float) -> Pair:
    generator = torch.Generator().manual_seed(7)
    x = (torch.randn(6, 200, generator=generator, dtype=torch.float64) * spread).to(dtype)
    exact = []
    for row in x:
        values = numbers(row)
        total = log_sum(values)
        exact += [mpmath.exp(v - total) if op == "softmax" else v - total for v in values]
    return ulps(ours(op)(x, 1), exact), ulps(theirs(op)(x, 1), exact)


def measure_mean(op: str, dtype: torch.dtype) -> Pair:
    """The mean of 4 million elements, against the mean of the float64 losses."""
    generator = torch.Generator().manual_seed(7)
    shape = (4096, 1024)
    operands = [torch.rand(shape, generator=generator).to(dtype) for _ in OPERANDS.get(op, ("", ""))]
    exact = [mpf(float(theirs(op)(*(t.double() for t in operands), reduction="none").mean()))]
    return ulps(ours(op)(*operands, reduction="mean"), exact), ulps(
        theirs(op)(*operands, reduction="mean"), exact
    )


def show(pair: Pair) -> str:
    mine, torchs = (None if v is None else f"{v:.2f}" if v < 100 else f"{v:.0f}" for v in pair)
    return f"{mine} / {torchs or '–'}"


@cache
def table(count: int = 2000) -> list[tuple[str, list[Pair]]]:
    """("op, quantity", errors for each dtype)."""
    rows: list[tuple[str, list[Pair]]] = []
    for op in [*POINTWISE, *ROWS]:
        measured = [dict(measure(op, dtype, count)) for dtype in DTYPES]
        for name in ("loss", "gradient"):
            mark = "*" if (op, name) in TERMS else ""
            rows.append((f"{op}, {name}{mark}", [m[name] for m in measured]))
    for op in ("softmax", "log_softmax"):
        for spread in (1, 10):
            rows.append((f"{op} of N(0, {spread})", [measure_softmax(op, d, spread) for d in DTYPES]))
    return rows


def generate() -> str:
    text = (ROOT / "docs/accuracy.md").read_text().split("<!-- table -->")
    lines = ["", f"| | {' | '.join(str(d).removeprefix('torch.') for d in DTYPES)} |", "|---|" + "---|" * 4]
    lines += [f"| {name} | {' | '.join(show(p) for p in pairs)} |" for name, pairs in table()]
    means = ["", "| mean of 4 million elements | float32 | bfloat16 | float16 |", "|---|---|---|---|"]
    for op in ("mse_loss", "l1_loss", "binary_cross_entropy_with_logits", "kl_div"):
        pairs = [measure_mean(op, d) for d in (torch.float32, torch.bfloat16, torch.float16)]
        means.append(f"| {op} | {' | '.join(show(p) for p in pairs)} |")
    return text[0] + "<!-- table -->" + "\n".join([*lines, *means, ""]) + "\n<!-- table -->" + text[2]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    fusestep.set_num_threads(1)
    PAGE.write_text(generate())
