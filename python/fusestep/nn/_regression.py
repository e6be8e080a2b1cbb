"""Losses of regression, element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from fusestep.nn import _reference
from fusestep.nn._autograd import run_torch
from fusestep.nn._elementwise import elementwise, legacy, need_tensors
from fusestep.nn._torchs import functional as torch_functional

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
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error, ``(input - target)**2``.

    Args:
        input: Predictions, shape ``(*)``, float32, float64, bfloat16 or float16.
        target: Ground truth, shape ``(*)``; other shapes are broadcast, with torch's warning.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight: Weights of the elements, of the shape of ``input``; the mean divides by their sum.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the promoted dtype.

    Raises:
        ValueError: ``reduction`` is none of the three, or the shape of ``weight`` is another.
        RuntimeError: the shapes do not broadcast, or the devices differ.

    Source: :func:`torch.nn.functional.mse_loss`.
    """
    options = {"reduction": legacy(reduction, size_average, reduce)}
    return _with_weight("mse_loss", torch_functional.mse_loss, options, input, target, weight)


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Mean absolute error, ``abs(input - target)``; the gradient at zero is zero.

    Args:
        input: Predictions, shape ``(*)``; complex ones run torch's own function.
        target: Ground truth, shape ``(*)``; other shapes are broadcast, with torch's warning.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight: Weights of the elements, of the shape of ``input``; the mean divides by their sum.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the promoted dtype.

    Raises:
        ValueError: ``reduction`` is none of the three, or the shape of ``weight`` is another.
        RuntimeError: the shapes do not broadcast, or the devices differ.

    Source: :func:`torch.nn.functional.l1_loss`.
    """
    options = {"reduction": legacy(reduction, size_average, reduce)}
    return _with_weight("l1_loss", torch_functional.l1_loss, options, input, target, weight)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Huber loss: half the square up to ``delta``, linear beyond.

    Args:
        input: Predictions, shape ``(*)``.
        target: Ground truth, shape ``(*)``; other shapes are broadcast, with torch's warning.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        delta: Where the loss changes from square to line; positive, in the unit of ``input``.
        weight: Weights of the elements, of the shape of ``input``; the mean divides by their number.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the dtype of ``input``.

    Raises:
        ValueError: ``reduction`` is none of the three, or the shape of ``weight`` is another.
        RuntimeError: ``delta`` is not positive, the shapes do not broadcast, or the devices differ.

    Source: :func:`torch.nn.functional.huber_loss`.
    """
    function: Callable[..., Tensor] = torch_functional.huber_loss
    options: dict[str, Any] = {"reduction": reduction, "delta": delta}
    if not _is_number(delta) or not delta > 0:
        return run_torch("huber_loss", "delta", partial(function, weight=weight, **options), input, target)
    return _with_weight("huber_loss", function, options, input, target, weight, (float(delta),), like=0)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """L1 loss with a square of width ``beta`` at its foot: Huber loss divided by ``beta``.

    Args:
        input: Predictions, shape ``(*)``.
        target: Ground truth, shape ``(*)``; other shapes are broadcast, with torch's warning.
        size_average: Deprecated; see ``reduction``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        beta: Where the loss changes from square to line, in the unit of ``input``; 0 is the L1 loss.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the promoted dtype.

    Raises:
        ValueError: ``reduction`` is none of the three.
        RuntimeError: ``beta`` is negative, the shapes do not broadcast, or the devices differ.

    Source: :func:`torch.nn.functional.smooth_l1_loss`.
    """
    reduction = legacy(reduction, size_average, reduce)
    reference = partial(torch_functional.smooth_l1_loss, reduction=reduction, beta=beta)
    if not _is_number(beta) or not beta >= 0:
        return run_torch("smooth_l1_loss", "beta", reference, input, target)
    return elementwise("smooth_l1_loss", reference, (input, target), reduction, (float(beta),))


