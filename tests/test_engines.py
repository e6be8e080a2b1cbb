"""What must not matter: instruction set, threads, alignment, the road a tensor takes into the kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
import fusestep.nn.functional as F
import fusestep.optim as optim
from cases import (
    DTYPES,
    ISAS,
    LOSSES,
    REDUCTIONS,
    ROWWISE,
    SOFT,
    SOFTMAX,
    fitting,
    loss_inputs,
    loss_options,
    optimizer_names,
    ours,
    rule_options,
)
from fusestep import _native
from parity import evaluate


def loss_results(op: str, operands: Sequence[Tensor], **options: object) -> list[Tensor]:
    """The loss and the gradient of every operand that has one."""
    options = {k: v.to(operands[0].dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
    return list(evaluate(op, ours(op), operands, **options).values())


def softmax_results(op: str, input: Tensor, dim: int) -> list[Tensor]:
    x = input.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = ours(op)(x, dim)
    output.backward(torch.cos(torch.arange(output.numel(), dtype=output.dtype)).view(output.shape))
    return [output.detach(), x.grad]  # type: ignore[list-item]


def step_results(name: str, **options: object) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((100_003,), (33,), (70, 1000), (1,))
    params = [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = getattr(optim, name)(params, **options)
    for _ in range(3):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
    return [param.detach() for param in params]


def everything() -> list[Tensor]:
    """Every op on inputs large enough for several threads, every option."""
    results: list[Tensor] = []
    for op in LOSSES:
        for shape in fitting(op, (300, 1000), (7, 30_000), (5000, 10), (4, 19, 50, 50)):
            for reduction in REDUCTIONS:
                results += loss_results(op, loss_inputs(op, shape, torch.float32), reduction=reduction)
        for options in loss_options(op, (130, 1000)):
            ignored = options.get("ignore_index", -100)
            results += loss_results(
                op, loss_inputs(op, (130, 1000), torch.float32, ignored=ignored), **options
            )
    for op in SOFTMAX:
        for shape, dim in (((300, 1000), 1), ((300, 1000), 0), ((5000, 10), 1), ((4, 19, 50, 50), 1)):
            results += softmax_results(
                op, torch.randn(shape, generator=torch.Generator().manual_seed(1)), dim
            )
    for name in optimizer_names():
        for options in rule_options(name):
            results += step_results(name, **options)
    return results


def test_bit_identical_for_any_number_of_threads() -> None:
    reference: list[Tensor] = []
    for threads in (1, 2, 3, 7):
        fusestep.set_num_threads(threads)
        assert fusestep.get_num_threads() == threads
        results = everything()
        reference = reference or results
        assert all(torch.equal(a, b) for a, b in zip(reference, results, strict=True)), threads


def test_torchs_number_of_threads_is_obeyed() -> None:
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert fusestep.get_num_threads() == threads
    with pytest.raises(ValueError, match="count"):
        fusestep.set_num_threads(-1)


def ulps_apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the last place of the larger of the value and the tensor's mean."""
    scale = torch.maximum(b.abs(), b.abs().mean()).double() * torch.finfo(b.dtype).eps
    return float(((a.double() - b.double()).abs() / scale).nan_to_num(0.0).max())


# Largest differences seen are about half of these. An update divides by the root of squared gradients,
# which at a gradient near zero (weight decay may cancel it) magnifies the last bit of the gradient.
# So does the difference between a probability and its target.
ISA_ULPS = {"loss": 8, "soft": 64, "update": 40}


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_agrees_with_baseline(isa: str) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for op in LOSSES:
            for size in [*range(1, 70), 127, 128, 129, 200, 511, 512, 513, 1000, 4097]:
                inputs = loss_inputs(op, (2, size), dtype, size)
                results = []
                for name in ("baseline", isa):
                    _native.set_isa(name)
                    results.append(loss_results(op, inputs, reduction="none"))
                for a, b in zip(*results, strict=True):
                    assert ulps_apart(b, a) <= ISA_ULPS["soft" if op in SOFT else "loss"], (op, size, dtype)
        for op in SOFTMAX:
            for size in (1, 7, 63, 64, 65, 127, 1000):
                results = []
                for name in ("baseline", isa):
                    _native.set_isa(name)
                    x = torch.randn(3, size, generator=torch.Generator().manual_seed(size)).to(dtype)
                    results.append(softmax_results(op, x, 1))
                for a, b in zip(*results, strict=True):
                    assert ulps_apart(b, a) <= ISA_ULPS["loss"], (op, size, dtype)
    for name in optimizer_names():
        for options in rule_options(name):
            results = []
            for which in ("baseline", isa):
                _native.set_isa(which)
                results.append(step_results(name, **options))
            for a, b in zip(*results, strict=True):
                assert ulps_apart(b, a) <= ISA_ULPS["update"], (name, options)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_offset_strides_and_neighbours_do_not_change_bits(op: str, isa: str, dtype: torch.dtype) -> None:
    """Offsets of 0 to 15 elements; a row alone, in a batch, and spread out in memory."""
    _native.set_isa(isa)
    for shape in ((5, 1003), (37, 300), (37, 100)):  # rows of each loop; 37 fill packs and leave some over
        x, *rest = loss_inputs(op, shape, dtype)
        if op in ROWWISE:
            rest[0][0] = rest[0][1]
        reference = loss_results(op, (x, *rest), reduction="none")
        for offset in range(16) if shape[0] == 5 else (3,):
            moved = torch.empty(x.numel() + 16, dtype=dtype)[offset : offset + x.numel()].view_as(x).copy_(x)
            for a, b in zip(loss_results(op, (moved, *rest), reduction="none"), reference, strict=True):
                assert torch.equal(a, b), offset
        spread = torch.empty(*shape[::-1], 3, dtype=dtype)[:, :, 1].t().copy_(x)
        for a, b in zip(loss_results(op, (spread, *rest), reduction="none"), reference, strict=True):
            assert torch.equal(a, b)
        for row in (0, 1, 2, 3, 4, shape[0] - 1):
            alone = loss_results(op, [t[row : row + 1] for t in (x, *rest)], reduction="none")
            for a, b in zip(alone, reference, strict=True):
                assert torch.equal(a[0], b[row])


