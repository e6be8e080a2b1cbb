"""What every dense optimizer of ours can do in the same pass, and torch's cannot: options off by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULTS: dict[str, Any] = {"max_grad_norm": None, "ema_decay": None, "rounding": "nearest"}
ROUNDINGS = ("nearest", "stochastic", "kahan")

# The keys of their states.
AVERAGE, LOST = "ema", "compensation"

DOCUMENTATION = """
    Beside the arguments of torch, by keyword:

    Args:
        max_grad_norm: Clip the gradients of all groups together to this norm, as
            :func:`torch.nn.utils.clip_grad_norm_` before the step would; ``last_grad_norm`` is the norm
            they had. ``grad`` itself is left as it is.
        ema_decay: Keep a moving average of the parameters, ``ema ← decay·ema + (1−decay)·p``, from a copy
            after the first step; see :meth:`swap_ema`. It is in float32 for 16-bit parameters.
        rounding: How 16-bit parameters are stored: ``"nearest"``; ``"stochastic"``, up or down at random so
            that the mean is right; or ``"kahan"``, to the nearest with what was lost kept as a state.

    Raises:
        ValueError: one of them is out of range.
"""


class Extras(NamedTuple):
    """The options of a parameter group as the native step takes them."""

    max_norm: float  # 0 if gradients are not clipped
    decay: float
    average: str | None  # the state that keeps it
    lost: str | None
    rounding: str


def check(options: Mapping[str, Any]) -> None:
    """Refuse what is out of range. A NaN fails every comparison."""
    norm = options.get("max_grad_norm")
    if norm is not None and not norm > 0:
        raise ValueError(f"Invalid max_grad_norm value: {norm}, expected a positive number or None")
    decay = options.get("ema_decay")
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(f"Invalid ema_decay value: {decay}, expected 0 <= ema_decay < 1 or None")
    rounding = options.get("rounding", "nearest")
    if rounding not in ROUNDINGS:
        raise ValueError(f"Invalid rounding value: {rounding!r}, expected one of {ROUNDINGS}")


def asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are not off. Only these are kept, so that groups look like torch's."""
    check(options)
    return {key: options[key] for key, default in DEFAULTS.items() if options.get(key, default) != default}


def extras_of(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> Extras | None:
    """What a parameter group asks for, or its optimizer if a checkpoint of torch has replaced its options."""
    if not any(key in group or key in defaults for key in DEFAULTS):
        return None
    values = {key: group.get(key, defaults.get(key, default)) for key, default in DEFAULTS.items()}
    if values == DEFAULTS:
        return None
    check(values)  # a group is a dictionary that anybody may change
    norm, decay, rounding = values["max_grad_norm"], values["ema_decay"], values["rounding"]
    return Extras(
        0.0 if norm is None else float(norm),
        0.0 if decay is None else float(decay),
        None if decay is None else AVERAGE,
        LOST if rounding == "kahan" else None,
        rounding,
    )
