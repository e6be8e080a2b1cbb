"""core/math.h and the storage conversions against the C library: a sample of all floats, on every ISA.

Exhaustively, a few minutes: build tests/native/math_ulp.cpp and run it with stride 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cases import ISAS
from toolchain import CSRC, ROOT

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
FLAGS = {
    "baseline": [],
    "avx2": AVX2,
    "avx512": [*AVX2, "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw"],
}
COMMON = ["-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wno-psabi"]


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("isa", ISAS)
def test_error_in_ulps(isa: str, tmp_path: Path) -> None:
    program = tmp_path / "math_ulp"
    sources = [ROOT / "tests/native/math_ulp.cpp", CSRC / "cpu/threads.cpp"]
    command = [COMPILER, *COMMON, *FLAGS[isa], f"-I{CSRC}", *sources, "-o", program, "-ldl", "-pthread"]
    subprocess.run([str(part) for part in command], check=True)
    done = subprocess.run([str(program), "997"], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
