"""Write the table of ops in README.md from the registry."""

from pathlib import Path

import torch

import fusestep.nn as nn
import fusestep.nn.functional as F
from fusestep import _native, optim

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- ops: written by `make docs` -->\n", "<!-- /ops -->"
DTYPES = "float32, float64, bfloat16, float16"


def native_rows() -> list[str]:
    """A row for each op of the registry."""
    rows = []
    for op, info in _native.ops().items():
        if info["shape"] == "update":
            rules = {name: getattr(getattr(optim, name), "_rule", None) for name in optim.KERNELS}
            classes = [name for name, rule in rules.items() if rule is not None and rule.op == op]
            in_torch, in_numpy = ([f"`{where}{name}`" for name in classes] for where in ("optim.", ""))
        elif op in F.KERNELS:
            in_torch, in_numpy = [f"`nn.{info['class_name']}`", f"`F.{op}`"], [f"`{op}`"]
        elif op.endswith("_backward"):
            in_torch, in_numpy = [f"the gradient of `F.{op.removesuffix('_backward')}`"], [f"`{op}`"]
        else:  # a variant of a loss, for targets of another kind
            name = op.removeprefix("soft_")
            in_torch, in_numpy = [f"`F.{name}` with probabilities"], [f"`{name}`"]
        rows.append(f"| {op} | {', '.join(in_torch)} | {', '.join(in_numpy)} | {DTYPES} | yes | emulated |")
    # Kernels on vectors, not a formula of the registry.
    return [*rows, f"| lbfgs | `optim.LBFGS` | `LBFGS` | {DTYPES} | yes | emulated |"]


def torchs_rows() -> list[str]:
    """A row for each loss of torch that has no kernel here, and resolves to torch's own."""
    losses = torch.nn.modules.loss
    classes = [name for name in losses.__all__ if name not in nn.KERNELS and hasattr(torch.nn, name)]
    return [f"| {name} | `nn.{name}` | | | torch's own | torch's own |" for name in sorted(classes)]


def generate(text: str) -> str:
    """README's text with the table renewed."""
    head, rest = text.split(BEGIN)
    rows = ["| op | in torch | in NumPy | dtypes | CPU | CUDA |", "|---|---|---|---|---|---|"]
    table = [*rows, *native_rows(), *torchs_rows()]
    return head + BEGIN + "\n".join(table) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(generate(README.read_text()))
