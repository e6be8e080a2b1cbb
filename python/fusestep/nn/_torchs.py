"""torch's own functions, whatever :func:`fusestep.install` has put in their places since."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch.nn.functional

if TYPE_CHECKING:
    from torch.nn import functional as functional
else:
    functional = SimpleNamespace(**vars(torch.nn.functional))
