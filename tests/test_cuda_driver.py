"""What is said where CUDA kernels cannot run, by a stand-in for the driver: no device is needed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusestep import _native

COMPILER = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
BUILT = importlib.util.find_spec("fusestep._cuda") is not None
# As much of a driver as is asked before a device is: its version, and that it finds none.
DRIVER = """
#include <string.h>
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return 100; }  // CUDA_ERROR_NO_DEVICE
static int other(void) { return 100; }
int cuGetProcAddress_v2(const char *name, void **at, int version, unsigned long long flags, int *status) {
  *at = !strcmp(name, "cuDriverGetVersion") ? (void *)cuDriverGetVersion
        : !strcmp(name, "cuInit") ? (void *)cuInit
        : !strcmp(name, "cuGetProcAddress") ? (void *)cuGetProcAddress_v2
        : (void *)other;
  if (status) *status = 0;
  return 0;
}
int cuGetProcAddress(const char *name, void **at, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, at, version, flags, 0);
}
"""
ASK = "from fusestep import _native, show_config; print(_native.why_no_cuda()); show_config()"


@pytest.mark.skipif(BUILT, reason="fusestep was built with its CUDA engine")
def test_an_engine_that_was_not_built() -> None:
    assert "CUDA engine is not available" in _native.why_no_cuda()


@pytest.mark.skipif(not BUILT, reason="fusestep was built without its CUDA engine")
@pytest.mark.skipif(sys.platform != "linux" or not COMPILER, reason="needs a C compiler on Linux")
@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (11080, "the driver is too old: it serves CUDA 11.8"),
        (12000, "the driver is too old: it serves CUDA 12.0"),
        (99000, "no CUDA-capable device is detected"),
    ],
)
def test_a_driver_that_is_too_old(tmp_path: Path, version: int, reason: str) -> None:
    source = tmp_path / "driver.c"
    source.write_text(DRIVER)
    assert COMPILER
    build = [COMPILER, "-shared", "-fPIC", f"-DVERSION={version}", source, "-o", tmp_path / "libcuda.so.1"]
    subprocess.run(build, check=True)
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, *rest = done.stdout.splitlines()
    assert first.startswith(reason)
    assert f"built; cannot run here: {first}" in "\n".join(rest)


@pytest.mark.gpu
def test_kernels_can_run_here() -> None:
    assert _native.why_no_cuda() == ""
    assert "no CUDA-capable device" in _native.why_no_cuda(63) or "invalid device" in _native.why_no_cuda(63)
