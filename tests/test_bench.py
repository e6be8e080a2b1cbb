"""The benchmark: nothing is left out, nothing wrong is timed. No test looks at a time."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import bench.__main__ as command
from bench import cases, charts, memory, report
from bench.bandwidth import Bandwidth
from bench.lbfgs import LBFGSCase
from bench.losses import LossCase
from bench.peers import LIBRARIES, TORCH, available
from bench.run import Result, Run, measure, shows_share
from bench.steps import MODELS, PipelineCase, SparseCase, StepCase
from bench.targets import Target, targets_for
from cases import LOSSES, SOFTMAX, bytes_per_element, optimizer_names
from fusestep._timing import Budget, Contender, Times, interleave
from toolchain import ROOT

SMALL = [
    *(LossCase(op, (40, 30), backward=backward) for op in (*LOSSES, *SOFTMAX) for backward in (True, False)),
    *(LossCase(op, (40, 30), dtype=dtype) for op in LOSSES for dtype in cases.HALVES),
    *(StepCase(name, "MLP132") for name in optimizer_names()),
    StepCase("SGD", "100x64", (("momentum", 0.9),)),
    PipelineCase("Adam", "100x64"),
    SparseCase("SparseAdam", "small", rows=1000, columns=8, touched=0.1),
    LBFGSCase(1000),
    LossCase("mse_loss", (1000,), dtype=torch.bfloat16, group="size"),
    StepCase("SGD", "1000", dtype=torch.bfloat16, group="size"),
]
ONCE = Budget(0.0, least=2)


def name_of(case: Any) -> str:
    return str(case.name)


@pytest.fixture
def run() -> Run:
    return Run("cpu", Bandwidth("cpu", elements=1000))


# ---- nothing is left out ----


DEVICES = ("cpu", "cuda")


@pytest.mark.parametrize("listed", [*map(cases.everything, DEVICES), cases.quick()], ids=[*DEVICES, "quick"])
def test_every_loss_and_optimizer_has_a_case(listed: list[Any]) -> None:
    names = [case.name for case in listed]
    assert len(set(names)) == len(names)
    measured = {name.split()[0] for name in names if not name.endswith(" fwd")}
    assert {*LOSSES, *SOFTMAX, *optimizer_names(), "SparseAdam", "LBFGS"} <= measured


def test_every_loss_is_timed_with_and_without_its_gradient() -> None:
    names = {case.name for case in cases.losses()}
    for case in cases.losses():
        if case.dtype is torch.float32:
            assert {f"{case.name.removesuffix('+bwd')}", f"{case.name.removesuffix('+bwd')}+bwd"} <= names


@pytest.mark.parametrize(
    ("device", "target"), [(device, target) for device in DEVICES for target in targets_for(device)], ids=str
)
def test_every_target_has_its_cases(device: str, target: Target) -> None:
    names = [case.name for case in cases.everything(device)]
    for pattern in target.patterns:
        alone = dataclasses.replace(target, patterns=(pattern,))
        assert sum(map(alone.covers, names)) == 1, f"{pattern} fits not one case"


@pytest.mark.parametrize("device", DEVICES)
def test_targets_ask_for_what_is_measured(device: str) -> None:
    for target in targets_for(device):
        for case in filter(lambda case: target.covers(case.name), cases.everything(device)):
            if target.metric == "share":
                assert shows_share(case), f"{case.name} has no share of the bandwidth"
            elif target.metric == "peak":
                assert case.with_memory
            elif target.metric not in ("growth", "compile"):
                small = case.small().load("cpu").contenders
                assert target.metric in small.among([target.metric]), f"{case.name} has no {target.metric}"


def test_the_mlp_is_as_described() -> None:
    assert len(MODELS["MLP132"]) == 10
    assert sum(torch.Size(shape).numel() for shape in MODELS["MLP132"]) == 132


def test_bytes_are_those_of_the_documentation() -> None:
    """A step in one pass, from the registry; and so many states does a step leave."""
    page = (ROOT / "docs/optimizers.md").read_text()
    rows = [line.strip("| \n").split(" | ") for line in page.splitlines() if line.count("|") == 9]
    documented = {row[0]: int(row[2]) for row in rows if row[0] in (*optimizer_names(), "SGD (momentum)")}
    assert documented.keys() == {*optimizer_names(), "SGD (momentum)"}
    for case in cases.optimizers():
        if type(case) is StepCase:
            options = f" ({', '.join(key for key, _ in case.options)})" if case.options else ""
            assert case.bytes_moved == documented[case.optimizer + options] * case.elements
            loaded = dataclasses.replace(case, model="MLP132").load("cpu")
            step = loaded.contenders["ours"].call
            step()
            optimizer: Any = step.__self__  # type: ignore[attr-defined]
            param = optimizer.param_groups[0]["params"][0]
            states = [v for v in optimizer.state[param].values() if v.shape == param.shape and v.dim()]
            moved = bytes_per_element(case.optimizer, dict(case.options))
            assert moved == 4 * (3 + 2 * len(states))


@pytest.mark.parametrize(
    ("op", "tensors"),
    [("mse_loss", 3), ("gaussian_nll_loss", 4), ("cross_entropy", 2), ("soft_cross_entropy", 3)],
)
def test_bytes_of_losses(op: str, tensors: int) -> None:
    """Operands read and the gradient written."""
    assert LossCase(op, (40, 30)).bytes_moved == tensors * 4800
    assert LossCase(op, (40, 30), dtype=torch.bfloat16).bytes_moved == tensors * 2400
    assert LossCase(op, (40, 30), backward=False).bytes_moved == (tensors - 1) * 4800


# ---- nothing wrong is timed ----


@pytest.mark.parametrize("case", SMALL, ids=name_of)
def test_a_case_passes_its_check(case: Any) -> None:
    case.load("cpu").check()


def spoil(result: Any) -> None:
    """One element of the gradient, or of what there is, off by a tenth of the largest."""
    if isinstance(result, tuple):
        result = result[0] if result[1] is None else result[1]
    with torch.no_grad():
        result.view(-1)[-1:] += result.abs().max() / 10


@pytest.mark.parametrize("case", SMALL, ids=name_of)
def test_a_wrong_result_is_not_timed(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = case.load("cpu")
    right = loaded.contenders["ours"].call

    def wrong() -> Any:
        result = right()
        spoil(result if result is not None else loaded._params[-1])
        return result

    loaded.contenders["ours"].call = wrong
    monkeypatch.setattr(type(case), "load", lambda self, device: loaded)
    monkeypatch.setattr("bench.run.interleave", lambda *_: pytest.fail("timed"))
    with pytest.raises(AssertionError):
        measure(case, "cpu", ["eager"], ONCE, Bandwidth("cpu", elements=1000))


def test_torchs_own_code_is_not_timed_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.losses.ours", lambda op: getattr(torch.nn.functional, op))
    with pytest.raises(AssertionError, match="not run by our kernel"):
        LossCase("mse_loss", (40, 30)).load("cpu").check()


def test_a_step_must_leave_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = StepCase("Adam", "MLP132").load("cpu")
    step = loaded.contenders["ours"].call
    monkeypatch.setattr(loaded.contenders["ours"], "call", lambda: step(zero_grad=True))
    with pytest.raises(AssertionError, match="changed the gradients"):
        loaded.check()


def test_contenders_take_turns() -> None:
    order: list[str] = []
    contenders = {name: Contender(lambda name=name: order.append(name), lambda: None) for name in "ab"}  # type: ignore[misc]
    interleave(contenders, Budget(0.0, least=3), "cpu")
    assert order == [*"aaabbb", *"ababab"]


def test_a_peer_that_fails_is_left_out_and_ours_is_not() -> None:
    def fail() -> None:
        raise ValueError("no\nway")

    times, missing = interleave({"ours": Contender(int), "eager": Contender(fail)}, ONCE, "cpu")
    assert times.keys() == {"ours"}
    assert missing == {"eager": "ValueError: no"}
    with pytest.raises(ValueError, match="no"):
        interleave({"ours": Contender(fail)}, ONCE, "cpu")


# With the signatures of liger-kernel 0.8.5, quack-kernels 0.6.5, bitsandbytes 0.50.2 and torch-optimi 0.3.3.
STAND_INS = {
    "liger_kernel/transformers/functional.py": """
