"""The losses of :mod:`torch.nn` on fused kernels; all other names are torch's own."""

from fusestep._torch_names import mirror
from fusestep.nn import functional as functional
from fusestep.nn import loss
from fusestep.nn.loss import *  # noqa: F403

KERNELS = loss.__all__  # the names that are ours

__getattr__, __dir__, __all__ = mirror("fusestep.nn", [*KERNELS, "functional"])
