"""The losses of :mod:`torch.nn` on fused kernels; all other names are torch's own."""

from fusestep._torch_names import mirror
from fusestep.nn import functional
from fusestep.nn.loss import CrossEntropyLoss, MSELoss

__all__ = ["CrossEntropyLoss", "MSELoss", "functional"]

__getattr__, __dir__ = mirror("fusestep.nn")
