"""AdamW whose step shrinks where a gradient exceeds its history (Wortsman et al. 2023, arXiv 2304.13013)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class StableAdamW(Optimizer):
    """AdamW with update clipping by tensor: the rate is divided by ``max(1, RMS(gradient / denominator))``.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: of the running means.
        eps: added to the denominator.
        weight_decay: decoupled.
        amsgrad: divide by the largest second moment so far.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient, state = parameter.grad, self.state[parameter]
                if not state:
                    state["step"] = 0
                    names = ("mean", "square", "largest") if group["amsgrad"] else ("mean", "square")
                    state.update({name: torch.zeros_like(parameter) for name in names})
                state["step"] += 1
                state["mean"].lerp_(gradient, 1 - first)
                state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
                square = state["square"]
                if group["amsgrad"]:
                    square = torch.maximum(state["largest"], square, out=state["largest"])
                denominator = (square / (1 - second ** state["step"])).sqrt().add_(group["eps"])
                excess = (gradient / denominator).square().mean().sqrt().clamp(min=1.0)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] / (1 - first ** state["step"]) / excess
                parameter.sub_(rate * state["mean"] / denominator)
        return loss
