"""Variational autoencoder with the maps that have been proposed for it: residuals, gradients, restoration.

Zimmerer et al. 2019, "Unsupervised anomaly localization using variational auto-encoders" (arXiv 1907.02796), in the
form that Meissen et al. 2022 compare with; restoration as Chen et al. 2020 (arXiv 2005.00031).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.module import Prediction
from zoo.nn.convolutional import DenseAutoencoder, Norm
from zoo.reconstruction._reconstructor import Reconstructor
from zoo.scoring.pooling import pool_map
from zoo.scoring.residual import residual_loss, residual_map

VAEMap = Literal["combined", "reconstruction", "kl_gradient", "elbo_gradient", "restoration"]
VAEScore = Literal["kl", "reconstruction", "elbo", "map"]


class VariationalAutoencoder(Reconstructor):
    """Variational autoencoder (VAE) with gradient-based, combined and restoration maps.

    The original draws the code at test time too and scales the gradient over the batch, so its maps depend on chance
    and on the other images; here the code is its mean and each image is scaled by itself.

    Args:
        hidden_dims: channels after each halving of the image.
        latent_dim: length of the code.
        norm: ``none`` as the original, ``instance`` or ``batch``.
        loss: reconstruction error, ``l2`` or ``l1``, averaged over everything.
        kl_weight: weight of the KL term, which is averaged over batch and latent dimensions.
        anomaly_map: ``reconstruction`` error; smoothed absolute gradient with respect to the image of the KL term
            (``kl_gradient``) or of the whole loss (``elbo_gradient``); ``combined`` = error times the KL gradient
            scaled to [0, 1]; ``restoration`` = absolute change when the image itself descends the loss under a
            total-variation penalty on that change.
        score: of the image: ``kl`` term, ``reconstruction`` error, ``elbo`` = the loss of the image, or mean of the
            ``map``.
        restoration_steps: gradient steps of the restoration.
        restoration_rate: their size, for the loss summed over pixels and the image in [0, 1].
        restoration_tv: weight of the total variation.
        lr: learning rate of Adam.
        **autoencoder: ``image_size`` and ``in_channels``.
    """

    reference = {
        "title": "Unsupervised Anomaly Localization using Variational Auto-Encoders",
        "venue": "MICCAI",
        "year": 2019,
        "url": "https://arxiv.org/abs/1907.02796",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}
    small = {"lr": 1e-3}
    scores_with_gradient = True

    network: DenseAutoencoder

    def __init__(
        self,
        *,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 128, 256),
        latent_dim: int = 256,
        norm: Norm = "none",
        loss: Literal["l1", "l2"] = "l2",
        kl_weight: float = 0.05,
        anomaly_map: VAEMap = "combined",
        score: VAEScore = "kl",
        restoration_steps: int = 50,
        restoration_rate: float = 0.02,
        restoration_tv: float = 0.05,
        lr: float = 2e-4,
        **autoencoder: Any,
    ) -> None:
        super().__init__(hidden_dims=hidden_dims, latent_dim=latent_dim, norm=norm, lr=lr, **autoencoder)

    @property
    def smoothing_side(self) -> int:
        """Side in pixels of the Gaussian that smooths gradients."""
        return 7

    def build(self) -> None:
        """Create the network; its encoder puts out mean and log variance."""
        self.network = self.dense(code_dim=2 * self.hparams["latent_dim"])

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the code, each ``(B, latent_dim)``."""
        mean, log_variance = self.network.encode(image).float().chunk(2, dim=1)
        return mean, log_variance

    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """Reconstruction error of a drawn code's image plus the weighted KL term."""
        mean, log_variance = self.encode(image)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        error = residual_loss(self.network.decode(code), image, self.hparams["loss"])
        kl = kl_divergence(mean, log_variance).mean()
        return {"loss": error + self.hparams["kl_weight"] * kl, "reconstruction": error, "kl": kl}

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """The chosen map and score; the code is its mean."""
        hp = self.hparams
        image.requires_grad_()
        reconstruction, kl, error = self._terms(image)
        error_map = residual_map(reconstruction, image, hp["loss"])
        elbo = error + hp["kl_weight"] * kl
        if hp["anomaly_map"] == "combined":
            anomaly_map = error_map * _smooth(_rescale(_gradient(kl, image)), self.smoothing_side)
        elif hp["anomaly_map"] == "reconstruction":
            anomaly_map = error_map
        elif hp["anomaly_map"] == "restoration":
            reconstruction = self._restore(image.detach())
            anomaly_map = residual_map(reconstruction, image, "l1")
        else:
            anomaly_map = _smooth(
                _gradient(kl if hp["anomaly_map"] == "kl_gradient" else elbo, image), self.smoothing_side
            )
        score = {"kl": kl, "reconstruction": error, "elbo": elbo, "map": pool_map(anomaly_map)}[hp["score"]]
        return Prediction(score, anomaly_map, reconstruction)

    def _terms(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction from the mean code, KL term ``(B,)`` and mean reconstruction error ``(B,)``."""
        mean, log_variance = self.encode(image)
        reconstruction = self.network.decode(mean).float()
        error = residual_map(reconstruction, image, self.hparams["loss"]).mean(dim=(1, 2, 3))
        return reconstruction, kl_divergence(mean, log_variance), error

    def _restore(self, image: Tensor) -> Tensor:
        """The likely healthy image near ``image``: gradient descent on the loss plus total variation of the change."""
        hp = self.hparams
        restored = image.clone()
        for _ in range(hp["restoration_steps"]):
            restored.requires_grad_()
            _, kl, error = self._terms(restored)
            change = restored - image
            variation = change.diff(dim=2).abs().sum() + change.diff(dim=3).abs().sum()
            # sums over images: each one descends its own energy whatever the batch
            energy = image[0].numel() * (error + hp["kl_weight"] * kl).sum() + hp["restoration_tv"] * variation
            (gradient,) = torch.autograd.grad(energy, restored)
            restored = (restored - hp["restoration_rate"] * gradient).detach()
        return restored


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence from the standard normal, averaged over latent dimensions: ``(B, L)`` twice -> ``(B,)``."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean(dim=1)


def _smooth(values: Tensor, side: int) -> Tensor:
    """Gaussian blur ``(B, 1, H, W)`` of the same size, with sigma 3 and zero padding, an odd pixel at the end."""
    offset = torch.arange(side, dtype=torch.float32, device=values.device) - (side - 1) / 2
    line = torch.exp(-offset.square() / (2 * 3.0**2))
    line = line / line.sum()
    before = (side - 1) // 2
    padded = F.pad(values, (before, side - 1 - before, before, side - 1 - before))
    return F.conv2d(padded, torch.outer(line, line)[None, None])


def _gradient(value: Tensor, image: Tensor) -> Tensor:
    """Absolute gradient of each image's ``value`` ``(B,)``, averaged over channels: ``(B, 1, H, W)``."""
    (gradient,) = torch.autograd.grad(value.sum(), image, retain_graph=True)
    return gradient.float().abs().mean(dim=1, keepdim=True)


def _rescale(values: Tensor) -> Tensor:
    """Each map to [0, 1]; a constant one to 0."""
    low, high = values.amin(dim=(2, 3), keepdim=True), values.amax(dim=(2, 3), keepdim=True)
    return (values - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
