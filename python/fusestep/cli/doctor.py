"""``fusestep doctor``: what runs here, and whether it is right."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any

from fusestep import _config, _native
from fusestep.cli import check


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fusestep doctor",
        description="What runs here; then every kernel is checked, on each instruction set of the machine.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(given)
    with_torch, why = _import_torch()
    configuration = _config.configuration()
    if why:
        configuration["torch"] = f"cannot be imported: {why}"
    start = perf_counter()
    found = checks(with_torch)
    seconds = perf_counter() - start
    wrong = {where: [one for one in done if not one.ok] for where, done in found.items()}
    bad = any(wrong.values())
    if options.json:
        result: dict[str, Any] = {
            "configuration": configuration,
            "checks": [{"on": where, **asdict(one)} for where, done in found.items() for one in done],
            "ok": not bad,
        }
        print(json.dumps(result, indent=2))
        return int(bad)
    print(_config.table(configuration))
    print(f"\nchecked against {'torch in float64' if with_torch else 'differences and float64'}:")
    for where, done in found.items():
        ops = len({one.op for one in done})
        failed = sorted({one.op for one in wrong[where]})
        print(f"  {where:10} {ops - len(failed)} of {ops} ops are right")
        for one in wrong[where]:
            print(f"    {one.op}: off by {one.error:.1e} against {one.against}")
    verdict = "Something is wrong: please report it with this output" if bad else "All is well"
    print(f"\n{verdict}; {seconds:.1f} s")
    return int(bad)


def _import_torch() -> tuple[bool, str]:
    """Whether it is there; and what is wrong with it if it is, and cannot be imported."""
    if not _config.has_torch():
        return False, ""
    try:
        import torch  # noqa: F401
    except Exception as error:  # a broken shared library, as a rule
        return False, f"{type(error).__name__}: {error}".splitlines()[0]
    return True, ""


def checks(with_torch: bool) -> dict[str, list[check.Check]]:
    """By where they ran: each instruction set of this machine, and CUDA if it can be used."""
    chosen = _native.isa()
    found = {}
    try:
        for isa in (name for name, here in _native.isas().items() if here):
            _native.set_isa(isa)
            found[isa] = check.run("cpu", with_torch)
    finally:
        _native.set_isa(chosen)
    if with_torch and not _native.why_no_cuda():
        import torch

        if torch.cuda.is_available():
            found["cuda"] = check.run("cuda", with_torch)
    return found
