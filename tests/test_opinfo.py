"""torch's own operator database: its sample inputs and its error inputs, for every function we replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_functional
from torch import Tensor

import fusestep.nn.functional as F
from cases import LOSSES, SOFT, public_name

SampleInput = pytest.importorskip("torch.testing._internal.opinfo.core").SampleInput
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db

FUNCTIONS = {f"nn.functional.{name}": name for name in F.KERNELS}
FUNCTIONS |= {"softmax": "softmax", "log_softmax": "log_softmax"}
OPINFOS = [info for info in op_db if info.name in FUNCTIONS]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HALF = (torch.bfloat16, torch.float16)


def label(info: Any) -> str:
    return f"{info.name}.{info.variant_test_name}".strip(".")


def tensors_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


def widened(value: Any) -> Any:
    """Half types as float32 leaves: torch in half precision rounds after every operation."""
    if isinstance(value, Tensor):
        return value.detach().float().requires_grad_(value.requires_grad) if value.dtype in HALF else value
    if isinstance(value, (list, tuple)):
        return type(value)(widened(item) for item in value)
    return {k: widened(v) for k, v in value.items()} if isinstance(value, dict) else value


def outcome(function: Callable[..., Tensor], sample: Any) -> tuple[Tensor, ...]:
    leaves = [t for t in tensors_of([sample.input, sample.args, sample.kwargs]) if t.requires_grad]
    loss = function(sample.input, *sample.args, **sample.kwargs)
    if not leaves or not loss.requires_grad:
        return (loss.detach(),)
    seed = torch.linspace(0.5, 1.5, loss.numel(), dtype=torch.float64).to(loss.dtype).view(loss.shape)
    grads = torch.autograd.grad(loss, leaves, seed, allow_unused=True)
    return (loss.detach(), *(torch.zeros(0) if grad is None else grad for grad in grads))


def test_every_function_of_torch_is_in_its_database() -> None:
    covered = {FUNCTIONS[info.name] for info in OPINFOS}
    expected = {public_name(op) for op in LOSSES if hasattr(torch_functional, public_name(op))}
    assert covered == expected | {"softmax", "log_softmax"}
    assert SOFT  # probability targets are among the samples of cross_entropy


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("info", OPINFOS, ids=label)
def test_samples(info: Any, dtype: torch.dtype) -> None:
    if dtype not in info.supported_dtypes("cpu"):
        pytest.skip("torch does not have it")
    function, theirs = getattr(F, FUNCTIONS[info.name]), getattr(torch_functional, FUNCTIONS[info.name])
    requires_grad = info.supports_autograd and dtype in info.supported_backward_dtypes("cpu")
    samples = [*info.sample_inputs("cpu", dtype, requires_grad=requires_grad)]
    samples += [*info.reference_inputs("cpu", dtype, requires_grad=requires_grad)]
    compared = 0
    for sample in samples:
        if info.name == "nn.functional.multi_margin_loss" and sample.input.numel() == 0:
            continue  # torch returns memory it has not written
        dtypes = [t.dtype for t in outcome(theirs, sample)]
        wide = SampleInput(widened(sample.input), args=widened(sample.args), kwargs=widened(sample.kwargs))
        expected = outcome(theirs, wide)
        for a, b, own in zip(outcome(function, sample), expected, dtypes, strict=True):
            assert a.dtype is own
            if info.name == "nn.functional.poisson_nll_loss" and sample.kwargs["full"]:
                b = torch.where(b.isnan() & a.isfinite(), a, b)  # torch's 0 · ∞ at a count of 0
            eps = torch.finfo(own).eps
            scale = float(b.abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
            rtol = 2 * eps if own in HALF else 32 * eps
            # The gradient of softmax is a difference of numbers about 1, that of half losses is not.
            floor = 0.0 if own in HALF and "softmax" not in info.name else 4 * eps
            torch.testing.assert_close(a, b.to(own), rtol=rtol, atol=max(rtol * scale, floor), equal_nan=True)
        compared += 1
    assert compared > 0


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("info", [i for i in OPINFOS if i.error_inputs_func is not None], ids=label)
def test_errors(info: Any) -> None:
    """What torch refuses we refuse, with an exception of the same type."""
    function = getattr(F, FUNCTIONS[info.name])
    count = 0
    for error in info.error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(error.error_type):
            function(sample.input, *sample.args, **sample.kwargs)
        count += 1
    assert count > 0
