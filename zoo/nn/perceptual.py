"""Perceptual distance: relative difference of standardised features of a frozen backbone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.features import FeatureExtractor
from zoo.nn.processes import total


class PerceptualDistance(nn.Module):
    """Distance of two images in one layer of a frozen backbone (Shvetsova et al. 2021, arXiv 2006.13265).

    Features are standardised by channel with moments collected on the training set, so that no channel dominates by
    its scale. Before :meth:`collect` they are taken as they are.

    Args:
        in_channels: image channels, 1 or 3.
        backbone: timm name.
        layer: module path in it.
        weights: ``imagenet``, ``random`` or a path.
    """

    moments: Tensor

    def __init__(self, in_channels: int, *, backbone: str, layer: str, weights: str) -> None:
        super().__init__()
        self.extractor = FeatureExtractor(
            backbone, (layer,), weights=weights, in_channels=in_channels, differentiable=True
        )
        # count, sum and sum of squares: kept in checkpoints, so that an interrupted collection goes on
        self.register_buffer("moments", torch.zeros(3, self.extractor.channels[0], dtype=torch.float64))

    @torch.no_grad()
    def collect(self, image: Tensor) -> None:
        """Add images ``(B, C, H, W)`` in [0, 1] to the moments."""
        (features,) = self.extractor(image)
        values = features.transpose(0, 1).flatten(1).double()
        count = torch.full_like(values[:, 0], values.shape[1])
        self.moments += torch.stack([count, values.sum(dim=1), values.square().sum(dim=1)])

    def finish(self) -> None:
        """Put the moments of several processes together."""
        self.moments = total(self.moments)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Sum over channels of the absolute difference, relative to the target's own mean over the map.

        Args:
            reconstruction: ``(B, C, H, W)``.
            target: ``(B, C, H, W)`` in [0, 1].

        Returns:
            float32 ``(B, 1, h, w)`` at the layer's resolution; its mean is the relative L1 distance of each image.
        """
        with torch.autocast(target.device.type, enabled=False):
            found, wanted = (self._standardise(self.extractor(x.float())[0]) for x in (reconstruction, target))
            scale = wanted.abs().sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
            return (found - wanted).abs().sum(dim=1, keepdim=True) / scale.clamp(min=1e-6)

    def error_map(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """:meth:`forward` at the image's size, ``(B, 1, H, W)``."""
        distance = self(reconstruction, target)
        return F.interpolate(distance, size=target.shape[2:], mode="bilinear", align_corners=False)

    def _standardise(self, features: Tensor) -> Tensor:
        count, total, squares = self.moments
        mean = total / count.clamp(min=1)
        variance = squares / count.clamp(min=1) - mean.square()
        deviation = torch.where(count > 0, variance.clamp(min=1e-6).sqrt(), 1.0)
        standardised: Tensor = (features - mean.float().view(-1, 1, 1)) / deviation.float().view(-1, 1, 1)
        return standardised
