"""Accelerate, Lightning and the Trainer of Hugging Face: they train with ours as they do with torch's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import fusestep
import fusestep.nn as nn
import fusestep.optim as optim

pytestmark = pytest.mark.filterwarnings("ignore")  # of theirs

LR, ROWS, BATCH = 0.01, 24, 8


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    yield
    fusestep.uninstall()


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 6, generator=generator)
    return TensorDataset(x, torch.randint(0, 4, (ROWS,), generator=generator))


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.LeakyReLU(), torch.nn.Linear(16, 4))


def by_hand(epochs: int, clip: float | None = None) -> torch.nn.Sequential:
    """By torch, in a loop."""
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR)
    for _ in range(epochs):
        for x, y in DataLoader(data(), batch_size=BATCH):
            torch.nn.functional.cross_entropy(net(x), y).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return net


def assert_alike(net: torch.nn.Module, right: torch.nn.Module) -> None:
    for param, expected in zip(net.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(param, expected)


def assert_native(*ops: str) -> None:
    for op in ops:
        assert fusestep.stats()[op]["native"]
        assert not fusestep.stats()[op]["torch"]


# ---- Accelerate ----


def test_accelerate(tmp_path: Path) -> None:
    """Prepared, clipped, scheduled; saved and loaded half way."""
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")
    accelerator = accelerate.Accelerator(cpu=True)

    def prepared() -> tuple[Any, ...]:
        net = model()
        optimizer = optim.AdamW(net.parameters(), lr=LR)
        loader = DataLoader(data(), batch_size=BATCH)
        return accelerator.prepare(net, optimizer, loader)  # type: ignore[no-any-return]

    def epoch(net: Any, optimizer: Any, loader: Any) -> None:
        for x, y in loader:
            accelerator.backward(nn.CrossEntropyLoss()(net(x), y))
            accelerator.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()

    net, optimizer, loader = prepared()
    epoch(net, optimizer, loader)
    accelerator.save_state(tmp_path / "state")
    epoch(net, optimizer, loader)
    assert_alike(net, by_hand(2, clip=0.1))
    accelerator.load_state(tmp_path / "state")  # into the same objects
    assert_alike(net, by_hand(1, clip=0.1))
    epoch(net, optimizer, loader)
    assert_alike(net, by_hand(2, clip=0.1))
    assert_native("cross_entropy", "adam")


# ---- Lightning ----


def test_lightning(tmp_path: Path) -> None:
    """Automatic optimization, gradient clipping, a scheduler; from a checkpoint on."""
    lightning = pytest.importorskip("lightning", reason="needs lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = model(), nn.CrossEntropyLoss()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            x, y = batch
            return self.loss(self.net(x), y)

        def configure_optimizers(self) -> Any:
            optimizer = optim.AdamW(self.parameters(), lr=LR)
            return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)]

    def trainer(epochs: int) -> Any:
        return lightning.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            gradient_clip_val=0.1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )

    first, module = trainer(1), Module()
    first.fit(module, DataLoader(data(), batch_size=BATCH))
    assert_alike(module.net, by_hand(1, clip=0.1))
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = Module()
    trainer(2).fit(
        again, DataLoader(data(), batch_size=BATCH), ckpt_path=tmp_path / "half.ckpt", weights_only=False
    )
    assert_alike(again.net, by_hand(2, clip=0.1))
    assert_native("cross_entropy", "adam")


# ---- Trainer of Hugging Face ----


class Tokens(Dataset[dict[str, Tensor]]):
    """Sequences of random tokens."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(0, 32, (10,), generator=generator)
        return {"input_ids": ids, "labels": ids}


def fine_tuned(folder: Path, way: str) -> tuple[torch.nn.Module, list[float]]:
    """A tiny model of random weights; and the losses logged."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    transformers.set_seed(3)
    config = transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    net = transformers.GPT2LMHeadModel(config).train()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / way),
        use_cpu=True,
        num_train_epochs=2,
        per_device_train_batch_size=BATCH,
        learning_rate=LR,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    more: dict[str, Any] = {}
    if way == "optimizers":
        more["optimizers"] = (optim.AdamW(net.parameters(), lr=LR, weight_decay=0.0), None)
    elif way == "optimizer_cls_and_kwargs":
        more["optimizer_cls_and_kwargs"] = (optim.AdamW, {"lr": LR, "weight_decay": 0.0})
    elif way == "installed":
        fusestep.install()
    trainer = transformers.Trainer(net, arguments, train_dataset=Tokens(), **more)
    trainer.train()
    fusestep.uninstall()
    return net, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("way", ["optimizers", "optimizer_cls_and_kwargs", "installed"])
def test_trainer_of_hugging_face(way: str, tmp_path: Path) -> None:
    _, theirs = fine_tuned(tmp_path, "plain")
    assert fusestep.stats() == {}
    _, ours = fine_tuned(tmp_path, way)
    assert len(ours) == 2 * ROWS // BATCH
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours[-1] < ours[0]
    assert_native("adam", *(["cross_entropy"] if way == "installed" else []))
