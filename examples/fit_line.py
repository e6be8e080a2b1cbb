"""Fit the line y = 3x + 1 to noisy points, with SGD + momentum and with Adam.

The smallest complete training loop: predict, compute a loss, back-propagate, step. A straight line
has an exact least-squares solution (numpy.polyfit), so we can tell how close each optimizer came.

Run it:  python examples/fit_line.py          (writes fit_line.png)
         python examples/fit_line.py --steps 1000 --noise 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import fusestep.nn as nn
import fusestep.optim as optim

SLOPE, INTERCEPT = 3.0, 1.0
TOLERANCE = 0.1  # how far a slope may be from the least-squares slope

MakeOptimizer = Callable[[Iterable[Tensor]], optim.Optimizer]
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "SGD + momentum": lambda parameters: optim.SGD(parameters, lr=0.02, momentum=0.9),
    "Adam": lambda parameters: optim.Adam(parameters, lr=0.05),
}


@dataclass
class Fit:
    """The line that an optimizer found, and the loss at every step on the way."""

    slope: float
    intercept: float
    losses: list[float]


def fit(name: str, make_optimizer: MakeOptimizer, x: Tensor, y: Tensor, steps: int) -> Fit:
    """Fit a line to the points by gradient descent on all of them at once."""
    torch.manual_seed(0)  # every optimizer starts from the same line
    model = nn.Linear(1, 1).to(x.device)
    criterion = nn.MSELoss()
    optimizer = make_optimizer(model.parameters())
    losses = []
    for _ in tqdm(range(steps), desc=f"{name:>14}", unit="step"):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Fit(model.weight.item(), model.bias.item(), losses)


def plot(x: np.ndarray, y: np.ndarray, fits: dict[str, Fit], best_loss: float, out: Path) -> None:
    """Draw the data with the fitted lines, and the loss curves beside them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    ends = np.array([x.min(), x.max()])
    left.scatter(x, y, s=10, color="gray", alpha=0.6, label="data")
    # The lines coincide: a wide light one below, a thin dark one above, and both can be seen.
    for (name, found), color, width in zip(fits.items(), ("orange", "C0"), (6, 1.5), strict=True):
        line = found.slope * ends + found.intercept
        left.plot(ends, line, color=color, linewidth=width, label=name)
        right.semilogy(found.losses, color=color, label=name)
    right.axhline(best_loss, color="black", linestyle="--", linewidth=1, label="least squares")
    left.set(xlabel="x", ylabel="y", title="The fitted lines")
    right.set(xlabel="step", ylabel="mean squared error", title="Training loss")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Fit with every optimizer, compare with least squares, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--noise", type=float, default=1.0, help="its standard deviation")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("fit_line.png"), help="where to plot")
    args = parser.parse_args(argv)

    rng = np.random.default_rng(args.seed)
    x = rng.uniform(-2, 2, args.points)
    y = SLOPE * x + INTERCEPT + rng.normal(scale=args.noise, size=args.points)
    inputs, targets = (torch.tensor(v, dtype=torch.float32, device=args.device).unsqueeze(1) for v in (x, y))
    fits = {n: fit(n, make, inputs, targets, args.steps) for n, make in OPTIMIZERS.items()}
    slope, intercept = np.polyfit(x, y, deg=1)
    best_loss = np.mean((slope * x + intercept - y) ** 2)

    print(f"\n{'':16}{'slope':>10}{'intercept':>12}{'MSE':>10}")
    for name, found in fits.items():
        print(f"{name:16}{found.slope:10.5f}{found.intercept:12.5f}{found.losses[-1]:10.5f}")
    print(f"{'least squares':16}{slope:10.5f}{intercept:12.5f}{best_loss:10.5f}")
    plot(x, y, fits, best_loss, args.out)
    print(f"wrote {args.out}")

    failed = [name for name, found in fits.items() if not abs(found.slope - slope) <= TOLERANCE]
    for name in failed:
        message = f"the slope of {name} is more than {TOLERANCE} off the least-squares slope"
        print(f"FAILED: {message}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
