"""``fusestep bench``: losses and optimizers against torch's, on this machine, in a minute.

The benchmark of the project, with more shapes, dtypes and peers, is ``make bench`` in its repository.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusestep import _config, _samples
from fusestep._catalog import Op
from fusestep.cli import Failure, needs_torch
from fusestep.cli.ops import chosen

BATCH = {"loss": (2048, 1000), "softmax": (2048, 1000)}  # rows and columns
PARAMETERS = [(1024, 1024)] * 4 + [(1024,)] * 4
LONGEST = 30  # characters of a bar


@dataclass(frozen=True)
class Line:
    """Milliseconds of a call, ours and torch's; of optimizers torch's fastest way."""

    name: str
    ours: float
    torch: float
    way: str  # of torch

    @property
    def ratio(self) -> float:
        return self.torch / self.ours


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fusestep bench",
        description="Losses, forward and backward, and steps of optimizers: torch's time over ours.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of ops, functions or classes (default: all)"
    )
    parser.add_argument("--device", default="cpu", help="of all tensors (default: cpu)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line (default: 1)")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="also draw it, with matplotlib")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(given)
    needs_torch("the benchmark")
    import torch

    ops = [op for op in chosen(options.names) if op.kind != "gradient"]
    try:
        torch.empty(1, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise Failure(f"--device {options.device}: {str(error).splitlines()[0]}") from None
    if torch.device(options.device).type == "meta":
        raise Failure(f"--device {options.device}: nothing is computed there")
    if options.chart is not None:
        _check_chart(options.chart)
    lines = []
    for line in measure(ops, options.device, options.seconds):
        lines.append(line)
        if not options.json:
            print(_text(line), flush=True)
    if not lines:
        raise Failure(f"torch has nothing to compare it with: {', '.join(options.names)}")
    if options.json:
        found = [{**vars(line), "ratio": line.ratio} for line in lines]
        print(json.dumps({"configuration": _config.configuration(), "lines": found}, indent=2))
    if options.chart is not None:
        draw(lines, options.chart)
        print(f"wrote {options.chart}", file=sys.stderr)
    return 0


def measure(ops: Sequence[Op], device: str, seconds: float) -> Iterator[Line]:
    """Ours and torch's, in turns."""
    from fusestep._timing import Budget, Contender, interleave

    for op in ops:
        for name, contenders in _contenders(op, device):
            budget = Budget(seconds, least=3)
            calls = {who: Contender(call) for who, call in contenders.items()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of each mean of kl_div
                times, _ = interleave(calls, budget, device)
            medians = {who: taken.median * 1e3 for who, taken in times.items() if who != "ours"}
            if medians:
                way = min(medians, key=lambda who: medians[who])
                yield Line(name, times["ours"].median * 1e3, medians[way], way)


Calls = dict[str, Callable[[], object]]


def _contenders(op: Op, device: str) -> Iterator[tuple[str, Calls]]:
    if op.kind != "optimizer":
        yield from _functions(op, device)
    elif op.name != "sparse_adam":  # what it costs is a matter of the rows that are touched
        for name in op.in_numpy:
            yield from _steps(name, device)


def _functions(op: Op, device: str) -> Iterator[tuple[str, Calls]]:
    import torch

    from fusestep.nn import functional
    from fusestep.nn._torchs import functional as torchs

    theirs = getattr(torchs, op.function, None)
    if theirs is None:
        return
    tensors = [torch.from_numpy(x) for x in _samples.operands(op, *BATCH[op.kind])]
    input, *rest = (x.to(device, torch.float32 if x.is_floating_point() else None) for x in tensors)
    input.requires_grad_()
    more = (1,) if op.kind == "softmax" else tuple(rest)
    seed = torch.rand_like(input) if op.kind == "softmax" else None

    def call_of(function: Callable[..., Any]) -> Callable[[], object]:
        def call() -> None:
            function(input, *more).backward(seed)
            input.grad = None

        return call

    yield op.name, {"ours": call_of(getattr(functional, op.function)), "eager": call_of(theirs)}


def _steps(name: str, device: str) -> Iterator[tuple[str, Calls]]:
    import torch

    import fusestep.optim

    theirs = getattr(torch.optim, name, None)
    if theirs is None:
        return
    params = [torch.nn.Parameter(torch.randn(shape, device=device)) for shape in PARAMETERS]
    for param in params:
        param.grad = torch.randn_like(param)
    calls: Calls = {"ours": getattr(fusestep.optim, name)(params, lr=1e-3).step}
    for way in ("foreach", "fused"):
        if way in inspect.signature(theirs).parameters:
            calls[way] = theirs(params, lr=1e-3, **{way: True}).step
    yield f"{name}.step", calls


def _text(line: Line) -> str:
    bar = "█" * max(1, min(LONGEST, round(line.ratio * 2)))
    times = f"{line.ours:9.3f} ms  torch {line.torch:9.3f} ms ({line.way})"
    return f"{line.name:34} {times:44} {line.ratio:6.2f}×  {bar}"


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise Failure("--chart needs matplotlib, which is not installed: pip install matplotlib") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def _check_chart(path: Path) -> None:
    """Before anything is measured."""
    drawn = _pyplot().figure().canvas.get_supported_filetypes()
    if path.suffix[1:] not in drawn:
        raise Failure(f"--chart {path}: matplotlib draws no {path.suffix}")
    if not path.absolute().parent.is_dir():
        raise Failure(f"--chart {path}: there is no such folder")


def draw(lines: Sequence[Line], path: Path) -> None:
    """A bar for each line: torch's time over ours."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 0.8 + 0.25 * max(len(lines), 2)))
    bars = axes.barh([line.name for line in lines], [line.ratio for line in lines], color="#c44e52")
    axes.bar_label(bars, [f"{line.ratio:.1f}× {line.way}" for line in lines], fontsize=7, padding=2)
    axes.axvline(1, color="0.2", linewidth=1)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("torch's time over ours", fontsize=8)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
