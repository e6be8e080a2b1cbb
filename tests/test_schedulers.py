"""Every rule through every scheduler of torch: whoever writes a hyper-parameter is heard at the next step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import lr_scheduler

import fusestep
import fusestep.optim as optim
from cases import optimizer_names, torch_optimizer

STEPS = 12

# How to make each; those that wrap others make them themselves.
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 6], 0.1),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.25, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 8),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1),
    "ReduceLROnPlateau by 0.1": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.1, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=_has_momentum(o)),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o, 0.1, total_steps=STEPS + 1, cycle_momentum=_has_momentum(o)
    ),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, anneal_epochs=5),
}


def _has_momentum(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("momentum")) or "betas" in optimizer.defaults


def test_no_scheduler_is_forgotten() -> None:
    theirs = set(lr_scheduler.__all__) - {"LRScheduler"}
    assert theirs == {name.split()[0] for name in SCHEDULERS} - {"SWALR"}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", optimizer_names())
def test_every_scheduler(name: str, scheduler: str) -> None:
    momentum = "momentum" in inspect.signature(torch_optimizer(name)).parameters
    options: dict[str, Any] = {"lr": 0.05, **({"momentum": 0.9} if momentum else {})}
    results, rates = [], []
    for make in (getattr(optim, name), torch_optimizer(name)):
        params = [Parameter(torch.linspace(-1, 1, n)) for n in (5, 33)]
        optimizer = make([{"params": params[:1]}, {"params": params[1:], "lr": 0.02}], **options)
        active = SCHEDULERS[scheduler](optimizer)
        seen = []
        for step in range(STEPS):
            generator = torch.Generator().manual_seed(step)
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            optimizer.step()
            active.step(1.0) if "Plateau" in scheduler else active.step()
            seen.append(
                [(group["lr"], group.get("betas"), group.get("momentum")) for group in optimizer.param_groups]
            )
        results.append(torch.cat([param.detach() for param in params]))
        rates.append(seen)
    assert rates[0] == rates[1]
    assert len({group[0] for step in rates[0] for group in step}) > 2, "the scheduler did nothing"
    torch.testing.assert_close(*results, rtol=2e-5, atol=2e-6)
    assert fusestep.stats()[optimizer_op(name)] == {"native": STEPS, "torch": {}}


def optimizer_op(name: str) -> str:
    return getattr(optim, name)._rule.op  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", optimizer_names())
def test_a_tensor_learning_rate_is_filled_in_place(name: str) -> None:
    results = []
    for lr in (torch.tensor(0.1), 0.1):
        param = Parameter(torch.linspace(-1, 1, 9))
        optimizer = getattr(optim, name)([param], lr=lr)
        scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)
        for step in range(5):
            param.grad = torch.randn(9, generator=torch.Generator().manual_seed(step))
            optimizer.step()
            scheduler.step()
        results.append(param.detach())
    torch.testing.assert_close(*results)
