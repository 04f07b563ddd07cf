"""Convolutional autoencoder: an image through a narrow code; what it fails to bring back is anomalous.

The image baseline of Meissen et al. 2022, architecture and settings as in the comparative study of Baur et al. 2021.
"""

from typing import Literal

import torch
from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.convolutional import DenseAutoencoder, Norm
from zoo.scoring.pooling import PoolingRule, pool_map
from zoo.scoring.residual import residual_loss, residual_map


class Autoencoder(AnomalyModule):
    """Convolutional autoencoder (AE-MSE, AE-L1, AE-SSIM).

    Any image range near [0, 1]; the output is not bounded.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** len(hidden_dims)``, with instance norm at least twice that.
        in_channels: image channels.
        hidden_dims: channels after each halving of the image.
        latent_dim: length of the code; the setting that matters most (small codes suit small lesions).
        norm: ``instance`` as the original, ``batch`` or ``none``.
        loss: ``l2``, ``l1``, or ``ssim`` (minus the structural similarity, window 11); also the anomaly map.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        score_foreground: pool over pixels above 0 only, as the original does.
        lr: learning rate of Adam.
    """

    reference = {
        "title": "Autoencoders for unsupervised anomaly segmentation in brain MR images: a comparative study",
        "venue": "Medical Image Analysis",
        "year": 2021,
        "url": "https://arxiv.org/abs/2004.03271",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}

    network: DenseAutoencoder

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 128, 256),
        latent_dim: int = 256,
        norm: Norm = "instance",
        loss: Literal["l1", "l2", "ssim"] = "l2",
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        score_foreground: bool = True,
        lr: float = 2e-4,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the network."""
        self.network = DenseAutoencoder(
            self.in_channels,
            self.image_size,
            hidden_dims=tuple(self.hparams["hidden_dims"]),
            latent_dim=self.hparams["latent_dim"],
            norm=self.hparams["norm"],
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Reconstruction loss of a batch."""
        loss = residual_loss(self.network(batch["image"]), batch["image"], self.hparams["loss"])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.hparams["lr"])

    def predict_anomaly(self, image: Tensor) -> Prediction:
        """Residual map of the loss's kind and its pooled value."""
        hp = self.hparams
        reconstruction = self.network(image).float()
        anomaly_map = residual_map(reconstruction, image, hp["loss"])
        foreground = (image > 0).any(dim=1, keepdim=True) if hp["score_foreground"] else None
        score = pool_map(anomaly_map, hp["score"], hp["score_fraction"], foreground)
        return Prediction(score, anomaly_map, reconstruction)
