"""Write the table of ops in README.md from the registry."""

from pathlib import Path

from fusestep import _native, optim

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- ops: written by `make docs` -->\n", "<!-- /ops -->"
DTYPES = "float32, float64, bfloat16, float16"


def generate(text: str) -> str:
    """README's text with the table renewed."""
    rows = ["| op | in torch | in NumPy | dtypes | CPU | CUDA |", "|---|---|---|---|---|---|"]
    for op, info in _native.ops().items():
        if info["shape"] == "update":
            classes = [name for name in optim.KERNELS if getattr(optim, name)._rule.op == op]
            in_torch, in_numpy = ([f"`{where}{name}`" for name in classes] for where in ("optim.", ""))
        else:
            in_torch, in_numpy = [f"`nn.{info['class_name']}`", f"`F.{op}`"], [f"`{op}`"]
        rows.append(f"| {op} | {', '.join(in_torch)} | {', '.join(in_numpy)} | {DTYPES} | yes | emulated |")
    head, rest = text.split(BEGIN)
    return head + BEGIN + "\n".join(rows) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(generate(README.read_text()))
