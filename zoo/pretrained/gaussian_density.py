"""Gaussian density of a frozen backbone's pooled features: the Mahalanobis distance is the score; no map.

Rippel et al. 2021, "Modeling the distribution of normal data in pre-trained deep features for anomaly detection", in
the form that MedIAnomaly compares: normalised embeddings of a ResNet-18, covariance shrunk after Ledoit and Wolf.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from zoo.module import Batch, Prediction, Stage
from zoo.nn.density import ShrunkGaussian
from zoo.nn.features import FeatureExtractor
from zoo.pretrained._frozen import FrozenFeatures


class GaussianDensity(FrozenFeatures):
    """Gaussian density estimate of embeddings (GDE).

    1 or 3 channels. One embedding an image is kept until the end of the pass (2 KiB by default).

    Args:
        backbone: a timm model.
        layer: its layer, averaged over all places and scaled to length 1.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`.
    """

    reference = {
        "title": "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly Detection",
        "venue": "ICPR",
        "year": 2021,
        "url": "https://arxiv.org/abs/2005.14140",
    }
    fitting = "single_pass"
    tiny = {"image_size": 32, "layer": "layer1", "weights": "random"}
    small = {"backbone": "tf_efficientnet_lite0", "layer": "blocks.4"}

    extractor: FeatureExtractor
    gaussian: ShrunkGaussian

    def __init__(
        self,
        *,
        layer: str = "layer4",
        **frozen: Any,
    ) -> None:
        super().__init__(**frozen)

    def build(self) -> None:
        """Create the extractor and reserve the statistics."""
        self.extractor = self.frozen(self.hparams["layer"])
        self.gaussian = ShrunkGaussian()

    def stages(self) -> tuple[Stage, ...]:
        """One pass over the training images."""
        return (Stage("collect", self.collect, self.gaussian.finish),)

    def embed(self, image: Tensor) -> Tensor:
        """Float64 embeddings ``(B, K)`` of length 1."""
        return F.normalize(self.extractor(image)[0].double().mean(dim=(2, 3)), dim=1)

    def collect(self, batch: Batch, batch_idx: int) -> None:
        """Keep the embeddings of a batch."""
        self.gaussian.collect(self.embed(batch["image"]))

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mahalanobis distance of the embedding.

        Raises:
            UserError: the statistics were not fitted.
        """
        return Prediction(self.gaussian.distance(self.embed(image)))
