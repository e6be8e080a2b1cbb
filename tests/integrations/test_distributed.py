"""torch.distributed with gloo: two processes train as one does; see worker.py for what each test holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

WORKER = Path(__file__).with_name("worker.py")
# Nobody from outside, and no more threads than there are cores.
ALONE = {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0", "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)


@pytest.mark.parametrize("what", ["ddp", "uneven", "fsdp", "zero"])
def test_two_processes(what: str, tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, WORKER, what, str(rank), tmp_path],
            env={**os.environ, **ALONE},
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


def test_torchrun(tmp_path: Path) -> None:
    """A script that has never heard of us, on two processes."""
    (tmp_path / "script.py").write_text(
        "import sys, torch\n"
        "torch.distributed.init_process_group('gloo')\n"
        "net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))\n"
        "optimizer = torch.optim.AdamW(net.parameters())\n"
        "torch.nn.functional.mse_loss(net(torch.ones(4, 3)), torch.ones(4, 2)).backward()\n"
        "optimizer.step()\n"
        "sys.stdout.write(f'{sorted(sys.modules[\"fusestep\"].stats())}\\n')\n"
        "torch.distributed.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "fusestep", "script.py"],
        cwd=tmp_path,
        env={**os.environ, **ALONE},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("['adam', 'mse_loss']") == 2
