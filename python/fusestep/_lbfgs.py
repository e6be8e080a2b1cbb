"""L-BFGS, for torch and NumPy alike: they differ in how parameters and gradients are reached (Space)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fusestep import _native
from fusestep._history import Gram, Numbers, Space, Vector

_ARMIJO, _CURVATURE, _SHORTEST = 1e-4, 0.9, 1e-9  # of the line search


class Options(NamedTuple):
    """Those of the parameter group."""

    lr: Any  # a number, or a tensor with one element
    max_iter: int
    max_eval: int
    tolerance_grad: float
    tolerance_change: float
    history_size: int
    line_search_fn: str | None


class _Point(NamedTuple):
    """Of the line that is searched: its distance, and loss, gradient and slope there."""

    t: float
    loss: float
    grad: Vector
    slope: float


def _divide(a: float, b: float) -> float:
    """As IEEE 754 has it."""
    if b != 0:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)


def _interpolate(a: _Point, b: _Point, low: float, high: float) -> float:
    """The minimum of the cubic that fits loss and slope at two points, within bounds."""
    if not a.t <= b.t:
        a, b = b, a
    bend = a.slope + b.slope - 3 * _divide(a.loss - b.loss, a.t - b.t)
    square = bend * bend - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2
    root = math.sqrt(square)
    t = b.t - (b.t - a.t) * _divide(b.slope + root - bend, b.slope - a.slope + 2 * root)
    return min(max(t, low), high)


class Run:
    """One call of ``step``: the state is read at its beginning and written at its end.

    NOTE [memory]: vectors of the state are never written to, since whoever kept a ``state_dict`` holds
    them. Only those that were made in the same call, and that nobody has seen, are used again.
    """

    def __init__(self, space: Space, state: dict[str, Any], options: Options, gram: Gram) -> None:
        self.space, self.state, self.options, self.gram = space, state, options, gram
        self.n_iter: int = state.get("n_iter", 0)
        self.func_evals: int = state.get("func_evals", 0)
        self.evals = 0  # in this call
        self.d: Vector = state.get("d")
        self.t: Any = state.get("t")
        self.dirs: list[Vector] = list(state.get("old_dirs") or ())
        self.stps: list[Vector] = list(state.get("old_stps") or ())
        self.ro: list[Any] = list(state.get("ro") or ())
        self.h_diag: Any = state.get("H_diag")
        self.prev_grad: Vector = state.get("prev_flat_grad")
        self.prev_loss: float | None = state.get("prev_loss")
        self.alphas: Numbers | None = None
        self.moved = False
        self._own: dict[int, Vector] = {}
        self._free: list[Vector] = []
        self._start: list[Any] | None = None

    def run(self) -> None:
        loss, grad = self._evaluate()
        if self.space.largest(grad) <= self.options.tolerance_grad:
            self.state.update(func_evals=self.func_evals, n_iter=self.n_iter)
            return
        self.gram.match(self.space, self.stps, self.dirs)
        try:
            self._iterate(loss, grad)
        except BaseException:
            # The parameters stay where the closure failed, and the state says how they got there.
            if self.moved:
                self._commit()
            raise
        self._commit()

    def _commit(self) -> None:
        state = self.state
        state.update(func_evals=self.func_evals, n_iter=self.n_iter)
        if self.alphas is not None:
            unused = max(self.options.history_size - len(self.alphas), 0)
            state["al"] = [*self.space.scalars(self.alphas, self.d), *[None] * unused]
        state.update(
            d=self.d,
            t=self.t,
            old_dirs=self.dirs,
            old_stps=self.stps,
            ro=self.ro,
            H_diag=self.h_diag,
            prev_flat_grad=self.prev_grad,
            prev_loss=self.prev_loss,
        )

    # ---- vectors ----

    def _sum(self, coefficients: Sequence[float], vectors: Sequence[Vector]) -> Vector:
        out = self._free.pop() if self._free else self.space.empty(vectors[0])
        self._own[id(out)] = out
        _native.combine([(out, coefficients, vectors)])
        return out

    def _release(self, *vectors: Vector) -> None:
        self._free += [vector for vector in vectors if id(vector) in self._own]

    def _dot(self, a: Vector, b: Vector) -> float:
        return float(self.space.dots([a], [b])[0, 0])

    def _evaluate(self) -> tuple[float, Vector]:
        loss, grad = self.space.evaluate(self._free.pop() if self._free else None)
        self._own[id(grad)] = grad
        self.evals += 1
        self.func_evals += 1
        return loss, grad

    def _move(self, start: list[Any] | None, t: Any) -> None:
        self.space.move(start, float(t), self.d)
        self.t, self.moved = t, True

    # ---- the algorithm ----

    def _iterate(self, loss: float, grad: Vector) -> None:
        options, space = self.options, self.space
        for iteration in range(1, options.max_iter + 1):
            self.n_iter += 1
            first = self.n_iter == 1 or self.d is None
            if first:
                self._forget(grad)
            else:
                self._choose_direction(grad)
            self.prev_grad, self.prev_loss = grad, loss
            self.t = self._first_step(grad) if first else options.lr
            slope = self._dot(grad, self.d)
            if slope > -options.tolerance_change:
                break
            if options.line_search_fn is None:
                self._move(None, self.t)
                if iteration != options.max_iter:
                    loss, grad = self._evaluate()
            elif options.line_search_fn == "strong_wolfe":
                loss, grad = self._search(_Point(0.0, loss, grad, slope))
            else:
                raise RuntimeError("only 'strong_wolfe' is supported")
            if iteration == options.max_iter or self.evals >= options.max_eval:
                break
            if space.largest(grad) <= options.tolerance_grad:
                break
            if abs(float(self.t)) * space.largest(self.d) <= options.tolerance_change:
                break
            if abs(loss - self.prev_loss) < options.tolerance_change:
                break

    def _forget(self, grad: Vector) -> None:
        """Begin with steepest descent."""
        self.dirs, self.stps, self.ro, self.h_diag = [], [], [], 1
        self.gram.match(self.space, [], [])
        self.d = self._sum([-1.0], [grad])

    def _first_step(self, grad: Vector) -> Any:
        inverse = _divide(1.0, self._dot(self.space.sign(grad), grad))  # of the sum of magnitudes
        if not inverse < 1:
            return 1.0 * self.options.lr
        return self.space.scalars([inverse * float(self.options.lr)], grad)[0]

    def _choose_direction(self, grad: Vector) -> None:
        """The pair of the last move joins the history; the direction is - inverse Hessian · gradient."""
        y = self._sum([1.0, -1.0], [grad, self.prev_grad])
        s = self._sum([float(self.t)], [self.d])
        if self.prev_grad is not grad:
            self._release(self.prev_grad)
        self._release(self.d)
        stps, dirs = [*self.stps, s], [*self.dirs, y]
        products = self.space.dots([*stps, *dirs], [y, grad]).reshape(2, len(dirs), 2)
        curvature = float(products[0, -1, 0])
        if curvature > 1e-10:
            drop = max(len(dirs) - self.options.history_size, 0)
            if drop == len(dirs):
                raise IndexError("a history of size 0 has no place for a pair")
            self._release(*stps[:drop], *dirs[:drop])
            self.gram.append(self.space, s, y, products[:, :, 0], drop)
            self.stps, self.dirs = stps[drop:], dirs[drop:]
            self.ro = [*self.ro, *self.space.scalars([1 / curvature], y)][drop:]
            (self.h_diag,) = self.space.scalars([self.gram.scale], y)
            with_grad = products[:, drop:, 1]
        else:
            self._release(s, y)
            with_grad = products[:, :-1, 1]
        of_s, of_y, of_grad, self.alphas = self.gram.direction(with_grad)
        self.d = self._sum([*of_s, *of_y, of_grad], [*self.stps, *self.dirs, grad])

    def _search(self, start: _Point) -> tuple[float, Vector]:
        """Move to a point that satisfies the strong Wolfe conditions, or to the best one found."""
        self._start = self.space.save(self._start)
        first = self.t
        seen: list[_Point] = []

        def at(t: float) -> _Point:
            self._move(self._start, t)
            loss, grad = self._evaluate()
            seen.append(_Point(t, loss, grad, self._dot(grad, self.d)))
            return seen[-1]

        def rounded(t: float) -> float:  # the state keeps it in the dtype of the vectors
            return self.space.rounded(t, self.d)

        most = self.options.max_eval - self.evals
        tries = 0
        # Go on until something is known to lie between two points.
        before, new = start, at(float(first))
        chosen: _Point | None = None
        bracket: list[_Point] = []
        while tries < most and chosen is None and not bracket:
            if self._is_too_high(start, new) or (tries > 1 and new.loss >= before.loss):
                bracket = [before, new]
            elif abs(new.slope) <= -_CURVATURE * start.slope:
                chosen = new
            elif new.slope >= 0:
                bracket = [before, new]
            else:
                nearest, farthest = new.t + 0.01 * (new.t - before.t), new.t * 10
                t = _interpolate(before, new, nearest, farthest)
                before, new = new, at(rounded(t))
                tries += 1
        if chosen is None:
            chosen = self._zoom(at, rounded, start, bracket or [start, new], most - tries)

        if chosen is not seen[-1]:
            self._move(self._start, chosen.t)
        if chosen is seen[0]:
            self.t = first
        elif chosen is not start:
            (self.t,) = self.space.scalars([chosen.t], self.d)
        self._release(*(point.grad for point in seen if point is not chosen))
        return chosen.loss, chosen.grad

    @staticmethod
    def _is_too_high(start: _Point, point: _Point) -> bool:
        return point.loss > start.loss + _ARMIJO * point.t * start.slope

    def _zoom(
        self,
        at: Callable[[float], _Point],
        rounded: Callable[[float], float],
        start: _Point,
        bracket: list[_Point],
        tries: int,
    ) -> _Point:
        """Narrow the bracket around the point wanted."""

        def best() -> int:
            return 0 if bracket[0].loss <= bracket[1].loss else 1

        low = best()
        stuck = False
        while tries > 0:
            left, right = sorted(point.t for point in bracket)
            width = right - left
            if width * self.space.largest(self.d) < _SHORTEST:
                break
            t = _interpolate(bracket[0], bracket[1], left, right)
            near_end = min(right - t, t - left) < 0.1 * width
            if near_end and (stuck or t >= right or t <= left):
                t = right - 0.1 * width if abs(t - right) < abs(t - left) else left + 0.1 * width
                stuck = False
            else:
                stuck = near_end
            new = at(rounded(t))
            tries -= 1
            if self._is_too_high(start, new) or new.loss >= bracket[low].loss:
                bracket[1 - low] = new
                low = best()
                continue
            if abs(new.slope) <= -_CURVATURE * start.slope:
                return new
            if new.slope * (bracket[1 - low].t - bracket[low].t) >= 0:
                bracket[1 - low] = bracket[low]
            bracket[low] = new
        return bracket[low]
