"""The bounds that docs/accuracy.md stands for, on a smaller sample."""

from __future__ import annotations

import pytest
import torch

from toolchain import ROOT

pytest.importorskip("mpmath")


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> list[tuple[str, list[tuple[float, float | None]]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        import accuracy

        return accuracy.table(400)


def test_full_precision_errors_are_at_most_twice_torchs_or_a_few_ulp(rows: list) -> None:
    for name, pairs in rows:
        for dtype, (own, torchs) in zip((torch.float32, torch.float64), pairs, strict=False):
            assert own <= max(2 * (torchs or 0), 4), f"{name} in {dtype}: {own:.2f} ULP, torch {torchs:.2f}"


def test_half_types_are_rounded_once(rows: list) -> None:
    """Half an ULP, and what the float32 result was off by."""
    for name, pairs in rows:
        for own, _ in pairs[2:]:
            assert own <= 0.6, f"{name}: {own:.2f} ULP"


def test_softmax_keeps_a_few_ulp_where_torch_loses_tens(rows: list) -> None:
    for name, pairs in rows:
        if name.startswith("softmax"):
            assert pairs[0][0] <= 4, f"{name}: {pairs[0][0]:.2f} ULP"
