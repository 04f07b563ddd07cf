"""Gaussian density of a frozen backbone's pooled features: the Mahalanobis distance is the score; no map.

Rippel et al. 2021, "Modeling the distribution of normal data in pre-trained deep features for anomaly detection", in
the form that MedIAnomaly compares: normalised embeddings of a ResNet-18, covariance shrunk after Ledoit and Wolf.
"""

import torch.nn.functional as F
from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.density import ShrunkGaussian
from zoo.nn.features import FeatureExtractor


class GaussianDensity(AnomalyModule):
    """Gaussian density estimate of embeddings (GDE).

    1 or 3 channels. One embedding an image is kept until the end of the pass (2 KiB by default).

    Args:
        image_size: (H, W) in pixels.
        in_channels: 1 or 3.
        backbone: a timm model.
        layer: its layer, averaged over all places and scaled to length 1.
        weights: ``imagenet``, ``random``, or the path of a state dict of torchvision or timm.
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
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        backbone: str = "resnet18",
        layer: str = "layer4",
        weights: str = "imagenet",
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the extractor and reserve the statistics."""
        hp = self.hparams
        self.extractor = FeatureExtractor(
            hp["backbone"], (hp["layer"],), weights=hp["weights"], in_channels=self.in_channels
        )
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
