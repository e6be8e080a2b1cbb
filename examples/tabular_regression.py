"""Predict a number from a table: a small LeakyReLU network, Adam and the mean squared error.

Columns are standardised (mean 0, deviation 1), because a network learns badly from columns of different
sizes. A fifth of the rows is kept aside to test on, and another tenth decides when the learning rate falls.
The data are the prices of Californian houses if they can be fetched (scikit-learn keeps them), else the
442 patients of the diabetes data that come with scikit-learn.

Run it:  python examples/tabular_regression.py          (writes tabular_regression.png)
         python examples/tabular_regression.py --data diabetes --epochs 5000 --device cuda
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from fusestep.optim.lr_scheduler import ReduceLROnPlateau
from sklearn.datasets import fetch_california_housing, load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

import fusestep.nn as nn
import fusestep.optim as optim

Parts = dict[str, tuple[Tensor, Tensor]]  # columns and targets, to train and to validate on
Losses = dict[str, list[float]]
WORSE = 0.05  # how much worse than a straight line the network may be, as R², before this fails


def load(name: str) -> tuple[str, np.ndarray, np.ndarray]:
    """The data asked for; for ``auto`` those that can be had."""
    if name in ("california", "auto"):
        try:
            return "california", *fetch_california_housing(return_X_y=True, n_retries=1)
        except OSError as error:
            if name == "california":
                sys.exit(f"cannot fetch the Californian houses: {error}")
    return "diabetes", *load_diabetes(return_X_y=True, scaled=False)


def make_model(columns: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(columns, 32), nn.LeakyReLU(), nn.Linear(32, 16), nn.LeakyReLU(), nn.Linear(16, 1)
    )


def train(model: nn.Module, data: Parts, args: argparse.Namespace) -> Losses:
    """All rows at once, epoch after epoch; returns the losses, and leaves the model at its best."""
    criterion = nn.MSELoss()
    optimizer = optim.Adam(model.parameters(), lr=args.lr, weight_decay=1e-3)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=100)
    losses: Losses = {"training": [], "validation": []}
    best, kept = float("inf"), model.state_dict()
    with tqdm(range(args.epochs), unit="epoch") as progress:
        for epoch in progress:
            x, y = data["training"]
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                x, y = data["validation"]
                validation = criterion(model(x), y).item()
            scheduler.step(validation)
            losses["training"].append(loss.item())
            losses["validation"].append(validation)
            if validation < best:
                best, kept = validation, {key: value.clone() for key, value in model.state_dict().items()}
            if epoch % 100 == 0:
                progress.set_postfix(training=f"{loss.item():.4f}", validation=f"{validation:.4f}")
    model.load_state_dict(kept)
    return losses


def plot(losses: Losses, true: np.ndarray, predicted: np.ndarray, title: str, out: Path) -> None:
    """The losses; and for each row of the test what was predicted against what is true."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name, values in losses.items():
        left.semilogy(values, label=name, linewidth=1)
    left.set(xlabel="epoch", ylabel="mean squared error", title="Losses, of standardised targets")
    left.legend()
    right.scatter(true, predicted, s=8, alpha=0.5)
    ends = [true.min(), true.max()]
    right.plot(ends, ends, color="black", linestyle="--", linewidth=1, label="as it should be")
    right.set(xlabel="true", ylabel="predicted", title=title)
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Train, compare with a straight line, draw, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=["auto", "california", "diabetes"], default="auto")
    parser.add_argument("--epochs", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("tabular_regression.png"), help="where to plot")
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    name, features, target = load(args.data)
    x_rest, x_test, y_rest, y_test = train_test_split(features, target, test_size=0.2, random_state=args.seed)
    columns, goal = StandardScaler().fit(x_rest), StandardScaler().fit(y_rest[:, None])

    def tensors(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
        pair = columns.transform(x), goal.transform(y[:, None])
        return tuple(torch.tensor(part, dtype=torch.float32, device=args.device) for part in pair)

    x_train, x_valid, y_train, y_valid = train_test_split(
        x_rest, y_rest, test_size=0.125, random_state=args.seed
    )
    data = {"training": tensors(x_train, y_train), "validation": tensors(x_valid, y_valid)}
    model = make_model(features.shape[1]).to(args.device)
    losses = train(model, data, args)

    with torch.no_grad():
        standardised = model(tensors(x_test, y_test)[0]).cpu().numpy()
    predicted = goal.inverse_transform(standardised)[:, 0]
    ours = r2_score(y_test, predicted)
    line = LinearRegression().fit(x_rest, y_rest).score(x_test, y_test)
    print(f"\n{name}: R² {ours:.3f} on rows it has not seen; of a straight line {line:.3f}")
    plot(losses, y_test, predicted, f"{name}: R² {ours:.3f}", args.out)
    print(f"wrote {args.out}")
    if not ours >= line - WORSE:
        print(f"FAILED: R² {ours:.3f} is below that of a straight line, {line:.3f}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
