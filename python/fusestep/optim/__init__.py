"""The optimizers of :mod:`torch.optim` on fused kernels; all other names are torch's own."""

from fusestep._torch_names import mirror
from fusestep.optim.rules import SGD, Adam, AdamW, RMSprop

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]

__getattr__, __dir__ = mirror("fusestep.optim")
