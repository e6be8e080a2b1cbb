"""The rules of the architecture: who may include whom, one list of ops, no code leaking between ISAs."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import fusestep.nn as nn
import fusestep.nn.functional as F
import fusestep.numpy as fnp
import fusestep.optim as optim
from cases import (
    LOSSES,
    OPS,
    POINTWISE,
    ROWWISE,
    RULES,
    SOFT,
    SOFTMAX,
    optimizer_names,
    public_name,
    torch_optimizer,
)
from fusestep import _extras, _native
from toolchain import CSRC, ROOT, write_all_formulas

PYTHON = ROOT / "python" / "fusestep"


def sources(folder: str) -> list[Path]:
    return [
        p for p in sorted((CSRC / folder).rglob("*")) if p.suffix in {".h", ".cpp", ".cu", ".cuh", ".def"}
    ]


def code(path: Path) -> str:
    """The text without comments and without string literals."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.S)
    return re.sub(r'(#include[^\n]*)|"(\\.|[^"\\])*"', lambda m: m.group(1) or '""', text)


def includes(path: Path) -> set[str]:
    return set(re.findall(r'#include "([^"]+)"', path.read_text()))


def test_formulas_include_mathematics_and_contracts_only() -> None:
    for path in [*sources("formulas/losses"), *sources("formulas/optim")]:
        shared = {f"formulas/{p.name}" for p in (CSRC / "formulas").glob("*.h")} - {"formulas/engine_table.h"}
        assert {"core/math.h", "formulas/contracts.h"} <= includes(path) <= {"core/math.h", *shared}, path
        assert not re.search(
            r"#include <|std::|__CUDA|\b(void|char(?!\* domain)|float|double|int\w*|T|V)\s*\*|DType|View",
            code(path),
        ), path
        assert len(path.read_text().splitlines()) <= 80, path
        assert path.read_text().startswith("//"), f"{path} does not say its mathematics at the top"


def test_engines_know_no_formula_by_name_and_not_each_other() -> None:
    names = {name for op, info in OPS.items() for name in (op, info["class_name"])}
    for folder in ("cpu", "cuda", "bindings", "core"):
        for path in sources(folder):
            words = set(re.findall(r"\w+", code(path)))
            assert not names & words, f"{path} names {names & words}"
    for path in sources("cpu"):
        assert not any(name.startswith(("cuda/", "bindings/")) for name in includes(path)), path
    for path in sources("cuda"):
        assert not any(name.startswith(("cpu/", "bindings/")) for name in includes(path)), path
    for path in sources("core"):
        assert all(name.startswith("core/") for name in includes(path)), path
    for path in sources("bindings"):
        allowed = ("bindings/", "core/", "cpu/dispatch.h", "cpu/threads.h", "formulas/catalog.h")
        assert all(name.startswith(allowed) for name in includes(path)), path


def test_compilers_and_instruction_sets_are_asked_about_in_few_places() -> None:
    allowed = {
        r"__CUDACC__|__CUDA_ARCH__": {
            "core/macros.h",
            "core/lanes.h",
            "core/dtypes.h",
            "core/view.h",
        },
        r"__AVX|__F16C__|__x86_64__|__aarch64__|_mm\d|__FMA__": {
            "cpu/simd.h",
            "cpu/convert.h",
            "cpu/dispatch.cpp",
            "core/lanes.h",
        },
        r"__global__|__shared__|threadIdx|__syncthreads": {"cuda/"},
    }
    for pattern, places in allowed.items():
        for folder in ("core", "formulas", "cpu", "cuda", "bindings"):
            for path in sources(folder):
                name = path.relative_to(CSRC).as_posix()
                if not name.startswith(tuple(places)):
                    assert not re.search(pattern, code(path)), f"{name} asks for {pattern}"


def test_files_stay_short() -> None:
    for folder in ("core", "formulas", "cpu", "cuda", "bindings"):
        for path in sources(folder):
            assert len(path.read_text().splitlines()) <= 300, path
    for path in PYTHON.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, path


def test_python_does_not_touch_memory() -> None:
    for path in PYTHON.rglob("*.py"):
        assert not re.search(r"data_ptr|\.stride\(|\.strides|contiguous\(|ctypes", path.read_text()), path


# ---- three edits for an op: a missing one is named ----


def test_every_registered_op_has_its_header_and_every_header_its_line() -> None:
    registry = dict(
        re.findall(r"^FUSESTEP_\w+\((\w+), (\w+)\)", (CSRC / "formulas/registry.def").read_text(), re.M)
    )
    assert registry == {op: info["class_name"] for op, info in OPS.items()}
    headers = {p.stem for folder in ("losses", "optim") for p in sources(f"formulas/{folder}")}
    assert headers == set(registry), "a header of formulas/ without a line in registry.def, or the other way"


