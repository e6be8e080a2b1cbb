"""One loss or softmax on one shape: as a training loop calls it, or its value alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as torch_functional
from torch import Tensor

from bench import check
from bench.case import Case
from bench.peers import LIBRARIES, Library
from cases import SOFTMAX, loss_inputs, ours, public_name
from definitions import sigmoid_focal_loss
from fusestep._timing import Contender, Contenders

warnings.filterwarnings("ignore", "reduction: 'mean' divides the total loss")  # torch's, of each kl_div
GENERATED = 2**27  # elements; more than that repeat themselves


def log_cosh_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """In as few of torch's operations as will do for the numbers here."""
    assert reduction == "mean"
    return (input - target).cosh().log().mean()


COMPOSED = {"log_cosh_loss": log_cosh_loss, "sigmoid_focal_loss": sigmoid_focal_loss}


def peer(op: str) -> Callable[..., Tensor]:
    """torch's function, or what people write in torch's operations where there is none."""
    return COMPOSED.get(op) or getattr(torch_functional, public_name(op))


_inputs = lru_cache(maxsize=1)(loss_inputs)  # forward alone follows forward and backward


def operands(op: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Those of the tests, with no row ignored."""
    if prod(shape) <= GENERATED:
        return _inputs(op, shape, dtype, ignored=0)
    rows = max(1, GENERATED // 8 // prod(shape[1:]))
    return tuple(repeated(base, shape[0]) for base in loss_inputs(op, (rows, *shape[1:]), dtype))


def repeated(base: Tensor, rows: int) -> Tensor:
    """As many rows as there are, again and again."""
    whole = torch.empty((rows, *base.shape[1:]), dtype=base.dtype)
    for piece in whole.split(len(base)):
        piece.copy_(base[: len(piece)])
    return whole


@dataclass(frozen=True)
class LossCase(Case):
    op: str
    shape: tuple[int, ...]
    backward: bool = True
    against_labels: bool = False  # also timed: the same loss of integer labels
    group: str = field(default="loss", kw_only=True)
    bandwidth: ClassVar[str] = "copy"
    has_state: ClassVar[bool] = False

    @property
    def subject(self) -> str:  # type: ignore[override]
        return self.op

    @property
    def charted(self) -> bool:
        return self.backward and self.dtype is torch.float32

    @property
    def name(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"{self.op} {shape} {self.dtype_name} {'fwd+bwd' if self.backward else 'fwd'}"

    @property
    def bytes_moved(self) -> int:
        """Each operand read once, the gradient written once; labels are next to nothing."""
        if self.op == "nll_loss":  # reads one element of a row
            tensors = 1 if self.backward else 0
        elif self.op in SOFTMAX:  # writes the output; reads it and the seed again, and writes the gradient
            tensors = 5 if self.backward else 2
        else:
            small = loss_inputs(self.op, (2, 2), self.dtype)
            tensors = sum(t.is_floating_point() for t in small) + self.backward
        return tensors * self.elements * self.dtype.itemsize

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes_needed(self) -> int:
        return (4 if self.is_huge else 6) * self.input_bytes

    def small(self) -> LossCase:
        return replace(self, shape=(8, 8))

    def load(self, device: str) -> LoadedLoss:
        return LoadedLoss(self, device)


class LoadedLoss:
    """Operands in memory, and the functions that are called on them."""

    def __init__(self, case: LossCase, device: str) -> None:
        self._case = case
        if case.op in SOFTMAX:
            generator = torch.Generator().manual_seed(1)
            input, self._seed = (
                torch.randn(case.shape, generator=generator).to(device, case.dtype) for _ in range(2)
            )
            self._rest: tuple[Tensor | int, ...] = (1,)
            self._options: dict[str, str] = {}
        else:
            input, *rest = (t.to(device) for t in operands(case.op, case.shape, case.dtype))
            self._seed, self._rest, self._options = None, tuple(rest), {"reduction": "mean"}
        self._input = input.detach().requires_grad_(case.backward)
        makers = {"ours": self._contender(ours(case.op))}
        if not case.is_huge:
            makers["eager"] = self._contender(peer(case.op))
        if case.group != "size":
            makers["compile"] = self._compiled
            for name, library in LIBRARIES.items():
                if case.op in library.losses:
                    makers[name] = partial(self._of, library)
        if case.against_labels:
            makers["labels"] = self._labels
        self.contenders = Contenders(makers)

    def _contender(self, function: Callable[..., Tensor]) -> Callable[[], Contender]:
        return lambda: Contender(partial(self._evaluate, function, self._rest))

    def _of(self, library: Library) -> Contender:
        return self._contender(library.loss(self._case.op))()

    def _compiled(self) -> Contender:
        function = torch.compile(partial(peer(self._case.op), **self._options), dynamic=False)
        return Contender(partial(self._evaluate, function, self._rest))

    def _labels(self) -> Contender:
        rows, classes = self._case.shape
        labels = torch.randint(0, classes, (rows,)).to(self._input.device)
        return Contender(partial(self._evaluate, ours(public_name(self._case.op)), (labels,)))

    def _evaluate(
        self, function: Callable[..., Tensor], rest: tuple[Tensor | int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """What is timed and what is checked."""
        if not self._case.backward:
            with torch.no_grad():
                return function(self._input, *rest, **self._options), None
        output = function(self._input, *rest, **self._options)
        output.backward(self._seed)
        grad, self._input.grad = self._input.grad, None
        return output, grad

    def check(self) -> None:
        op = self._case.op
        with check.native(op):
            output, grad = self.contenders["ours"].call()  # type: ignore[misc]
        if op in SOFTMAX:
            check.matrix(op, self._input, output.detach(), self._seed if self._case.backward else None, grad)
        else:
            targets = [t for t in self._rest if isinstance(t, Tensor)]
            check.loss(op, [self._input.detach(), *targets], output.detach(), grad)
