"""What tests need that compile C++ and CUDA sources outside CMake."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"


def write_all_formulas(directory: Path) -> Path:
    """Writes formulas/all.h, as CMake does, and returns the directory to include it from."""
    headers = sorted(
        path for folder in ("losses", "optim") for path in (CSRC / "formulas" / folder).glob("*.h")
    )
    lines = ["#pragma once", *(f'#include "{path.relative_to(CSRC)}"' for path in headers)]
    target = directory / "formulas" / "all.h"
    target.parent.mkdir(parents=True)
    target.write_text("\n".join(lines) + "\n")
    return directory
