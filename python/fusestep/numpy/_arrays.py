"""What counts as an array, for the losses and the optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def as_array(value: ArrayLike, name: str) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a masked array; its mask would be ignored")
    if not isinstance(value, (np.ndarray, np.generic, list, tuple, int, float)):
        raise TypeError(f"`{name}` must be a NumPy array, got {type(value).__name__}")
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
