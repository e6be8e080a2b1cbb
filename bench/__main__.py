"""``python -m bench``: measure, print the table, write CSV and charts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from bench import ROOT, cases, charts, report
from bench.bandwidth import Bandwidth
from bench.case import Case
from bench.device import cores, machine
from bench.peers import PEERS, available
from bench.run import Run
from bench.targets import targets_for
from fusestep._timing import Budget


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases, no compilation; two minutes")
    parser.add_argument("--only", action="append", metavar="TEXT", help="in the names of cases; repeatable")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the cases")
    parser.add_argument(
        "--peers", help=f"some of {','.join(PEERS)} (default: all there are; --quick: not compile)"
    )
    parser.add_argument("--threads", type=int, default=2, help="at most the cores there are (default: 2)")
    parser.add_argument("--device", default="cpu", help="of all tensors (default: cpu)")
    parser.add_argument("--seconds", type=float, help="timing of one case (default: 4, 0.4 if --quick)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--targets", action="store_true", help="only cases that a target is about")
    parser.add_argument("--huge", action="store_true", help="also sizes of 10⁹ elements and beyond 2³¹")
    parser.add_argument("--out", type=Path, help="folder for CSV and charts (default: bench/results/DEVICE)")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, measure nothing")
    options = parser.parse_args(given)
    options.out = options.out or ROOT / "bench/results" / options.device.partition(":")[0]
    here = [peer for peer in available(options.device) if not (options.quick and peer == "compile")]
    options.peers = here if options.peers is None else [peer for peer in options.peers.split(",") if peer]
    if unknown := set(options.peers) - {*PEERS}:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    return options


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases asked for."""
    found = []
    asked = targets_for(options.device)
    for case in cases.quick() if options.quick else cases.everything(options.device):
        named = not options.only or any(part in case.name for part in options.only)
        typed = options.dtype in (None, case.dtype_name)
        wanted = not options.targets or any(target.covers(case.name) for target in asked)
        if named and typed and wanted and (options.huge or not case.is_huge):
            found.append(case)
    return found


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    found = chosen(options)
    if options.list or not found:
        print("\n".join(case.name for case in found) or "no such case")
        return 0 if found else 1
    torch.set_num_threads(min(options.threads, cores()))
    about = machine(options.device)
    print(", ".join(f"{key} {value}" for key, value in about.items() if value), "\n", sep="")
    run = Run(options.device, Bandwidth(options.device))
    budget = Budget(options.seconds or (0.4 if options.quick else 4.0), least=5 if options.quick else 7)
    print(report.head(options.peers))
    for result in run.measure(found, options.peers, budget, not options.no_memory):
        print(report.row(run, result, options.peers), flush=True)
    print(f"\n{report.LEGEND}\n\n{run.bandwidth}\n\n{report.targets(run)}")
    options.out.mkdir(parents=True, exist_ok=True)
    report.write_csv(run, about, options.out / "results.csv")
    charts.write(run, about, options.out)
    print(f"\nwrote {options.out}")
    if notes := report.notes(run):
        print(f"\nNot measured:\n{notes}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
