"""One class per rule. Each is torch's own class with another ``step``: constructor, defaults, validation,
state keys and checkpoints are inherited, so they cannot differ."""

from __future__ import annotations

from typing import Any

import torch

from fusestep._rules import Rule
from fusestep.optim import _lion
from fusestep.optim._dense import DenseStep
from fusestep.optim._sparse import SparseStep

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
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
]


class SGD(DenseStep, torch.optim.SGD):
    """Gradient descent, with momentum, dampening and Nesterov. Source: :class:`torch.optim.SGD`."""

    _rule = Rule("sgd")
    _takes_sparse = True

    def _make_states(self, group: dict[str, Any], params: list[torch.Tensor]) -> None:
        # torch makes this buffer inside its update, as a copy of the first gradient; the kernel fills it.
        for param in params:
            state = self.state[param]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(param.grad)  # type: ignore[arg-type]


class Adagrad(DenseStep, torch.optim.Adagrad):
    """Adagrad. Source: :class:`torch.optim.Adagrad`."""

    _rule = Rule("adagrad")
    _takes_sparse = True


class RMSprop(DenseStep, torch.optim.RMSprop):
    """RMSprop, centered or not, with momentum. Source: :class:`torch.optim.RMSprop`.

    One departure: the centered variance is clamped at zero, where torch's rounds to a negative number
    under constant gradients and turns the parameter into NaN.
    """

    _rule = Rule("rmsprop")


class Adadelta(DenseStep, torch.optim.Adadelta):
    """Adadelta. Source: :class:`torch.optim.Adadelta`."""

    _rule = Rule("adadelta")


class Adam(DenseStep, torch.optim.Adam):
    """Adam, with AMSGrad and decoupled weight decay as options. Source: :class:`torch.optim.Adam`."""

    _rule = Rule("adam")


class AdamW(Adam, torch.optim.AdamW):
    """Adam with decoupled weight decay. Source: :class:`torch.optim.AdamW`."""


class Adamax(DenseStep, torch.optim.Adamax):
    """Adam with the infinity norm. Source: :class:`torch.optim.Adamax`."""

    _rule = Rule("adamax")


class NAdam(DenseStep, torch.optim.NAdam):
    """Adam with Nesterov momentum. Source: :class:`torch.optim.NAdam`."""

    _rule = Rule("nadam")


class RAdam(DenseStep, torch.optim.RAdam):
    """Adam with a rectified adaptive step. Source: :class:`torch.optim.RAdam`."""

    _rule = Rule("radam")


class ASGD(DenseStep, torch.optim.ASGD):
    """Averaged stochastic gradient descent. Source: :class:`torch.optim.ASGD`."""

    _rule = Rule("asgd")


class Rprop(DenseStep, torch.optim.Rprop):
    """Resilient backpropagation, for full batches. Source: :class:`torch.optim.Rprop`."""

    _rule = Rule("rprop")


class Lion(DenseStep, _lion.Lion):
    """The sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2).

    torch has no such optimizer; arguments and states are named as in :class:`torch.optim.AdamW`.
    """

    _rule = Rule("lion")


class SparseAdam(SparseStep, torch.optim.SparseAdam):
    """Adam for the rows that a sparse gradient has. Source: :class:`torch.optim.SparseAdam`."""

    _rule = Rule("sparse_adam")
