"""One of two processes: ``python worker.py WHAT RANK FOLDER`` prints ``ok`` if all that it asserts holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import fusestep
import fusestep.nn as nn
import fusestep.nn.functional as F
import fusestep.optim as optim

RANK, WORLD, STEPS = int(sys.argv[2]), 2, 4
OPTIONS: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(), nn.Linear(16, 4))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def mine(tensor: Tensor) -> Tensor:
    """The rows of this process."""
    return tensor.chunk(WORLD)[RANK]


def alone(steps: int = STEPS, ignored: int = 0) -> torch.nn.Module:
    """The same training in one process, by torch."""
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), **OPTIONS)
    for step in range(steps):
        x, y = batch(step)
        y[:ignored] = -100
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x, y = map(mine, batch(step))
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(net(x), y).backward()
        optimizer.step()


def assert_alike(net: torch.nn.Module, right: torch.nn.Module) -> None:
    for param, expected in zip(net.parameters(), right.parameters(), strict=True):
        whole = param.full_tensor() if hasattr(param, "full_tensor") else param
        torch.testing.assert_close(whole.detach(), expected.detach())


def native(op: str) -> None:
    assert fusestep.stats()[op]["torch"] == {}, fusestep.stats()
    assert fusestep.stats()[op]["native"]


def ddp(folder: Path) -> None:
    """The mean over processes of means over equal shards is the mean over the batch."""
    net = DistributedDataParallel(model())
    optimizer = optim.AdamW(net.parameters(), **OPTIONS)
    train(net, optimizer, range(STEPS))
    assert_alike(net, alone())
    native("cross_entropy")
    native("adam")


def uneven(folder: Path) -> None:
    """Three of eight rows are ignored, all in the first shard: each process divides by what all have kept."""
    net = DistributedDataParallel(model())
    optimizer = optim.AdamW(net.parameters(), **OPTIONS)
    for step in range(STEPS):
        x, y = batch(step)
        y[:3] = -100
        x, y = mine(x), mine(y)
        kept = (y != -100).sum()
        dist.all_reduce(kept)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y, reduction="sum") * WORLD / kept  # DDP divides by WORLD
        loss.backward()
        optimizer.step()
    assert_alike(net, alone(ignored=3))


def fsdp(folder: Path) -> None:
    """Sharded parameters and states; saved, loaded and trained on."""

    def sharded() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        net = model()
        fully_shard(net[0])
        fully_shard(net)
        return net, optim.AdamW(net.parameters(), **OPTIONS)

    net, optimizer = sharded()
    train(net, optimizer, range(2))
    assert_alike(net, alone(2))
    states = dict(zip(("model", "optimizer"), get_state_dict(net, optimizer), strict=True))
    dcp.save(states, checkpoint_id=folder / "checkpoint")

    again, resumed = sharded()
    states = dict(zip(("model", "optimizer"), get_state_dict(again, resumed), strict=True))
    dcp.load(states, checkpoint_id=folder / "checkpoint")
    set_state_dict(again, resumed, model_state_dict=states["model"], optim_state_dict=states["optimizer"])
    train(again, resumed, range(2, STEPS))
    assert_alike(again, alone())
    native("adam")


def zero(folder: Path) -> None:
    """States of half of the parameters each; the whole checkpoint is torch's."""
    net = DistributedDataParallel(model())
    optimizer = ZeroRedundancyOptimizer(net.parameters(), optimizer_class=optim.AdamW, **OPTIONS)
    train(net, optimizer, range(STEPS))
    assert_alike(net, alone())
    native("adam")
    optimizer.consolidate_state_dict(to=0)
    if RANK == 0:
        right = torch.optim.AdamW(net.parameters(), **OPTIONS)
        right.load_state_dict(optimizer.state_dict())
        assert len(right.state) == 4


if __name__ == "__main__":
    where = Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{where / 'store'}", rank=RANK, world_size=WORLD)
    globals()[sys.argv[1]](where)
    dist.destroy_process_group()
    print("ok")
