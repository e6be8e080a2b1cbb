from typing import Any

from torch.optim import Adafactor as Adafactor
from torch.optim import Muon as Muon
from torch.optim import Optimizer as Optimizer
from torch.optim import lr_scheduler as lr_scheduler
from torch.optim import swa_utils as swa_utils
from torch.optim import swap_in_optimizer_params_and_state as swap_in_optimizer_params_and_state

from fusestep.optim._lbfgs import LBFGS as LBFGS
from fusestep.optim.rules import ASGD as ASGD
from fusestep.optim.rules import SGD as SGD
from fusestep.optim.rules import Adadelta as Adadelta
from fusestep.optim.rules import Adagrad as Adagrad
from fusestep.optim.rules import Adam as Adam
from fusestep.optim.rules import Adamax as Adamax
from fusestep.optim.rules import AdamW as AdamW
from fusestep.optim.rules import Lion as Lion
from fusestep.optim.rules import NAdam as NAdam
from fusestep.optim.rules import RAdam as RAdam
from fusestep.optim.rules import RMSprop as RMSprop
from fusestep.optim.rules import Rprop as Rprop
from fusestep.optim.rules import SparseAdam as SparseAdam

KERNELS: list[str]
__all__: list[str]

def __getattr__(name: str) -> Any: ...
