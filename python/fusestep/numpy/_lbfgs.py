"""L-BFGS for NumPy: the arrays behind :class:`fusestep._lbfgs.Run`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fusestep import _native
from fusestep._history import Gram, Numbers
from fusestep._lbfgs import Options, Run
from fusestep._stats import count_native
from fusestep.numpy._arrays import Array, as_array
from fusestep.numpy.optim import Optimizer

Closure = Callable[[], tuple[Any, Sequence[Array | None]]]


class LBFGS(Optimizer):
    """L-BFGS, with or without a strong Wolfe line search. Source: ``torch.optim.LBFGS``.

    There is one parameter group, and its state is that of the first array.
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[dict[str, Any]],
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        self._gram = Gram()
        super().__init__(params, defaults)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """The constructor's.

        Raises:
            ValueError: there is one already.
        """
        if self.param_groups:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        super().add_param_group(group)

    def step(self, closure: Closure) -> Any:  # type: ignore[override]
        """Perform up to ``max_iter`` iterations.

        Args:
            closure: Returns the loss and a sequence with the gradient of each array, of its shape and any
                supported dtype, or None for zeros. Called several times.

        Returns:
            The loss that ``closure`` returned the first time.

        Raises:
            TypeError: a gradient is not an array of a supported dtype.
            ValueError: not as many gradients as arrays, or an array has become read-only.
            RuntimeError: a gradient does not have the shape of its array, or ``line_search_fn`` is something
                else than None or ``"strong_wolfe"``.
        """
        group = self.param_groups[0]
        space = _Space(group["params"], closure)
        Run(space, self.state[0], Options(*(group[name] for name in Options._fields)), self._gram).run()
        count_native("lbfgs")
        return space.first_loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over states and options; arrays are copied, so the two optimizers do not share them.

        Raises:
            ValueError: the groups differ in number or length from this optimizer's.
        """
        super().load_state_dict({**state_dict, "state": {}})
        self.state[0] = {key: _copied(value) for key, value in state_dict["state"].get(0, {}).items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_gram": Gram()}


def _copied(value: Any) -> Any:
    """Lists, numbers and None stay what they are."""
    if isinstance(value, (list, tuple)):
        return [_copied(entry) for entry in value]
    return value if value is None or isinstance(value, (int, float)) else np.array(value)


class _Space:
    def __init__(self, params: list[Array], closure: Closure) -> None:
        self.params = params
        self.first_loss: Any = None
        self._closure = closure
        self._evaluated = False

    def evaluate(self, out: Array | None) -> tuple[float, Array]:
        loss, grads = self._closure()
        if not self._evaluated:
            self.first_loss = loss
            self._evaluated = True
        if len(grads) != len(self.params):
            count = len(self.params)
            raise ValueError(f"the closure must return {count} gradients, one per array; got {len(grads)}")
        if out is None:
            dtype = np.result_type(*(param.dtype for param in self.params))
            out = np.empty(sum(param.size for param in self.params), dtype)
        at = 0
        for param, given in zip(self.params, grads, strict=True):
            place = out[at : at + param.size].reshape(param.shape)
            at += param.size
            if given is None:
                place[...] = 0
                continue
            grad = as_array(given, "grad")
            if grad.dtype.kind != "f" and grad.dtype.name != "bfloat16":
                raise TypeError(f"gradients must be floating point, got {grad.dtype}")
            if grad.shape != param.shape:
                raise RuntimeError(f"a gradient has shape {grad.shape}, its array {param.shape}")
            place[...] = grad
        return float(loss), out

    def save(self, into: list[Array] | None) -> list[Array]:
        if into is None:
            return [param.copy(order="K") for param in self.params]
        for copy, param in zip(into, self.params, strict=True):
            copy[...] = param
        return into

    def move(self, start: list[Array] | None, t: float, d: Array) -> None:
        calls, at = [], 0
        for param, before in zip(self.params, start or self.params, strict=True):
            calls.append((param, (1.0, t), (before, d[at : at + param.size])))
            at += param.size
        _native.combine(calls)

    def empty(self, like: Array) -> Array:
        return np.empty_like(like)

    def sign(self, vector: Array) -> Array:
        result: Array = np.sign(vector)
        return result

    def largest(self, vector: Array) -> float:
        return float(np.maximum(vector.max(), -vector.min()))

    def dots(self, rows: Sequence[Array], columns: Sequence[Array]) -> Numbers:
        result = np.empty((len(rows), len(columns)))
        _native.dots(rows, columns, result)
        return result

    def scalars(self, values: Sequence[float] | Numbers, like: Array) -> list[Array]:
        with np.errstate(over="ignore"):
            return [np.array(value).astype(like.dtype) for value in values]

    def rounded(self, value: float, like: Array) -> float:
        return float(self.scalars([value], like)[0])

    def version(self, vector: Array) -> int:
        return 0