def log_cosh_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Log-cosh loss, ``log(cosh(input - target))``: smooth everywhere, square near zero, linear far from it.

    Args:
        input: Predictions, shape ``(*)``.
        target: Ground truth, shape ``(*)``; other shapes are broadcast, with a warning.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the promoted dtype.

    Raises:
        ValueError: ``reduction`` is none of the three.
        TypeError: an argument is not a tensor.
        NotImplementedError: an argument is complex.
        RuntimeError: the shapes do not broadcast, or the devices differ.

    Source: none in torch. The function of ``keras.losses.LogCosh`` and ``optax.losses.log_cosh``, without
    their cancellation near zero.
    """
    need_tensors(input=input, target=target)
    if input.is_complex() or target.is_complex():
        raise NotImplementedError(f"`input` and `target` must be real, got {input.dtype} and {target.dtype}")
    reference = partial(_reference.log_cosh_loss, reduction=reduction)
    return elementwise("log_cosh_loss", reference, (input, target), reduction)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of counts under a Poisson distribution.

    Args:
        input: Expected counts, or their logarithms with ``log_input``, shape ``(*)``.
        target: Counts, broadcast against ``input``.
        log_input: The loss is ``exp(input) - target * input``; else ``input - target * log(input + eps)``.
        full: Add Stirling's approximation of ``log(target!)``, where ``target > 1``.
        size_average: Deprecated; see ``reduction``.
        eps: Keeps the logarithm finite without ``log_input``.
        reduce: Deprecated; see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the promoted dtype.

    Raises:
        ValueError: ``reduction`` is none of the three.
        RuntimeError: the shapes do not broadcast, or the devices differ.

    Source: :func:`torch.nn.functional.poisson_nll_loss`.
    """
    reduction = legacy(reduction, size_average, reduce)
    reference = partial(
        torch_functional.poisson_nll_loss, log_input=log_input, full=full, eps=eps, reduction=reduction
    )
    hyper = (float(log_input), float(full), float(eps))
    return elementwise("poisson_nll_loss", reference, (input, target), reduction, hyper, shapes="broadcast")


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood under a normal distribution, ``(log(var) + (input - target)**2 / var) / 2``.

    Args:
        input: Means, shape ``(*)``.
        target: Observations, broadcast against ``input``.
        var: Variances, at least 0: the shape of ``input``, or with a last size of 1, or without it, or a
            float. Values below ``eps`` count as ``eps``; the caller's tensor is not changed.
        full: Add ``log(2 pi) / 2``.
        eps: Smallest variance.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the broadcast shape for ``"none"``, in the promoted dtype.

    Raises:
        ValueError: a variance is negative or of incorrect size, or ``reduction`` is none of the three.
        RuntimeError: the shapes do not broadcast, or the devices differ.

    Source: :func:`torch.nn.functional.gaussian_nll_loss`.
    """
    reference = partial(torch_functional.gaussian_nll_loss, full=full, eps=eps, reduction=reduction)
    if not isinstance(input, Tensor) or not (
        isinstance(var, Tensor) or (isinstance(var, float) and var >= 0)
    ):
        return run_torch("gaussian_nll_loss", "not a tensor", reference, input, target, var)
    if isinstance(var, float):
        var = input.new_full((), var).expand_as(input)
    elif var.shape != input.shape:
        if input.shape[:-1] == var.shape:
            var = var.unsqueeze(-1)
        elif (
            input.dim() != var.dim()
            or sum(v for n, v in zip(input.shape, var.shape, strict=True) if n != v) != 1
        ):
            return run_torch("gaussian_nll_loss", "size of var", reference, input, target, var)
    if not all(isinstance(t, Tensor) and t.is_floating_point() for t in (target, var)):
        return run_torch("gaussian_nll_loss", "dtype", reference, input, target, var)
    return elementwise(
        "gaussian_nll_loss",
        reference,
        (input, target, var),
        reduction,
        (float(full), float(eps)),
        shapes="broadcast",
        autocast=False,
    )


def _with_weight(
    op: str,
    function: Callable[..., Tensor],
    options: dict[str, Any],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    hyper: tuple[float, ...] = (),
    like: int | None = None,
) -> Tensor:
    """The loss that torch's ``function`` is, with its ``options``."""
    operands, reduction = (input, target), options["reduction"]
    if weight is None:
        reference = partial(function, **options)
        return elementwise(op, reference, operands, reduction, hyper, like=like, stacklevel=4)

    def weighted(input: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return function(input, target, weight=weight, **options)

    if not isinstance(weight, Tensor) or not isinstance(input, Tensor) or weight.shape != input.shape:
        return run_torch(op, "shape of the weight", weighted, *operands, weight)
    # torch composes a weighted loss of operations that autocast leaves alone, but for the Huber loss itself.
    return elementwise(
        op, weighted, operands, reduction, hyper, like=like, autocast=like is not None, weight=weight
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))
