"""The examples run as a user would run them, and what they claim holds: each exits with 1 if it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_runs(script: Path, tmp_path: Path) -> None:
    for package in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(package, reason="the examples need the extra `examples`")
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path)}
    command = [sys.executable, "-W", "error::DeprecationWarning:fusestep", str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == (0 if script.name == "numpy_only.py" else 1)
