"""Scale-space autoencoder: a Laplacian pyramid, an autoencoder for each of its bands.

Baur et al. 2020, "Scale-space autoencoders for unsupervised anomaly segmentation in brain MRI" (MICCAI). Re-constructed
from the abstract: bands are compressed one by one and put together again, so that coarse and fine detail come back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.convolutional import Norm, SpatialAutoencoder
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import residual_map
from zoo.scoring.smoothing import gaussian_blur


class ScaleSpaceAutoencoder(AnomalyModule):
    """Autoencoders of the bands of a Laplacian pyramid (scale-space AE), re-constructed from the abstract.

    Loss: absolute error of every band and of the image that they make up. Map: absolute error of that image. Number of
    bands, networks and weights are ours.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** (bands - 1 + len(hidden_dims))``.
        in_channels: image channels.
        bands: of the pyramid, the coarsest one included.
        hidden_dims: channels after each halving of a band.
        latent_dim: channels of each code's map.
        norm: ``batch``, ``instance`` or ``none``.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam.
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
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        bands: int = 3,
        hidden_dims: tuple[int, ...] = (16, 32, 64),
        latent_dim: int = 8,
        norm: Norm = "batch",
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create an autoencoder for each band."""
        hp = self.hparams
        self.networks = nn.ModuleList(
            SpatialAutoencoder(
                self.in_channels,
                tuple(side // 2**level for side in self.image_size),
                hidden_dims=tuple(hp["hidden_dims"]),
                latent_dim=hp["latent_dim"],
                norm=hp["norm"],
            )
            for level in range(hp["bands"])
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Absolute error of the bands and of the image."""
        image = batch["image"]
        bands = split_bands(image, self.hparams["bands"])
        made = [network(band).float() for network, band in zip(self.networks, bands, strict=True)]
        errors = [F.l1_loss(one, band) for one, band in zip(made, bands, strict=True)]
        loss = torch.stack([*errors, F.l1_loss(join_bands(made), image)]).sum()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.networks.parameters(), lr=self.hparams["lr"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Absolute error of the image put together from its bands."""
        bands = split_bands(image, self.hparams["bands"])
        made = [network(band).float() for network, band in zip(self.networks, bands, strict=True)]
        reconstruction = join_bands(made)
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
