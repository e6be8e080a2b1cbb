"""Loss modules. Each is torch's own class with another ``forward``: arguments, attributes, ``repr`` and
``state_dict`` are inherited, so they cannot differ. The few that torch does not have are at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from fusestep.nn import functional as F

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LogCoshLoss",
    "LogSoftmax",
    "MSELoss",
    "MarginRankingLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "Softmax",
]


class MSELoss(torch.nn.MSELoss):
    """Mean squared error; see :func:`fusestep.nn.functional.mse_loss`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.MSELoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(torch.nn.L1Loss):
    """Mean absolute error; see :func:`fusestep.nn.functional.l1_loss`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.L1Loss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(torch.nn.SmoothL1Loss):
    """L1 loss with a square foot of width ``beta``; see :func:`fusestep.nn.functional.smooth_l1_loss`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.SmoothL1Loss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(torch.nn.HuberLoss):
    """Huber loss; see :func:`fusestep.nn.functional.huber_loss`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.HuberLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class BCELoss(torch.nn.BCELoss):
    """Binary cross-entropy of probabilities; see :func:`fusestep.nn.functional.binary_cross_entropy`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.BCELoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """Binary cross-entropy of logits; see :func:`fusestep.nn.functional.binary_cross_entropy_with_logits`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.BCEWithLogitsLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class KLDivLoss(torch.nn.KLDivLoss):
    """Kullback-Leibler divergence; see :func:`fusestep.nn.functional.kl_div`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.KLDivLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class PoissonNLLLoss(torch.nn.PoissonNLLLoss):
    """Likelihood of counts; see :func:`fusestep.nn.functional.poisson_nll_loss`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.PoissonNLLLoss`.
    """

    def forward(self, log_input: Tensor, target: Tensor) -> Tensor:
        return F.poisson_nll_loss(
            log_input,
            target,
            log_input=self.log_input,
            full=self.full,
            eps=self.eps,
            reduction=self.reduction,
        )


class GaussianNLLLoss(torch.nn.GaussianNLLLoss):
    """Likelihood of normal observations; see :func:`fusestep.nn.functional.gaussian_nll_loss`.

    Shape: input, target and var ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.GaussianNLLLoss`.
    """

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)


class SoftMarginLoss(torch.nn.SoftMarginLoss):
    """Logistic loss of labels 1 and -1; see :func:`fusestep.nn.functional.soft_margin_loss`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.SoftMarginLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.soft_margin_loss(input, target, reduction=self.reduction)


class HingeEmbeddingLoss(torch.nn.HingeEmbeddingLoss):
    """Hinge loss of distances; see :func:`fusestep.nn.functional.hinge_embedding_loss`.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.HingeEmbeddingLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class MarginRankingLoss(torch.nn.MarginRankingLoss):
    """Hinge loss of a ranking; see :func:`fusestep.nn.functional.margin_ranking_loss`.

    Shape: input1, input2 and target ``(*)``; output a scalar, or ``(*)`` for
    ``reduction="none"``. Source: :class:`torch.nn.MarginRankingLoss`.
    """

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return F.margin_ranking_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class NLLLoss(torch.nn.NLLLoss):
    """Negative log-likelihood of labels; see :func:`fusestep.nn.functional.nll_loss`.

    Shape: input ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``; target the same without ``C``; output a
    scalar, or the shape of the target for ``reduction="none"``. Source: :class:`torch.nn.NLLLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )


class MultiMarginLoss(torch.nn.MultiMarginLoss):
    """Multi-class hinge loss; see :func:`fusestep.nn.functional.multi_margin_loss`.

    Shape: input ``(C)`` or ``(N, C)``, target ``()`` or ``(N)``; output a scalar, or the shape of the
    target for ``reduction="none"``. Source: :class:`torch.nn.MultiMarginLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.multi_margin_loss(
            input, target, p=self.p, margin=self.margin, weight=self.weight, reduction=self.reduction
        )


class Softmax(torch.nn.Softmax):
    """``softmax`` along ``dim``; see :func:`fusestep.nn.functional.softmax`.

    Shape: any; output of the same. Source: :class:`torch.nn.Softmax`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(torch.nn.LogSoftmax):
    """``log_softmax`` along ``dim``; see :func:`fusestep.nn.functional.log_softmax`.

    Shape: any; output of the same. Source: :class:`torch.nn.LogSoftmax`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim, _stacklevel=5)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """Cross-entropy between logits and labels or probabilities; see
    :func:`fusestep.nn.functional.cross_entropy`, also for the two arguments that torch does not have.

    Shape: input ``(C)``, ``(N, C)`` or ``(N, C, d1, …)``; target the same without ``C``, or with it for
    probabilities; output a scalar, or the shape of the labels for ``reduction="none"``. Source:
    :class:`torch.nn.CrossEntropyLoss`.
    """

    lse_square_scale: float = 0.0
    softcap: float | None = None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        lse_square_scale: float = 0.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.lse_square_scale = lse_square_scale
        self.softcap = softcap

    def extra_repr(self) -> str:
        options = {"lse_square_scale": self.lse_square_scale, "softcap": self.softcap}
        return ", ".join(f"{name}={value}" for name, value in options.items() if value)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            lse_square_scale=self.lse_square_scale,
            softcap=self.softcap,
        )


class LogCoshLoss(torch.nn.modules.loss._Loss):
    """Log-cosh loss; see :func:`fusestep.nn.functional.log_cosh_loss`.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape: input and target ``(*)``; output a scalar, or ``(*)`` for ``reduction="none"``. Source: none in
    torch.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.log_cosh_loss(input, target, reduction=self.reduction)


class SigmoidFocalLoss(torch.nn.modules.loss._Loss):
    """Focal loss of logits; see :func:`fusestep.nn.functional.sigmoid_focal_loss`.

    Args:
        alpha: Weight of the positive part in [0, 1]; -1 for none.
        gamma: Strength of the focus, at least 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape: inputs and targets ``(*)``; output ``(*)``, or a scalar unless ``reduction="none"``. Source:
    ``torchvision.ops.sigmoid_focal_loss``, which has no module.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2, reduction: str = "none") -> None:
        super().__init__(reduction=reduction)
        self.alpha = alpha
        self.gamma = gamma

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, gamma={self.gamma}"

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.sigmoid_focal_loss(inputs, targets, self.alpha, self.gamma, self.reduction)
