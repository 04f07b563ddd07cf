"""Convolutional autoencoder: an image through a narrow code; what it fails to bring back is anomalous.

The image baseline of Meissen et al. 2022, architecture and settings as in the comparative study of Baur et al. 2021.
"""

from typing import Literal

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.convolutional import DenseAutoencoder, Norm
from zoo.nn.perceptual import PerceptualDistance
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import residual_loss, residual_map


class Autoencoder(AnomalyModule):
    """Convolutional autoencoder (AE-MSE, AE-L1, AE-SSIM, MS-SSIM, AE-PL).

    The output is not bounded.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** len(hidden_dims)``, with instance norm at least twice that.
        in_channels: image channels.
        hidden_dims: channels after each halving of the image.
        latent_dim: length of the code; the setting that matters most (small codes suit small lesions).
        norm: ``instance`` as the original, ``batch`` or ``none``.
        loss: ``l2``, ``l1``, ``ssim`` (minus the structural similarity), ``ms_ssim`` (0.85 of its
            multi-scale error plus 0.15 of ``l1``), or ``perceptual`` (relative L1 distance of standardised features;
            images in [0, 1]; one pass over the training set first collects their moments); also the anomaly map.
        window: side of the window of ``ssim`` and ``ms_ssim``; scales that it does not fit are left out.
        backbone: timm name of the frozen network of ``perceptual``.
        layer: its layer; ``features.22`` is relu4_2 of VGG-19.
        weights: ``imagenet``, ``random`` or a path.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        score_foreground: pool over the foreground only, as the original does.
        lr: learning rate of Adam.
    """

    reference = {
        "title": "Autoencoders for unsupervised anomaly segmentation in brain MR images: a comparative study",
        "venue": "Medical Image Analysis",
        "year": 2021,
        "url": "https://arxiv.org/abs/2004.03271",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}
    small = {"lr": 1e-3}

    network: DenseAutoencoder

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 128, 256),
        latent_dim: int = 256,
        norm: Norm = "instance",
        loss: Literal["l1", "l2", "ssim", "ms_ssim", "perceptual"] = "l2",
        window: int = 11,
        backbone: str = "vgg19",
        layer: str = "features.22",
        weights: str = "imagenet",
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

        if self.hparams["loss"] == "perceptual":
            self.distance = PerceptualDistance(
                self.in_channels,
                backbone=self.hparams["backbone"],
                layer=self.hparams["layer"],
                weights=self.hparams["weights"],
            )

    def stages(self) -> tuple[Stage, ...]:
        """``perceptual`` collects the moments of the features first; the other losses have one plain stage."""
        if self.hparams["loss"] != "perceptual":
            return ()
        return Stage("collect", self._collect, self._finish), Stage("optimise", self._optimise)

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Reconstruction loss of a batch, or the current stage's step."""
        return super().training_step(batch, batch_idx) if self.stages() else self._optimise(batch, batch_idx)

    def _collect(self, batch: Batch, batch_idx: int) -> None:
        self.distance.collect(batch["image"])

    def _finish(self) -> None:
        self.distance.finish()

    def _optimise(self, batch: Batch, batch_idx: int) -> Tensor:
        image, kind = batch["image"], self.hparams["loss"]
        reconstruction = self.network(image)
        if kind == "perceptual":
            loss: Tensor = self.distance(reconstruction, image).mean()
        else:
            loss = residual_loss(reconstruction, image, kind, self.hparams["window"])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.hparams["lr"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Residual map of the loss's kind and its pooled value."""
        hp = self.hparams
        reconstruction = self.network(image).float()
        if hp["loss"] == "perceptual":
            anomaly_map = self.distance.error_map(reconstruction, image)
        else:
            anomaly_map = residual_map(reconstruction, image, hp["loss"], hp["window"])
        return Prediction(None, anomaly_map, reconstruction)
