"""A ResNet read backwards: from the features of its deepest stages to maps like those of its stages."""

import itertools

import torch
from torch import Tensor, nn


class MirroredResNet(nn.Module):
    """One-class embedding of several feature maps, and a decoder that rebuilds them.

    The maps are halved to the coarsest one's grid, joined, and embedded by residual blocks that halve once more; a
    decoder of residual blocks with transposed convolutions puts out a map of every stage, the coarsest first.

    Args:
        channels: of the maps, the finest first; each map is half the size of the one before.
        inner_share: channels inside a block, as a share of its output's.
        bottleneck: blocks of three convolutions (1 x 1, 3 x 3, 1 x 1) instead of two 3 x 3 ones.
        depths: blocks of the decoder's stages, the coarsest first.
        embedding_depth: blocks of the embedding.
        signed: the maps can be negative: the decoder's stages then end without ReLU.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        *,
        inner_share: float,
        bottleneck: bool,
        depths: tuple[int, ...],
        embedding_depth: int,
        signed: bool = False,
    ) -> None:
        super().__init__()
        last = channels[-1]
        self.align = nn.ModuleList(
            nn.Sequential(*(_halve(before, after) for before, after in itertools.pairwise(channels[level:])))
            for level in range(len(channels))
        )

        def stage(before: int, after: int, depth: int, up: bool) -> nn.Sequential:
            inner = int(after * inner_share)
            first = ResidualBlock(before, inner, after, bottleneck=bottleneck, up=up, down=not up)
            others = (ResidualBlock(after, inner, after, bottleneck=bottleneck) for _ in range(depth - 1))
            blocks = [first, *others]
            blocks[-1].rectified = not (up and signed)
            return nn.Sequential(*blocks)

        self.embedding = stage(len(channels) * last, 2 * last, embedding_depth, up=False)
        sizes = (2 * last, *reversed(channels))
        self.decoder = nn.ModuleList(
            stage(before, after, depth, up=True)
            for (before, after), depth in zip(itertools.pairwise(sizes), depths, strict=True)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Rebuilt maps, of the same shapes and in the same order."""
        joined = torch.cat([align(values) for align, values in zip(self.align, maps, strict=True)], dim=1)
        x, rebuilt = self.embedding(joined), []
        for stage in self.decoder:
            x = stage(x)
            rebuilt.append(x)
        return rebuilt[::-1]


class ResidualBlock(nn.Module):
    """Residual block that may halve the map (by a 3 x 3 convolution) or double it (by a transposed 2 x 2 one).

    Args:
        before: channels in.
        inner: channels inside.
        after: channels out.
        bottleneck: three convolutions instead of two.
        up: double the map.
        down: halve the map.

    Attributes:
        rectified: the block ends with a ReLU.
    """

    def __init__(
        self, before: int, inner: int, after: int, *, bottleneck: bool, up: bool = False, down: bool = False
    ) -> None:
        super().__init__()
        self.rectified = True
        if bottleneck:
            first = _unit(nn.Conv2d(before, inner, 1, bias=False))
            middle, last = _scaling(inner, inner, up, down), nn.Conv2d(inner, after, 1, bias=False)
            self.body = nn.Sequential(*first, nn.ReLU(), *_unit(middle), nn.ReLU(), *_unit(last))
        else:
            second = nn.Conv2d(inner, after, 3, padding=1, bias=False)
            self.body = nn.Sequential(*_unit(_scaling(before, inner, up, down)), nn.ReLU(), *_unit(second))
        self.shortcut = nn.Sequential() if before == after and not (up or down) else _shortcut(before, after, up, down)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, h, w)`` to ``(B, after, h', w')``."""
        values = self.body(x) + self.shortcut(x)
        return torch.relu(values) if self.rectified else values


def _unit(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels)]


def _scaling(before: int, after: int, up: bool, down: bool) -> nn.Conv2d | nn.ConvTranspose2d:
    if up:
        return nn.ConvTranspose2d(before, after, 2, stride=2, bias=False)
    return nn.Conv2d(before, after, 3, stride=2 if down else 1, padding=1, bias=False)


def _shortcut(before: int, after: int, up: bool, down: bool) -> nn.Sequential:
    if up:
        return nn.Sequential(*_unit(nn.ConvTranspose2d(before, after, 2, stride=2, bias=False)))
    return nn.Sequential(*_unit(nn.Conv2d(before, after, 1, stride=2 if down else 1, bias=False)))


def _halve(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(*_unit(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)), nn.ReLU())
