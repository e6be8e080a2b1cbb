"""One step of an optimizer on one model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.swa_utils import get_ema_multi_avg_fn

import fusestep.optim as optim
from bench import check
from bench.case import Case
from bench.losses import GENERATED, repeated
from bench.peers import LIBRARIES, Library
from cases import bytes_per_element, torch_optimizer
from fusestep._timing import Contender, Contenders

LAYERS = [(1, 4), (4, 5), (5, 8), (8, 5), (5, 1)]  # inputs and outputs: 132 parameters
SIZES = [*(10**power for power in range(3, 10)), 2**31 + 2**20]
MODELS: dict[str, list[tuple[int, ...]]] = {
    "64M": [(2**24,)] * 4,
    "4M": [(2**20,)] * 4,
    "1G": [(2**28,)] * 4,
    "100x64": [(64,)] * 100,
    "1000x64": [(64,)] * 1000,
    "465x4096": [(4096,)] * 465,
    "MLP132": [shape for inputs, outputs in LAYERS for shape in ((outputs, inputs), (outputs,))],
    **{str(size): [(size,)] for size in SIZES},
}
CHECKED_STEPS = 3
EDGE = 2**15  # elements of each end of a large tensor that are checked
MAX_NORM, DECAY = 1.0, 0.999

Make = Callable[..., torch.optim.Optimizer]


def with_gradients(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: str) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> Tensor:
        if prod(shape) > GENERATED:
            return repeated(random((GENERATED // 8,)), *shape).to(device)
        return torch.randn(shape, generator=generator, dtype=dtype).to(device)

    params = [Parameter(random(shape)) for shape in shapes]
    for param in params:
        param.grad = random(param.shape)
    return params


def edges(tensor: Tensor) -> Tensor:
    """A copy of the first and the last elements."""
    flat = tensor.detach().reshape(-1)
    return flat.clone() if len(flat) <= 2 * EDGE else torch.cat([flat[:EDGE], flat[-EDGE:]])


@dataclass(frozen=True)
class StepCase(Case):
    """All contenders update the same parameters from the same gradients, each with states of its own."""

    optimizer: str
    model: str
    options: tuple[tuple[str, Any], ...] = ()
    apart: bool = False  # a parameter group for each tensor
    group: str = field(default="optimizer", kw_only=True)

    @property
    def subject(self) -> str:
        groups = ["in groups"] if self.apart else []
        return " ".join([self.optimizer, *(key for key, _ in self.options), *groups])

    @property
    def charted(self) -> bool:
        return self.dtype is torch.float32

    @property
    def name(self) -> str:
        return f"{self.subject} {self.model} {self.dtype_name} step"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return MODELS[self.model]

    @property
    def elements(self) -> int:
        return sum(prod(shape) for shape in self.shapes)

    @property
    def bytes_moved(self) -> int:
        return bytes_per_element(self.optimizer, dict(self.options), self.dtype) * self.elements

    @property
    def bytes_needed(self) -> int:
        per_element = bytes_per_element(self.optimizer, dict(self.options), self.dtype)
        states = (per_element // self.dtype.itemsize - 3) // 2
        contenders, temporaries = (2, 0) if self.group == "size" else (5, 6)
        contenders += sum(self.optimizer in of.optimizers and of.installed for of in LIBRARIES.values())
        return (2 + contenders * states + temporaries) * self.input_bytes

    @property
    def compiles(self) -> bool:
        return self.group != "size"

    @property
    def flags(self) -> list[str]:
        """Those of torch's class that ask for another way than its for-loop."""
        takes = dict(inspect.signature(torch_optimizer(self.optimizer)).parameters)
        if self.optimizer == "SGD" and self.dtype.itemsize == 2:
            takes.pop("fused", None)  # leaves all but the last few elements as they are (pytorch#191763)
        return [flag for flag in ("foreach", "fused") if flag in takes and self.group != "size"]

    def small(self) -> StepCase:
        return replace(self, model="MLP132")

    def load(self, device: str) -> LoadedStep:
        return LoadedStep(self, device)


class LoadedStep:
    """Parameters and gradients in memory, and an optimizer for each contender."""

    def __init__(self, case: StepCase, device: str) -> None:
        self._case = case
        self._params = with_gradients(case.shapes, case.dtype, device)

    @cached_property
    def contenders(self) -> Contenders:
        name, options = self._case.optimizer, dict(self._case.options)

        def contender(make: Make, **flags: bool) -> Contender:
            params = [{"params": [param]} for param in self._params] if self._case.apart else self._params
            return Contender(make(params, **options, **flags).step)

        def compiled() -> Contender:
            return Contender(torch.compile(contender(torch_optimizer(name)).call, dynamic=False))

        makers = {"ours": partial(contender, getattr(optim, name))}
        makers["eager"] = partial(contender, torch_optimizer(name))
        for flag in self._case.flags:
            makers[flag] = partial(contender, torch_optimizer(name), **{flag: True})
        if self._case.compiles:
            makers["compile"] = compiled
        for library, of in LIBRARIES.items():
            if name in of.optimizers and not self._case.is_huge:
                makers[library] = partial(self._of, of, contender)
        return Contenders(makers)

    def _of(self, library: Library, contender: Callable[[Make], Contender]) -> Contender:
        return contender(library.optimizer(self._case.optimizer))

    def check(self) -> None:
        case = self._case
        start, grads = ([edges(t) for t in tensors] for tensors in self._tensors())
        with check.native(getattr(optim, case.optimizer)._rule.op):
            for _ in range(CHECKED_STEPS):
                self.contenders["ours"].call()
        params, after = ([edges(t) for t in tensors] for tensors in self._tensors())
        assert all(map(torch.equal, grads, after)), f"{case.name}: the step changed the gradients"
        make = partial(torch_optimizer(case.optimizer), **dict(case.options))
        check.steps(case.name, params, make, start, grads, CHECKED_STEPS)

    def _tensors(self) -> tuple[list[Any], list[Any]]:
        return self._params, [param.grad for param in self._params]  # type: ignore[return-value]


