"""The CUDA engine, compiled for the emulator with sanitizers, against the CPU engine: no GPU needed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cases import OPS
from toolchain import CSRC, ROOT, write_all_formulas

COMPILER = os.environ.get("CXX") or shutil.which("g++")
EMULATOR = ROOT / "tests" / "emulator"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
FLAGS = ["-std=c++17", "-O1", "-g", *SANITIZERS, "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
# The exponent of a NaN, which core/math.h takes apart like any number before it selects the result for
# it, may overflow an integer that nobody looks at.
KERNEL_FLAGS = ["-ffp-contract=off", "-fno-sanitize=signed-integer-overflow"]
CPU_FLAGS = [*KERNEL_FLAGS, "-fno-math-errno", "-fno-trapping-math", "-DFUSESTEP_TARGET=baseline"]
CUDA_FLAGS = [*KERNEL_FLAGS, "-DFUSESTEP_TARGET=emulated", "-DFUSESTEP_EMULATOR", "-x", "c++"]

pytestmark = pytest.mark.skipif(
    COMPILER is None or platform.system() != "Linux", reason="needs GCC on Linux (fibers by ucontext)"
)


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("emulator")
    include = [f"-I{CSRC}", f"-I{EMULATOR}", f"-I{write_all_formulas(build / 'generated')}"]
    sources = [
        (CSRC / "cuda" / "kernels.cu", CUDA_FLAGS),  # the longest to compile first
        (CSRC / "cpu" / "kernels.cpp", CPU_FLAGS),
        (CSRC / "cpu" / "threads.cpp", []),
        (CSRC / "formulas" / "catalog.cpp", []),
        *((path, []) for path in sorted(EMULATOR.glob("*.cpp"))),
    ]

    def compile_one(number: int) -> Path:
        source, flags = sources[number]
        target = build / f"{number}.o"
        done = run(COMPILER, *FLAGS, *include, *flags, "-c", source, "-o", target)
        assert done.returncode == 0, done.stdout
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, range(len(sources))))
    program = build / "parity"
    done = run(COMPILER, *SANITIZERS, *objects, "-o", program, "-ldl", "-pthread")
    assert done.returncode == 0, done.stdout
    return program


def test_every_op_agrees_with_the_cpu_engine(parity: Path) -> None:
    """In natural order and in a random order of blocks and threads; see emulator/parity.cpp."""

    def check(name: str) -> subprocess.CompletedProcess[str]:
        return run(parity, "1", name, FUSESTEP_THREADING="serial")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(check, [*OPS, "vectors", "launches", "far"]):
            print(done.stdout)
            assert done.returncode == 0, done.stdout
            assert "cases" in done.stdout
