"""Autoencoder that also predicts how sure it is: errors count for less where healthy images vary anyway.

Mao et al. 2020, "Abnormality detection in chest X-ray images using uncertainty prediction autoencoders".
"""

from typing import Any

from torch import Tensor

from zoo.module import Prediction
from zoo.reconstruction._reconstructor import Reconstructor
from zoo.scoring.pooling import PoolingRule

_LOG_VARIANCE_LIMIT = 10.0  # keeps the weights of the errors within exp(+-10)


class UncertaintyAutoencoder(Reconstructor):
    """Autoencoder with predicted variance (AE-U).

    Loss: ``mean(exp(-s) (x - r)^2 + s)`` for the reconstruction ``r`` and log variance ``s``, legitimately negative.
    Map: ``exp(-s) (x - r)^2``, averaged over channels; the uncertainty map is the predicted standard deviation.

    Args:
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        **autoencoder: arguments of :class:`~zoo.reconstruction._reconstructor.Reconstructor`, whose defaults are those
            of MedIAnomaly at 64 pixels.
    """

    reference = {
        "title": "Abnormality Detection in Chest X-ray Images Using Uncertainty Prediction Autoencoders",
        "venue": "MICCAI",
        "year": 2020,
        "url": "https://doi.org/10.1007/978-3-030-59725-2_51",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}
    small = {"lr": 1e-3}

    def __init__(self, *, score: PoolingRule = "mean", score_fraction: float = 0.1, **autoencoder: Any) -> None:
        super().__init__(**autoencoder)

    def build(self) -> None:
        """Create the network; its decoder puts out reconstruction and log variance."""
        self.network = self.dense(out_channels=2 * self.in_channels)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and log variance, both ``(B, C, H, W)`` float32."""
        reconstruction, log_variance = self.network(image).float().chunk(2, dim=1)
        return reconstruction, log_variance.clamp(-_LOG_VARIANCE_LIMIT, _LOG_VARIANCE_LIMIT)

    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """Gaussian negative log likelihood, up to constants."""
        reconstruction, log_variance = self.reconstruct(image)
        error = (reconstruction - image).square()
        return {"loss": ((-log_variance).exp() * error + log_variance).mean(), "reconstruction": error.mean()}

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Squared error in units of the predicted variance."""
        reconstruction, log_variance = self.reconstruct(image)
        anomaly_map = ((-log_variance).exp() * (reconstruction - image).square()).mean(dim=1, keepdim=True)
        uncertainty = (0.5 * log_variance).exp().mean(dim=1, keepdim=True)
        return Prediction(None, anomaly_map, reconstruction, uncertainty)
