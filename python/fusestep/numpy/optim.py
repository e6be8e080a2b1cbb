"""Optimizers that update NumPy arrays in place, with the arguments and the state layout of torch's.

Every one but SparseAdam also takes, by keyword, ``max_grad_norm``, ``ema_decay`` and ``rounding``, as the
optimizers of :mod:`fusestep.optim` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fusestep._extras import Extras
from fusestep._rules import Rule
from fusestep.numpy._arrays import Array, as_array
from fusestep.numpy._optimizer import Optimizer

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
]

Params = Iterable[Array] | Iterable[dict[str, Any]]


def _options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options among the arguments of a constructor."""
    others = ("self", "__class__", "params", "extras")
    return {name: value for name, value in arguments.items() if name not in others}


class SGD(Optimizer):
    """Gradient descent, with momentum, dampening and Nesterov. Source: ``torch.optim.SGD``."""

    _rule = Rule("sgd")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class Adagrad(Optimizer):
    """Adagrad. Source: ``torch.optim.Adagrad``."""

    _rule = Rule("adagrad")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class RMSprop(Optimizer):
    """RMSprop, centered or not, with momentum. Source: ``torch.optim.RMSprop``."""

    _rule = Rule("rmsprop")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class Adadelta(Optimizer):
    """Adadelta. Source: ``torch.optim.Adadelta``."""

    _rule = Rule("adadelta")

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class Adam(Optimizer):
    """Adam, with AMSGrad and decoupled weight decay as options. Source: ``torch.optim.Adam``."""

    _rule = Rule("adam")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class AdamW(Adam):
    """Adam with decoupled weight decay. Source: ``torch.optim.AdamW``."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
            **extras,
        )


class Adamax(Optimizer):
    """Adam with the infinity norm. Source: ``torch.optim.Adamax``."""

    _rule = Rule("adamax")

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class NAdam(Optimizer):
    """Adam with Nesterov momentum. Source: ``torch.optim.NAdam``."""

    _rule = Rule("nadam")

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class RAdam(Optimizer):
    """Adam with a rectified adaptive step. Source: ``torch.optim.RAdam``."""

    _rule = Rule("radam")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class ASGD(Optimizer):
    """Averaged stochastic gradient descent. Source: ``torch.optim.ASGD``."""

    _rule = Rule("asgd")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class Rprop(Optimizer):
    """Resilient backpropagation, for full batches. Source: ``torch.optim.Rprop``."""

    _rule = Rule("rprop")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class Lion(Optimizer):
    """The sign of an interpolated momentum. Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2."""

    _rule = Rule("lion")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **extras: Any,
    ) -> None:
        super().__init__(params, _options(locals()), extras)


class SparseAdam(Optimizer):
    """Adam for the rows that a gradient has. Source: ``torch.optim.SparseAdam``.

    A gradient is a tuple ``(rows, values)``: ``rows`` are numbers along the first dimension of the array,
    in any order, and ``values`` has their gradients, of shape ``(len(rows), *array.shape[1:])``. Rows that
    come several times are added up.
    """

    _rule = Rule("sparse_adam")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        if not lr > 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not eps > 0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        super().__init__(params, _options(locals()))

    def step(self, grads: Sequence[Any]) -> None:  # type: ignore[override]
        """Update the rows that the gradients have; all of them or, if anything is wrong with one, none.

        Args:
            grads: One tuple ``(rows, values)``, or None, per array in the order of the groups.

        Raises:
            TypeError: a gradient is no such tuple, or its values are not of a supported dtype.
            ValueError: not as many gradients as arrays, or an array has become read-only.
            IndexError: a row is out of range.
            RuntimeError: the values or a state do not have the shape that the array asks for.
        """
        super().step(grads)

    def _read_grad(self, grad: Any, param: Array) -> tuple[Array, Array, int]:
        if not isinstance(grad, tuple) or len(grad) != 2:
            raise TypeError(f"`grad` must be a tuple (rows, values), got {type(grad).__name__}")
        rows, values = as_array(grad[0], "rows"), as_array(grad[1], "grad")
        if rows.dtype.kind not in "iu" or rows.ndim != 1 or param.ndim == 0:
            raise TypeError(
                f"`rows` must be a vector of integers, got {rows.dtype} of shape {rows.shape} "
                f"for an array of shape {param.shape}"
            )
        if values.shape != (len(rows), *param.shape[1:]):
            raise RuntimeError(f"`grad` must have shape {(len(rows), *param.shape[1:])}, got {values.shape}")
        return rows.astype(np.int64), values, param.shape[0]

    def _make_states(
        self, param: Array, state: dict[str, Any], group: Mapping[str, Any], extras: Extras | None
    ) -> int:
        state.setdefault("step", 0)  # a Python number, as torch has it
        return super()._make_states(param, state, group, extras)
