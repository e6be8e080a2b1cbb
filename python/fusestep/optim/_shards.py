"""DTensor parameters, as FSDP2 makes them: each process updates the part it holds."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from fusestep import _native


def is_sharded(tensor: Any) -> bool:
    if type(tensor) is Parameter or type(tensor) is Tensor:
        return False
    module = sys.modules.get("torch.distributed.tensor")  # nobody has a DTensor without it
    return module is not None and isinstance(tensor, module.DTensor)


def local(
    params: list[Any], grads: list[Any], states: list[dict[str, Any]]
) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
    """The parts of this process.

    Raises:
        Unsupported: a gradient or state is not cut as its parameter is; torch redistributes it.
    """
    for param, grad, state in zip(params, grads, states, strict=True):
        placements = getattr(param, "placements", None)
        for tensor in (grad, *state.values()):
            if not isinstance(tensor, Tensor):  # it would be counted in the copy made below
                raise _native.Unsupported("a DTensor whose state holds Python numbers")
            if is_sharded(tensor) and getattr(tensor, "placements", None) != placements:
                raise _native.Unsupported("DTensors with different placements")
    return (
        [_local(param) for param in params],
        [_local(grad) for grad in grads],
        [{key: _local(value) for key, value in state.items()} for state in states],
    )


def _local(value: Any) -> Any:
    return value._local_tensor if is_sharded(value) else value
