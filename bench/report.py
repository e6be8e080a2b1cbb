"""The table, the targets and the CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.run import Result, Run

NAME = 52
LEGEND = """\
eager, foreach, fused, compile: torch's time over ours; liger, quack, bitsandbytes, optimi: theirs.
bandwidth: share of what a copy (losses) or an update in place (optimizers) reaches in turns with it.
memory, torchs: peak of a call beyond operands and states, ours and eager; in inputs or parameters."""


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _columns(cells: Iterable[str]) -> str:
    return " ".join(f"{cell:>8}" for cell in cells)


def head(peers: Sequence[str]) -> str:
    """The first line of the table."""
    rest = f"{'bandwidth':>9} {'memory':>7} {'torchs':>7}  targets"
    return f"{'case':{NAME}} {'ours ms':>9} {_columns(peer[:8] for peer in peers)} {rest}"


def row(run: Run, result: Result, peers: Sequence[str]) -> str:
    """Another line of it."""
    ratios = _columns(_cell(run.metric(result, peer), ".2f") for peer in peers)
    share = _cell(run.metric(result, "share"), ".0%")
    peaks = [
        _cell(result.peaks.get(who, None) and result.peaks[who] / result.case.input_bytes, ".2f")
        for who in ("ours", "eager")
    ]
    asked = [target for target in run.targets if target.covers(result.case.name)]
    marks = []
    for target in asked:
        value = run.metric(result, target.metric)
        if value is not None:
            marks.append(f"{target} {'met' if target.met(value) else 'MISSED'}")
    figures = f"{result.ours * 1e3:9.4g} {ratios} {share:>9} {peaks[0]:>7} {peaks[1]:>7}"
    return f"{result.case.name:{NAME}} {figures}  {', '.join(marks)}".rstrip()


def targets(run: Run) -> str:
    """Every target with a measured case: what was asked, the worst case, whether all cases met it."""
    lines = [f"{'target':46} {'asked':>32} {'measured':>9}  outcome"]
    for target in run.targets:
        values = {
            name: value
            for name, result in run.results.items()
            if target.covers(name) and (value := run.metric(result, target.metric)) is not None
        }
        if not values:
            continue
        worst = (max if target.at_most else min)(values, key=lambda name: values[name])
        met = sum(map(target.met, values.values()))
        shown = f"{values[worst]:.0%}" if target.metric == "share" else f"{values[worst]:.2f}×"
        outcome = (
            "met" if met == len(values) else f"MISSED by {len(values) - met} of {len(values)}: worst {worst}"
        )
        lines.append(f"{target.what:46} {target!s:>32} {shown:>9}  {outcome}")
    return "\n".join(lines)


def notes(run: Run) -> str:
    """Why a case or a contender has no figure."""
    why = [
        f"{result.case.name}, {who}: {text}"
        for result in run.results.values()
        for who, text in result.missing.items()
    ]
    return "\n".join([*run.skipped, *why])


def write_csv(run: Run, machine: dict[str, str], path: Path) -> None:
    """A line for each contender of each case."""
    with path.open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for result in run.results.values():
            for who, times in result.times.items():
                low, high = times.quartiles
                share = run.metric(result, "share") if who == "ours" else None
                line = {
                    "case": result.case.name,
                    "contender": who,
                    "median_ms": f"{times.median * 1e3:.6g}",
                    "quartile1_ms": f"{low * 1e3:.6g}",
                    "quartile3_ms": f"{high * 1e3:.6g}",
                    "samples": len(times.samples),
                    "calls_in_a_sample": times.calls_in_a_sample,
                    "time_over_ours": f"{times.median / result.ours:.4g}",
                    "bytes_moved": result.case.bytes_moved,
                    "bandwidth_gb_s": _cell(result.bandwidth and result.bandwidth / 1e9, ".4g"),
                    "share_of_bandwidth": _cell(share, ".4g"),
                    "peak_extra_bytes": result.peaks.get(who, ""),
                    **machine,
                }
                if writer is None:
                    writer = csv.DictWriter(file, list(line))
                    writer.writeheader()
                writer.writerow(line)
