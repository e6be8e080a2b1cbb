"""What the compiler made of the CUDA engine, for every architecture it was built for: no device is needed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from toolchain import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import sass

LIBRARY = sass.installed()

pytestmark = [
    pytest.mark.skipif(LIBRARY is None, reason="fusestep was built without its CUDA engine"),
    pytest.mark.skipif(
        not (sass.find_tool("cuobjdump") and sass.find_tool("nvdisasm")),
        reason="needs the PyPI packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm",
    ),
]

# Registers a thread: with more, fewer threads than a kernel counts on fit into a multiprocessor.
MOST = {
    r"pointwise_kernel<plain": 80,
    r"pointwise_kernel<packed": 104,
    r"update_kernel<(plain|packed), false": 64,
    r"update_kernel<packed, true": 80,
    r"_kernel<HeldRow<\w+, 8, false, true>": 80,
    r"norm_kernel": 64,
    r"": 128,
}
# Kernels that are there for what cannot be read or written 128 bits at a time.
NARROW = r"<any|WalkedRow|prepare_kernel|weight_kernel|kept_kernel|product_kernel"


@pytest.fixture(scope="module")
def library() -> Path:
    assert LIBRARY is not None
    return LIBRARY


@pytest.fixture(scope="module")
def code(library: Path) -> dict[str, sass.Code]:
    return sass.code(library)


def test_no_kernel_spills_and_none_has_too_many_registers(library: Path) -> None:
    found = sass.kernels(library)
    assert {kernel.arch for kernel in found} >= {"sm_75", "sm_80", "sm_90", "sm_100", "sm_120"}
    for kernel in found:
        assert (kernel.stack, kernel.local) == (0, 0), f"{kernel} has a stack"
        most = next(most for pattern, most in MOST.items() if re.search(pattern, kernel.name))
        assert kernel.registers <= most, f"{kernel} has more than {most} registers"


def test_kernels_move_128_bits_at_a_time(code: dict[str, sass.Code]) -> None:
    wide = {name: counted for name, counted in code.items() if not re.search(NARROW, name)}
    shapes = {re.split(r"_kernel", name)[0] for name in wide}
    assert shapes == {"pointwise", "rowwise", "dense", "update", "norm", "dots", "combine"}
    for name, counted in wide.items():
        assert counted.loads > 0, f"{name} loads no 128 bits"
        assert counted.stores > 0 or name.startswith(("norm", "dots")), f"{name} stores no 128 bits"
        assert counted.spills == 0, name


def test_the_report_lists_every_kernel(code: dict[str, sass.Code]) -> None:
    listed = set(re.findall(r"^\| `(.+?)` \|", sass.REPORT.read_text(), re.M))
    assert listed == set(code), "run `make docs`"
