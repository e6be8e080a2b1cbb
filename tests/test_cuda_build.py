"""What nvcc makes of the CUDA engine: no register is spilled, and float32 moves 128 bits at a time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain import CSRC, write_all_formulas

NVCC = shutil.which("nvcc")
FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "--extended-lambda", "-Xcompiler=-Wall,-Wextra"]
FLAGS += ["-Xptxas", "-v", "-gencode", "arch=compute_90,code=sm_90", "-DFUSESTEP_TARGET=cuda"]

pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc in PATH")


def find_tool(name: str) -> Path | None:
    """In PATH, or from the PyPI packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm."""
    places = [Path(found).parent for found in [shutil.which(name)] if found]
    places += [Path(folder) / "nvidia" / "cu13" / "bin" for folder in sys.path]
    return next((place / name for place in places if (place / name).exists()), None)


def run(*command: str | Path, path: str = "") -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PATH": os.environ["PATH"] + os.pathsep + path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The object for sm_90, and what ptxas said."""
    build = tmp_path_factory.mktemp("cuda")
    include = [f"-I{CSRC}", f"-I{write_all_formulas(build / 'generated')}"]
    target = build / "kernels.o"
    kernels = CSRC / "cuda" / "kernels.cu"
    log = run(NVCC, *FLAGS, *include, "-c", kernels, "-o", target)
    assert "warning" not in log, log
    return target, log


def test_no_kernel_spills(compiled: tuple[Path, str]) -> None:
    spills = r"(\d+) bytes spill stores, (\d+) bytes spill loads"
    pattern = rf"Compiling entry function '(\w+)'[\s\S]*?{spills}[\s\S]*?Used (\d+) registers"
    found = re.findall(pattern, compiled[1])
    assert len(found) == compiled[1].count("Compiling entry function") > 0
    for name, stores, loads, registers in found:
        print(f"{registers:>4} registers  {name}")
        assert (int(stores), int(loads)) == (0, 0), f"{name} spills"


def test_dense_float32_moves_128_bits(compiled: tuple[Path, str]) -> None:
    cuobjdump, nvdisasm = find_tool("cuobjdump"), find_tool("nvdisasm")
    if cuobjdump is None or nvdisasm is None:
        pytest.skip("needs the PyPI packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm")
    listing = run(cuobjdump, "-sass", compiled[0], path=str(nvdisasm.parent))
    # Access::plain and Access::packed are the first enumerators: mangled as `AccessE0` and `AccessE1`.
    name = re.compile(r"\w*(pointwise|update|norm)_kernel\w*AccessE[01]E")
    kinds = set()
    for part in listing.split("Function : "):
        if found := name.match(part):
            kinds.add(found[1])
            assert "LDG.E.128" in part, part.splitlines()[0]
            assert found[1] == "norm" or "STG.E.128" in part, part.splitlines()[0]
    assert kinds == {"pointwise", "update", "norm"}
