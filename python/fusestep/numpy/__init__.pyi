from fusestep.numpy._classification import binary_cross_entropy as binary_cross_entropy
from fusestep.numpy._classification import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
)
from fusestep.numpy._classification import hinge_embedding_loss as hinge_embedding_loss
from fusestep.numpy._classification import kl_div as kl_div
from fusestep.numpy._classification import margin_ranking_loss as margin_ranking_loss
from fusestep.numpy._classification import sigmoid_focal_loss as sigmoid_focal_loss
from fusestep.numpy._classification import soft_margin_loss as soft_margin_loss
from fusestep.numpy._lbfgs import LBFGS as LBFGS
from fusestep.numpy._optimizer import Optimizer as Optimizer
from fusestep.numpy._regression import gaussian_nll_loss as gaussian_nll_loss
from fusestep.numpy._regression import huber_loss as huber_loss
from fusestep.numpy._regression import l1_loss as l1_loss
from fusestep.numpy._regression import log_cosh_loss as log_cosh_loss
from fusestep.numpy._regression import mse_loss as mse_loss
from fusestep.numpy._regression import poisson_nll_loss as poisson_nll_loss
from fusestep.numpy._regression import smooth_l1_loss as smooth_l1_loss
from fusestep.numpy._rows import cross_entropy as cross_entropy
from fusestep.numpy._rows import multi_margin_loss as multi_margin_loss
from fusestep.numpy._rows import nll_loss as nll_loss
from fusestep.numpy._softmax import log_softmax as log_softmax
from fusestep.numpy._softmax import log_softmax_backward as log_softmax_backward
from fusestep.numpy._softmax import softmax as softmax
from fusestep.numpy._softmax import softmax_backward as softmax_backward
from fusestep.numpy.optim import ASGD as ASGD
from fusestep.numpy.optim import SGD as SGD
from fusestep.numpy.optim import Adadelta as Adadelta
from fusestep.numpy.optim import Adagrad as Adagrad
from fusestep.numpy.optim import Adam as Adam
from fusestep.numpy.optim import Adamax as Adamax
from fusestep.numpy.optim import AdamW as AdamW
from fusestep.numpy.optim import Lion as Lion
from fusestep.numpy.optim import NAdam as NAdam
from fusestep.numpy.optim import RAdam as RAdam
from fusestep.numpy.optim import RMSprop as RMSprop
from fusestep.numpy.optim import Rprop as Rprop
from fusestep.numpy.optim import SparseAdam as SparseAdam
