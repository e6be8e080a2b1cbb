"""The history of L-BFGS: scalar products of the stored pairs, and the direction they make.

The two-loop recursion works on coefficients (Chen et al. 2014, "Large-scale L-BFGS using MapReduce"). The
direction lies in the span of the stored pairs and the gradient, so their scalar products are enough to
find it. An iteration reads the history twice, once for its products with what is new and once to sum up
the direction, where the recursion on vectors reads it four times and writes a vector for each of its steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = Any  # a one-dimensional tensor or array
Numbers = NDArray[np.float64]

_TOGETHER = 8  # columns of the Gram matrix that are computed in one pass


class Space(Protocol):
    """Parameters, their gradient, and the few operations on vectors that are not native."""

    def evaluate(self, out: Vector | None) -> tuple[float, Vector]:
        """Run the closure: the loss, and the gradient as one vector, in ``out`` if that is given."""

    def save(self, into: list[Any] | None) -> list[Any]:
        """Copies of the parameters."""

    def move(self, start: list[Any] | None, t: float, d: Vector) -> None:
        """Parameters = start + t d, all of them or none; None starts where they are."""

    def empty(self, like: Vector) -> Vector:
        """A new vector."""

    def sign(self, vector: Vector) -> Vector:
        """-1, 0 or 1 for each element."""

    def largest(self, vector: Vector) -> float:
        """The largest magnitude; NaN if there is one."""

    def dots(self, rows: Sequence[Vector], columns: Sequence[Vector]) -> Numbers:
        """Scalar products, of shape (rows, columns)."""

    def scalars(self, values: Sequence[float] | Numbers, like: Vector) -> list[Any]:
        """Numbers as a state keeps them: without dimensions, of the vectors' dtype."""

    def rounded(self, value: float, like: Vector) -> float:
        """What the vectors' dtype makes of a number."""

    def version(self, vector: Vector) -> int:
        """Changes when somebody writes to the vector, where that can be known."""


class Gram:
    """Scalar products of the stored pairs: a cache, filled anew if the pairs are not those it knows.

    A product does not depend on what it is computed together with, so it does not matter when that is.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Vector, int, Vector, int]] = []  # with the versions of the vectors
        self._of_y = np.zeros((0, 2, 0))  # [j, 0, i] is s_i · y_j, for i <= j; [j, 1, i] is y_i · y_j

    def match(self, space: Space, stps: list[Vector], dirs: list[Vector]) -> None:
        version = space.version
        pairs = [(s, version(s), y, version(y)) for s, y in zip(stps, dirs, strict=True)]
        known = len(pairs) == len(self._pairs) and all(
            a[0] is b[0] and a[1] == b[1] and a[2] is b[2] and a[3] == b[3]
            for a, b in zip(pairs, self._pairs, strict=True)
        )
        if known:
            return
        count = len(pairs)
        of_y = np.zeros((count, 2, count))
        for begin in range(0, count, _TOGETHER):
            end = min(begin + _TOGETHER, count)
            dots = space.dots([*stps[:end], *dirs[:end]], dirs[begin:end]).reshape(2, end, end - begin)
            of_y[begin:end, :, :end] = dots.transpose(2, 0, 1)
            of_y[:end, 1, begin:end] = dots[1]
        self._pairs, self._of_y = pairs, of_y

    def append(self, space: Space, s: Vector, y: Vector, products: Numbers, drop: int) -> None:
        """A pair, with the products of its y with all s and all y; the ``drop`` oldest pairs go."""
        count = products.shape[1]
        of_y = np.zeros((count, 2, count))
        of_y[:-1, :, :-1] = self._of_y
        of_y[-1] = products
        of_y[:-1, 1, -1] = products[1, :-1]
        self._of_y = of_y[drop:, :, drop:]
        self._pairs = [*self._pairs, (s, space.version(s), y, space.version(y))][drop:]

    @property
    def scale(self) -> float:
        """Of the initial inverse Hessian."""
        return float(self._of_y[-1, 0, -1] / self._of_y[-1, 1, -1]) if len(self._of_y) else 1.0

    def direction(self, with_grad: Numbers) -> tuple[Numbers, Numbers, float, Numbers]:
        """Coefficients of s, y and g in the direction, from s · g and y · g; and the recursion's alphas."""
        of_y, scale = self._of_y, self.scale
        count = len(of_y)
        alphas, of_s = np.zeros(count), np.zeros(count)
        curvature = of_y[range(count), 0, range(count)]
        with np.errstate(all="ignore"):
            with_q = -with_grad
            for i in reversed(range(count)):  # q = -g, then q -= alpha_i y_i
                alphas[i] = with_q[0, i] / curvature[i]
                with_q -= alphas[i] * of_y[i]
            with_r = scale * with_q[1]
            of_s_i = of_y[:, 0].T.copy()
            for i in range(count):  # r = scale q, then r += (alpha_i - beta_i) s_i
                of_s[i] = alphas[i] - with_r[i] / curvature[i]
                with_r += of_s[i] * of_s_i[i]
            return of_s, -scale * alphas, -scale, alphas
