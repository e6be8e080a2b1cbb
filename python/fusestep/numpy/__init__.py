"""The kernels of fusestep on NumPy arrays, without PyTorch.

Losses return ``(loss, grad)``; optimizers update arrays in place::

    opt = fusestep.numpy.Adam([w, b], lr=1e-3)
    loss, grad = fusestep.numpy.cross_entropy(x @ w + b, labels)
    opt.step([x.T @ grad, grad.sum(0)])

``loss`` is a NumPy scalar of the promoted dtype, or an array with ``reduction="none"``, for which the
gradient is that of the sum. ``with_grad`` chooses the gradients: ``True`` that of the first operand,
``False`` none (then the loss comes alone), or names such as ``("input", "target")``, each a gradient of the
dtype of its operand, and the shape it was broadcast to.

Arrays may be float32, float64, float16, or bfloat16 (``ml_dtypes``), with any strides of whole
elements. Half types are computed in float32 and rounded once.
"""

from fusestep.numpy import losses, optim
from fusestep.numpy._lbfgs import LBFGS
from fusestep.numpy.losses import *  # noqa: F403
from fusestep.numpy.optim import *  # noqa: F403

__all__ = [*losses.__all__, *optim.__all__, "LBFGS"]
