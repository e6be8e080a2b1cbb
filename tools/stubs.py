"""Write the type stub of the native module from the module itself."""

import subprocess
import sys
import tempfile
from pathlib import Path

STUB = Path(__file__).resolve().parents[1] / "python/fusestep/_native.pyi"


def generate() -> str:
    """The stub's text, formatted as the repository is."""
    with tempfile.TemporaryDirectory() as folder:
        module = "fusestep._native"
        subprocess.run([sys.executable, "-m", "pybind11_stubgen", module, "-o", folder], check=True)
        text = Path(folder, "fusestep", "_native.pyi").read_text()
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--fix", "--exit-zero", "--quiet"], ["format", "--quiet"]):
        run = [*ruff, *command, "--stdin-filename", str(STUB), "-"]
        text = subprocess.run(run, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    STUB.write_text(generate())
