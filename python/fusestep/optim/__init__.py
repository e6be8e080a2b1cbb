"""The optimizers of :mod:`torch.optim` on fused kernels; all other names are torch's own."""

from fusestep._torch_names import mirror
from fusestep.optim.rules import SGD as SGD
from fusestep.optim.rules import Adam as Adam
from fusestep.optim.rules import AdamW as AdamW
from fusestep.optim.rules import RMSprop as RMSprop

KERNELS = ["SGD", "Adam", "AdamW", "RMSprop"]  # the names that are ours

__getattr__, __dir__, __all__ = mirror("fusestep.optim", KERNELS)
