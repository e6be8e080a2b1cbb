"""What torch has no function for, composed of its differentiable operations.

Used where the kernels cannot go: double backward, vmap, forward-mode AD, meta and fake tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusestep.nn._torchs import functional as torch_functional


def reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def log_cosh_loss(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    """log cosh d: log1p(2 sinh²(d/2)) near zero and |d| + log1p(exp(−2|d|)) − log 2 far from it.

    Each is kept away from the other's elements, where its derivative would be NaN.
    """
    d = input - target
    near = d.abs() < 1
    small = d.masked_fill(~near, 0)
    large = d.masked_fill(near, 1).abs()
    close = torch.log1p(2 * torch.sinh(small / 2).square())
    return reduce(
        torch.where(near, close, large + torch.log1p(torch.exp(-2 * large)) - math.log(2)), reduction
    )


def sigmoid_focal_loss(input: Tensor, target: Tensor, alpha: float, gamma: float, reduction: str) -> Tensor:
    """As torchvision.ops.sigmoid_focal_loss."""
    p, rest = torch.sigmoid(input), torch.sigmoid(-input)
    bce = torch_functional.binary_cross_entropy_with_logits(input, target, reduction="none")
    loss = bce * (p * (1 - target) + rest * target) ** gamma
    if alpha >= 0:
        loss = (alpha * target + (1 - alpha) * (1 - target)) * loss
    return reduce(loss, reduction)


def multi_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None, p: int, margin: float, reduction: str
) -> Tensor:
    """torch's own cannot be differentiated twice."""
    scores, labels = input.reshape(-1, input.shape[-1]), target.reshape(-1, 1)
    hinge = (margin - scores.gather(1, labels) + scores).clamp(min=0) ** p
    loss = hinge.scatter(1, labels, 0).sum(1) / scores.shape[1]
    if weight is not None:
        loss = loss * weight[labels.squeeze(1)]
    return reduce(loss if input.dim() > 1 else loss.squeeze(0), reduction)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    lse_square_scale: float,
    softcap: float,
) -> Tensor:
    """torch's cross_entropy of the capped scores, plus ``lse_square_scale * logsumexp²`` for each row."""
    if softcap > 0:
        input = softcap * torch.tanh(input / softcap)
    dim = 1 if input.dim() > 1 else 0
    loss = torch_functional.cross_entropy(
        input, target, weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none"
    )
    square = lse_square_scale * torch.logsumexp(input, dim).square()
    if target.is_floating_point():
        return reduce(loss + square, reduction)
    target = target.reshape(loss.shape).long()
    kept = target != ignore_index
    labels = torch.where(kept, target, 0)
    row_weight = kept.to(loss.dtype) if weight is None else torch.where(kept, weight[labels], 0)
    loss = loss + row_weight * square
    return loss.sum() / row_weight.sum() if reduction == "mean" else reduce(loss, reduction)
