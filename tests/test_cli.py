"""The commands of ``fusestep``, as somebody at a terminal meets them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fusestep.nn
import fusestep.numpy as fnp
import fusestep.optim
from cases import ISAS, LOSSES, OPS, RULES, SOFTMAX, ours, public_name
from fusestep import _catalog, _samples
from fusestep.cli import Failure, bench, check, doctor, main
from fusestep.cli.ops import chosen

Captured = pytest.CaptureFixture[str]
CHECKED = {*LOSSES, *SOFTMAX, *RULES}


def said(capsys: Captured, *command: str) -> Any:
    """What a command that succeeds prints as JSON."""
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ---- what there is ----


def test_the_catalog_has_every_op_by_names_that_exist() -> None:
    spaces = {"nn": fusestep.nn, "F": fusestep.nn.functional, "optim": fusestep.optim}
    found = _catalog.catalog()
    assert [op.name for op in found] == list(OPS)
    for op in found:
        assert all(hasattr(fnp, name) for name in op.in_numpy)
        for name in op.in_torch:
            space, attribute = name.split(".")
            assert hasattr(spaces[space], attribute)
    reached = {name.split(".")[1] for op in found for name in op.in_torch}
    assert reached == {*fusestep.nn.KERNELS, *fusestep.nn.functional.KERNELS, *fusestep.optim.KERNELS} - {
        "LBFGS"
    }


@pytest.mark.parametrize("op", LOSSES)
def test_samples_are_what_the_loss_takes(op: str) -> None:
    entry = next(entry for entry in _catalog.catalog() if entry.name == op)
    operands = [torch.from_numpy(x) for x in _samples.operands(entry, 5, 7)]
    assert ours(op)(*operands, reduction="none").isfinite().all()
    assert fusestep.stats()[op]["native"] == 1


def test_ops_prints_all_or_those_asked_for(capsys: Captured) -> None:
    assert main(["ops"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{op} " in text for op in OPS)
    assert "float32, float64, bfloat16, float16" in text
    assert [op["name"] for op in said(capsys, "ops")] == list(OPS)
    for name in ("adam", "Adam", "AdamW", "optim.AdamW"):
        assert [op["name"] for op in said(capsys, "ops", name)] == ["adam"]
    (adam,) = said(capsys, "ops", "adam")
    assert adam["in_torch"] == ["optim.Adam", "optim.AdamW"]
    assert "exp_avg" in adam["states"]
    assert "cpu" in adam["devices"]
    assert len(chosen(["F.cross_entropy"])) == 2  # of labels, and of probabilities


@pytest.mark.parametrize("command", ["ops", "bench"])
def test_an_unknown_op(command: str, capsys: Captured) -> None:
    assert main([command, "adam", "adamant"]) == 2
    assert capsys.readouterr() == ("", "fusestep: there is no op 'adamant'; see fusestep ops\n")


# ---- whether it is right ----


def test_doctor_finds_all_well(capsys: Captured) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "chosen ISA" in text
    assert "All is well" in text
    result = said(capsys, "doctor")
    assert result["ok"] is True
    assert result["configuration"]["torch"] == torch.__version__
    for isa in ISAS:
        assert {one["op"] for one in result["checks"] if one["on"] == isa} == CHECKED
    assert all(one["error"] < 1e-4 for one in result["checks"])


def test_doctor_without_torch(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_import_torch", lambda: (False, ""))
    result = said(capsys, "doctor")
    assert {one["op"] for one in result["checks"]} == CHECKED
    assert not any("torch" in one["against"] for one in result["checks"])


@pytest.mark.parametrize("with_torch", [True, False], ids=["torch", "numpy"])
@pytest.mark.parametrize("op", sorted(CHECKED))
def test_doctor_finds_a_kernel_that_is_wrong(
    op: str, with_torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient, or in float32 a parameter after a step, that is off by a hundredth."""
    entry = next(entry for entry in _catalog.catalog() if entry.name == op)
    monkeypatch.setattr(check, "catalog", lambda: [entry])
    native = fusestep._native
    run, step = native.run, native.step
    assert all(one.ok for one in check.run("cpu", with_torch))

    def wrong_run(name: str, operands: Any, outputs: Any, *rest: Any, **named: Any) -> Any:
        result = run(name, operands, outputs, *rest, **named)
        for written in (*outputs[1:], *result):
            if hasattr(written, "shape"):
                written *= 1.01
        return result

    def wrong_step(name: str, groups: Any, *rest: Any, **named: Any) -> Any:
        result = step(name, groups, *rest, **named)
        param = groups[0].params[0]
        if "float32" in str(param.dtype):
            (param.detach() if isinstance(param, torch.Tensor) else param).__imul__(1.01)
        return result

    monkeypatch.setattr(native, "run", wrong_run)
    monkeypatch.setattr(native, "step", wrong_step)
    assert {one.op for one in check.run("cpu", with_torch) if not one.ok} == {op}