@pytest.mark.parametrize("op", [*LOSSES, *SOFTMAX])
def test_every_loss_has_its_python(op: str) -> None:
    name = OPS[op]["class_name"]
    assert public_name(op) in F.KERNELS, f"nn/functional.py has no {public_name(op)}"
    assert public_name(op) in fnp.__all__, f"numpy/losses.py has no {public_name(op)}"
    if op not in SOFT:
        assert name in nn.KERNELS, f"nn/__init__.py does not show {name}"


def test_every_dense_op_is_reached() -> None:
    """By a loss with probability targets, or as softmax or the gradient of one."""
    dense = {op for op, info in OPS.items() if info["shape"] == "dense"}
    assert dense == {*SOFT, *SOFTMAX, *(f"{op}_backward" for op in SOFTMAX)}
    assert {public_name(op) for op in SOFT} <= set(OPS)


@pytest.mark.parametrize("op", RULES)
def test_every_rule_has_its_python(op: str) -> None:
    name = OPS[op]["class_name"]
    assert name in optim.KERNELS, f"optim/__init__.py does not show {name}"
    assert name in fnp.__all__, f"numpy/optim.py has no {name}"


def test_the_readme_lists_every_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from ops_table import README, generate

    fresh = generate(README.read_text()) == README.read_text()
    assert fresh, "run `make docs`"


# ---- torch's surface ----


# Keyword-only arguments that torch does not have, and losses that it does not have.
EXTRAS = {"cross_entropy": {"lse_square_scale", "softcap"}}
NEW = {"log_cosh_loss", "sigmoid_focal_loss"}


@pytest.mark.parametrize("op", [op for op in (*POINTWISE, *ROWWISE, *SOFTMAX) if op not in NEW])
def test_signatures_of_losses(op: str) -> None:
    def shape(function: object) -> list[tuple[str, object, object]]:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
        kept = [p for p in parameters if p.name not in EXTRAS.get(op, ())]
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters if p not in kept)
        return [(p.name, p.kind, p.default) for p in kept]

    assert shape(getattr(F, op)) == shape(getattr(torch.nn.functional, op))
    name = OPS[op]["class_name"]
    assert shape(getattr(nn, name)) == shape(getattr(torch.nn, name))
    assert shape(getattr(nn, name).forward) == shape(getattr(torch.nn, name).forward)


def test_new_losses_are_still_new() -> None:
    for op in NEW:
        assert not hasattr(torch.nn.functional, op), f"torch has a {op} now: take its signature"


def test_public_docstrings_say_what_they_must() -> None:
    for module, names in ((F, F.KERNELS), (fnp, fnp.losses.__all__)):
        for name in names:
            text = inspect.getdoc(getattr(module, name)) or ""
            for section in ("Args:", "Returns:", "Raises:", "Source:"):
                assert section in text, f"{module.__name__}.{name} has no {section}"
            documented = set(re.findall(r"^    (\w+):", text, re.M))
            parameters = {p for p in inspect.signature(getattr(module, name)).parameters if p[0] != "_"}
            assert parameters <= documented, f"{name}: {parameters - documented}"


@pytest.mark.parametrize("name", optimizer_names())
def test_signatures_of_optimizers(name: str) -> None:
    ours, theirs = getattr(optim, name), torch_optimizer(name)

    def shape(function: Any, extras: Iterable[str]) -> list[tuple[str, object, object]]:
        parameters = inspect.signature(function).parameters.values()
        for p in parameters:
            assert p.name not in extras or p.kind is p.KEYWORD_ONLY
        return [(p.name, p.kind, p.default) for p in parameters if p.name not in extras]

    assert shape(ours, _extras.DEFAULTS) == shape(theirs, ())
    assert _extras.DEFAULTS.keys() <= inspect.signature(ours).parameters.keys()
    assert [*inspect.signature(ours.step).parameters] == ["self", "closure", "zero_grad"]
    assert "max_grad_norm:" in ours.__doc__
    assert "Source:" in ours.__doc__ or not hasattr(torch.optim, name)


def test_signature_of_sparse_adam() -> None:
    assert inspect.signature(optim.SparseAdam) == inspect.signature(torch.optim.SparseAdam)
    assert inspect.signature(optim.SparseAdam.step).parameters.keys() == {"self", "closure"}


def test_other_names_are_torchs_own_objects() -> None:
    for ours, theirs in ((nn, torch.nn), (F, torch.nn.functional), (optim, torch.optim)):
        own = {*ours.KERNELS, "functional"}
        for name in dir(theirs):
            if not name.startswith("_") and name not in own:
                assert getattr(ours, name) is getattr(theirs, name), name
        assert set(dir(theirs)) <= set(dir(ours))
        with pytest.raises(AttributeError, match="NoSuchName"):
            ours.NoSuchName  # noqa: B018
    assert nn.functional is F


