"""Convolutional autoencoder with max-pooling and a code that is a map, the "DAE" of the tables of Tian et al.

Masci et al. 2011, "Stacked convolutional auto-encoders for hierarchical feature extraction". The tables give no
settings; the layers are trained together instead of one after the other, as has become usual since.
"""

from typing import Any

from zoo.reconstruction._reconstructor import Reconstructor
from zoo.scoring.pooling import PoolingRule


class ConvolutionalAutoencoder(Reconstructor):
    """Convolutional autoencoder with max-pooling (Masci).

    Loss and map: squared error. For a dense code and other losses see ``autoencoder``; for the denoising U-Net, also
    called DAE, see ``denoising_ae``.

    Args:
        latent_dim: channels of the code's map; wide ones let anomalies through.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        **autoencoder: arguments of :class:`~zoo.reconstruction._reconstructor.Reconstructor`; of a ``norm`` the paper,
            older than any, knows nothing.
    """

    reference = {
        "title": "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction",
        "venue": "ICANN",
        "year": 2011,
        "url": "https://doi.org/10.1007/978-3-642-21735-7_7",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 2}
    small = {"lr": 1e-3}

    def __init__(
        self, *, latent_dim: int = 8, score: PoolingRule = "mean", score_fraction: float = 0.1, **autoencoder: Any
    ) -> None:
        super().__init__(latent_dim=latent_dim, **autoencoder)

    def build(self) -> None:
        """Create the network."""
        self.network = self.spatial(max_pool=True)
