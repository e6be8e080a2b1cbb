"""Fixtures every test may use."""

from __future__ import annotations

import os

# Spinning OpenMP threads on a busy machine make small parallel calls a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from collections.abc import Iterator

import pytest
import torch

import fusestep
from fusestep import _native


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Seeds, instruction set and threads are the same before each test, whatever the last one did."""
    torch.manual_seed(0)
    fusestep.reset_stats()
    isa, threads = _native.isa(), torch.get_num_threads()
    yield
    _native.set_isa(isa)
    _native.set_num_threads(0)
    _native.use_exchange_api(True)
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
