"""Processes, threads, L-BFGS: bugs that other fused optimizers shipped, each test named after one.

The numbers are those of 63 items distilled from the issues of PyTorch, Apex, TransformerEngine (TE),
DeepSpeed, ColossalAI, bitsandbytes (bnb), torchao, FlagGems and others. torch's for-loop is the reference,
or float64: its fused and foreach paths are among the peers.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
import fusestep.optim as optim
from fusestep.optim._plan import Plan
from peers import (
    NAN,
    as_torch,
    close,
    follow,
    in_new_process,
    item,
    lbfgs,
    native_calls,
    one,
    rosenbrock,
    same_bits,
    tensors,
    with_states,
)
from test_optim import NAMES, assert_same_state, make

# ---- distributed, hooks, LBFGS ----

SHARDED = """
import copy, os, sys
from datetime import timedelta
from test_optim import NAMES, make
from peers import close, native_calls, torch, with_states
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group(
    "gloo", init_method=f"file://{path}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
mesh = dist.init_device_mesh("cpu", (2,))
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
inputs = torch.randn(3, 8, 5)
def train(model, optimizer, clip):
    for x in inputs:
        model(x).square().sum().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
for name in NAMES:
    for extras, clip in (({}, 0), ({"max_grad_norm": 0.25}, 0.25)):
        plain, sharded = copy.deepcopy(model), copy.deepcopy(model)
        train(plain, make(name, False, lr=0.01, **with_states(name))(plain.parameters()), clip)
        for layer in (sharded[0], sharded[2], sharded):
            fully_shard(layer, mesh=mesh)
        before = native_calls(name)
        optimizer = make(name, True, lr=0.01, **with_states(name), **extras)(sharded.parameters())
        train(sharded, optimizer, 0)
        assert native_calls(name) == before + 3, name
        sizes = [p.to_local().numel() for p in sharded.parameters()]
        assert rank == 0 or sizes[2:] == [0, 0], sizes
        for p, right in zip(sharded.parameters(), plain.parameters(), strict=True):
            assert isinstance(p, DTensor)
            close(p.full_tensor().detach(), right.detach())
            for value in optimizer.state[p].values():
                assert value.dim() == 0 or type(value) is DTensor
        if clip:
            of_rank_0 = optimizer.last_grad_norm.clone()
            dist.broadcast(of_rank_0, 0)
            assert of_rank_0 == optimizer.last_grad_norm > clip, name
dist.barrier()
os._exit(0)  # threads of torch abort some of the orderly exits
"""


@item(41)
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_sharded_parameters_are_not_updated_where_they_lie(tmp_path: Any) -> None:
    """Two processes with FSDP2, the second of which has no row of the last layer; and one global norm."""
    command, here = [sys.executable, "-c", SHARDED], os.path.dirname(__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], cwd=here, env=environment)
        for rank in range(2)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


@item(41, name=NAMES)
def test_wrapped_tensors_are_updated_behind_their_wrapper(name: str) -> None:
    """What a subclass wraps is its own affair: torch's step goes through it."""
    from torch.testing._internal.two_tensor import TwoTensor

    def script(optimizer_of: Any) -> Any:
        param = Parameter(TwoTensor(torch.ones(5), torch.ones(5)))
        optimizer = optimizer_of([param])
        for _ in range(2):
            param.grad = TwoTensor(torch.full((5,), 0.5), torch.full((5,), 0.5))
            optimizer.step()
        assert type(param.data) is TwoTensor
        return [param.a.detach(), param.b.detach()]

    as_torch(name, script, **with_states(name))
    assert native_calls(name) == 0


@item(42, name=NAMES)
def test_step_in_backward_with_a_scheduler_each(name: str) -> None:
    def script(optimizer_of: Any) -> Any:
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        for p in model.parameters():
            torch.nn.init.constant_(p, 0.5)
        optimizers = {p: optimizer_of([p]) for p in model.parameters()}
        schedulers = [torch.optim.lr_scheduler.StepLR(o, 1, 0.5) for o in optimizers.values()]

        def step(p: Tensor) -> None:
            optimizers[p].step()
            optimizers[p].zero_grad()

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(step)
        for _ in range(3):
            model(torch.ones(2, 4)).square().mean().backward()
            for scheduler in schedulers:
                scheduler.step()
        assert all(p.grad is None for p in model.parameters())
        return [p.detach() for p in model.parameters()]

    as_torch(name, script, lr=0.01, **with_states(name))
    assert native_calls(name) == 12


LBFGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "history is evicted": {"history_size": 2, "lr": 0.1},
    "history of one": {"history_size": 1, "max_iter": 7, "lr": 0.1},
    "max_eval": {"max_eval": 3, "line_search_fn": "strong_wolfe"},  # pytorch#91581
    "max_eval of one": {"max_eval": 1},
    "max_iter": {"max_iter": 2},
    "tolerance_grad": {"tolerance_grad": 10.0, "line_search_fn": "strong_wolfe"},  # pytorch#25240
    "tolerance_change": {"tolerance_change": 0.1, "line_search_fn": "strong_wolfe"},
    "strong_wolfe": {"line_search_fn": "strong_wolfe", "steps": 8},
    "reloaded": {"line_search_fn": "strong_wolfe", "reload_at": 2, "steps": 4, "max_iter": 4},
    "reloaded, no search": {"reload_at": 1, "max_iter": 4, "lr": 0.01},
    "converged at the start": {"start": (torch.ones(6, dtype=torch.float64),)},
    "NaN": {"loss_of": lambda x: x.sum() * NAN},  # pytorch#5953
    "NaN later": {"loss_of": lambda x: (x - 1.1).log().abs().sum(), "lr": 0.5, "steps": 2},
    "flat": {"loss_of": lambda x: (x * 3).sum(), "lr": 0.1},  # y s is 0: no pair is kept
    "a parameter without gradient": {
        "loss_of": lambda x, y, z: rosenbrock(x) + z.square().sum(),
        "start": tuple(torch.linspace(-1, 1, n, dtype=torch.float64) for n in (4, 3, 2)),
        "line_search_fn": "strong_wolfe",
    },
    "an empty parameter": {
        "loss_of": lambda x, y: rosenbrock(x) + y.sum(),
        "start": (torch.linspace(-1, 1, 4, dtype=torch.float64), torch.empty(0, dtype=torch.float64)),
        "line_search_fn": "strong_wolfe",
    },
    "complex": {
        "loss_of": lambda x: rosenbrock(torch.view_as_real(x).flatten()),
        "start": (torch.view_as_complex(torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)),),
        "line_search_fn": "strong_wolfe",
    },
    "shapes": {
        "loss_of": lambda x, y: (rosenbrock(x.t().reshape(-1)) + (y - x.sum()) ** 2).sum(),
        "start": (torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2), torch.tensor(0.5).double()),
        "line_search_fn": "strong_wolfe",
    },
}


