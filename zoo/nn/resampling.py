"""Pre-activation residual blocks that halve or double an image, of generators and critics."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Resample = Literal["up", "down"]


class ResampleBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice, plus a 1x1 shortcut.

    ``up`` doubles the sides by nearest neighbours before the first convolution, which changes the channels; ``down``
    halves them by 2x2 means after the second, which does.

    Args:
        source: channels in.
        width: channels out.
        resample: see above.
        norm: makes the norm of so many channels.
    """

    def __init__(
        self, source: int, width: int, resample: Resample, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        between = width if resample == "up" else source
        self.norm1, self.norm2 = norm(source), norm(between)
        self.conv1 = nn.Conv2d(source, between, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(between, width, 3, padding=1)
        self.shortcut = nn.Conv2d(source, width, 1)
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """``(B, source, H, W)`` to ``(B, width, H', W')``."""
        y, own = F.relu(self.norm1(x)), x
        if self.resample == "up":
            y, own = (F.interpolate(one, scale_factor=2.0, mode="nearest") for one in (y, own))
        y = self.conv2(F.relu(self.norm2(self.conv1(y))))
        if self.resample == "down":
            y, own = (F.avg_pool2d(one, 2) for one in (y, own))
        out: Tensor = y + self.shortcut(own)
        return out
