"""One class per rule. Each is torch's own class with another ``step``: constructor, defaults, validation,
state keys and checkpoints are inherited, so they cannot differ."""

from __future__ import annotations

from typing import Any

import torch

from fusestep._rules import Rule
from fusestep.optim._fused import FusedStep

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]


class SGD(FusedStep, torch.optim.SGD):
    """Gradient descent, with momentum, dampening and Nesterov. Source: :class:`torch.optim.SGD`."""

    _rule = Rule("sgd")

    def _make_states(self, group: dict[str, Any], params: list[torch.Tensor]) -> None:
        # torch makes this buffer inside its update, as a copy of the first gradient; the kernel fills it.
        for param in params:
            state = self.state[param]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(param.grad)  # type: ignore[arg-type]


class RMSprop(FusedStep, torch.optim.RMSprop):
    """RMSprop, centered or not, with momentum. Source: :class:`torch.optim.RMSprop`.

    One departure: the centered variance is clamped at zero, where torch's rounds to a negative number
    under constant gradients and turns the parameter into NaN.
    """

    _rule = Rule("rmsprop")


class Adam(FusedStep, torch.optim.Adam):
    """Adam, with AMSGrad and decoupled weight decay as options. Source: :class:`torch.optim.Adam`."""

    _rule = Rule("adam")


class AdamW(Adam, torch.optim.AdamW):
    """Adam with decoupled weight decay. Source: :class:`torch.optim.AdamW`."""
