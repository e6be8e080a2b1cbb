"""What there is, from the registry: for tables and for checks of every op. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fusestep import _native

DTYPES = ("float32", "float64", "bfloat16", "float16")

# What the operands of a loss hold, for samples of them; two of any real numbers where nothing is said.
OPERANDS = {
    "binary_cross_entropy": ("probability", "probability"),
    "binary_cross_entropy_with_logits": ("real", "probability"),
    "sigmoid_focal_loss": ("real", "probability"),
    "kl_div": ("real", "probability"),
    "poisson_nll_loss": ("positive", "count"),
    "gaussian_nll_loss": ("real", "real", "positive"),
    "soft_margin_loss": ("real", "sign"),
    "hinge_embedding_loss": ("real", "sign"),
    "margin_ranking_loss": ("real", "real", "sign"),
    "soft_cross_entropy": ("real", "distribution"),
}


@dataclass(frozen=True)
class Op:
    """An op of the registry, and the names it is reached by."""

    name: str
    kind: str  # "loss", "softmax", "gradient" or "optimizer"
    in_torch: tuple[str, ...]  # nn.…, F.…, optim.…
    in_numpy: tuple[str, ...]
    states: tuple[str, ...]

    @property
    def function(self) -> str:
        """Of ``fusestep.nn.functional`` and ``fusestep.numpy``, for a loss or softmax."""
        return self.in_numpy[0]

    @property
    def operands(self) -> tuple[str, ...]:
        """Kinds of what a loss takes."""
        labels = ("real", "label") if _native.ops()[self.name]["shape"] == "rowwise" else ("real", "real")
        return OPERANDS.get(self.name, labels)


def _optimizers(op: str) -> tuple[str, ...]:
    """Classes that follow a rule; two may share one."""
    from fusestep.numpy import optim

    rules = {name: getattr(getattr(optim, name), "_rule", None) for name in optim.__all__}
    return tuple(name for name, rule in rules.items() if rule is not None and rule.op == op)


def _op(name: str, info: dict[str, Any]) -> Op:
    from fusestep.numpy import losses

    if info["shape"] == "update":
        classes = _optimizers(name)
        return Op(name, "optimizer", tuple(f"optim.{c}" for c in classes), classes, info["states"])
    if name.endswith("_backward"):
        return Op(name, "gradient", (f"F.{name.removesuffix('_backward')}",), (name,), ())
    if name not in losses.__all__:  # of a loss that has another kernel for targets of another kind
        function = name.removeprefix("soft_")
        return Op(name, "loss", (f"F.{function}",), (function,), ())
    kind = "loss" if len(info["operands"]) > 1 else "softmax"
    return Op(name, kind, (f"nn.{info['class_name']}", f"F.{name}"), (name,), ())


def catalog() -> list[Op]:
    """Every op of the registry, in its order."""
    return [_op(name, info) for name, info in _native.ops().items()]
