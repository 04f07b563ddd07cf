"""Convolutional autoencoder: an image through a narrow code; what it fails to bring back is anomalous.

The image baseline of Meissen et al. 2022, architecture and settings as in the comparative study of Baur et al. 2021.
"""

from typing import Any, Literal

from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.convolutional import Norm
from zoo.nn.perceptual import PerceptualDistance
from zoo.reconstruction._reconstructor import Reconstructor
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import residual_loss, residual_map


class Autoencoder(Reconstructor):
    """Convolutional autoencoder (AE-MSE, AE-L1, AE-SSIM, MS-SSIM, AE-PL).

    Args:
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
        **autoencoder: ``image_size`` and ``in_channels``.
    """

    reference = {
        "title": "Autoencoders for unsupervised anomaly segmentation in brain MR images: a comparative study",
        "venue": "Medical Image Analysis",
        "year": 2021,
        "url": "https://arxiv.org/abs/2004.03271",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}
    small = {"lr": 1e-3}

    def __init__(
        self,
        *,
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
        **autoencoder: Any,
    ) -> None:
        super().__init__(hidden_dims=hidden_dims, latent_dim=latent_dim, norm=norm, lr=lr, **autoencoder)

    def build(self) -> None:
        """Create the network."""
        self.network = self.dense()
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
        collect = Stage("collect", self._collect, self.distance.finish)
        return collect, Stage("optimise", super().training_step)

    def _collect(self, batch: Batch, batch_idx: int) -> None:
        self.distance.collect(batch["image"])

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """Reconstruction loss of a batch, or the current stage's step."""
        if self.stages():
            return AnomalyModule.training_step(self, batch, batch_idx)
        return super().training_step(batch, batch_idx)

    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """The error of the chosen kind."""
        reconstruction, kind = self.network(image), self.hparams["loss"]
        if kind == "perceptual":
            return {"loss": self.distance(reconstruction, image).mean()}
        return {"loss": residual_loss(reconstruction, image, kind, self.hparams["window"])}

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Residual map of the loss's kind and its pooled value."""
        hp = self.hparams
        reconstruction = self.network(image).float()
        if hp["loss"] == "perceptual":
            anomaly_map = self.distance.error_map(reconstruction, image)
        else:
            anomaly_map = residual_map(reconstruction, image, hp["loss"], hp["window"])
        return Prediction(None, anomaly_map, reconstruction)
