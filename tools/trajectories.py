"""Draw the ways of the optimizers down a valley, with the NumPy API: docs/images/trajectories.png."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import fusestep.numpy as fnp

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "trajectories.png"
START, BOTTOM, STEPS = (-1.3, 1.1), (1.0, 1.0), 150
Point = np.ndarray[Any, Any]

# With learning rates that suit each.
WAYS: dict[str, Callable[[list[Point]], Any]] = {
    "SGD, lr 0.008": lambda p: fnp.SGD(p, lr=0.008),
    "SGD, momentum 0.9, lr 0.004": lambda p: fnp.SGD(p, lr=0.004, momentum=0.9),
    "SGD, Nesterov 0.9, lr 0.004": lambda p: fnp.SGD(p, lr=0.004, momentum=0.9, nesterov=True),
    "Adagrad, lr 0.5": lambda p: fnp.Adagrad(p, lr=0.5),
    "RMSprop, lr 0.03": lambda p: fnp.RMSprop(p, lr=0.03),
    "Adadelta, lr 5": lambda p: fnp.Adadelta(p, lr=5.0),
    "Adam, lr 0.1": lambda p: fnp.Adam(p, lr=0.1),
    "NAdam, lr 0.1": lambda p: fnp.NAdam(p, lr=0.1),
    "RAdam, lr 0.01": lambda p: fnp.RAdam(p, lr=0.01),
    "Lion, lr 0.03": lambda p: fnp.Lion(p, lr=0.03),
    "Rprop": lambda p: fnp.Rprop(p, lr=0.05),
    "L-BFGS": lambda p: fnp.LBFGS(p, max_iter=1, max_eval=25, line_search_fn="strong_wolfe"),
}


def valley(p: Point) -> tuple[float, Point]:
    """Rosenbrock's, a little less steep; and its gradient."""
    x, y = p
    return (1 - x) ** 2 + 20 * (y - x * x) ** 2, np.array(
        [2 * (x - 1) - 80 * x * (y - x * x), 40 * (y - x * x)]
    )


def walk(make: Callable[[list[Point]], Any]) -> Point:
    """All points on the way."""
    p = np.array(START)
    optimizer = make([p])
    way = [p.copy()]
    for _ in range(STEPS):
        if isinstance(optimizer, fnp.LBFGS):
            optimizer.step(lambda: (valley(p)[0], [valley(p)[1]]))
        else:
            optimizer.step([valley(p)[1]])
        way.append(p.copy())
    return np.array(way)


def draw(out: Path) -> None:
    """A picture for each optimizer."""
    figure, grid = plt.subplots(3, 4, figsize=(12, 7.5), sharex=True, sharey=True, layout="constrained")
    xs, ys = np.linspace(-1.6, 1.6, 200), np.linspace(-0.6, 1.9, 160)
    heights = np.array([[valley(np.array([x, y]))[0] for x in xs] for y in ys])
    for axes, (name, make) in zip(grid.flat, WAYS.items(), strict=True):
        axes.contour(
            xs, ys, np.log10(heights), levels=np.linspace(-1.5, 2.2, 14), colors="0.8", linewidths=0.7
        )
        way = walk(make)
        axes.plot(*way.T, color="#4c72b0", linewidth=1)
        axes.plot(*way.T, ".", color="#c44e52", markersize=3)
        axes.plot(*BOTTOM, "*", color="black", markersize=9)
        near = np.flatnonzero(np.linalg.norm(way - BOTTOM, axis=1) < 0.1)
        said = f"there after {near[0]} steps" if len(near) else f"at {valley(way[-1])[0]:.2g} after {STEPS}"
        axes.set_title(f"{name}: {said}", fontsize=8)
        axes.set(xlim=(xs[0], xs[-1]), ylim=(ys[0], ys[-1]))
    figure.savefig(out, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