def test_doctor_says_what_is_wrong(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = check.Check("mse_loss", "torch, float32", 0.25, ok=False)
    good = dataclasses.replace(bad, op="l1_loss", ok=True)
    monkeypatch.setattr(check, "run", lambda device, with_torch: [good, bad])
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "1 of 2 ops are right" in text
    assert "mse_loss: off by 2.5e-01 against torch, float32" in text
    assert "Something is wrong" in text
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_doctor_where_torch_is_broken(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: no such file\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    result = said(capsys, "doctor")
    assert result["configuration"]["torch"] == "cannot be imported: OSError: libtorch.so: no such file"
    assert {one["op"] for one in result["checks"]} == CHECKED


# ---- what it brings ----


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BATCH", dict.fromkeys(bench.BATCH, (8, 5)))
    monkeypatch.setattr(bench, "PARAMETERS", [(3, 4), (5,)])


@pytest.mark.usefixtures("small")
def test_bench_times_everything_that_torch_has(capsys: Captured, tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    command = ["bench", "--seconds", "0", "--chart", str(chart)]
    result = said(capsys, *command)
    names = {line["name"].removesuffix(".step") for line in result["lines"]}
    torchs = {op for op in (*LOSSES, *SOFTMAX) if hasattr(torch.nn.functional, public_name(op))}
    rules = {name for name in fusestep.optim.KERNELS if hasattr(torch.optim, name)} - {"LBFGS", "SparseAdam"}
    assert names == torchs | rules
    for line in result["lines"]:
        assert line["ratio"] == pytest.approx(line["torch"] / line["ours"])
        assert line["way"] in ("eager", "foreach", "fused")
    assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small")
def test_bench_prints_a_bar_for_each_line(capsys: Captured) -> None:
    assert main(["bench", "MSELoss", "Adam", "--seconds", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["mse_loss", "Adam.step", "AdamW.step"]
    assert all("×" in line and line.endswith("█") for line in lines)


def test_bench_on_a_device_that_is_not_there(capsys: Captured) -> None:
    assert main(["bench", "--device", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("fusestep: --device nowhere: ")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["Lion"], "torch has nothing to compare it with: Lion"),
        (["--device", "meta"], "--device meta: nothing is computed there"),
        (["--chart", "/nowhere/chart.png"], "--chart /nowhere/chart.png: there is no such folder"),
        (["--chart", "chart.tiff2"], "--chart chart.tiff2: matplotlib draws no .tiff2"),
    ],
    ids=" ".join,
)
def test_what_bench_cannot_do(command: list[str], message: str, capsys: Captured) -> None:
    assert main(["bench", *command]) == 2
    assert capsys.readouterr() == ("", f"fusestep: {message}\n")


def test_a_chart_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Failure, match="pip install matplotlib"):
        bench.main(["--chart", "chart.png"])


def test_bench_without_torch(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench"]) == 2
    assert "needs PyTorch, which is not installed" in capsys.readouterr().err


# ---- the environment ----


@pytest.mark.parametrize(
    ("variable", "value"), [("FUSESTEP_THREADING", "many"), ("FUSESTEP_CACHE_LIMIT", "1 GB")]
)
def test_a_variable_that_cannot_be_read(
    variable: str, value: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["ops"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fusestep: {variable}: expected ")
    assert repr(value) in error
    with pytest.raises(ValueError, match=variable):
        fusestep.show_config()


def test_an_instruction_set_that_is_not_there(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise ValueError("FUSESTEP_ISA: no")

    monkeypatch.setattr(fusestep._native, "isa", refuse)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "fusestep: FUSESTEP_ISA: no\n"


def test_the_command_is_installed() -> None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        installed = distribution("fusestep").entry_points
    except PackageNotFoundError:
        pytest.skip("fusestep is used from its sources")
    (command,) = [point for point in installed if point.group == "console_scripts"]
    assert (command.name, command.value) == ("fusestep", "fusestep.cli:main")
