"""Write what type checkers read: the stub of the native module from the module itself, and stubs of the
packages that show names of others, which no checker could follow.
"""

import ast
import importlib
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import fusestep

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "fusestep"
# Our packages, and torch's whose other names they show.
FACADES = {
    "fusestep.nn": "torch.nn",
    "fusestep.nn.functional": "torch.nn.functional",
    "fusestep.optim": "torch.optim",
    "fusestep.numpy": None,
}


def _formatted(text: str, path: Path) -> str:
    """As the repository is."""
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--fix", "--exit-zero", "--quiet"], ["format", "--quiet"]):
        run = [*ruff, *command, "--stdin-filename", str(path), "-"]
        text = subprocess.run(run, input=text, capture_output=True, text=True, check=True).stdout
    return text


def _native() -> str:
    with tempfile.TemporaryDirectory() as folder:
        module = "fusestep._native"
        subprocess.run([sys.executable, "-m", "pybind11_stubgen", module, "-o", folder], check=True)
        return Path(folder, "fusestep", "_native.pyi").read_text()


def _typed_names(module: ModuleType) -> set[str]:
    """Of torch's module, as its own stub has them if there is one."""
    assert module.__file__ is not None
    stub = Path(module.__file__).with_suffix(".pyi")
    if not stub.exists():
        return {name for name in dir(module) if not name.startswith("_")}
    names = set()
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names if alias.asname == alias.name}
    return names


def _facade(module: ModuleType, theirs: str | None) -> str:
    """Our names from where they are defined, torch's from torch, and KERNELS."""
    names = defaultdict(list)
    own = module.__all__ if theirs is None else module.KERNELS
    for name in own:
        names[getattr(module, name).__module__].append(name)
    lines = ["from typing import Any"]
    if theirs is not None:
        typed = _typed_names(importlib.import_module(theirs))
        names[theirs] = [name for name in module.__all__ if name not in own and name in typed]
        lines += ["KERNELS: list[str]", "__all__: list[str]", "def __getattr__(name: str) -> Any: ..."]
    if module.__name__ == "fusestep.nn":
        names["fusestep.nn"].append("functional")
        names["torch.nn"] = [name for name in names["torch.nn"] if name != "functional"]
    for source in sorted(names):
        shown = ", ".join(f"{name} as {name}" for name in sorted(names[source]))
        lines.insert(1, f"from {source} import {shown}")
    return "\n".join(lines) + "\n"


def generate() -> dict[Path, str]:
    """The text of each stub."""
    stubs = {PACKAGE / "_native.pyi": _native()}
    for name, theirs in FACADES.items():
        module = importlib.import_module(name)
        assert module.__file__ is not None
        beside = Path(module.__file__).relative_to(Path(fusestep.__file__).parent)
        stubs[PACKAGE / beside.with_suffix(".pyi")] = _facade(module, theirs)
    return {path: _formatted(text, path) for path, text in stubs.items()}


if __name__ == "__main__":
    for path, text in generate().items():
        path.write_text(text)
