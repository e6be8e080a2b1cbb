"""The documentation: its code runs, its site builds without a warning, its pictures can be drawn again."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolchain import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(page.read_text()) if found == language]


def around(page: Path) -> dict[str, Any]:
    """What a page expects to be there already: it shows a part of a training loop."""
    import fusestep.nn as nn
    import fusestep.nn.functional as F
    import fusestep.optim as optim

    model = torch.nn.Linear(4, 3)
    tensors = torch.randn(8, 4), torch.randint(0, 3, (8,))
    everything: dict[str, dict[str, Any]] = {
        "optimizers.md": {
            "optim": optim,
            "model": model,
            "loss_function": nn.CrossEntropyLoss(),
            "batches": [tensors],
            "evaluate": lambda model: model(tensors[0]),
        },
        "integrations.md": {
            "torch": torch,
            "F": F,
            "logits": model(tensors[0]),
            "target": tensors[1],
            "world_size": 1,
        },
    }
    return everything.get(page.name, {})


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_code_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page one after another, as somebody would paste them."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)  # a world of one
    namespace = around(page)
    if page.name == "README.md":
        batches = [
            [(torch.randn(8, 64), torch.randint(0, 10, (8,)))],
            [(np.ones((8, 64), np.float32), np.arange(8))],
        ]
        for code, data in zip(blocks(page, "python"), batches, strict=True):
            exec(code, {"batches": data})
        return
    for code in blocks(page, "python"):
        exec(code, namespace)
    import fusestep

    fusestep.uninstall()


def test_every_block_says_what_it_is() -> None:
    for page in PAGES:
        for language, code in BLOCK.findall(page.read_text()):
            assert language in ("", "python"), f"{page.name}: a block of {language}"
            assert language or "import " not in code, (
                f"{page.name}: a block of Python that is not run:\n{code}"
            )


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs")
def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly: a dead link or a name without a docstring fails."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    functions = (tmp_path / "api/functional/index.html").read_text()
    for name in ("mse_loss", "cross_entropy", "softmax"):
        assert name in functions
    assert ":func:" not in functions
    assert "bench/results/cpu/losses.png" in (tmp_path / "performance/index.html").read_text()


def test_every_public_name_is_in_the_reference() -> None:
    import fusestep.nn
    import fusestep.numpy
    import fusestep.optim

    shown = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    modules = set(re.findall(r"^::: (\S+)", shown, re.M))
    for space in (fusestep.nn.functional, fusestep.nn, fusestep.optim):
        for name in space.KERNELS:
            assert getattr(space, name).__module__ in modules, f"{name} is in no page of docs/api"
    for name in fusestep.numpy.__all__:
        assert getattr(fusestep.numpy, name).__module__ in modules, f"{name} is in no page of docs/api"


def test_trajectories_can_be_drawn_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    picture = tmp_path / "trajectories.png"
    subprocess.run([sys.executable, ROOT / "tools/trajectories.py", picture], check=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
