"""Convolutional autoencoder with max-pooling and a code that is a map, the "DAE" of the tables of Tian et al.

Masci et al. 2011, "Stacked convolutional auto-encoders for hierarchical feature extraction". The tables give no
settings; the layers are trained together instead of one after the other, as has become usual since.
"""

import torch
from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.convolutional import Norm, SpatialAutoencoder
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import residual_loss, residual_map


class ConvolutionalAutoencoder(AnomalyModule):
    """Convolutional autoencoder with max-pooling (Masci).

    The output is not bounded. Loss and map: squared error. For a dense code and other
    losses see ``autoencoder``; for the denoising U-Net, also called DAE, see ``denoising_ae``.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** len(hidden_dims)``.
        in_channels: image channels.
        hidden_dims: channels before each max-pooling.
        latent_dim: channels of the code's map; wide ones let anomalies through.
        norm: ``batch``, ``instance`` or ``none``; the paper is older than any.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam.
    """

    reference = {
        "title": "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction",
        "venue": "ICANN",
        "year": 2011,
        "url": "https://doi.org/10.1007/978-3-642-21735-7_7",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 2}
    small = {"lr": 1e-3}

    network: SpatialAutoencoder

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 64),
        latent_dim: int = 8,
        norm: Norm = "batch",
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the network."""
        self.network = SpatialAutoencoder(
            self.in_channels,
            self.image_size,
            hidden_dims=tuple(self.hparams["hidden_dims"]),
            latent_dim=self.hparams["latent_dim"],
            norm=self.hparams["norm"],
            max_pool=True,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Squared error of a batch."""
        loss = residual_loss(self.network(batch["image"]), batch["image"], "l2")
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.hparams["lr"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Squared error and its pooled value."""
        reconstruction = self.network(image).float()
        anomaly_map = residual_map(reconstruction, image, "l2")
        return Prediction(None, anomaly_map, reconstruction)
