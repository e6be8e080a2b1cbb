"""A user's script passes ``mypy --strict``, and a mistake in it does not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain import ROOT

SCRIPT = ROOT / "tests" / "typing" / "user_script.py"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy")


def check(script: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    # Elsewhere, so that what is checked is the package as it is installed, or where PYTHONPATH has it.
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), str(script)]
    paths = {"MYPYPATH": str(ROOT / "python")} if importlib.util.find_spec("fusestep") is None else {}
    return subprocess.run(
        command, cwd=script.parent, env={**os.environ, **paths}, capture_output=True, text=True
    )


def test_a_users_script(tmp_path: Path) -> None:
    script = tmp_path / "user_script.py"
    script.write_text(SCRIPT.read_text())
    done = check(script, tmp_path / "cache")
    assert done.returncode == 0, done.stdout
    script.write_text(SCRIPT.read_text().replace('reduction="sum"', "reduction=7"))
    done = check(script, tmp_path / "cache")
    assert 'Argument "reduction" to "mse_loss" has incompatible type' in done.stdout
    script.write_text(SCRIPT.read_text().replace("ema_decay=0.9", "ema_decay='0.9'"))
    assert check(script, tmp_path / "cache").returncode == 1
    subprocess.run([sys.executable, SCRIPT], check=True, cwd=tmp_path)
