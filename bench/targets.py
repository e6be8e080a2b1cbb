"""What this library is asked for: the least ratios to torch and shares of the memory's bandwidth.

Ratios are torch's time over ours. Shares are of the bandwidth of a copy (losses) or of an update in place
(optimizers), measured in the same run, for bytes that are moved once. A pattern that fits no case is an
error (tests/test_bench.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cases import LOSSES, POINTWISE


@dataclass(frozen=True)
class Target:
    what: str
    patterns: tuple[str, ...]  # of the names of cases, each of which has to meet it
    metric: str  # a contender of the case, "share", "peak", "labels" or "growth"
    bound: float
    at_most: bool = False

    def covers(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        bound = f"{self.bound:.0%}" if self.metric == "share" else f"{self.bound:g}×"
        return f"{'≤' if self.at_most else '≥'} {bound} {NOUNS.get(self.metric, self.metric)}"


NOUNS = {
    "share": "of bandwidth",
    "peak": "the input, peak memory",
    "labels": "labels + extra read",
    "growth": "cost an element at 10⁸",
}


def _each(ops: Iterable[str], rest: str) -> tuple[str, ...]:
    return tuple(f"{op} {rest}" for op in ops)


_POINTWISE = _each(POINTWISE, "4096x4096 float32 fwd+bwd")
_COMPOSED = ("binary_cross_entropy_with_logits", "kl_div", "log_cosh_loss")
_LOGITS = _each(["cross_entropy"], "512x32000 float32 fwd+bwd") + _each(
    ["cross_entropy"], "1024x128256 float32 fwd+bwd"
)
_THOUSAND = ("cross_entropy 256x1000 float32 fwd+bwd", "cross_entropy 4096x1000 float32 fwd+bwd")
_HALF = ("bfloat16 fwd+bwd", "float16 fwd+bwd")
_FUSED = ("Adam 64M *", "SGD momentum 64M *", "Adagrad 64M *")
_UNFUSED = tuple(
    f"{name} 64M *" for name in ("RMSprop", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop")
)
_LARGE = tuple(f"{name} {size} bfloat16 *" for name in ("mse_loss", "SGD") for size in (10**9, 2**31 + 2**20))

CPU_TARGETS = [
    Target("pointwise losses, 4096×4096", _POINTWISE, "eager", 7),
    Target("pointwise losses, 4096×4096", _POINTWISE, "compile", 3.5),
    Target("pointwise losses, 4096×4096", _POINTWISE, "share", 0.75),
    Target("pointwise losses, 4096×1024", _each(POINTWISE, "4096x1024 float32 fwd+bwd"), "eager", 3.5),
    Target("BCE-with-logits, KLDiv, LogCosh", _each(_COMPOSED, "4096x4096 float32 fwd+bwd"), "eager", 15),
    Target("cross-entropy, 32000 and 128256 classes", _LOGITS, "eager", 12),
    Target("cross-entropy, 32000 and 128256 classes", _LOGITS, "compile", 5),
    Target("cross-entropy, 32000 and 128256 classes", _LOGITS, "share", 0.8),
    Target("cross-entropy, 1000 classes", _THOUSAND, "eager", 1.8),
    Target("cross-entropy, 64×10", ("cross_entropy 64x10 float32 fwd+bwd",), "eager", 1),
    Target(
        "cross-entropy in half, 512×32000", tuple(f"cross_entropy 512x32000 {d}" for d in _HALF), "eager", 3.5
    ),
    Target(
        "every loss in half, 4096×4096",
        tuple(f"{op} 4096x4096 {dtype}" for op in LOSSES for dtype in _HALF),
        "share",
        0.65,
    ),
    Target(
        "soft-target cross-entropy", ("soft_cross_entropy 512x32000 float32 fwd+bwd",), "labels", 1.6, True
    ),
    Target("mse on a batch of (256, 1)", ("mse_loss 256x1 float32 fwd+bwd",), "eager", 1),
    Target("memory of cross-entropy", ("cross_entropy 1024x32000 float32 fwd+bwd",), "peak", 1.05, True),
    Target("Adam, SGD momentum, Adagrad, 64 M", _FUSED, "fused", 1),
    Target("Adam, SGD momentum, Adagrad, 64 M", _FUSED, "share", 0.85),
    Target("rules without a fused kernel in torch, 64 M", _UNFUSED, "share", 0.85),
    Target("rules without a fused kernel in torch, 64 M", _UNFUSED, "foreach", 4),
    Target("Adam, 10 tensors of an MLP", ("Adam MLP132 *",), "fused", 5),
    Target("Adam, 10 tensors of an MLP", ("Adam MLP132 *",), "eager", 12),
    Target("Adam, 100 tensors × 64", ("Adam 100x64 *",), "fused", 7),
    Target("Adam, 100 tensors × 64", ("Adam 100x64 *",), "eager", 20),
    Target("clip + step + EMA + zero_grad, 64 M", ("clip + Adam + EMA + zero_grad 64M *",), "fused", 2),
    Target("SparseAdam, 1 % of 1 M × 64", ("SparseAdam 1% of 1Mx64 *",), "eager", 3),
    Target("L-BFGS, 1 M parameters", ("LBFGS 1000k *",), "eager", 2),
    Target("cost against size: linear, no cliff", _LARGE, "growth", 1.5, True),
]

_CUDA_LOSSES = _each(POINTWISE, "16384x16384 float32 fwd+bwd")
_LANGUAGE = ("cross_entropy 8192x128256 bfloat16 fwd+bwd",)
_CLASSES = tuple(
    f"cross_entropy {shape} {dtype} fwd+bwd"
    for shape in ("262144x256", "65536x1000", "16384x4096")
    for dtype in ("float32", "bfloat16")
)
_DENSE = ("Adam", "AdamW", "Adagrad", "SGD", "SGD momentum")  # torch has a fused kernel
_NEVER_FUSED = ("RMSprop", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop")

# Of an H200.
CUDA_TARGETS = [
    Target("pointwise losses, 16384×16384", _CUDA_LOSSES, "share", 0.9),
    Target("cross-entropy, bf16, 8192×128256", _LANGUAGE, "share", 0.85),
    Target("cross-entropy, bf16, 8192×128256", _LANGUAGE, "eager", 3),
    Target("cross-entropy, bf16, 8192×128256", _LANGUAGE, "peak", 1.05, True),
    Target("cross-entropy, 256 to 4096 classes", _CLASSES, "share", 0.7),
    Target("dense optimizers, 1 G", _each((*_DENSE, *_NEVER_FUSED, "Lion"), "1G *"), "share", 0.9),
    Target("Adam, AdamW, Adagrad, SGD, 1 G", _each(_DENSE, "1G *"), "fused", 1),
    Target("rules without a fused kernel in torch, 1 G", _each(_NEVER_FUSED, "1G *"), "foreach", 2.5),
    Target("Adam, 1000 tensors × 64", ("Adam 1000x64 *",), "fused", 3),
]


def targets_for(device: str) -> list[Target]:
    return CPU_TARGETS if device == "cpu" else CUDA_TARGETS
