"""Loss modules. Each is torch's own class with another ``forward``: arguments, attributes, ``repr`` and
``state_dict`` are inherited, so they cannot differ."""

from __future__ import annotations

import torch
from torch import Tensor

from fusestep.nn import functional as F

__all__ = ["CrossEntropyLoss", "MSELoss"]


class MSELoss(torch.nn.MSELoss):
    """Mean squared error; see :func:`fusestep.nn.functional.mse_loss`.

    Shape: input and target ``(*)``, of the same shape; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.MSELoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """Cross-entropy between logits and labels; see :func:`fusestep.nn.functional.cross_entropy`.

    Shape: input ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``; target the same without ``C``; output a
    scalar, or the shape of the target for ``reduction="none"``. Source: :class:`torch.nn.CrossEntropyLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
