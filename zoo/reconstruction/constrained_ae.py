"""Constrained autoencoder: the reconstruction shall have the image's code.

Chen & Konukoglu 2018, "Unsupervised detection of lesions in brain MRI using constrained adversarial auto-encoders"
(arXiv 1806.04972), without the adversarial part, as MedIAnomaly compares it.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from zoo.nn.convolutional import DenseAutoencoder
from zoo.reconstruction._reconstructor import Reconstructor
from zoo.scoring.residual import residual_loss


class ConstrainedAutoencoder(Reconstructor):
    """Autoencoder whose reconstruction is encoded again, to the same code.

    Loss and map: squared error.

    Args:
        code_weight: of the squared distance of the two codes beside the image's error.
        **autoencoder: arguments of :class:`~zoo.reconstruction._reconstructor.Reconstructor`.
    """

    reference = {
        "title": "Unsupervised Detection of Lesions in Brain MRI using constrained adversarial auto-encoders",
        "venue": "MIDL",
        "year": 2018,
        "url": "https://arxiv.org/abs/1806.04972",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}

    network: DenseAutoencoder

    def __init__(self, *, code_weight: float = 1.0, **autoencoder: Any) -> None:
        super().__init__(**autoencoder)

    def build(self) -> None:
        """Create the network."""
        self.network = self.dense()

    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """Error of the image plus the distance of the codes."""
        code = self.network.encode(image)
        reconstruction = self.network.decode(code)
        error = residual_loss(reconstruction, image, self.residual)
        moved = F.mse_loss(self.network.encode(reconstruction).float(), code.float())
        return {"loss": error + self.hparams["code_weight"] * moved, "reconstruction": error, "code": moved}
