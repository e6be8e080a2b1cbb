"""What is measured: every loss and every optimizer of the registry, on the shapes that matter to each."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.case import Case
from bench.lbfgs import LBFGSCase
from bench.losses import LossCase
from bench.steps import SIZES, PipelineCase, SparseCase, StepCase
from cases import LOSSES, POINTWISE, SOFTMAX, optimizer_names

BIG, MIDDLE, IN_L2 = (4096, 4096), (4096, 1024), (256, 1024)
LOGITS = (512, 32000)  # what a language model's loss sees, in small
HALVES = (torch.bfloat16, torch.float16)
# Shapes of losses with classes, beside those that all losses have.
SHORT = (4096, 1000)
ROWS = [LOGITS, SHORT]
OWN_SHAPES = {
    "mse_loss": [(256, 1)],
    "cross_entropy": [
        *((64, 10), (4096, 100), (256, 1000), SHORT, LOGITS),
        *((1024, 32000), (512, 50257), (1024, 128256)),
    ],
}
MEMORY_AT = {"cross_entropy": (1024, 32000)}


def shapes(op: str) -> list[tuple[int, ...]]:
    common = [BIG, MIDDLE, IN_L2] if op in POINTWISE else [BIG]
    return [*common, *OWN_SHAPES.get(op, [] if op in POINTWISE else ROWS)]


def losses() -> Iterator[LossCase]:
    for op in (*LOSSES, *SOFTMAX):
        for shape in shapes(op):
            memory = shape == MEMORY_AT.get(op, BIG)
            labels = op == "soft_cross_entropy" and shape == LOGITS
            yield LossCase(op, shape, with_memory=memory, against_labels=labels)
            yield LossCase(op, shape, backward=False)
        for dtype in HALVES:
            yield LossCase(op, BIG, dtype=dtype)
            if LOGITS in shapes(op):
                yield LossCase(op, LOGITS, dtype=dtype)


def optimizers() -> Iterator[Case]:
    for name in optimizer_names():
        for model in ("64M", "100x64", "MLP132"):
            yield StepCase(name, model, with_memory=model == "64M")
            if name == "SGD":
                yield StepCase(name, model, (("momentum", 0.9),))
    yield PipelineCase("Adam", "64M")
    yield SparseCase("SparseAdam", "1Mx64")
    yield LBFGSCase(1_000_000)


def sizes() -> Iterator[Case]:
    """Cost against size; two-byte numbers, so that more than 2³¹ of them fit."""
    for size in SIZES:
        yield LossCase("mse_loss", (size,), dtype=torch.bfloat16, group="size")
        yield StepCase("SGD", str(size), dtype=torch.bfloat16, group="size")


# On a device that copies terabytes a second: what is large enough to be more than a launch.
HUGE_BATCH, LANGUAGE = (16384, 16384), (8192, 128256)
CLASSES = [(262144, 256), (65536, 1000), (16384, 4096)]


def on_cuda() -> Iterator[Case]:
    """What is asked for there, beside the cases of every device."""
    for op in POINTWISE:
        yield LossCase(op, HUGE_BATCH)
    yield LossCase("cross_entropy", LANGUAGE, dtype=torch.bfloat16, with_memory=True)
    for shape in CLASSES:
        for dtype in (torch.float32, torch.bfloat16):
            yield LossCase("cross_entropy", shape, dtype=dtype)
    for name in optimizer_names():
        yield StepCase(name, "1G", with_memory=name == "Adam")
    yield StepCase("SGD", "1G", (("momentum", 0.9),))
    yield StepCase("Adam", "1000x64")
    yield StepCase("Adam", "465x4096", apart=True)


def everything(device: str = "cpu") -> list[Case]:
    common = [*losses(), *optimizers(), *sizes()]
    return common if device == "cpu" else [*on_cuda(), *common]


def quick() -> list[Case]:
    """Two minutes: every loss on one shape, every optimizer on two models."""
    cases: list[Case] = []
    for op in (*LOSSES, *SOFTMAX):
        shape = MIDDLE if op in POINTWISE else LOGITS if op == "cross_entropy" else SHORT
        cases += [LossCase(op, shape, with_memory=op == "cross_entropy")]
    cases += [LossCase("mse_loss", (256, 1)), LossCase("cross_entropy", (64, 10))]
    cases += [
        LossCase(op, shape, backward=False) for op, shape in (("mse_loss", MIDDLE), ("cross_entropy", LOGITS))
    ]
    for name in optimizer_names():
        cases += [StepCase(name, "4M"), StepCase(name, "MLP132")]
    cases += [
        StepCase("Adam", "100x64"),
        PipelineCase("Adam", "4M"),
        SparseCase("SparseAdam", "1Mx64"),
        LBFGSCase(100_000),
    ]
    return cases