@item(45, case=LBFGS)
@pytest.mark.filterwarnings("ignore:.*complex")
def test_lbfgs_stops_or_remembers_otherwise(case: str) -> None:
    """The same iterates, losses, evaluations and pairs in float64; a NaN ends the step, and is kept."""
    if case.startswith("NaN"):
        LBFGS[case].setdefault("start", (torch.linspace(1.2, 2, 6, dtype=torch.float64),))
    (mine, ours), (right, theirs) = (lbfgs(of.LBFGS, **LBFGS[case]) for of in (optim, torch.optim))
    close(mine, right, rtol=1e-7, atol=1e-9)
    a, b = (next(iter(o.state_dict()["state"].values())) for o in (ours, theirs))
    assert list(a) == list(b)


@item(45)
def test_lbfgs_accepts_what_it_cannot_do() -> None:
    for of in (optim.LBFGS, torch.optim.LBFGS):
        with pytest.raises(ValueError, match="parameter groups"):
            of([{"params": [one()]}, {"params": [one()]}])
        with pytest.raises(RuntimeError, match="only 'strong_wolfe' is supported"):
            lbfgs(of, line_search_fn="wolfe")
        with pytest.raises(TypeError):
            of([one()]).step()


# ---- threads, processes, the state of the machine ----

FORKED = """
import os, signal, threading
from test_optim import NAMES, make
import torch
from peers import tensors, with_states
from torch.nn import Parameter
torch.set_num_threads(2)
def results():
    kept = []
    for name in NAMES:
        # each too small for the threads of torch itself, which hang in a child
        params = [Parameter(torch.linspace(-1, 1, 30_000)) for _ in range(10)]
        optimizer = make(name, True, **with_states(name))(params)
        for step in range(2):
            for param in params:
                param.grad = torch.full_like(param, 0.5)
            optimizer.step()
        kept += tensors(optimizer)
    return kept
def same():
    return all(torch.equal(a, b) for a, b in zip(results(), expected, strict=True))
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, i):
        return int(same())
expected = results()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    os._exit(0 if same() else 3)
assert os.waitpid(pid, 0)[1] == 0
assert [int(x) for x in torch.utils.data.DataLoader(Data(), num_workers=1, timeout=60)] == [1]
seen = []
threads = [threading.Thread(target=lambda: seen.append(same())) for _ in range(2)]
[t.start() for t in threads], [t.join(60) for t in threads]
torch.set_num_threads(1)
assert seen == [True, True] and same()
"""


