"""Every optimizer finds the minimum it should: an update can agree for fifty steps and be useless."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep.nn as nn
import fusestep.optim as optim

# Learning rates and steps: for the valley, and for handwritten digits.
VALLEY: dict[str, tuple[dict[str, Any], int]] = {
    "SGD": ({"lr": 1e-3, "momentum": 0.9}, 5000),
    "Adagrad": ({"lr": 0.5}, 5000),
    "RMSprop": ({"lr": 1e-3}, 8000),
    "Adadelta": ({"lr": 0.1}, 26000),
    "Adam": ({"lr": 0.02}, 4000),
    "AdamW": ({"lr": 0.02, "weight_decay": 0.0}, 4000),
    "Adamax": ({"lr": 0.05}, 4000),
    "NAdam": ({"lr": 0.02}, 4000),
    "RAdam": ({"lr": 2e-3}, 12000),
    "ASGD": ({"lr": 1e-3, "t0": 0, "alpha": 0.0, "lambd": 0.0}, 20000),
    "Rprop": ({"lr": 0.01}, 3000),
    "Lion": ({"lr": 1e-3}, 8000),
    "LBFGS": ({"line_search_fn": "strong_wolfe"}, 5),
}
DIGITS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "Adagrad": {"lr": 0.03},
    "RMSprop": {"lr": 2e-3, "centered": True, "momentum": 0.5},
    "Adadelta": {"lr": 1.0},
    "Adam": {"lr": 5e-3, "amsgrad": True},
    "AdamW": {"lr": 5e-3},
    "Adamax": {"lr": 1e-2},
    "NAdam": {"lr": 5e-3},
    "RAdam": {"lr": 5e-3},
    "ASGD": {"lr": 0.3},
    "Rprop": {"lr": 1e-3},
    "Lion": {"lr": 1e-3, "weight_decay": 0.01},
    "LBFGS": {"max_iter": 3, "line_search_fn": "strong_wolfe"},
}


def test_every_optimizer_is_here() -> None:
    assert VALLEY.keys() == DIGITS.keys() == set(optim.KERNELS) - {"SparseAdam"}


def rosenbrock(x: Tensor) -> Tensor:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


@pytest.mark.parametrize("name", VALLEY)
def test_rosenbrocks_valley(name: str) -> None:
    """From (-1.2, 1), across the bend, to the minimum at (1, 1); the mean of the last tenth of the way."""
    options, steps = VALLEY[name]
    x = Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    optimizer = getattr(optim, name)([x], **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = rosenbrock(x)
        loss.backward()
        return loss

    path = []
    for _ in range(steps):
        optimizer.step(closure)
        path.append(x.detach().clone())
    end = torch.stack(path[-(steps // 10) - 1 :]).mean(0)
    assert (end - 1).abs().max() < 0.1, (name, end)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return torch.tensor(x[order], dtype=torch.float32) / 16, torch.tensor(y[order])


@pytest.mark.parametrize("name", DIGITS)
def test_digits(name: str, digits: tuple[Tensor, Tensor]) -> None:
    """A small network on 1400 handwritten digits; accuracy on the 397 it has not seen."""
    x, y = digits
    model = nn.Sequential(nn.Linear(64, 48), nn.LeakyReLU(), nn.Linear(48, 10))
    loss_function = nn.CrossEntropyLoss()
    optimizer = getattr(optim, name)(model.parameters(), **DIGITS[name])
    whole = name in ("Rprop", "LBFGS")  # which are for full batches
    for _ in range(60 if whole else 10):
        for rows in [slice(0, 1400)] if whole else torch.arange(1400).split(50):

            def closure(rows: Any = rows) -> Tensor:
                optimizer.zero_grad()
                loss = loss_function(model(x[rows]), y[rows])
                loss.backward()
                return loss

            optimizer.step(closure)
    accuracy = (model(x[1400:]).argmax(1) == y[1400:]).double().mean()
    assert accuracy > 0.93, (name, accuracy)


def test_sparse_adam_learns_which_word_means_what() -> None:
    """A bag of words, of which two thirds vote for a class: only rows that occur are updated."""
    classes = torch.randint(0, 2, (500,))
    table = torch.nn.EmbeddingBag(500, 2, sparse=True, mode="mean")
    optimizer = optim.SparseAdam(table.parameters(), lr=0.05)
    words = torch.randint(0, 450, (2000, 15))
    votes = (classes[words].double().mean(1) > 0.5).long()
    unseen = table.weight[450:].detach().clone()
    for _ in range(15):
        for rows in torch.arange(2000).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(table(words[rows]), votes[rows]).backward()
            optimizer.step()
    assert (table(words).argmax(1) == votes).double().mean() > 0.97
    assert torch.equal(table.weight[450:], unseen)
