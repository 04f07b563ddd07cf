"""U-Net with weight-standardised convolutions and group norm, the network of the denoising autoencoder."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.convolutional import check_divisible

_GROUPS = 8


class StandardisedConv2d(nn.Conv2d):
    """Convolution whose filters have mean 0 and variance 1 (Qiao et al. 2019, arXiv 1903.10520)."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, H, W)``."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


class WeightStandardisedUNet(nn.Module):
    """U-Net of 3x3 units (convolution, group norm, SiLU), average pooling, transposed convolutions and skips.

    Args:
        in_channels: channels in and out.
        image_size: ``(H, W)``, multiples of ``2 ** depth``.
        depth: number of halvings.
        width: channels of the first stage, a multiple of 8; doubled with each halving.

    Raises:
        UserError: an image size that does not divide.
    """

    def __init__(self, in_channels: int, image_size: tuple[int, ...], *, depth: int, width: int) -> None:
        super().__init__()
        check_divisible(image_size, 2**depth, f"a U-Net of depth {depth}")
        widths = [width * 2**level for level in range(depth + 1)]
        sources = [in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(_units(a, b) for a, b in zip(sources, widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[-2::-1])
        self.decoder = nn.ModuleList(_units(2 * w, w) for w in widths[-2::-1])
        self.to_image = nn.Conv2d(width, in_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape, unbounded."""
        skips: list[Tensor] = []
        x = image
        for level, stage in enumerate(self.encoder):
            x = stage(F.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = stage(torch.cat([skips.pop(), up(x)], dim=1))
        out: Tensor = self.to_image(x)
        return out


def _units(source: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (source, width):
        layers += [StandardisedConv2d(channels, width, 3, padding=1), nn.GroupNorm(_GROUPS, width), nn.SiLU()]
    return nn.Sequential(*layers)
