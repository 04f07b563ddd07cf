"""Learning rates over a fit, stepped with every batch, as ``configure_optimizers`` returns them."""

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that get gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def each_step(optimizer: Optimizer, schedule: LRScheduler) -> OptimizerLRSchedulerConfig:
    """The optimiser with a schedule that moves on after every batch."""
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cosine(optimizer: Optimizer, steps: int, lowest: float = 0.0) -> OptimizerLRSchedulerConfig:
    """From the optimiser's rate to ``lowest`` along half a cosine.

    Args:
        optimizer: has the highest rate.
        steps: of the fit; less than 1 counts as 1.
        lowest: rate at the end.
    """
    return each_step(optimizer, CosineAnnealingLR(optimizer, max(steps, 1), lowest))


def drops(optimizer: Optimizer, steps: int, shares: tuple[float, ...], factor: float) -> OptimizerLRSchedulerConfig:
    """The optimiser's rate times ``factor`` after each of some shares of the fit.

    Args:
        optimizer: has the first rate.
        steps: of the fit.
        shares: in (0, 1).
        factor: below 1.
    """
    return each_step(optimizer, MultiStepLR(optimizer, [int(share * steps) for share in shares], factor))