def test_submodules_are_torchs_own_too() -> None:
    import fusestep.nn.init as init
    from fusestep.nn.utils import clip_grad_norm_
    from fusestep.nn.utils.rnn import pad_sequence
    from fusestep.optim.lr_scheduler import StepLR

    assert clip_grad_norm_ is torch.nn.utils.clip_grad_norm_
    assert pad_sequence is torch.nn.utils.rnn.pad_sequence
    assert StepLR is torch.optim.lr_scheduler.StepLR
    assert init is torch.nn.init
    assert init.__name__ == "torch.nn.init"
    assert init.__spec__.name == "torch.nn.init"
    with pytest.raises(ImportError):
        import fusestep.nn.no_such_module  # noqa: F401


# ---- packaging ----


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nm") is None, reason="needs nm")
def test_no_symbol_leaks_out_of_an_instruction_set(tmp_path: Path) -> None:
    """A weak symbol in two objects is merged, and the copy kept may hold AVX-512: a crash on older CPUs."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    include = write_all_formulas(tmp_path / "generated")
    target = tmp_path / "kernels.o"
    for optimisation in ("-O3", "-O0"):  # unoptimised, nothing hides by being inlined
        flags = [
            "-std=c++17",
            optimisation,
            "-fPIC",
            "-ffp-contract=off",
            "-DFUSESTEP_TARGET=somewhere",
            "-w",
        ]
        command = [
            compiler,
            *flags,
            f"-I{CSRC}",
            f"-I{include}",
            "-c",
            CSRC / "cpu/kernels.cpp",
            "-o",
            target,
        ]
        subprocess.run([str(part) for part in command], check=True)
        listing = subprocess.run(["nm", "-C", str(target)], capture_output=True, text=True, check=True).stdout
        weak = [line for line in listing.splitlines() if re.search(r"^[0-9a-f]+ [WVu] ", line)]
        assert weak, "nm shows no weak symbols: has the check lost its object?"
        own = ("fusestep::somewhere::", "DW.ref.__gxx_personality_v0")  # the latter is data, not code
        leaks = [line for line in weak if not any(name in line for name in own)]
        assert not leaks, "\n".join(leaks)


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
def test_nothing_is_linked_that_must_not_be() -> None:
    """Neither OpenMP (a second thread pool) nor libtorch nor a CUDA runtime."""
    for path in Path(_native.__file__).parent.glob("_*.so"):  # _native, and _cuda where it was built
        listing = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True).stdout
        assert "libc.so" in listing
        assert not re.search(r"gomp|libomp|torch|libcuda|cudart|libc10", listing), listing


def test_the_cuda_module_imports_without_a_driver() -> None:
    cuda = pytest.importorskip("fusestep._cuda", reason="built without the CUDA engine")
    assert "fusestep.OpTable" in repr(cuda.table)


def test_the_stubs_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pybind11_stubgen", reason="needs pybind11-stubgen to generate the stub")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from stubs import generate

    for path, text in generate().items():
        fresh = text == path.read_text()  # compared here: pytest would take minutes to show a difference
        assert fresh, f"{path.name} is stale: run `make docs`"


def test_the_tests_pin_the_torch_they_compare_with() -> None:
    assert torch.__version__.split("+")[0] in (ROOT / "Makefile").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    assert f"torch=={torch.__version__.split('+')[0]}" in project
    assert 'dependencies = ["numpy' in project


def test_importing_submodules_leaves_torchs_own_in_place() -> None:
    """Found by path, a module two levels down would be loaded a second time and replace torch's."""
    code = """
import torch, torch.nn.utils.rnn, torch.nn.modules.loss, torch.optim.lr_scheduler, sys
before = {name: module for name, module in sys.modules.items() if name.startswith("torch.")}
pad, loss = torch.nn.utils.rnn.pad_sequence, torch.nn.modules.loss.MSELoss
from fusestep.nn.utils.rnn import pad_sequence, pack_padded_sequence
import fusestep.nn.modules.loss
import fusestep.nn.utils.parametrizations
import fusestep.optim.lr_scheduler as scheduler
import fusestep.nn.functional as F
assert pad_sequence is pad is torch.nn.utils.rnn.pad_sequence
assert torch.nn.modules.loss.MSELoss is loss is fusestep.nn.modules.loss.MSELoss
assert scheduler is torch.optim.lr_scheduler
assert F.__name__ == "fusestep.nn.functional"
for name, module in before.items():
    assert sys.modules[name] is module, name
    assert module.__spec__ is None or not module.__spec__.name.startswith("fusestep"), name
torch.nn.LSTM(3, 4, batch_first=True)(pack_padded_sequence(torch.randn(2, 5, 3), [5, 3], batch_first=True))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_star_imports() -> None:
    for ours, theirs in (("nn", torch.nn), ("nn.functional", torch.nn.functional), ("optim", torch.optim)):
        names: dict[str, object] = {}
        exec(f"from fusestep.{ours} import *", names)
        expected: dict[str, object] = {}
        exec(f"from {theirs.__name__} import *", expected)
        assert expected.keys() <= names.keys()
    assert names["Adam"] is optim.Adam
