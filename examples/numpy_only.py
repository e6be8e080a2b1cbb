"""Softmax regression on handwritten digits with NumPy arrays: no PyTorch anywhere.

fusestep.numpy computes the loss and its gradient with respect to the logits in one call; the chain
rule through the linear layer is two lines of NumPy; the optimizer updates the arrays in place.

Run it:  python examples/numpy_only.py
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

import fusestep.numpy as fnp

MIN_ACCURACY = 0.93


def main(argv: list[str] | None = None) -> int:
    """Train, test, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        images.astype(np.float32), labels, test_size=0.2, stratify=labels, random_state=args.seed
    )
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)

    weight = np.zeros((64, 10), dtype=np.float32)
    bias = np.zeros(10, dtype=np.float32)
    optimizer = fnp.Adam([weight, bias], lr=args.lr)
    rng = np.random.default_rng(args.seed)
    with tqdm(range(args.epochs), unit="epoch") as progress:
        for _ in progress:
            order = rng.permutation(len(x))
            for start in range(0, len(x), args.batch_size):
                batch = order[start : start + args.batch_size]
                loss, grad = fnp.cross_entropy(x[batch] @ weight + bias, y[batch])
                optimizer.step([x[batch].T @ grad, grad.sum(axis=0)])
            progress.set_postfix(loss=f"{loss:.4f}")

    accuracy = np.mean((x_test @ weight + bias).argmax(axis=1) == y_test)
    print(f"test accuracy: {accuracy:.4f}")
    assert "torch" not in sys.modules, "fusestep.numpy must work without PyTorch"
    if not accuracy >= MIN_ACCURACY:
        print(f"FAILED: test accuracy is below {MIN_ACCURACY}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
