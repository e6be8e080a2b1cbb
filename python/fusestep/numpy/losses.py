"""Losses on NumPy arrays: value and gradients from one call."""

from fusestep.numpy import _classification, _regression, _rows, _softmax
from fusestep.numpy._classification import *  # noqa: F403
from fusestep.numpy._regression import *  # noqa: F403
from fusestep.numpy._rows import *  # noqa: F403
from fusestep.numpy._softmax import *  # noqa: F403

__all__ = [*_classification.__all__, *_regression.__all__, *_rows.__all__, *_softmax.__all__]
