"""Residual encoder-decoders without skip connections, the networks of FPI, PII and NSA."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.convolutional import check_divisible


class WideResidualSegmenter(nn.Module):
    """Wide residual encoder-decoder (Tan et al. 2020): pre-activation blocks, halved ``len(widths) - 1`` times.

    Args:
        in_channels: image channels.
        image_size: ``(H, W)``, multiples of ``2 ** (len(widths) - 1)``.
        widths: channels of the encoder's stages.
        out_channels: channels of the output.
        layout: ``original``: the last block makes the output, and a block that halves at equal widths has a pooled
            shortcut (4,164,763 parameters at the defaults); ``headed``: a convolution makes the output, and every
            shortcut of such blocks is one.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 256, 256),
        out_channels: int = 1,
        layout: Literal["original", "headed"] = "headed",
    ) -> None:
        super().__init__()
        check_divisible(image_size, 2 ** (len(widths) - 1), "this residual encoder")
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(
            Block(before, width, 1 if number == 0 else 2, pooled=layout == "original")
            for number, (before, width) in enumerate(zip((16, *widths[:-1]), widths, strict=True))
        )
        ups = [max(widths[-1] // 2 ** (number + 1), 16) for number in range(len(widths) - 1)]
        if layout == "original":
            ups[-2:] = [16, out_channels][-len(ups) :]
        self.decoder = nn.ModuleList(
            Block(before, width, 1) for before, width in zip((widths[-1], *ups[:-1]), ups, strict=True)
        )
        self.headed = layout == "headed"
        if self.headed:
            self.norm = nn.BatchNorm2d(ups[-1])
            self.head = nn.Conv2d(ups[-1], out_channels, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` to logits ``(B, out_channels, H, W)``."""
        x = self.stem(image)
        for block in self.encoder:
            x = block(x)
        for block in self.decoder:
            x = block(F.interpolate(x, scale_factor=2.0))
        out: Tensor = self.head(F.relu(self.norm(x))) if self.headed else x
        return out


class Block(nn.Module):
    """Pre-activation residual block: norm, ReLU, convolution, twice.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        stride: of the first convolution and of the shortcut.
        pooled: at equal widths the shortcut of a stride is an average of the input instead of a convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, pooled: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        same = in_channels == out_channels
        self.pool = nn.AvgPool2d(stride) if pooled and same and stride > 1 else None
        plain = same and (stride == 1 or self.pool is not None)
        self.shortcut = None if plain else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``."""
        active = F.relu(self.norm1(x))
        own = x if self.pool is None else self.pool(x)
        own = own if self.shortcut is None else self.shortcut(active)
        out: Tensor = own + self.conv2(F.relu(self.norm2(self.conv1(active))))
        return out
