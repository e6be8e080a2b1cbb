"""Write the table of ops in README.md from the registry."""

from pathlib import Path

from fusestep import _native

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- ops: written by `make docs` -->\n", "<!-- /ops -->"
DTYPES = "float32, float64, bfloat16, float16"


def generate(text: str) -> str:
    """README's text with the table renewed."""
    rows = ["| op | in torch | in NumPy | dtypes | CPU | CUDA |", "|---|---|---|---|---|---|"]
    for op, info in _native.ops().items():
        name = info["class_name"]
        update = info["shape"] == "update"
        in_torch = f"`optim.{name}`" if update else f"`nn.{name}`, `F.{op}`"
        in_numpy = name if update else op
        rows.append(f"| {op} | {in_torch} | `{in_numpy}` | {DTYPES} | yes | emulated |")
    head, rest = text.split(BEGIN)
    return head + BEGIN + "\n".join(rows) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(generate(README.read_text()))
