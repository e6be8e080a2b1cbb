"""Classify handwritten digits, once with fusestep and once with plain PyTorch.

The same LeakyReLU network is trained twice from the same seed on the same batches; only the loss
and the optimizer differ. The two loss curves should lie on top of each other, and the table at the
end says where the time went. The data (1797 images of 8x8 pixels) come with scikit-learn.

Run it:  python examples/digits.py            (writes digits.png)
         python examples/digits.py --epochs 100 --batch-size 256 --seed 7
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

import fusestep
import fusestep.nn as nn
import fusestep.optim as optim

MIN_ACCURACY = 0.96
# Two correct implementations round differently, and training amplifies that. With the defaults,
# over 30 seeds, torch's own Adam and its fused variant end up at most 8.2e-5 apart, fusestep and
# torch 9.0e-5 (2.4e-7 on most seeds). Small mistakes (eps 1e-7 for 1e-8, beta2 0.9991 for 0.999)
# gave 3e-4 or more. Settings that make training chaotic need a larger value: with --lr 0.01, even
# torch's two variants can differ by 0.8.
TOLERANCE = 2e-4
PHASES = ("loss", "backward", "step")


@dataclass
class Run:
    """What one training run leaves behind: a loss per batch, seconds per phase, test accuracy."""

    losses: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    accuracy: float = 0.0


def load_data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images (standardised on the training set) and their labels."""
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    x_train, x_test, y_train, y_test = parts
    scaler = StandardScaler().fit(x_train)
    x_train, x_test = (
        torch.tensor(scaler.transform(part), dtype=torch.float32) for part in (x_train, x_test)
    )
    return x_train, torch.tensor(y_train), x_test, torch.tensor(y_test)


def make_model(seed: int) -> nn.Module:
    """A small multilayer perceptron; the same seed gives the same initial weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 128), nn.LeakyReLU(), nn.Linear(128, 64), nn.LeakyReLU(), nn.Linear(64, 10)
    )


def train_batch(
    model: nn.Module, criterion: nn.Module, optimizer: optim.Optimizer, x: Tensor, y: Tensor
) -> tuple[float, tuple[float, float, float]]:
    """One step of gradient descent: its loss, and the seconds in loss, backward and step."""
    optimizer.zero_grad()
    logits = model(x)
    start = perf_counter()
    loss = criterion(logits, y)
    after_loss = perf_counter()
    loss.backward()
    after_backward = perf_counter()
    optimizer.step()
    end = perf_counter()
    return loss.item(), (after_loss - start, after_backward - after_loss, end - after_backward)


def train(
    name: str,
    criterion: nn.Module,
    optimizer_class: type[optim.Optimizer],
    data: tuple[Tensor, Tensor, Tensor, Tensor],
    args: argparse.Namespace,
) -> Run:
    """Train a fresh model, timing each phase of each batch, and test it."""
    x, y, x_test, y_test = data

    # Warm up on a model that is then thrown away, so that no first call is timed.
    spare = make_model(args.seed).to(args.device)
    spare_optimizer = optimizer_class(spare.parameters(), lr=args.lr)
    for _ in range(10):
        train_batch(spare, criterion, spare_optimizer, x[: args.batch_size], y[: args.batch_size])

    run = Run()
    model = make_model(args.seed).to(args.device)
    optimizer = optimizer_class(model.parameters(), lr=args.lr)
    shuffle = torch.Generator().manual_seed(args.seed)
    with tqdm(range(args.epochs), desc=f"{name:>8}", unit="epoch") as progress:
        for _ in progress:
            for batch in torch.randperm(len(x), generator=shuffle).split(args.batch_size):
                loss, seconds = train_batch(model, criterion, optimizer, x[batch], y[batch])
                run.losses.append(loss)
                for phase, elapsed in zip(PHASES, seconds, strict=True):
                    run.seconds[phase] += elapsed
            progress.set_postfix(loss=f"{loss:.4f}")

    with torch.no_grad():
        run.accuracy = (model(x_test).argmax(1) == y_test).double().mean().item()
    return run


def report(ours: Run, theirs: Run, difference: np.ndarray) -> None:
    """Print accuracies, times and the distance between the curves."""
    print(f"\n{'':16}{'fusestep':>10}{'torch':>10}{'torch/fusestep':>17}")
    print(f"{'test accuracy':16}{ours.accuracy:10.4f}{theirs.accuracy:10.4f}")
    # "backward" is the whole model's. A fused loss may compute its gradient with its value, so
    # that work moves from "backward" to "loss": judge by the total.
    rows = {phase: (ours.seconds[phase], theirs.seconds[phase]) for phase in PHASES}
    rows["total"] = sum(ours.seconds.values()), sum(theirs.seconds.values())
    for phase, (mine, other) in rows.items():
        print(f"{phase + ' (s)':16}{mine:10.4f}{other:10.4f}{other / mine:16.2f}x")
    print(f"\nlargest difference between the loss curves: {difference.max():.2e}")
    if hasattr(fusestep, "stats"):
        print(f"fusestep.stats(): {fusestep.stats()}")


def plot(ours: Run, theirs: Run, difference: np.ndarray, args: argparse.Namespace) -> None:
    """Draw both loss curves, and below them their absolute difference."""
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    top.plot(theirs.losses, color="tab:orange", alpha=0.4, linewidth=5, label="torch")
    top.plot(ours.losses, color="tab:blue", linewidth=0.9, label="fusestep")
    top.set(ylabel="cross-entropy", title="Training loss on digits: same seed, same batches")
    top.legend()
    # A logarithmic axis has no place for zero: losses equal to the last bit are drawn at 1e-10.
    bottom.semilogy(np.maximum(difference, 1e-10), ".", color="tab:red", markersize=2)
    bottom.axhline(args.tolerance, color="gray", linestyle="--", linewidth=1, label="tolerance")
    bottom.set(xlabel="batch", ylabel="absolute difference")
    bottom.legend()
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.savefig(args.out, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Train with both, compare, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    # On a network this small a second thread gains nothing, and where other programs compete for
    # the cores, threads waiting for each other can be a hundred times slower, whoever runs them.
    parser.add_argument("--threads", type=int, default=1, help="torch.set_num_threads")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="allowed distance between the curves"
    )
    parser.add_argument("--device", default="cpu", help="where to train, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="where the plot goes")
    args = parser.parse_args(argv)

    torch.set_num_threads(args.threads)
    data = tuple(part.to(args.device) for part in load_data(args.seed))
    ours = train("fusestep", nn.CrossEntropyLoss(), optim.Adam, data, args)
    theirs = train("torch", torch.nn.CrossEntropyLoss(), torch.optim.Adam, data, args)
    difference = np.abs(np.subtract(ours.losses, theirs.losses))

    report(ours, theirs, difference)
    plot(ours, theirs, difference, args)
    print(f"wrote {args.out}")

    failures = []
    if not ours.accuracy >= MIN_ACCURACY:
        failures.append(f"test accuracy {ours.accuracy:.4f} is below {MIN_ACCURACY}")
    apart = difference.max()
    if not apart <= args.tolerance:  # "not <=", so that a NaN fails too
        failures.append(f"the loss curves differ by {apart:.2e}, more than {args.tolerance:g}")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
