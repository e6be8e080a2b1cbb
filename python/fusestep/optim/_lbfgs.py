"""L-BFGS for torch: the parameters and gradients behind :class:`fusestep._lbfgs.Run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusestep import _native
from fusestep._history import Gram, Numbers
from fusestep._lbfgs import Options, Run
from fusestep._stats import count_native, count_torch
from fusestep.optim._fused import FusedStep, mark_changed

_COMPUTED_IN = {
    dtype: torch.view_as_real(torch.empty(0, dtype=dtype)).dtype if dtype.is_complex else dtype
    for dtype in (
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.complex64,
        torch.complex128,
    )
}


class LBFGS(FusedStep, torch.optim.LBFGS):
    """L-BFGS, with or without a strong Wolfe line search. Source: :class:`torch.optim.LBFGS`.

    The two-loop recursion works on scalar products, in double, so that an iteration reads the history
    twice. Departures: a pickled or copied optimizer can go on, a ``history_size`` may be changed between
    steps, and after a closure that raises the state still fits the parameters.
    """

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Perform up to ``max_iter`` iterations.

        Args:
            closure: Clears the gradients, computes the loss and its gradients, and returns the loss.
                Called several times, with gradients enabled.

        Returns:
            What ``closure`` returned the first time.

        Raises:
            RuntimeError: ``line_search_fn`` is something else than None or ``"strong_wolfe"``.
        """
        if torch.compiler.is_compiling():
            return self._torch_step(closure)
        with torch.no_grad():
            if len(self.param_groups) != 1:
                raise AssertionError(f"expected one parameter group, got {len(self.param_groups)}")
            space = _Space(self.param_groups[0]["params"], closure)
            why = space.why_torch()
            if why is None:
                try:
                    Run(space, self.state[space.params[0]], self._options(), self._products()).run()
                    count_native("lbfgs")
                    return space.first_loss
                except _native.Unsupported as unsupported:
                    if space.has_moved:
                        raise
                    why = str(unsupported)
            count_torch("lbfgs", why)
            return self._torch_step(space.closure_again)

    def _options(self) -> Options:
        group = self.param_groups[0]
        lr = group["lr"]
        if isinstance(lr, Tensor):  # a scheduler may write to it, and the state keeps what was used
            lr = lr.detach().clone().reshape(())
        return Options(lr, *(group[name] for name in Options._fields[1:]))

    def _products(self) -> Gram:
        if not hasattr(self, "_gram"):
            self._gram = Gram()
        return self._gram

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # torch keeps these outside of what it pickles.
        self._params = self.param_groups[0]["params"]
        self._numel_cache = None


class _Space:
    def __init__(self, params: list[Tensor], closure: Callable[[], Any]) -> None:
        self.params = params
        self.first_loss: Any = None
        self.has_moved = False
        self._closure = closure
        self._evaluated = False
        self._replayed = False

    def why_torch(self) -> str | None:
        if torch._C._len_torch_dispatch_stack():
            return "dispatch mode"
        for param in self.params:
            if type(param) not in (Tensor, torch.nn.Parameter):
                return f"{type(param).__name__} parameter"
            if param.layout is not torch.strided or param.dtype not in _COMPUTED_IN:
                return f"{param.dtype} parameter, {param.layout}"
            if param.is_conj() or param.is_neg():
                return "conjugated or negated parameter"
        if len({param.device for param in self.params}) > 1:
            return "parameters on several devices"
        return None

    def closure_again(self) -> Any:
        """For torch's step: the first call has been made already, if ours got as far as that."""
        if self._evaluated and not self._replayed:
            self._replayed = True
            return self.first_loss
        return self._closure()

    def evaluate(self, out: Tensor | None) -> tuple[float, Tensor]:
        with torch.enable_grad():
            loss = self._closure()
        if not self._evaluated:
            self.first_loss = loss
            self._evaluated = True
        return float(loss), torch.cat([_flat_grad(param) for param in self.params], out=out)

    def save(self, into: list[Tensor] | None) -> list[Tensor]:
        views = self._views()
        if into is None:
            return [view.clone() for view in views]
        for copy, view in zip(into, views, strict=True):
            copy.copy_(view)
        return into

    def move(self, start: list[Tensor] | None, t: float, d: Tensor) -> None:
        views = self._views()
        calls, at = [], 0
        for view, before in zip(views, start or views, strict=True):
            calls.append((view, (1.0, t), (before, d[at : at + view.numel()])))
            at += view.numel()
        _native.combine(calls)
        self.has_moved = True
        mark_changed(self.params)

    def _views(self) -> list[Tensor]:
        return [torch.view_as_real(p) if p.is_complex() else p for p in self.params]

    def empty(self, like: Tensor) -> Tensor:
        return torch.empty_like(like)

    def sign(self, vector: Tensor) -> Tensor:
        return vector.sign()

    def largest(self, vector: Tensor) -> float:
        low, high = vector.aminmax()
        return float(torch.maximum(-low, high))

    def dots(self, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Numbers:
        shape = (len(rows), len(columns))
        if rows[0].is_cuda:
            result = torch.empty(shape, dtype=torch.float64, device=rows[0].device)
            _native.dots(rows, columns, result)
            return result.cpu().numpy()
        numbers = np.empty(shape)
        _native.dots(rows, columns, numbers)
        return numbers

    def scalars(self, values: Sequence[float] | Numbers, like: Tensor) -> list[Tensor]:
        return list(torch.tensor(values, dtype=like.dtype, device=like.device).unbind())

    def rounded(self, value: float, like: Tensor) -> float:
        return float(torch.tensor(value, dtype=like.dtype))

    def version(self, vector: Tensor) -> int:
        return 0 if vector.is_inference() else vector._version


def _flat_grad(param: Tensor) -> Tensor:
    grad = param.grad
    if grad is None:
        grad = torch.zeros(param.numel(), dtype=param.dtype, device=param.device)
    elif grad.is_sparse:
        grad = grad.to_dense()
    return (torch.view_as_real(grad) if grad.is_complex() else grad).reshape(-1)
