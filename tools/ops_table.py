"""Write the table of ops in README.md from the registry."""

from pathlib import Path

import torch

import fusestep.nn as nn
from fusestep._catalog import DTYPES, Op, catalog

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- ops: written by `make docs` -->\n", "<!-- /ops -->"


def _in_torch(op: Op) -> str:
    names = ", ".join(f"`{name}`" for name in op.in_torch)
    if op.kind == "gradient":
        return f"the gradient of {names}"
    return names if op.name in op.in_numpy or op.kind == "optimizer" else f"{names} with probabilities"


def native_rows() -> list[str]:
    """A row for each op of the registry."""
    dtypes = ", ".join(DTYPES)
    rows = []
    for op in catalog():
        in_numpy = ", ".join(f"`{name}`" for name in op.in_numpy)
        rows.append(f"| {op.name} | {_in_torch(op)} | {in_numpy} | {dtypes} | yes | emulated |")
    # Kernels on vectors, not a formula of the registry.
    return [*rows, f"| lbfgs | `optim.LBFGS` | `LBFGS` | {dtypes} | yes | emulated |"]


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
