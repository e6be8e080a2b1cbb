"""NumPy, checkpoints, options: bugs that other fused optimizers shipped, each test named after one.

The numbers are those of 63 items distilled from the issues of PyTorch, Apex, TransformerEngine (TE),
DeepSpeed, ColossalAI, bitsandbytes (bnb), torchao, FlagGems and others. torch's for-loop is the reference,
or float64: its fused and foreach paths are among the peers.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import cases
import fusestep.numpy as fnp
import fusestep.optim as optim
from cases import ISAS, rule_options, torch_optimizer
from peers import FUSED, close, item, lbfgs, one, same_bits, tensors
from test_optim import NAMES, make, parameters

# ---- NumPy, machines, checkpoints, options ----


def numpy_steps(name: str, make_array: Callable[[Any], Any], dtype: Any = np.float32) -> Any:
    start, grad = np.linspace(-1, 1, 24).reshape(4, 6), np.linspace(1, -0.5, 24).reshape(4, 6)
    array = make_array(start.astype(dtype))
    optimizer = getattr(fnp, name)([array], lr=0.1)
    for step in range(3):
        optimizer.step([make_array((grad + step).astype(dtype))])
    return array


NUMPY_LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "Fortran": np.asfortranarray,
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "unaligned": lambda a: np.frombuffer(bytearray(b"x" + a.tobytes()), a.dtype, offset=1).reshape(a.shape),
    "transposed": lambda a: a.T.copy().T,
}


@item(58, name=NAMES, layout=NUMPY_LAYOUTS)
def test_numpy_arrays_are_taken_for_dense_ones(name: str, layout: str) -> None:
    for dtype in (np.float32, np.float64, np.float16):
        mine = numpy_steps(name, NUMPY_LAYOUTS[layout], dtype)
        assert np.array_equal(mine, numpy_steps(name, np.array, dtype))
    param = Parameter(torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6))
    optimizer = make(name, False, lr=0.1)([param])
    for step in range(3):
        param.grad = torch.linspace(1, -0.5, 24, dtype=torch.float64).view(4, 6) + step
        optimizer.step()
    close(torch.from_numpy(numpy_steps(name, np.array, np.float64)), param.detach())


@item(58, name=NAMES)
def test_numpy_arrays_that_cannot_be_written_are_written(name: str) -> None:
    make_one = getattr(fnp, name)
    good, spoiled = np.ones(4, np.float32), np.ones(4, np.float32)
    optimizer = make_one([good, spoiled])
    spoiled.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.step([good * 0.5, good * 0.5])
    assert (good == 1).all()
    for refused in (np.ones(4, ">f4"), np.ones(4, np.complex64), np.ones(4, np.int32), np.ones(4, object)):
        array = refused.copy()
        with pytest.raises(TypeError):
            make_one([array]).step([array])
        assert (array == refused).all()
    for shape in ((), (0,), (3, 0)):
        array = np.ones(shape, np.float32)
        make_one([array], lr=0.5).step([np.ones(shape, np.float32)])
        assert array.shape == shape
        assert (array != 1).all()


@item(58, name=NAMES)
def test_numpy_gradient_that_is_or_overlaps_its_array(name: str) -> None:
    same, apart = np.linspace(-1, 1, 40, dtype=np.float32), np.linspace(-1, 1, 40, dtype=np.float32)
    getattr(fnp, name)([same], lr=0.1).step([same])
    getattr(fnp, name)([apart], lr=0.1).step([apart.copy()])
    assert np.array_equal(same, apart)
    base = np.linspace(-1, 1, 41, dtype=np.float32)
    with pytest.raises(TypeError, match="overlap"):
        getattr(fnp, name)([base[1:]]).step([base[:-1]])
    assert np.array_equal(base, np.linspace(-1, 1, 41, dtype=np.float32))


FORCED = """
import sys
sys.modules["torch"] = None  # importing it fails
import numpy as np, fusestep, fusestep.numpy as fnp
from fusestep import _native
assert _native.isa() == sys.argv[1]
for name in fnp.optim.__all__:
    if name in ("Optimizer", "SparseAdam"):
        continue
    array = np.linspace(-1, 1, 1001).astype(np.float32)
    optimizer = getattr(fnp, name)([array], lr=0.1)
    optimizer.step([np.linspace(1, -0.5, 1001).astype(np.float32)])
    sys.stdout.buffer.write(array.tobytes())