from torch.nn.functional import cross_entropy, kl_div
def liger_cross_entropy(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                        reduction="mean"):
    return cross_entropy(input, target, weight, reduction=reduction)
def liger_kl_div(input, target, size_average=True, reduce=True, reduction="mean", log_target=False):
    return kl_div(input, target, reduction=reduction, log_target=log_target)
def liger_softmax(x):
    return x.softmax(-1)
""",
    "quack/cross_entropy.py": """
import torch
def cross_entropy(x, target, lse_partial=None, weight=None, ignore_index=-100, reduction="mean"):
    assert lse_partial is None
    return torch.nn.functional.cross_entropy(x, target, weight, reduction=reduction)
""",
    "quack/softmax.py": "def softmax(x):\n    return x.softmax(-1)\n",
    "bitsandbytes/optim.py": """
from torch.optim import SGD as T, Adam, AdamW, RMSprop, Adagrad
class SGD(T):
    def __init__(self, params, lr, momentum=0):
        super().__init__(params, lr=lr, momentum=momentum)
""",
    "optimi/__init__.py": """
import torch
def _of(name):
    def make(params, lr, triton=None, **options):
        assert triton
        return getattr(torch.optim, name)(params, lr, **options)
    return make
Adam, AdamW, RAdam, SGD = map(_of, ("Adam", "AdamW", "RAdam", "SGD"))
""",
}


def test_other_libraries_are_timed_where_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, text in STAND_INS.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert available("cpu") == list(TORCH)
    assert available("cuda") == [*TORCH, *LIBRARIES]
    timed: dict[str, set[str]] = {name: set() for name in LIBRARIES}
    small = [case for case in SMALL if case.group in ("loss", "optimizer") and case.dtype is torch.float32]
    for case in small:
        contenders = case.load("cpu").contenders.among(LIBRARIES)
        times, missing = interleave(contenders, ONCE, "cpu") if contenders else ({}, {})
        assert not missing
        for library in times:
            timed[library].add(case.subject.split()[0])
    for name, library in LIBRARIES.items():
        assert timed[name] == {*library.losses, *library.optimizers}
        sys.modules.pop(library.module, None)


def test_a_library_that_is_not_installed_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert available("cuda") == list(TORCH)


# ---- what it says ----


def test_a_run_writes_table_csv_and_charts(run: Run, tmp_path: Path) -> None:
    peers = ["eager", "foreach", "fused"]
    lines = [report.row(run, result, peers) for result in run.measure(SMALL, peers, ONCE)]
    assert [line.split("  ")[0] for line in lines] == [case.name for case in SMALL]
    about = command.machine("cpu")
    report.write_csv(run, about, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {case.name for case in SMALL}
    assert {row["contender"] for row in rows} == {"ours", *peers}
    assert all(
        row[key] for row in rows for key in ("machine", "threads", "torch", "commit", "python", "os", "isa")
    )
    for result in run.results.values():
        result.bandwidth = result.bandwidth or 1e9  # as if they were large enough to have one
    charts.write(run, about, tmp_path)
    for chart in ("losses", "optimizers", "bandwidth", "sizes"):
        assert (tmp_path / f"{chart}.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_and_targets(run: Run) -> None:
    """Ratios are torch's time over ours, shares are of the bandwidth; both decide if a target is met."""
    speeds = {"copy": 1e9, "update": 2e9}

    def result(case: Any, **seconds: float) -> Result:
        times = {who: Times(1, [s, s]) for who, s in seconds.items()}
        return Result(case, times, {}, bandwidth=speeds[case.bandwidth])

    case = LossCase("mse_loss", (4096, 4096))  # 201 MB: 0.2 s at 1 GB/s
    fast = result(case, ours=0.25, eager=2.0)
    assert run.metric(fast, "eager") == 8
    assert run.metric(fast, "share") == pytest.approx(0.805, abs=0.001)
    assert run.metric(fast, "compile") is None
    assert run.metric(result(StepCase("SGD", "64M"), ours=0.805), "share") == pytest.approx(0.5, abs=0.001)
    soft = LossCase("soft_cross_entropy", (512, 32000))
    assert run.metric(result(soft, ours=0.2, labels=0.0345), "labels") == pytest.approx(2, abs=0.01)
    run.results = {case.name: fast}
    assert "8.00×  met" in report.targets(run)
    assert "≥ 7× eager met" in report.row(run, fast, ["eager"])
    run.results = {case.name: result(case, ours=0.5, eager=2.0)}
    assert f"MISSED by 1 of 1: worst {case.name}" in report.targets(run)
    small, large = (LossCase("mse_loss", (n,), dtype=torch.bfloat16, group="size") for n in (10**8, 10**9))
    run.results = {small.name: result(small, ours=0.1), large.name: (grown := result(large, ours=2.0))}
    assert run.metric(grown, "growth") == pytest.approx(2)


def test_what_does_not_fit_in_memory_is_skipped_and_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.run.available_bytes", lambda device: 1000)
    assert list(run.measure(SMALL[:1], ["eager"], ONCE)) == []
    assert SMALL[0].name in report.notes(run)


@pytest.mark.skipif(not memory.supported("cpu"), reason="needs /proc/self/clear_refs")
def test_peak_memory_of_a_loss() -> None:
    """At least the gradient; and a dozen times the input is what nobody needs."""
    case = LossCase("mse_loss", (4096, 4096))
    assert 0.99 <= memory.peak(case, "ours", "cpu") / case.input_bytes <= 12


def test_cases_are_chosen_by_name_and_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--only", "mse", "--only", "Adam 64M", "--dtype", "float32"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "mse_loss 4096x4096 float32 fwd+bwd" in listed
    assert "Adam 64M float32 step" in listed
    assert all(("mse" in name or "Adam 64M" in name) and " float32" in name for name in listed)
    assert command.main(["--only", "no such thing"]) == 1
    with pytest.raises(SystemExit):
        command.arguments(["--peers", "tensorflow"])
