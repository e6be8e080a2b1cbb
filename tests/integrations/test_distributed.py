"""torch.distributed with gloo: two processes train as one does; see worker.py for what each test holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

WORKER = Path(__file__).with_name("worker.py")

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)


@pytest.mark.parametrize("what", ["ddp", "uneven", "fsdp", "zero"])
def test_two_processes(what: str, tmp_path: Path) -> None:
    loopback = "lo" if sys.platform == "linux" else "lo0"
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, WORKER, what, str(rank), tmp_path],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in both:
            out, err = process.communicate(timeout=120)
            assert out == "ok\n", err
    finally:
        for process in both:
            process.kill()
