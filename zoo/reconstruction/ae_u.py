"""Autoencoder that also predicts how sure it is: errors count for less where healthy images vary anyway.

Mao et al. 2020, "Abnormality detection in chest X-ray images using uncertainty prediction autoencoders".
"""

import torch
from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.convolutional import DenseAutoencoder, Norm
from zoo.scoring.pooling import PoolingRule

_LOG_VARIANCE_LIMIT = 10.0  # keeps the weights of the errors within exp(+-10)


class UncertaintyAutoencoder(AnomalyModule):
    """Autoencoder with predicted variance (AE-U).

    The output is not bounded. Loss: ``mean(exp(-s) (x - r)^2 + s)`` for the reconstruction
    ``r`` and log variance ``s``, legitimately negative. Map: ``exp(-s) (x - r)^2``, averaged over channels; the
    uncertainty map is the predicted standard deviation.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** len(hidden_dims)``.
        in_channels: image channels.
        hidden_dims: channels after each halving of the image (MedIAnomaly's at 64 px).
        latent_dim: length of the code.
        norm: ``batch``, ``instance`` or ``none``.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam.
    """

    reference = {
        "title": "Abnormality Detection in Chest X-ray Images Using Uncertainty Prediction Autoencoders",
        "venue": "MICCAI",
        "year": 2020,
        "url": "https://doi.org/10.1007/978-3-030-59725-2_51",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}
    small = {"lr": 1e-3}

    network: DenseAutoencoder

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 64),
        latent_dim: int = 16,
        norm: Norm = "batch",
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the network; its decoder puts out reconstruction and log variance."""
        self.network = DenseAutoencoder(
            self.in_channels,
            self.image_size,
            hidden_dims=tuple(self.hparams["hidden_dims"]),
            latent_dim=self.hparams["latent_dim"],
            out_channels=2 * self.in_channels,
            norm=self.hparams["norm"],
        )

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and log variance, both ``(B, C, H, W)`` float32."""
        reconstruction, log_variance = self.network(image).float().chunk(2, dim=1)
        return reconstruction, log_variance.clamp(-_LOG_VARIANCE_LIMIT, _LOG_VARIANCE_LIMIT)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Gaussian negative log likelihood, up to constants."""
        reconstruction, log_variance = self.reconstruct(batch["image"])
        error = (reconstruction - batch["image"]).square()
        loss = ((-log_variance).exp() * error + log_variance).mean()
        self.log_dict({"train/loss": loss, "train/reconstruction": error.mean()})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.hparams["lr"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Squared error in units of the predicted variance."""
        reconstruction, log_variance = self.reconstruct(image)
        anomaly_map = ((-log_variance).exp() * (reconstruction - image).square()).mean(dim=1, keepdim=True)
        uncertainty = (0.5 * log_variance).exp().mean(dim=1, keepdim=True)
        return Prediction(None, anomaly_map, reconstruction, uncertainty)
