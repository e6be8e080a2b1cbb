"""What a user with mypy --strict may write; checked by tests/test_typing.py, and run there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import fusestep
import fusestep.nn as nn
import fusestep.nn.functional as F
import fusestep.numpy as fnp
import fusestep.optim as optim


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layer(x)
        return scores


def train(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss_function: nn.CrossEntropyLoss
) -> float:
    x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
    loss: Tensor = loss_function(model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]  # of torch
    optimizer.step()
    return loss.item()


def main() -> None:
    model = Net()
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, max_grad_norm=1.0, ema_decay=0.9)
    print(train(model, optimizer, nn.CrossEntropyLoss(label_smoothing=0.1)))
    optimizer.step(zero_grad=True)
    with optimizer.swap_ema():
        print(F.mse_loss(torch.ones(3), torch.zeros(3), reduction="sum").item())
    with fusestep.install():
        print(train(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()))
    counts: dict[str, dict[str, object]] = fusestep.stats()
    print(counts["cross_entropy"]["native"])
    weights = np.zeros((4, 3), np.float32)
    adam = fnp.Adam([weights], lr=0.1)
    loss, grad = fnp.cross_entropy(np.eye(4, dtype=np.float32) @ weights, np.array([0, 1, 2, 0]))
    adam.step([grad])
    print(float(loss))


if __name__ == "__main__":
    main()
