"""SimpleNet: a critic tells adapted features of healthy images from the same with a little noise.

Liu et al. 2023, "SimpleNet: a simple network for image anomaly detection and localization" (arXiv 2303.15140).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import Batch, Prediction, Stage
from zoo.nn.features import FeatureExtractor
from zoo.nn.local_patches import local_patches
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.smoothing import gaussian_blur

_MARGIN = 0.5


class SimpleNet(FrozenFeatures):
    """Discriminator of features with noise (SimpleNet).

    1 or 3 channels. The original keeps the epoch that is best on the test set and scales scores by the test set's
    range; here the last weights are used, and raw values. Results vary with the seed: report several.

    Args:
        layers: layers of the backbone, the finest first.
        feature_dim: length of the features.
        hidden: width of the critic's hidden layer.
        noise: standard deviation of the noise on adapted features.
        smoothing: standard deviation in pixels of the Gaussian filter on the map.
        lr: learning rate of the adaptor's AdamW (decay 0.01).
        critic_lr: learning rate of the critic's Adam (decay 1e-5).
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`.
    """

    reference = {
        "title": "SimpleNet: A Simple Network for Image Anomaly Detection and Localization",
        "venue": "CVPR",
        "year": 2023,
        "url": "https://arxiv.org/abs/2303.15140",
    }
    tiny = {
        "image_size": 32,
        "backbone": "resnet18",
        "layers": ("layer1", "layer2"),
        "weights": "random",
        "feature_dim": 32,
        "hidden": 16,
    }
    small = {
        "backbone": "tf_efficientnet_lite0",
        "layers": ("blocks.2", "blocks.4"),
        "feature_dim": 384,
        "hidden": 256,
    }

    extractor: FeatureExtractor

    def __init__(
        self,
        *,
        backbone: str = "wide_resnet50_2",
        layers: tuple[str, ...] = ("layer2", "layer3"),
        feature_dim: int = 1536,
        hidden: int = 1024,
        noise: float = 0.015,
        smoothing: float = 4.0,
        lr: float = 1e-4,
        critic_lr: float = 2e-4,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)
        self.automatic_optimization = False

    def build(self) -> None:
        """Create extractor, adaptor and critic."""
        hp = self.hparams
        self.extractor = self.frozen(*hp["layers"])
        length, hidden = hp["feature_dim"], hp["hidden"]
        self.adaptor = nn.Linear(length, length)
        self.critic = nn.Sequential(
            nn.Linear(length, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1, bias=False)
        )
        for module in (self.adaptor, *self.critic):
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)

    def features(self, image: Tensor) -> tuple[Tensor, torch.Size]:
        """Adapted vectors of all places ``(B * h * w, feature_dim)``, and the grid."""
        found = local_patches(self.extractor(image), self.hparams["feature_dim"])
        return self.adaptor(found.permute(0, 2, 3, 1).flatten(0, 2)), found.shape[2:]

    def stages(self) -> tuple[Stage, ...]:
        """One stage: the trainer's steps count batches, not the steps of both optimisers."""
        return (Stage("optimise", self._train),)

    def _train(self, batch: Batch, batch_idx: int) -> None:
        """Hinge loss of both kinds in one batch, whose statistics the critic's norm uses."""
        true, _ = self.features(batch["image"])
        fake = true + self.hparams["noise"] * torch.randn_like(true)
        of_true, of_fake = self.critic(torch.cat([true, fake])).float().chunk(2)
        loss = F.relu(_MARGIN - of_true).mean() + F.relu(_MARGIN + of_fake).mean()
        optimisers: Any = self.optimizers()
        for optimiser in optimisers:
            optimiser.zero_grad()
        self.manual_backward(loss)
        for optimiser in optimisers:
            optimiser.step()
        self.log("train/loss", loss.detach())

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for the adaptor, Adam for the critic, both with a constant rate."""
        return [
            torch.optim.AdamW(self.adaptor.parameters(), lr=self.hparams["lr"]),
            torch.optim.Adam(self.critic.parameters(), lr=self.hparams["critic_lr"], weight_decay=1e-5),
        ]

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Minus the critic's opinion at every place, resized and smoothed; the score is the largest, not smoothed."""
        features, grid = self.features(image)
        small_map = -self.critic(features).float().view(image.shape[0], 1, *grid)
        resized = F.interpolate(small_map, size=image.shape[2:], mode="bilinear")
        return Prediction(small_map.flatten(1).amax(dim=1), gaussian_blur(resized, self.hparams["smoothing"]))
