"""What ``--report`` prints when the process ends."""

from __future__ import annotations

import atexit
import sys
from time import perf_counter
from typing import TYPE_CHECKING

from fusestep._stats import stats

if TYPE_CHECKING:
    from fusestep._install import Usage


def at_exit() -> None:
    """Print to stderr after all that the script does at its own exit."""
    start = perf_counter()

    def show() -> None:
        install = sys.modules.get("fusestep._install")  # if the script has imported torch
        usage = install.usage() if install is not None else {}
        print(table(usage, perf_counter() - start), file=sys.stderr)

    atexit.register(show)


def table(usage: dict[str, Usage], seconds: float) -> str:
    """Calls and their time, by name; then which kernels ran, and why torch's own code did."""
    spent = sum(one.seconds for one in usage.values())
    lines = [f"fusestep: {spent:.3f} of {seconds:.3f} seconds in losses (without backward) and steps"]
    counts = stats()
    width = max(map(len, ["kernel", *usage, *counts]))
    if usage:
        lines.append(f"  {'':{width}} {'calls':>9} {'seconds':>9}")
    for name, one in sorted(usage.items(), key=lambda item: -item[1].seconds):
        lines.append(f"  {name:{width}} {one.calls:9} {one.seconds:9.3f}")
    if counts:
        lines.append(f"  {'kernel':{width}} {'ours':>9} {'torch':>9}")
    for op, count in counts.items():
        reasons: dict[str, int] = count["torch"]  # type: ignore[assignment]
        why = "; ".join(f"{reason}: {times}" for reason, times in reasons.items())
        lines.append(f"  {op:{width}} {count['native']:9} {sum(reasons.values()):9}  {why}".rstrip())
    return "\n".join(lines)
