"""Deep feature reconstruction: compress VGG features of all depths at every place; what is lost is anomalous.

Shi, Yang, Qi 2020, "Unsupervised anomaly segmentation via deep feature reconstruction" (arXiv 2012.07122), in the form
that Meissen et al. 2022 compare with.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import Batch, Prediction
from zoo.nn.features import FeatureExtractor, Normalisation
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import residual_loss, residual_map

_STRIDE = 4
# the ReLUs relu1_1 to relu4_4 of VGG-19
_VGG19_RELUS = tuple(f"features.{index}" for index in (1, 3, 6, 8, 11, 13, 15, 17, 20, 22, 24, 26))


class DeepFeatureReconstruction(FrozenFeatures):
    """Deep feature reconstruction (DFR).

    1 or 3 channels. The paper estimates the code's channels by a PCA; the code compared here fixes
    them, and so do we. That code's network ends with a ReLU, as the features compared there do; it is left out where
    features can be negative.

    Args:
        backbone: a timm model.
        layers: its layers; all maps are resized to the image, averaged over 4 x 4 pixels and stacked.
        normalisation: of the image; ``none`` as in the feature autoencoder's comparison, ``imagenet`` as in the paper.
        latent_channels: channels of the code at each place.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        score_foreground: pool over the foreground only.
        lr: learning rate of Adam.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`; ``image_size`` in multiples
            of 4.
    """

    reference = {
        "title": "Unsupervised Anomaly Segmentation via Deep Feature Reconstruction",
        "venue": "Neurocomputing",
        "year": 2020,
        "url": "https://arxiv.org/abs/2012.07122",
    }
    tiny = {
        "image_size": 32,
        "backbone": "resnet18",
        "layers": ("layer0", "layer1"),
        "weights": "random",
        "latent_channels": 4,
    }
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("bn1", "blocks.1.1.bn2", "blocks.2.1.bn2"), "lr": 0.001}

    extractor: FeatureExtractor
    network: nn.Sequential

    def __init__(
        self,
        *,
        backbone: str = "vgg19",
        layers: tuple[str, ...] = _VGG19_RELUS,
        normalisation: Normalisation = "none",
        latent_channels: int = 128,
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        score_foreground: bool = True,
        lr: float = 2e-4,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create extractor and the autoencoder of 1 x 1 convolutions.

        Raises:
            UserError: a side that is no multiple of 4.
        """
        hp = self.hparams
        if any(side % _STRIDE for side in self.image_size):
            raise UserError(f"image_size {self.image_size}: DFR needs sides that are multiples of {_STRIDE}")
        self.extractor = self.frozen(*hp["layers"], normalisation=hp["normalisation"])
        channels, code = sum(self.extractor.channels), hp["latent_channels"]
        widths = (channels, (channels + 2 * code) // 2, 2 * code, code, 2 * code, (channels + 2 * code) // 2, channels)
        blocks = [
            [nn.Conv2d(source, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            for source, width in itertools.pairwise(widths)
        ]
        if self.extractor.signed():
            blocks[-1].pop()
        self.network = nn.Sequential(*(nn.Sequential(*block) for block in blocks))

    def features(self, image: Tensor) -> Tensor:
        """All maps on one grid: ``(B, C, H, W)`` -> ``(B, K, H / 4, W / 4)``."""
        found = []
        for values in self.extractor(image):
            rows, columns = (
                _resampling(values, axis, side) for axis, side in zip((2, 3), image.shape[2:], strict=True)
            )
            found.append(rows.mT @ (values @ columns))
        return torch.cat(found, dim=1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error between the features and their reconstruction."""
        features = self.features(batch["image"])
        loss = residual_loss(self.network(features), features, "l2")
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate over the autoencoder."""
        return torch.optim.Adam(self.network.parameters(), lr=self.hparams["lr"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Squared error of the features, averaged over channels and resized to the image."""
        features = self.features(image)
        small_map = residual_map(self.network(features), features, "l2")
        anomaly_map = F.interpolate(small_map, size=image.shape[2:], mode="bilinear", align_corners=True)
        return Prediction(None, anomaly_map)


def _resampling(values: Tensor, axis: int, side: int) -> Tensor:
    """``(n, side / 4)``: enlarging n places to the image's side and averaging over 4, as one product."""
    identity = torch.eye(values.shape[axis], device=values.device)[None]
    enlarged = F.interpolate(identity, size=side, mode="linear", align_corners=True)
    return F.avg_pool1d(enlarged, _STRIDE)[0].to(values.dtype)