@pytest.mark.parametrize("name", optimizer_names())
def test_every_element_is_updated_alike(name: str) -> None:
    """Vector body, tail and block borders do the same arithmetic: equal elements stay equal."""
    for options in rule_options(name):
        for size in (1, 15, 17, 4096, 4097, 100_003):
            param = Parameter(torch.full((size,), 0.7))
            optimizer = getattr(optim, name)([param], **options)
            for value in (0.3, -0.1, float("1e-30")):
                param.grad = torch.full((size,), value)
                optimizer.step()
            assert (param == param[0]).all(), (options, size)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", optimizer_names())
def test_strides_do_not_change_the_bits_of_a_step(name: str, isa: str) -> None:
    """Half types are converted in registers where they lie side by side, and block by block elsewhere."""
    _native.set_isa(isa)
    for dtype, options in product(DTYPES, rule_options(name)):
        values, grads = torch.randn(2, 3000).to(dtype)
        dense = Parameter(values.clone())
        spread = Parameter(torch.empty(3000, 2, dtype=dtype)[:, 1].copy_(values))
        for param in (dense, spread):
            optimizer = getattr(optim, name)([param], **options)
            for scale in (1.0, -0.5, 0.25):
                param.grad = torch.empty_strided(param.shape, param.stride(), dtype=dtype).copy_(
                    grads * scale
                )
                optimizer.step()
        assert torch.equal(dense, spread), (dtype, options)


def test_old_road_without_the_exchange_api() -> None:
    """torch before 2.10 has no DLPack exchange API: shapes and pointers come through Python attributes."""
    expected = everything()
    _native.use_exchange_api(False)
    results = everything()
    assert all(torch.equal(a, b) for a, b in zip(expected, results, strict=True))
    assert all(not count["torch"] for count in fusestep.stats().values())
    for bad in (
        torch.randn(3).to_sparse(),
        torch.randn(3, device="meta"),
        torch.randn(3).to(torch.complex64),
    ):
        with pytest.raises(_native.Unsupported):
            _native.run("mse_loss", (bad, bad), (torch.empty(()),))


def in_new_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SUM = """
import numpy as np, fusestep, fusestep.numpy as fnp
from fusestep import _native
fusestep.set_num_threads({threads})
x = np.random.default_rng(0).normal(size=(500, 1000)).astype(np.float32)
loss, grad = fnp.cross_entropy(x, np.arange(500))
print(_native.threading(), _native.isa(), loss.tobytes().hex(), hash(grad.tobytes()))
"""


@pytest.mark.parametrize("threading", ["openmp", "pool", "serial"])
def test_threading_runtimes_agree(threading: str) -> None:
    outputs = set()
    for threads in (1, 2, 3, 7):
        environment = {"FUSESTEP_THREADING": threading, "PYTHONHASHSEED": "0"}
        output = in_new_process(SUM.format(threads=threads), **environment).split()
        assert output[0] == threading
        outputs.add(tuple(output[2:]))
    serial = in_new_process(SUM.format(threads=1), FUSESTEP_THREADING="serial", PYTHONHASHSEED="0").split()
    assert outputs == {tuple(serial[2:])}


@pytest.mark.parametrize("isa", ISAS)
def test_isa_is_forced_by_the_environment(isa: str) -> None:
    assert in_new_process(SUM.format(threads=1), FUSESTEP_ISA=isa).split()[1] == isa


def test_unknown_isa_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot run here; expected one of"):
        _native.set_isa("mmx")


def test_importing_leaves_denormals_alone() -> None:
    """-ffast-math would flush them to zero in the whole process."""
    code = """
import numpy as np
tiny = np.float32(1e-40)
import fusestep, fusestep.numpy as fnp
fnp.mse_loss(np.ones(100000, np.float32), np.zeros(100000, np.float32))
assert tiny * np.float32(0.5) > 0
assert np.float64(5e-324) * np.float64(1.0) > 0
"""
    in_new_process(code)


