"""Say of each pixel what it shows: background, a bright disc or a dark square, under noise.

The network gives a score to each class at each pixel, shape (N, C, H, W), and the labels are one class a
pixel, shape (N, H, W): the loss takes both as they are. Most pixels are background, so a network could do
well by calling everything background; weights make rare classes count for more. Pixels on the border of a
shape could be either, and are left out (``ignore_index``).

Run it:  python examples/segmentation.py          (writes segmentation.png)
         python examples/segmentation.py --steps 1000 --device cuda
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm import tqdm

import fusestep.nn as nn
import fusestep.optim as optim

NAMES = ("background", "disc", "square")
UNSURE = 255  # the label of pixels that do not count
MIN_OVERLAP = 0.6


def draw_batch(size: int, pixels: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images with a disc and a square each, and what each of their pixels shows."""
    grid = torch.stack(torch.meshgrid(torch.arange(pixels), torch.arange(pixels), indexing="ij"))
    images = torch.zeros(size, pixels, pixels)
    labels = torch.zeros(size, pixels, pixels, dtype=torch.int64)
    for kind in (1, 2):
        center = torch.rand(size, 2, 1, 1, generator=generator) * pixels
        radius = 4 + 4 * torch.rand(size, 1, 1, generator=generator)
        offset = grid - center
        distance = offset.square().sum(1).sqrt() if kind == 1 else offset.abs().amax(1)
        labels[distance < radius] = kind
        labels[(distance - radius).abs() < 0.5] = UNSURE
        images = torch.where(distance < radius, 3.0 - 2.0 * kind, images)
    images = images + 0.8 * torch.randn(images.shape, generator=generator)
    return images.unsqueeze(1), labels


def make_model() -> nn.Module:
    """Four convolutions, the later ones with a wider view."""
    layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, padding=1), nn.LeakyReLU()]
    for step in (2, 4):
        layers += [nn.Conv2d(12, 12, 3, padding=step, dilation=step), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Conv2d(12, len(NAMES), 1))


def overlap(predicted: Tensor, labels: Tensor) -> list[float]:
    """Of each class the pixels that both call so, as a share of those that either does."""
    sure = labels != UNSURE
    shares = []
    for kind in range(len(NAMES)):
        a, b = (predicted == kind) & sure, labels == kind
        shares.append(float((a & b).sum() / (a | b).sum().clamp(min=1)))
    return shares


def plot(images: Tensor, labels: Tensor, predicted: Tensor, losses: list[float], out: Path) -> None:
    """Four test images, what they show and what the network sees; and the loss."""
    figure = plt.figure(figsize=(11, 6), layout="constrained")
    grid = figure.add_gridspec(3, 7)
    rows = {"image": images[:, 0], "truth": labels, "predicted": predicted}
    for row, (name, pictures) in enumerate(rows.items()):
        for column in range(4):
            axes = figure.add_subplot(grid[row, column])
            picture = pictures[column].float()
            picture[picture == UNSURE] = float("nan")
            if row == 0:
                axes.imshow(picture, cmap="gray")
            else:
                axes.imshow(picture, vmin=0, vmax=len(NAMES) - 1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(name)
    axes = figure.add_subplot(grid[:, 4:])
    axes.semilogy(losses)
    axes.grid(alpha=0.3)
    axes.set(xlabel="step", ylabel="weighted cross-entropy", title="Training loss")
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Train on images made as they are needed, test on others, draw, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=32, help="of each side of an image")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train, such as cuda")
    parser.add_argument("--out", type=Path, default=Path("segmentation.png"), help="where to plot")
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    _, some = draw_batch(256, args.pixels, generator)
    counts = torch.stack([(some == kind).sum() for kind in range(len(NAMES))])
    # The square root: with weights that are as large as classes are rare, too much is called rare.
    weights = (counts.sum() / (len(NAMES) * counts)).sqrt().to(args.device)
    model = make_model().to(args.device)
    criterion = nn.CrossEntropyLoss(weight=weights, ignore_index=UNSURE)
    optimizer = optim.NAdam(model.parameters(), lr=args.lr)
    losses = []
    with tqdm(range(args.steps), unit="step") as progress:
        for _ in progress:
            images, labels = (t.to(args.device) for t in draw_batch(args.batch_size, args.pixels, generator))
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            progress.set_postfix(loss=f"{losses[-1]:.4f}")

    images, labels = draw_batch(64, args.pixels, generator)
    with torch.no_grad():
        predicted = model(images.to(args.device)).argmax(1).cpu()
    shares = overlap(predicted, labels)
    print()
    for name, weight, share in zip(NAMES, weights.tolist(), shares, strict=True):
        print(f"{name:12} weight {weight:5.2f}   overlap {share:.3f}")
    plot(images, labels, predicted, losses, args.out)
    print(f"wrote {args.out}")
    if not min(shares) >= MIN_OVERLAP:
        print(f"FAILED: an overlap is below {MIN_OVERLAP}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
