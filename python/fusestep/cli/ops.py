"""``fusestep ops``: every kernel, how it is reached, and where it runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fusestep import _native
from fusestep._catalog import DTYPES, Op, catalog
from fusestep.cli import Failure

HEAD = ("op", "kind", "torch", "NumPy", "states")


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="fusestep ops", description="Every kernel, and where it runs.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of ops, functions or classes (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(given)
    found = chosen(options.names)
    why = _native.why_no_cuda()
    devices = ["cpu"] if why else ["cpu", "cuda"]
    if options.json:
        print(json.dumps([{**asdict(op), "dtypes": DTYPES, "devices": devices} for op in found], indent=2))
    else:
        print(table([HEAD, *(_cells(op) for op in found)]))
        print(f"\ndtypes: {', '.join(DTYPES)}\ndevices: {', '.join(devices)}" + (f"; {why}" if why else ""))
    return 0


def chosen(names: Sequence[str]) -> list[Op]:
    """Those that are called so: by the name of the op, or of a function or class.

    Raises:
        Failure: a name is none of them.
    """
    known = {
        op: {op.name, *op.in_numpy, *op.in_torch, *(n.split(".")[1] for n in op.in_torch)} for op in catalog()
    }
    for name in names:
        if not any(name in called for called in known.values()):
            raise Failure(f"there is no op {name!r}; see fusestep ops")
    return [op for op, called in known.items() if not names or called & set(names)]


def _cells(op: Op) -> tuple[str, ...]:
    return op.name, op.kind, ", ".join(op.in_torch), ", ".join(op.in_numpy), ", ".join(op.states)


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Columns of text."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell!s:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
