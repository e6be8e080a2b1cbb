"""Lion in torch's operations, for what the kernels cannot take: torch has no such optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class Lion(torch.optim.Optimizer):
    """Lion, with the manners of torch's optimizers."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not 0.0 <= lr:  # noqa: SIM300 -- as torch writes it, and so as it fails
            raise ValueError(f"Invalid learning rate: {lr}")
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        if len(betas) != 2:
            raise ValueError(f"`betas` must be two numbers, got {betas}")
        if not 0.0 <= weight_decay:  # noqa: SIM300
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def _init_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in group["params"]:
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise RuntimeError("Lion does not support sparse gradients")
            params.append(param)
            if "exp_avg" not in self.state[param]:
                zeros = torch.zeros_like(param, memory_format=torch.preserve_format)
                self.state[param]["exp_avg"] = zeros

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, parameter by parameter."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = []
            self._init_group(group, params)
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for param in params:
                mean, given = self.state[param]["exp_avg"], param.grad
                assert given is not None
                grad = -given if group["maximize"] else given
                if param.is_complex():
                    param, grad, mean = map(torch.view_as_real, (param, grad, mean))
                param.mul_(1 - lr * group["weight_decay"])
                param.sub_((mean * beta1 + grad * (1 - beta1)).sign() * lr)
                mean.mul_(beta2).add_(grad, alpha=1 - beta2)
        return loss
