"""IGD's building block: an autoencoder whose codes gather around a centre, and a critic of mixed codes."""

import itertools
from functools import partial

import torch
from torch import Tensor, nn

from zoo.nn.convolutional import check_divisible
from zoo.nn.features import FeatureExtractor
from zoo.nn.fitted import FittedStatistics, away_from_zero
from zoo.nn.processes import total
from zoo.nn.resampling import ResampleBlock
from zoo.scoring.ms_ssim import WEIGHTS, ms_ssim, ms_ssim_error_map

PATCH = 32  # side of the patches that have an encoder and a window of their own
_RANGE = 4.7579  # span of ImageNet-normalised values, the dynamic range of all errors
_LOCAL_WEIGHTS = (0.0516, 0.3295, 0.3463, 0.2726)
_SSIM_SHARE = 0.85
_FLOOR = 1e-6  # a fractional power of 0 has no gradient
_MIN_CENTRE = 0.1


class DescribedAutoencoder(nn.Module):
    """Autoencoder, critic and Gaussian descriptor of whole images or of patches, in ImageNet-normalised values.

    Args:
        encoder: image to code ``(B, latent_dim)``.
        in_channels: image channels.
        size: ``(H, W)`` of images or patches.
        width: base width of generator and critic.
        latent_dim: length of the code.
        whole: the networks of whole images, whose finest and coarsest level are one convolution instead of a residual
            block, and whose critic is not bounded.
    """

    def __init__(
        self,
        encoder: nn.Module,
        in_channels: int,
        size: tuple[int, ...],
        width: int,
        latent_dim: int,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.weights: tuple[float, ...]
        self.whole = whole
        small = tuple(size) == (PATCH, PATCH)
        self.window, self.weights = (3, _LOCAL_WEIGHTS) if small else (11, WEIGHTS)
        levels = _levels(size)
        check_divisible(size, 2**levels, f"IGD's generator of {levels} doublings", minimum=16)
        grid = tuple(side // 2**levels for side in size)
        blocks = levels - 2 if whole else levels
        widths = [width * multiple for multiple in (1, 2, 4, 8, 8, 8, 8, 8)[: blocks + 1]]
        self.encoder = encoder
        ups = [ResampleBlock(source, target, "up") for source, target in itertools.pairwise(widths[::-1])]
        self.generator = nn.Sequential(
            nn.Linear(latent_dim, widths[-1] * grid[0] * grid[1]),
            nn.Unflatten(1, (widths[-1], *grid)),
            *_doubling(widths[-1], widths[-1], 3 if whole else 0),
            *ups,
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(_doubling(width, in_channels, 5) if whole else [nn.Conv2d(width, in_channels, 3, padding=1)]),
        )
        finest = 1 if whole else 0
        downs = [
            ResampleBlock(
                source, target, "down", partial(_layer_norm, sides=tuple(s // 2 ** (finest + level) for s in size))
            )
            for level, (source, target) in enumerate(itertools.pairwise(widths))
        ]
        stem = nn.Conv2d(in_channels, width, 5 if whole else 3, stride=1 + finest, padding=1 + finest)
        last = [nn.Conv2d(widths[-1], widths[-1], 3, stride=2, padding=1)] if whole else []
        self.critic = nn.Sequential(stem, *downs, *last, nn.Flatten(), nn.Linear(widths[-1] * grid[0] * grid[1], 1))
        self.descriptor = FittedStatistics("centre", "spread")
        for name in ("count", "total", "squares"):
            shape = (latent_dim,) if name == "total" else ()
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def error(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """``0.85 (1 - MS-SSIM) + 0.15 L1 / range``, ``(B,)``."""
        index = ms_ssim(reconstruction, image, self.window, _RANGE, self.weights, _FLOOR)
        absolute = (reconstruction - image).abs().mean(dim=(1, 2, 3))
        return _SSIM_SHARE * (1 - index) + (1 - _SSIM_SHARE) * absolute / _RANGE

    def error_map(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Error of the multi-scale similarity plus 0.15 of the absolute difference, ``(B, 1, H, W)``."""
        index = ms_ssim_error_map(image, reconstruction.unsqueeze(1), self.window, _RANGE, self.weights).squeeze(1)
        return index + (1 - _SSIM_SHARE) * (reconstruction - image).abs().mean(dim=1, keepdim=True)

    def distance(self, code: Tensor) -> Tensor:
        """``1 - exp(-|z - c|^2 / s)`` of codes, ``(B,)``."""
        squared = (code.float() - self.descriptor.centre).square().sum(dim=1)
        return 1 - torch.exp(-squared / self.descriptor.spread)

    def realism(self, image: Tensor) -> Tensor:
        """The critic's estimate ``(B, 1)`` of the share of a mixture, of patches in (0, 1)."""
        share: Tensor = self.critic(image).float()
        return share if self.whole else share.sigmoid()

    def collect(self, image: Tensor) -> None:
        """Add codes to the sums."""
        code = self.encoder(image).double()
        self.count += len(code)
        self.total += code.sum(dim=0)
        self.squares += code.square().sum()

    def settle(self) -> None:
        """Centre and width from the sums, which start anew."""
        count, summed, squares = total(self.count), total(self.total), total(self.squares)
        mean = summed / count
        centre = away_from_zero(mean, _MIN_CENTRE)
        spread = squares / count - 2 * centre @ mean + centre @ centre
        self.descriptor.centre, self.descriptor.spread = centre.float(), spread.clamp(min=1.0).float()
        for sums in (self.count, self.total, self.squares):
            sums.zero_()

    count: Tensor
    total: Tensor
    squares: Tensor


class BackboneEncoder(nn.Module):
    """A backbone's last maps, averaged over places, and a linear layer; takes normalised images.

    Args:
        backbone: a timm model.
        layer: its layer.
        weights: see :class:`~zoo.nn.features.FeatureExtractor`.
        trained: let the backbone learn too.
        in_channels: 1 or 3.
        latent_dim: length of the code.
    """

    def __init__(
        self, backbone: str, layer: str, weights: str, trained: bool, in_channels: int, latent_dim: int
    ) -> None:
        super().__init__()
        self.extractor = FeatureExtractor(
            backbone,
            (layer,),
            weights=weights,
            statistics="batch" if trained else "frozen",
            normalisation="none",
            in_channels=in_channels,
            differentiable=trained,
        )
        self.extractor.requires_grad_(trained)
        self.to_code = nn.Linear(self.extractor.channels[0], latent_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Codes ``(B, latent_dim)``."""
        code: Tensor = self.to_code(self.extractor(image)[0].mean(dim=(2, 3)))
        return code


def patch_encoder(in_channels: int, width: int, latent_dim: int) -> nn.Sequential:
    """Patches of 32 pixels to codes: three halvings, two linear layers."""
    widths = [2 * width, 4 * width, 8 * width, 16 * width]
    return nn.Sequential(
        nn.Conv2d(in_channels, widths[0], 3, padding=1),
        *(ResampleBlock(source, target, "down") for source, target in itertools.pairwise(widths)),
        nn.Flatten(),
        nn.Linear(widths[-1] * (PATCH // 8) ** 2, widths[-1]),
        nn.Linear(widths[-1], latent_dim),
    )


def _doubling(source: int, width: int, kernel: int) -> list[nn.Module]:
    """Nearest neighbours and a convolution; nothing for a kernel of 0."""
    return [nn.Upsample(scale_factor=2), nn.Conv2d(source, width, kernel, padding=kernel // 2)] if kernel else []


def _layer_norm(channels: int, sides: tuple[int, ...]) -> nn.Module:
    return nn.LayerNorm((channels, *sides))


def _levels(size: tuple[int, ...]) -> int:
    """Doublings from a grid of 4 to 7 places to the smaller side."""
    levels, side = 0, min(size)
    while side >= 8:
        levels, side = levels + 1, side // 2
    return levels
