"""L-BFGS from one start: twenty iterations of what its history costs, on a problem that costs little."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep.optim as optim
from bench import check
from bench.case import Case
from fusestep._timing import Contender, Contenders

ENDLESS = {"tolerance_grad": 0.0, "tolerance_change": 0.0}  # it does not stop before the last iteration


@dataclass(frozen=True)
class LBFGSCase(Case):
    """The minimum of ½ Σ d x², d from 1 to 100. Peers start where ours starts, and take as many steps."""

    elements: int
    group: str = field(default="optimizer", kw_only=True)
    subject: ClassVar[str] = "LBFGS"

    @property
    def name(self) -> str:
        return f"{self.subject} {self.elements // 1000}k float32, 20 iterations"

    @property
    def bytes_needed(self) -> int:
        return 3 * 60 * self.input_bytes

    def small(self) -> LBFGSCase:
        return replace(self, elements=1000)

    def load(self, device: str) -> LoadedLBFGS:
        return LoadedLBFGS(self, device)


class LoadedLBFGS:
    def __init__(self, case: LBFGSCase, device: str) -> None:
        self._case = case
        generator = torch.Generator().manual_seed(0)
        self._start = torch.randn(case.elements, generator=generator).to(device)
        self._curvature = torch.logspace(0, 2, case.elements).to(device)
        makes = {"ours": optim.LBFGS, "eager": torch.optim.LBFGS}
        self.contenders = Contenders({name: partial(self._contender, make) for name, make in makes.items()})

    def _contender(self, make: Any) -> Contender:
        return Contender(partial(self._minimise, make))

    def _minimise(self, make: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        param, curvature = Parameter(self._start.to(dtype, copy=True)), self._curvature.to(dtype)
        param.grad = torch.empty_like(param)
        values = param.detach()

        def closure() -> Tensor:
            torch.mul(curvature, values, out=param.grad)
            return values.dot(param.grad) / 2  # type: ignore[arg-type]

        make([param], **ENDLESS).step(closure)
        return values

    def check(self) -> None:
        with check.native("lbfgs"):
            ours = self.contenders["ours"].call()
        torchs = self._minimise(torch.optim.LBFGS)
        oracle = self._minimise(torch.optim.LBFGS, torch.float64)
        check.assert_accurate(ours, torchs, oracle, self._case.name)  # type: ignore[arg-type]