@item(53, runtime=["openmp", "pool", "serial"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_step_after_a_fork_or_in_two_threads_hangs(runtime: str) -> None:
    """In a child, in a worker of a DataLoader, in two threads at once, with one thread."""
    in_new_process(FORKED, FUSESTEP_THREADING=runtime)


@item(53)
def test_interpreter_stands_still_during_a_step() -> None:
    """Python runs while the kernel does: a thread that counts gets on with it."""
    fusestep.set_num_threads(1)
    param = Parameter(torch.zeros(5_000_000))
    param.grad = torch.ones_like(param)
    optimizer = optim.Adam([param])
    optimizer.step()
    native, went_on = Plan.step, []

    def step(*args: Any) -> Any:
        seen: list[int] = []
        started = threading.Event()
        thread = threading.Thread(target=lambda: (started.wait(), seen.append(1)))
        thread.start()
        started.set()
        result = native(*args)
        went_on.append(len(seen))
        thread.join()
        return result

    interval = sys.getswitchinterval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "step", step)
        sys.setswitchinterval(10)  # nobody is made to hand it over
        try:
            for _ in range(20):
                optimizer.step()
        finally:
            sys.setswitchinterval(interval)
    assert any(went_on)


THREADS = """
import os, torch, fusestep, fusestep.optim as optim
assert fusestep.get_num_threads() == torch.get_num_threads() == 1
param = torch.nn.Parameter(torch.zeros(3_000_000))
param.grad = torch.ones_like(param)
before = len(os.listdir("/proc/self/task"))
optim.Adam([param]).step()
assert len(os.listdir("/proc/self/task")) == before
torch.set_num_threads(2)
of_torch = os.environ["FUSESTEP_THREADING"] == "openmp"  # a pool of our own has the number it started with
assert fusestep.get_num_threads() == 1 + of_torch
optim.Adam([param]).step()
assert len(os.listdir("/proc/self/task")) <= before + 2
"""


@item(54, runtime=["openmp", "pool"])  # Megatron-LM#188: 17.2 s instead of 1.81 s
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_process_takes_every_core(runtime: str) -> None:
    in_new_process(THREADS, OMP_NUM_THREADS="1", FUSESTEP_THREADING=runtime)


@item(54)
def test_threads_of_torch_are_ignored() -> None:
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        assert fusestep.get_num_threads() == count


@item(55, name=NAMES, flushed=[False, True])
def test_denormal_moments_are_lost_or_the_processor_left_changed(name: str, flushed: bool) -> None:
    """Exact to their spacing; if the caller has them flushed they may be zero, and stay flushed."""

    def flushing() -> bool:
        return not bool(np.float32(1e-40) * np.float32(1))

    grads, tiny = [3e-20, 1e-38, 2e-39, 1e-42, 0.0], torch.finfo(torch.float32).smallest_normal
    before = flushing()
    if not torch.set_flush_denormal(flushed):
        pytest.skip("this processor cannot")
    try:
        usual = flushing()
        mine = follow(name, grads, size=37, **with_states(name))
        # the product of two gradients, whose sign is all that Rprop wants, vanishes in float32
        right = follow(name, grads, wide=name != "Rprop", ours=False, size=37, **with_states(name))
        assert flushing() is usual is flushed
    finally:
        torch.set_flush_denormal(False)
    assert flushing() is before
    for a, b in zip(mine, right, strict=True):
        close(a, b, rtol=1e-5, atol=2 * tiny if flushed else 4e-45)


def spoil_nothing_but(params: list[Any], optimizer: Any, at: int, how: str) -> None:
    param, state = params[at], optimizer.state[params[at]]
    keys = [key for key, value in state.items() if isinstance(value, Tensor) and value.dim()]
    if how == "gradient":
        param.data = param.data[:3]
    elif how == "state":
        state[keys[-1]] = torch.zeros(4)
    elif how == "dtype":
        state[keys[-1]] = torch.zeros(5, dtype=torch.int64)
    elif how == "device":
        state[keys[-1]] = torch.zeros(5, device="meta")
    elif how == "number":
        state["step" if "step" in state else keys[0]] = "one"


@item(56, name=NAMES, how=["gradient", "state", "dtype", "device", "number"])
def test_failure_in_the_middle_leaves_half_a_model_updated(name: str, how: str) -> None:
    """At each place of a list, with everything the step may do beside; then it goes on as if not tried."""
    extras = {"max_grad_norm": 1.0, "ema_decay": 0.5}
    for at, asked in product((0, 2, 4), ({}, extras)):
        params = [one(float(i)) for i in range(5)]
        optimizer = make(name, True, **with_states(name), **asked)(
            [{"params": params[:3]}, {"params": params[3:]}]
        )
        optimizer.step()
        saved, values = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params]
        grads = [p.grad.clone() for p in params]
        kept, data = dict(optimizer.state[params[at]]), params[at].data
        spoil_nothing_but(params, optimizer, at, how)
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            optimizer.step(zero_grad=True)
        optimizer.state[params[at]].update(kept)
        params[at].data = data
        assert_same_state(optimizer, saved)
        assert all(same_bits(p, v) for p, v in zip(params, values, strict=True))
        assert all(same_bits(p.grad, g) for p, g in zip(params, grads, strict=True))
        optimizer.step()


@item(57, name=NAMES, dtype=[torch.float32, torch.bfloat16])
def test_bits_depend_on_the_number_of_threads(name: str, dtype: torch.dtype) -> None:
    """Of the norm of the gradients, of stochastic rounding and of the average too."""
    extras = {"max_grad_norm": 0.5, "ema_decay": 0.5, "rounding": "stochastic"}
    start = [torch.linspace(-1, 1, n).to(dtype) for n in (100_003, 7, 40_000)]
    for options in (with_states(name), {**with_states(name), **extras}):
        results = []
        for threads in (1, 2, 3, 8):
            fusestep.set_num_threads(threads)
            torch.manual_seed(0)
            params = [Parameter(p.clone()) for p in start]
            optimizer = make(name, True, **options)(params)
            for step in range(2):
                for p in params:
                    p.grad = p.detach() * 0.5 + step
                optimizer.step()
            norm = optimizer.last_grad_norm
            results.append([*tensors(optimizer), *([] if norm is None else [norm])])
        for other in results[1:]:
            assert all(same_bits(a, b) for a, b in zip(other, results[0], strict=True))
