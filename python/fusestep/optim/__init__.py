"""The optimizers of :mod:`torch.optim` on fused kernels; all other names are torch's own."""

from fusestep._torch_names import mirror
from fusestep.optim import rules
from fusestep.optim._lbfgs import LBFGS  # noqa: F401
from fusestep.optim.rules import *  # noqa: F403

KERNELS = [*rules.__all__, "LBFGS"]  # the names that are ours

__getattr__, __dir__, __all__ = mirror("fusestep.optim", KERNELS)