@dataclass(frozen=True)
class PipelineCase(StepCase):
    """Adam with what goes with a step: the norm clipped, an average of the weights, gradients cleared."""

    @property
    def subject(self) -> str:
        return f"clip + {self.optimizer} + EMA + zero_grad"

    @property
    def bytes_moved(self) -> int:
        """Beside the step: gradients read for the norm and cleared, the average read and written."""
        return super().bytes_moved + 4 * self.dtype.itemsize * self.elements

    def load(self, device: str) -> LoadedPipeline:
        return LoadedPipeline(self, device)


class LoadedPipeline(LoadedStep):
    """As the gradients are cleared, they are put back before each call, and that is not timed."""

    def __init__(self, case: PipelineCase, device: str) -> None:
        super().__init__(case, device)
        self._grads = [param.grad.clone() for param in self._params]  # type: ignore[union-attr]

    def _put_back(self) -> None:
        for param, grad in zip(self._params, self._grads, strict=True):
            param.grad.copy_(grad)  # type: ignore[union-attr]

    @cached_property
    def contenders(self) -> Contenders:
        flags: dict[str, dict[str, Any]] = {
            "eager": {},
            "foreach": {"foreach": True},
            "fused": {"fused": True},
        }
        theirs = {name: partial(self._of_torch, **flag) for name, flag in flags.items()}
        return Contenders({"ours": self._in_one_call, **theirs})

    def _in_one_call(self) -> Contender:
        self._own = optim.Adam(self._params, max_grad_norm=MAX_NORM, ema_decay=DECAY)
        return Contender(partial(self._own.step, zero_grad=True), self._put_back)

    def _of_torch(self, **flags: Any) -> Contender:
        averages = [param.detach().clone() for param in self._params]
        return Contender(
            partial(self._four_calls, torch.optim.Adam(self._params, **flags), averages), self._put_back
        )

    def _four_calls(self, optimizer: torch.optim.Optimizer, averages: list[Tensor]) -> None:
        torch.nn.utils.clip_grad_norm_(self._params, MAX_NORM)
        optimizer.step()
        get_ema_multi_avg_fn(DECAY)(averages, self._params, 1)
        optimizer.zero_grad(set_to_none=False)

    def check(self) -> None:
        norm = torch.stack([grad.double().norm() for grad in self._grads]).norm()
        clipped = [edges(grad) * min(1.0, MAX_NORM / float(norm)) for grad in self._grads]
        start = [edges(param) for param in self._params]
        averages: list[list[Tensor]] = []
        with check.native("adam"):
            for _ in range(CHECKED_STEPS):
                self.contenders["ours"].before()  # type: ignore[misc]
                self.contenders["ours"].call()
                averages.append([edges(self._own.state[param]["ema"]) for param in self._params])
        assert not any(bool(param.grad.any()) for param in self._params)  # type: ignore[union-attr]
        params = [edges(param) for param in self._params]
        check.steps(self._case.name, params, torch.optim.Adam, start, clipped, CHECKED_STEPS)
        for before, after, param in zip(averages[-2], averages[-1], params, strict=True):
            wide = before.double().lerp(param.double(), 1 - DECAY)
            check.assert_accurate(after, before.lerp(param, 1 - DECAY), wide, f"{self._case.name}: average")


@dataclass(frozen=True)
class SparseCase(StepCase):
    """An embedding of which a batch has touched some rows, some of them several times."""

    rows: int = 1_000_000
    columns: int = 64
    touched: float = 0.01
    compiles: ClassVar[bool] = False  # a sparse tensor breaks the graph

    @property
    def subject(self) -> str:
        return f"{self.optimizer} {self.touched:.0%} of"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [(self.rows, self.columns)]

    @property
    def bytes_moved(self) -> int:
        return 0  # rows here and there: not what a bandwidth measures

    def small(self) -> SparseCase:
        return replace(self, rows=1000)

    def load(self, device: str) -> LoadedSparse:
        return LoadedSparse(self, device)


class LoadedSparse(LoadedStep):
    def __init__(self, case: SparseCase, device: str) -> None:
        super().__init__(case, device)
        (param,) = self._params
        generator = torch.Generator().manual_seed(1)
        self._rows = torch.randint(0, case.rows, (round(case.rows * case.touched),), generator=generator)
        self._values = param.grad[: len(self._rows)].clone()  # type: ignore[index]
        param.grad = self._sparse(self._rows.to(device), self._values, case.rows)

    @staticmethod
    def _sparse(rows: Tensor, values: Tensor, count: int) -> Tensor:
        shape = (count, values.shape[1])
        return torch.sparse_coo_tensor(rows[None], values, shape, check_invariants=False)

    def check(self) -> None:
        """The touched rows, as a smaller embedding."""
        (param,) = self._params
        rows, numbers = self._rows.unique(return_inverse=True)
        start = param.detach()[rows.to(param.device)].clone()
        with check.native("sparse_adam"):
            for _ in range(CHECKED_STEPS):
                self.contenders["ours"].call()
        grad = self._sparse(numbers, self._values.cpu(), len(rows))
        ours = [param.detach()[rows.to(param.device)]]
        check.steps(self._case.name, ours, torch.optim.SparseAdam, [start], [grad], CHECKED_STEPS)
