"""Operands for every loss, for checks and timings: numbers of the kind that it takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusestep._catalog import Op

Array = np.ndarray[Any, Any]


def operands(op: Op, rows: int, columns: int, seed: int = 0) -> list[Array]:
    """In float64; labels in int64."""
    random = np.random.default_rng(seed)

    def sample(kind: str) -> Array:
        shape = (rows, columns)
        if kind == "label":
            return random.integers(0, columns, rows)
        if kind == "sign":
            return random.choice([-1.0, 1.0], shape)
        if kind == "count":
            return random.poisson(2.0, shape).astype(np.float64)
        if kind in ("probability", "positive"):
            return random.uniform(0.01, 0.99 if kind == "probability" else 3.0, shape)
        real = random.standard_normal(shape)
        if kind == "distribution":
            return np.asarray(np.exp(real) / np.exp(real).sum(1, keepdims=True))
        return real

    return [sample(kind) for kind in op.operands]
