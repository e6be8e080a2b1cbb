"""The losses of :mod:`torch.nn.functional` on fused kernels; all other names are torch's own.

A call that the kernels cannot take (a complex tensor, a tensor subclass, vmap, …) runs torch's own
function, with its result or its exception; :func:`fusestep.stats` counts how often and why.
"""

from fusestep._torch_names import mirror
from fusestep.nn import _classification, _regression, _rows, _softmax
from fusestep.nn._classification import *  # noqa: F403
from fusestep.nn._regression import *  # noqa: F403
from fusestep.nn._rows import *  # noqa: F403
from fusestep.nn._softmax import *  # noqa: F403

KERNELS = [  # the names that are ours
    *_classification.__all__,
    *_regression.__all__,
    *_rows.__all__,
    *_softmax.__all__,
]

__getattr__, __dir__, __all__ = mirror("fusestep.nn.functional", KERNELS)