def test_denormal_values_pass_through() -> None:
    tiny = torch.full((33,), 1e-40)
    x = tiny.clone().requires_grad_()
    F.mse_loss(x, torch.zeros(33), reduction="sum").backward()
    assert torch.equal(x.grad, tiny * 2)


FORK = """
import os, sys, torch
torch.set_num_threads(2)
import fusestep.nn.functional as F, fusestep.optim as optim
x = torch.randn(2000, 500, requires_grad=True)
y = torch.randint(0, 500, (2000,))
optimizer = optim.Adam([x])
F.cross_entropy(x, y).backward()
optimizer.step()
pid = os.fork()
if pid == 0:
    with torch.no_grad():  # torch's own large operations hang here, so none of them
        for _ in range(3):
            F.cross_entropy(x, y)
            F.mse_loss(x, x)
    optimizer.step()
    os._exit(0)
import signal
signal.alarm(60)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("threading", ["openmp", "pool"])
def test_a_forked_child_computes(threading: str) -> None:
    """libgomp hangs in a child of a process that has used it; ours runs serially there."""
    in_new_process(FORK, FUSESTEP_THREADING=threading)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_growth_over_many_calls() -> None:
    """Calls and raising calls, in a process of their own: a peak set by other tests would hide a leak."""
    code = """
import gc, resource, sys, torch
import fusestep.nn.functional as F, fusestep.optim as optim
x = torch.randn(50, 20, requires_grad=True)
y = torch.randint(0, 20, (50,))
optimizer = optim.Adam([x])
def work(times):
    for _ in range(times):
        F.cross_entropy(x, y).backward()
        optimizer.step()
        try:
            F.cross_entropy(x, y + 20)
        except IndexError:
            continue
        raise AssertionError
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
work(1000)
before, references = resident(), [sys.getrefcount(x), sys.getrefcount(y)]
work(5000)
assert resident() - before < 1_000_000, resident() - before
assert [sys.getrefcount(x), sys.getrefcount(y)] == references
"""
    in_new_process(code)


@pytest.mark.gpu
@pytest.mark.parametrize("op", LOSSES)
def test_cuda_agrees_with_the_cpu(op: str) -> None:
    for shape in fitting(op, (64, 10), (33, 1000), (7, 50_257), (4, 19, 30, 30)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            for reduction in REDUCTIONS:
                operands = loss_inputs(op, shape, dtype)
                cpu = loss_results(op, operands, reduction=reduction)
                for _ in range(2):
                    cuda = loss_results(op, [t.cuda() for t in operands], reduction=reduction)
                    for a, b in zip(cuda, cpu, strict=True):
                        assert ulps_apart(a.cpu(), b) <= 16
    assert fusestep.stats()[op]["torch"] == {}


@pytest.mark.gpu
@pytest.mark.parametrize("name", optimizer_names())
def test_cuda_steps_agree_with_the_cpu(name: str) -> None:
    def steps(device: str, make: Callable[..., Tensor] = torch.randn) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        params = [Parameter(make(n, generator=generator).to(device)) for n in (1, 33, 4097, 100_003)]
        optimizer = getattr(optim, name)(params)
        for _ in range(5):
            for param in params:
                param.grad = make(param.shape, generator=generator).to(device)
            optimizer.step()
        return [param.detach().cpu() for param in params]

    for a, b in zip(steps("cuda"), steps("cpu"), strict=True):
        assert ulps_apart(a, b) <= 8


def test_the_number_of_threads_in_another_thread() -> None:
    """OpenMP keeps it for each thread; torch passes its own on, and so must we."""
    code = """
import threading, torch, fusestep
torch.set_num_threads(1)
seen = []
thread = threading.Thread(target=lambda: seen.append(fusestep.get_num_threads()))
thread.start(); thread.join()
assert seen == [1], seen
"""
    in_new_process(code)


def test_a_forked_child_when_only_torch_has_used_openmp() -> None:
    code = """
import os, signal, torch
torch.set_num_threads(2)
x = torch.randn(400_000)
z = torch.zeros_like(x)
(x * x).exp().sum()
import fusestep.nn.functional as F
pid = os.fork()
if pid == 0:
    with torch.no_grad():
        F.mse_loss(x, z)
    os._exit(0)
signal.alarm(60)
assert os.waitpid(pid, 0)[1] == 0
"""
    in_new_process(code)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("threading", ["openmp", "pool"])
def test_out_of_memory_in_a_thread_is_an_exception(threading: str) -> None:
    code = """
import resource, torch, fusestep.nn.functional as F
torch.set_num_threads(2)
x = torch.zeros(2, 60_000_000, dtype=torch.bfloat16)
y = torch.tensor([0, 1])
F.cross_entropy(x[:, :70_000], y)  # the threads are there
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
for _ in range(3):
    try:
        F.cross_entropy(x, y)
    except MemoryError:
        continue
    raise AssertionError
"""
    in_new_process(code, FUSESTEP_THREADING=threading)
