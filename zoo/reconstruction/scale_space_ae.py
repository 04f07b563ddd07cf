"""Scale-space autoencoder: a Laplacian pyramid, an autoencoder for each of its bands.

Baur et al. 2020, "Scale-space autoencoders for unsupervised anomaly segmentation in brain MRI" (MICCAI). Re-constructed
from the abstract: bands are compressed one by one and put together again, so that coarse and fine detail come back.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import Prediction
from zoo.reconstruction._reconstructor import Reconstructor
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import residual_map
from zoo.scoring.smoothing import gaussian_blur


class ScaleSpaceAutoencoder(Reconstructor):
    """Autoencoders of the bands of a Laplacian pyramid (scale-space AE), re-constructed from the abstract.

    Loss: absolute error of every band and of the image that they make up. Map: absolute error of that image. Number of
    bands, networks and weights are ours.

    Args:
        bands: of the pyramid, the coarsest one included.
        hidden_dims: channels after each halving of a band.
        latent_dim: channels of each code's map.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        **autoencoder: arguments of :class:`~zoo.reconstruction._reconstructor.Reconstructor`; ``image_size`` in
            multiples of ``2 ** (bands - 1 + len(hidden_dims))``.
    """

    reference = {
        "title": "Scale-Space Autoencoders for Unsupervised Anomaly Segmentation in Brain MRI (re-construction)",
        "venue": "MICCAI",
        "year": 2020,
        "url": "https://arxiv.org/abs/2006.12852",
    }
    tiny = {"image_size": 32, "bands": 2, "hidden_dims": (4, 8), "latent_dim": 2}
    small = {"lr": 1e-3}

    networks: nn.ModuleList

    def __init__(
        self,
        *,
        bands: int = 3,
        hidden_dims: tuple[int, ...] = (16, 32, 64),
        latent_dim: int = 8,
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        **autoencoder: Any,
    ) -> None:
        super().__init__(hidden_dims=hidden_dims, latent_dim=latent_dim, **autoencoder)

    def build(self) -> None:
        """Create an autoencoder for each band."""
        self.networks = nn.ModuleList(self.spatial(level) for level in range(self.hparams["bands"]))

    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """Absolute error of the bands and of the image."""
        bands = split_bands(image, self.hparams["bands"])
        made = self.reconstruct(bands)
        errors = [F.l1_loss(one, band) for one, band in zip(made, bands, strict=True)]
        return {"loss": torch.stack([*errors, F.l1_loss(join_bands(made), image)]).sum()}

    def reconstruct(self, bands: list[Tensor]) -> list[Tensor]:
        """What the autoencoders make of the bands, float32."""
        return [network(band).float() for network, band in zip(self.networks, bands, strict=True)]

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Absolute error of the image put together from its bands."""
        reconstruction = join_bands(self.reconstruct(split_bands(image, self.hparams["bands"])))
        return Prediction(None, residual_map(reconstruction, image, "l1"), reconstruction)


def split_bands(image: Tensor, count: int) -> list[Tensor]:
    """Laplacian pyramid, finest band first; :func:`join_bands` is its exact inverse.

    Args:
        image: ``(B, C, H, W)``, sides multiples of ``2 ** (count - 1)``.
        count: number of bands; the last one is the smoothed, halved image itself.
    """
    bands = []
    for _ in range(count - 1):
        coarse = F.avg_pool2d(gaussian_blur(image, 1.0), 2)
        bands.append(image - _double(coarse))
        image = coarse
    return [*bands, image]


def join_bands(bands: list[Tensor]) -> Tensor:
    """Image ``(B, C, H, W)`` from its bands."""
    image = bands[-1]
    for band in bands[-2::-1]:
        image = band + _double(image)
    return image


def _double(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)