"""


@item(59)
def test_a_machine_without_gpu_torch_or_avx512_is_left_out() -> None:
    """Each instruction set in a process of its own. Nothing else in this suite asks for torch's CUDA.

    Another machine, such as aarch64, is another run of the whole suite.
    """
    results = []
    for isa in ISAS:
        environment = {**os.environ, "FUSESTEP_ISA": isa, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-c", FORCED, isa]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120)
        results.append(torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).view(-1, 1001))
        assert len(results[-1]) == len(NAMES)
    for name, baseline, *others in zip(fnp.optim.__all__, *results, strict=False):
        for other in others:
            close(other, baseline, rtol=1e-5, atol=2e-7, msg=name)


def layout_of(value: Any) -> Any:
    """A checkpoint as it is written: keys in their order, types, dtypes and shapes."""
    if isinstance(value, dict):
        return [(key, layout_of(v)) for key, v in value.items()]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(layout_of, value)]
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride(), value.device, value.requires_grad
    return type(value).__name__, value if not isinstance(value, float) else 0.0


def saved(optimizer: torch.optim.Optimizer) -> bytes:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    return file.getvalue()


@item(60, name=[name for name in [*NAMES, "SparseAdam", "LBFGS"] if name != "Lion"], fused=[None, True])
def test_checkpoints_differ_from_those_of_torch(name: str, fused: bool | None) -> None:
    """The order of keys is the same, and what one saves again after loading is the same to the byte."""
    if fused and name not in FUSED:
        return
    options = [*rule_options(name)] if name in NAMES else [{}]
    for option in options:
        option = {**{k: v for k, v in option.items() if k != "fused"}, **({"fused": fused} if fused else {})}
        made = []
        for of in (optim, torch.optim):
            params = [Parameter(torch.ones(5, 2)), Parameter(torch.ones(3, 1))]
            optimizer = getattr(of, name)(params, **option)
            for _ in range(2):
                for p in params:
                    p.grad = torch.full_like(p, 0.5)
                    p.grad = p.grad.to_sparse(1) if name == "SparseAdam" else p.grad
                optimizer.step(*([lambda first=params[0]: first.sum() * 0] if name == "LBFGS" else []))
            made.append(optimizer)
        mine, right = made
        assert layout_of(mine.state_dict()) == layout_of(right.state_dict())
        for source in made:
            written = saved(source)
            again = []
            for of in (optim, torch.optim):
                fresh = getattr(of, name)([torch.ones(5, 2), torch.ones(3, 1)], **option)
                fresh.load_state_dict(torch.load(io.BytesIO(written), weights_only=name != "LBFGS"))
                again.append(saved(fresh))
            assert again[0] == again[1]
            assert len(again[0]) == len(written)


def used(of: Any, name: str, dtype: torch.dtype = torch.float32, **options: Any) -> list[Any]:
    """What comes out of three steps with an option."""
    params = [Parameter(p) for p in parameters(dtype, [(3, 4), (5, 4)])]
    optimizer = getattr(of, name)(params, **options)
    for step in range(8):
        for p in params:
            p.grad = (p.detach() * 0.5 + step - 3.5).to(dtype)
            p.grad = p.grad.to_sparse(1) if name == "SparseAdam" else p.grad
        optimizer.step()
    return tensors(optimizer)


FLAGS = {"foreach", "fused", "capturable", "differentiable"}  # of how torch runs: no result depends on them
ALONG = {
    "dampening": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "decoupled_weight_decay": {"weight_decay": 0.1},
}
OUR_VALUES = {"max_grad_norm": 0.01, "ema_decay": 0.5, "rounding": "kahan"}


@item(63, name=[*NAMES, "SparseAdam"])  # DeepSpeed and bnb: amsgrad; kozistr#517: weight_decay
def test_options_are_accepted_and_ignored(name: str) -> None:
    for option in list(inspect.signature(getattr(optim, name)).parameters)[1:]:
        if option in FLAGS:
            continue
        value = OUR_VALUES.get(option) or cases.RULE_OPTIONS[option][0]
        if option == "decoupled_weight_decay" and name == "AdamW":
            continue
        dtype = torch.bfloat16 if option == "rounding" else torch.float32
        without, with_it = (
            used(optim, name, dtype, **{"lr": 0.1, **ALONG.get(option, {}), **more})
            for more in ({}, {option: value})
        )
        same = len(without) == len(with_it) and all(
            same_bits(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(without, with_it, strict=True)
        )
        assert not same, option
    for unknown in ("adam_w_mode", "set_grad_none", "clip", "momentums"):
        with pytest.raises(TypeError, match=unknown):
            getattr(optim, name)([one()], **{unknown: True})
        with pytest.raises(TypeError, match=unknown):
            getattr(fnp, name)([np.ones(3, np.float32)], **{unknown: True})
    for flag in FLAGS:
        with pytest.raises(TypeError, match=flag):
            getattr(fnp, name)([np.ones(3, np.float32)], **{flag: True})
    if name == "SparseAdam":
        for extra, value in OUR_VALUES.items():
            for of, param in ((optim, one()), (fnp, np.ones(3, np.float32))):
                with pytest.raises(TypeError, match=extra):
                    of.SparseAdam([param], **{extra: value})


@item(63, name=NAMES)
def test_numpy_options_are_accepted_and_ignored(name: str) -> None:
    def run(**options: Any) -> list[Any]:
        array = np.linspace(-1, 1, 12, dtype=np.float16 if option == "rounding" else np.float32)
        optimizer = getattr(fnp, name)([array], **{"lr": 0.1, **options})
        for step in range(8):
            optimizer.step([(array * 0.5 + step - 3.5).astype(array.dtype)])
        return [array, *optimizer.state[0].values()]

    theirs = inspect.signature(getattr(fnp, name)).parameters
    assert [*theirs][1:-1] == [p for p in inspect.signature(torch_optimizer(name)).parameters if p in theirs][
        1:
    ]
    for option in (*[*theirs][1:-1], *OUR_VALUES):
        value = OUR_VALUES.get(option) or cases.RULE_OPTIONS[option][0]
        along = ALONG.get(option, {})
        without, with_it = run(**along), run(**along, **{option: value})
        assert len(without) != len(with_it) or not all(map(np.array_equal, without, with_it)), option


@item(
    63,
    option=[
        "lr",
        "max_iter",
        "max_eval",
        "tolerance_grad",
        "tolerance_change",
        "history_size",
        "line_search_fn",
    ],
)
def test_lbfgs_options_are_accepted_and_ignored(option: str) -> None:
    values = {"lr": 0.5, "max_iter": 2, "max_eval": 2, "tolerance_grad": 50.0, "tolerance_change": 5.0}
    value = {**values, "history_size": 1, "line_search_fn": "strong_wolfe"}[option]
    assert [*inspect.signature(torch.optim.LBFGS).parameters][1:] == [
        *values,
        "history_size",
        "line_search_fn",
    ]
    along = {"line_search_fn": "strong_wolfe"} if option != "line_search_fn" else {}
    (without, _), (with_it, _) = lbfgs(optim.LBFGS, **along), lbfgs(optim.LBFGS, **along, **{option: value})
    assert not torch.equal(without[0][0], with_it[0][0])
    with pytest.raises(TypeError, match="momentum"):
        optim.LBFGS([one()], momentum=0.9)


def test_every_item_of_the_list_has_a_test() -> None:
    files = Path(__file__).parent.glob("test_peers_*.py")
    found = (re.findall(r"^@item\(\s*((?:\d+[,\s]*)+)", path.read_text(), re.M) for path in files)
    numbers = {int(n) for items in found for item in items for n in re.findall(r"\d+", item)}
    assert numbers == set(range(1, 64))
