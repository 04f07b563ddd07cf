"""Variational autoencoder whose map weighs the reconstruction error by the gradient of the KL term.

Zimmerer et al. 2019, "Unsupervised anomaly localization using variational auto-encoders" (arXiv 1907.02796), in the
form that Meissen et al. 2022 compare with.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.convolutional import DenseAutoencoder, Norm
from zoo.scoring.residual import residual_map
from zoo.scoring.ssim import gaussian_window


class VariationalAutoencoder(AnomalyModule):
    """Variational autoencoder (VAE) with a gradient-weighted map.

    Map: squared error times the smoothed absolute gradient of the KL term with respect to the image. Score: KL term.
    The original draws the code at test time too and scales the gradient over the batch, so its maps depend on chance
    and on the other images; here the code is its mean and each image is scaled by itself.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** len(hidden_dims)``.
        in_channels: image channels.
        hidden_dims: channels after each halving of the image.
        latent_dim: length of the code.
        norm: ``none`` as the original, ``instance`` or ``batch``.
        kl_weight: weight of the KL term, which is averaged over batch and latent dimensions, beside the mean squared
            error.
        lr: learning rate of Adam.
    """

    reference = {
        "title": "Unsupervised Anomaly Localization using Variational Auto-Encoders",
        "venue": "MICCAI",
        "year": 2019,
        "url": "https://arxiv.org/abs/1907.02796",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}
    scores_with_gradient = True

    network: DenseAutoencoder

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 128, 256),
        latent_dim: int = 256,
        norm: Norm = "none",
        kl_weight: float = 0.05,
        lr: float = 2e-4,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the network; its encoder puts out mean and log variance."""
        self.network = DenseAutoencoder(
            self.in_channels,
            self.image_size,
            hidden_dims=tuple(self.hparams["hidden_dims"]),
            latent_dim=self.hparams["latent_dim"],
            code_dim=2 * self.hparams["latent_dim"],
            norm=self.hparams["norm"],
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the code, each ``(B, latent_dim)``."""
        mean, log_variance = self.network.encode(image).float().chunk(2, dim=1)
        return mean, log_variance

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of a drawn code's image plus the weighted KL term."""
        image = batch["image"]
        mean, log_variance = self.encode(image)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        reconstruction_loss = F.mse_loss(self.network.decode(code).float(), image)
        kl_loss = kl_divergence(mean, log_variance).mean()
        loss = reconstruction_loss + self.hparams["kl_weight"] * kl_loss
        self.log_dict({"train/loss": loss, "train/reconstruction": reconstruction_loss, "train/kl": kl_loss})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.hparams["lr"])

    def predict_anomaly(self, image: Tensor) -> Prediction:
        """Gradient-weighted squared error; the KL term as score."""
        image.requires_grad_()
        mean, log_variance = self.encode(image)
        kl = kl_divergence(mean, log_variance)
        # the sum over images: each image's gradient is its own, scaled alike whatever the batch
        (gradient,) = torch.autograd.grad(kl.sum(), image)
        with torch.no_grad():
            reconstruction = self.network.decode(mean).float()
            anomaly_map = residual_map(reconstruction, image, "l2") * _saliency(gradient)
        return Prediction(kl, anomaly_map, reconstruction)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence from the standard normal, averaged over latent dimensions: ``(B, L)`` twice -> ``(B,)``."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean(dim=1)


def _saliency(gradient: Tensor) -> Tensor:
    """Absolute gradient, averaged over channels, scaled to [0, 1] in each image and smoothed (7 x 7, sigma 3)."""
    strength = gradient.float().abs().mean(dim=1, keepdim=True)
    low, high = strength.amin(dim=(2, 3), keepdim=True), strength.amax(dim=(2, 3), keepdim=True)
    scaled = (strength - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    kernel = gaussian_window(7, 3.0).to(scaled.device)
    return F.conv2d(scaled, kernel[None, None], padding=3)
