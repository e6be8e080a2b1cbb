"""Losses of regression on NumPy arrays."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from fusestep.numpy._run import WithGrad, elementwise

__all__ = [
    "gaussian_nll_loss",
    "huber_loss",
    "l1_loss",
    "log_cosh_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
]


def mse_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
    with_grad: WithGrad = True,
) -> Any:
    """Mean squared error, ``(input - target)**2``.

    Args:
        input: Predictions, shape ``(*)``, floating point.
        target: Ground truth, of the same shape; nothing is broadcast.
        weight: Weights of the elements, broadcast to that shape; the mean divides by their sum.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.mse_loss`.
    """
    return elementwise("mse_loss", (input, target), reduction, with_grad, weight=weight)


def l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
    with_grad: WithGrad = True,
) -> Any:
    """Mean absolute error, ``abs(input - target)``; the gradient at zero is zero.

    Args:
        input: Predictions, shape ``(*)``, floating point.
        target: Ground truth, of the same shape; nothing is broadcast.
        weight: Weights of the elements, broadcast to that shape; the mean divides by their sum.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.l1_loss`.
    """
    return elementwise("l1_loss", (input, target), reduction, with_grad, weight=weight)


def smooth_l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    beta: float = 1.0,
    with_grad: WithGrad = True,
) -> Any:
    """L1 loss with a square of width ``beta`` at its foot.

    Args:
        input: Predictions, shape ``(*)``, floating point.
        target: Ground truth, of the same shape; nothing is broadcast.
        beta: Where the loss changes from square to line, in the unit of ``input``; 0 is the L1 loss.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, ``beta`` is negative, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.smooth_l1_loss`.
    """
    if not beta >= 0:
        raise ValueError(f"`beta` must be at least 0, got {beta}")
    return elementwise("smooth_l1_loss", (input, target), reduction, with_grad, (float(beta),))


def huber_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: ArrayLike | None = None,
    with_grad: WithGrad = True,
) -> Any:
    """Huber loss: half the square up to ``delta``, linear beyond.

    Args:
        input: Predictions, shape ``(*)``, floating point.
        target: Ground truth, of the same shape; nothing is broadcast.
        delta: Where the loss changes from square to line; positive, in the unit of ``input``.
        weight: Weights of the elements, broadcast to that shape; the mean divides by their number.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, ``delta`` is not positive, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.huber_loss`.
    """
    if not delta > 0:
        raise ValueError(f"`delta` must be positive, got {delta}")
    return elementwise("huber_loss", (input, target), reduction, with_grad, (float(delta),), weight=weight)


def log_cosh_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    with_grad: WithGrad = True,
) -> Any:
    """Log-cosh loss, ``log(cosh(input - target))``, without cancellation near zero.

    Args:
        input: Predictions, shape ``(*)``, floating point.
        target: Ground truth, of the same shape; nothing is broadcast.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the three.

    Source: :func:`fusestep.nn.functional.log_cosh_loss`.
    """
    return elementwise("log_cosh_loss", (input, target), reduction, with_grad)


def poisson_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
    with_grad: WithGrad = True,
) -> Any:
    """Negative log-likelihood of counts under a Poisson distribution.

    Args:
        input: Expected counts, or their logarithms with ``log_input``, shape ``(*)``, floating point.
        target: Counts, of the same shape.
        log_input: The loss is ``exp(input) - target * input``; else ``input - target * log(input + eps)``.
        full: Add Stirling's approximation of ``log(target!)``, where ``target > 1``.
        eps: Keeps the logarithm finite without ``log_input``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.poisson_nll_loss`.
    """
    hyper = (float(log_input), float(full), float(eps))
    return elementwise("poisson_nll_loss", (input, target), reduction, with_grad, hyper)


def gaussian_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    var: ArrayLike,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
    with_grad: WithGrad = True,
) -> Any:
    """Negative log-likelihood under a normal distribution, ``(log(var) + (input - target)**2 / var) / 2``.

    Args:
        input: Means, shape ``(*)``, floating point.
        target: Observations, of the same shape.
        var: Variances, at least 0, broadcast to that shape; those below ``eps`` count as ``eps``.
        full: Add ``log(2 pi) / 2``.
        eps: Smallest variance.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        with_grad: What to return gradients of; see :mod:`fusestep.numpy`.

    Returns:
        ``(loss, grad, …)``, or ``loss`` alone; see :mod:`fusestep.numpy`.

    Raises:
        TypeError: an argument is not an array of a supported dtype.
        ValueError: the shapes differ, a variance is negative, or ``reduction`` is none of the three.

    Source: :func:`torch.nn.functional.gaussian_nll_loss`.
    """
    hyper = (float(full), float(eps))
    return elementwise("gaussian_nll_loss", (input, target, var), reduction, with_grad, hyper)
