"""Losses that torch does not have, or not with these options, as their definitions say it.

Written for float64 and moderate numbers: what the kernels are judged by, not how they should be written.
"""

from __future__ import annotations

import torch
import torch.nn.functional as torch_functional
from torch import Tensor
from torch.optim.optimizer import ParamsT


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return {"none": lambda: loss, "mean": loss.mean, "sum": loss.sum}[reduction]()


def log_cosh_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """cosh² = 1 + sinh²."""
    return _reduced(0.5 * torch.log1p(torch.sinh(input - target) ** 2), reduction)


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """Lin et al. 2017, equations 4 and 5, for targets that may lie between 0 and 1."""
    p = torch.sigmoid(inputs)
    entropy = torch_functional.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_target = p * targets + (1 - p) * (1 - targets)
    loss = entropy * (1 - p_target) ** gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return _reduced(loss, reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """torch's, which adds its thousands of terms one after another, in float64 with sums in pairs."""
    if input.dtype is not torch.float64 or input.shape[-1] < 1000:
        return torch_functional.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)
    rows, labels = torch.atleast_2d(input), target.reshape(-1)
    own = torch_functional.one_hot(labels, rows.shape[1]).bool()
    hinge = torch.relu(margin + rows - rows[own].unsqueeze(1)).masked_fill(own, 0) ** p
    weights = torch.ones(rows.shape[1]).to(rows) if weight is None else weight
    loss = hinge.mean(1) * weights[labels]
    return _reduced(loss.reshape(target.shape), reduction)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """torch's, of capped scores, plus for each row the weight of its label times the square of logsumexp."""
    options = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    if softcap is not None:
        input = softcap * torch.tanh(input / softcap)
    if lse_square_scale == 0:
        return torch_functional.cross_entropy(input, target, reduction=reduction, **options)  # type: ignore[arg-type]
    rows = torch_functional.cross_entropy(input, target, reduction="none", **options)  # type: ignore[arg-type]
    squares = lse_square_scale * torch.logsumexp(input, 1 if input.dim() > 1 else 0) ** 2
    if target.is_floating_point():
        return _reduced(rows + squares, reduction)
    weights = torch.ones(input.shape[1 if input.dim() > 1 else 0]).to(input) if weight is None else weight
    counts = torch.where(target == ignore_index, 0, weights[target.clamp(min=0)])
    total = rows + counts * squares
    return total.sum() / counts.sum() if reduction == "mean" else _reduced(total, reduction)


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2, line by line; the decay as AdamW rounds it."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        )

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is None:
                    continue
                g = -theta.grad if group["maximize"] else theta.grad
                m = self.state[theta].setdefault("exp_avg", torch.zeros_like(theta))
                beta1, beta2 = group["betas"]
                c = beta1 * m + (1 - beta1) * g
                theta *= 1 - group["lr"] * group["weight_decay"]
                parts = torch.view_as_real(c) if c.is_complex() else c
                sign = torch.view_as_complex(parts.sign()) if c.is_complex() else parts.sign()
                theta -= group["lr"] * sign
                m.copy_(beta2 * m + (1 - beta2) * g)
