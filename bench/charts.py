"""The pictures: speedups, shares of the bandwidth, and cost against size."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.peers import PEERS, label
from bench.run import Result, Run

COLORS = {
    "eager": "#4c72b0",
    "foreach": "#8172b3",
    "fused": "#55a868",
    "compile": "#dd8452",
    "liger": "#937860",
    "quack": "#da8bc3",
    "bitsandbytes": "#8c8c8c",
    "optimi": "#64b5cd",
}
OURS = "#c44e52"
TICKS = [0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100]


def _largest(results: Iterable[Result], group: str) -> list[Result]:
    """The case with the most elements of each loss, with its gradient, or optimizer, in float32."""
    largest: dict[str, Result] = {}
    for result in results:
        case = result.case
        if case.group == group and case.charted:
            known = largest.setdefault(case.subject, result)
            largest[case.subject] = max(known, result, key=lambda r: r.case.elements)
    return list(largest.values())


def _axes(rows: int, height: float) -> Axes:
    return plt.subplots(figsize=(8, 0.8 + height * max(rows, 2)))[1]


def _name_rows(axes: Axes, results: list[Result]) -> None:
    names = [result.case.name.split(" float32")[0] for result in results]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _write(axes: Axes, title: str, note: str, path: Path) -> None:
    axes.set_title(title, loc="left", fontsize=11, pad=22 if axes.get_legend() else 6)  # above the legend
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    below = {"xycoords": "axes fraction", "xytext": (0, -40), "textcoords": "offset points"}
    axes.annotate(note, (0, 0), fontsize=6.5, color="0.4", **below)
    axes.figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(axes.figure)


def speedups(run: Run, group: str, title: str, note: str, path: Path) -> None:
    """A peer's time over ours, a bar for each, from 1 to the right where ours takes less."""
    results = _largest(run.results.values(), group)
    peers = [peer for peer in PEERS if any(peer in result.times for result in results)]
    axes = _axes(len(results), 0.1 + 0.14 * len(peers))
    thickness = 0.8 / max(1, len(peers))
    for i, peer in enumerate(peers):
        known = [(at, ratio) for at, r in enumerate(results) if (ratio := run.metric(r, peer)) is not None]
        at = [row + (i - (len(peers) - 1) / 2) * thickness for row, _ in known]
        past_one = [ratio - 1 for _, ratio in known]
        axes.barh(at, past_one, thickness, left=1, color=COLORS[peer], label=label(peer))
        for y, (_, ratio) in zip(at, known, strict=True):
            side = {"ha": "left", "xytext": (3, 0)} if ratio >= 1 else {"ha": "right", "xytext": (-3, 0)}
            text = f"{ratio:.1f}×" if ratio < 10 else f"{ratio:.0f}×"
            axes.annotate(text, (ratio, y), textcoords="offset points", va="center", fontsize=6, **side)
    axes.axvline(1, color="0.2", linewidth=1)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_xticks(TICKS, [f"{tick:g}×" for tick in TICKS])
    axes.minorticks_off()
    ratios = [ratio for r in results for peer in peers if (ratio := run.metric(r, peer)) is not None]
    axes.set_xlim(
        min([0.8, *(0.8 * ratio for ratio in ratios)]), max([2, *(1.3 * ratio for ratio in ratios)])
    )
    axes.set_xlabel("time over ours, log scale", fontsize=8)
    _name_rows(axes, results)
    if peers:
        axes.legend(
            fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=min(4, len(peers)), frameon=False
        )
    _write(axes, title, note, path)


def shares(run: Run, note: str, path: Path) -> None:
    """How near the kernels are to moving each byte once at full speed."""
    results = [r for group in ("loss", "optimizer") for r in _largest(run.results.values(), group)]
    results = [result for result in results if result.bandwidth]
    axes = _axes(len(results), 0.22)
    values = [100 * (run.metric(result, "share") or 0) for result in results]
    bars = axes.barh(range(len(results)), values, 0.7, color=OURS)
    axes.bar_label(bars, fmt="%.0f %%", fontsize=7, padding=2)
    axes.axvline(100, color="0.2", linewidth=1)
    axes.set_xlabel("% of the bandwidth of a copy (losses) or of an update in place (optimizers)", fontsize=8)
    _name_rows(axes, results)
    _write(axes, "Share of the memory's bandwidth, each byte counted once", note, path)


def sizes(run: Run, note: str, path: Path) -> None:
    """Nanoseconds an element against the number of elements."""
    _, axes = plt.subplots(figsize=(8, 4))
    lines: dict[str, list[Result]] = {}
    for result in run.results.values():
        if result.case.group == "size":
            lines.setdefault(result.case.subject, []).append(result)
    for (subject, results), color in zip(lines.items(), (OURS, COLORS["eager"]), strict=False):
        for who, style in (("ours", "-o"), ("eager", ":")):
            timed = [result for result in results if who in result.times]
            elements = [result.case.elements for result in timed]
            cost = [r.times[who].median / r.case.elements * 1e9 for r in timed]
            label = f"{subject}, {'ours' if who == 'ours' else 'torch eager'}"
            axes.plot(elements, cost, style, color=color, markersize=4, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("elements, bfloat16", fontsize=8)
    axes.set_ylabel("ns an element", fontsize=8)
    axes.legend(fontsize=7)
    _write(axes, "Cost against size", note, path)


def write(run: Run, machine: dict[str, str], folder: Path) -> None:
    """Those pictures that the run has results for."""
    note = (
        f"{machine['machine']}, {machine['threads']} threads on {machine['cores']} cores, {machine['isa']}; "
        f"torch {machine['torch']}, python {machine['python']}; fusestep {machine['commit']}"
    )
    groups = {result.case.group for result in run.results.values() if result.case.charted}
    if "loss" in groups:
        speedups(run, "loss", "Losses, forward and backward, float32", note, folder / "losses.png")
    if "optimizer" in groups:
        speedups(run, "optimizer", "Optimizers, one step, float32", note, folder / "optimizers.png")
    if any(result.bandwidth and result.case.charted for result in run.results.values()):
        shares(run, note, folder / "bandwidth.png")
    if any(result.case.group == "size" for result in run.results.values()):
        sizes(run, note, folder / "sizes.png")
