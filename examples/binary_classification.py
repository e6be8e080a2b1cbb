"""Benign or malignant: a network with one output, and binary cross-entropy of its logit.

The loss takes the logit (any number) and not a probability: that is more exact, and cannot overflow. There
are fewer malignant samples than benign ones, so each counts more (``pos_weight``). The data, 569 samples of
30 measurements each, come with scikit-learn.

Run it:  python examples/binary_classification.py          (writes binary_classification.png)
         python examples/binary_classification.py --epochs 200 --device cuda
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
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

import fusestep.nn as nn
import fusestep.optim as optim

MIN_ACCURACY = 0.93


def load(seed: int, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Samples and whether they are malignant, to train on and to test on."""
    x, benign = load_breast_cancer(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x, 1 - benign, test_size=0.25, stratify=benign, random_state=seed
    )
    scaler = StandardScaler().fit(x_train)

    def tensors(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
        pair = scaler.transform(x), y[:, None]
        return tuple(torch.tensor(part, dtype=torch.float32, device=device) for part in pair)

    return {"train": tensors(x_train, y_train), "test": tensors(x_test, y_test)}


def train(model: nn.Module, x: Tensor, y: Tensor, args: argparse.Namespace) -> list[float]:
    """Batches of shuffled samples; returns the mean loss of each epoch."""
    malignant = y.mean()
    criterion = nn.BCEWithLogitsLoss(pos_weight=(1 - malignant) / malignant)
    optimizer = optim.AdamW(model.parameters(), lr=args.lr)
    losses = []
    with tqdm(range(args.epochs), unit="epoch") as progress:
        for _ in progress:
            total = 0.0
            for batch in torch.randperm(len(x), device=x.device).split(args.batch_size):
                optimizer.zero_grad()
                loss = criterion(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch)
            losses.append(total / len(x))
            progress.set_postfix(loss=f"{losses[-1]:.4f}")
    return losses


def plot(losses: list[float], true: np.ndarray, probability: np.ndarray, out: Path) -> None:
    """The loss; the trade between false alarms and misses; and how sure the network is."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    left.semilogy(losses)
    left.set(xlabel="epoch", ylabel="binary cross-entropy", title="Training loss")
    false_alarms, found, _ = roc_curve(true, probability)
    middle.plot(false_alarms, found, label=f"area {roc_auc_score(true, probability):.3f}")
    middle.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="by chance")
    middle.set(xlabel="benign called malignant", ylabel="malignant found", title="Test samples")
    middle.legend()
    for kind, name in enumerate(("benign", "malignant")):
        right.hist(probability[true == kind], bins=np.linspace(0, 1, 21), alpha=0.6, label=name)
    right.set(xlabel="predicted probability of malignant", ylabel="test samples", yscale="log")
    right.legend()
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Train, test, draw, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("binary_classification.png"), help="where to plot")
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    data = load(args.seed, args.device)
    model = nn.Sequential(nn.Linear(30, 32), nn.LeakyReLU(), nn.Dropout(0.2), nn.Linear(32, 1)).to(
        args.device
    )
    losses = train(model, *data["train"], args)

    x, y = data["test"]
    model.eval()
    with torch.no_grad():
        probability = model(x).sigmoid().cpu().numpy()[:, 0]
    true = y.cpu().numpy()[:, 0]
    accuracy = np.mean((probability > 0.5) == true)
    missed = int(np.sum((probability <= 0.5) & (true == 1)))
    print(f"\ntest accuracy {accuracy:.3f}; {missed} of {int(true.sum())} malignant samples missed")
    plot(losses, true, probability, args.out)
    print(f"wrote {args.out}")
    if not accuracy >= MIN_ACCURACY:
        print(f"FAILED: accuracy {accuracy:.3f} is below {MIN_ACCURACY}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
