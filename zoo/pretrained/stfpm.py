"""Student-teacher feature pyramid matching: where a student trained on healthy images fails to follow its teacher.

Wang et al. 2021, "Student-teacher feature pyramid matching for anomaly detection" (arXiv 2103.04257).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.module import Batch, Prediction
from zoo.nn.features import FeatureExtractor
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import PoolingRule


class STFPM(FrozenFeatures):
    """Student-teacher feature pyramid matching (STFPM).

    1 or 3 channels. The student has the teacher's architecture and starts from random weights; its
    batch norms use batch statistics in training.

    Args:
        backbone: a timm model, of teacher and student.
        layers: its layers that are compared.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of SGD; high, because the features that the loss compares have length 1.
        momentum: of SGD.
        weight_decay: of SGD.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`; the weights are the teacher's.
    """

    reference = {
        "title": "Student-Teacher Feature Pyramid Matching for Anomaly Detection",
        "venue": "BMVC",
        "year": 2021,
        "url": "https://arxiv.org/abs/2103.04257",
    }
    tiny = {"image_size": 32, "layers": ("layer1", "layer2"), "weights": "random"}
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.1", "blocks.2", "blocks.4")}

    teacher: FeatureExtractor
    student: FeatureExtractor

    def __init__(
        self,
        *,
        layers: tuple[str, ...] = ("layer1", "layer2", "layer3"),
        score: PoolingRule = "max",
        score_fraction: float = 0.1,
        lr: float = 0.4,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        **frozen: Any,
    ) -> None:
        super().__init__(**frozen)

    def build(self) -> None:
        """Create teacher and student."""
        layers = tuple(self.hparams["layers"])
        self.teacher = self.frozen(*layers)
        self.student = self.frozen(*layers, weights="random", statistics="batch", differentiable=True)
        self.student.requires_grad_(True)

    def distances(self, image: Tensor) -> list[Tensor]:
        """Half the squared distance of the unit vectors at every place, of each layer: float32 ``(B, 1, h, w)``."""
        return [
            0.5 * (_unit(taught) - _unit(learnt)).square().sum(dim=1, keepdim=True)
            for taught, learnt in zip(self.teacher(image), self.student(image), strict=True)
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum over the layers of the mean distance."""
        loss = torch.stack([distance.mean() for distance in self.distances(batch["image"])]).sum()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with a constant rate over the student."""
        hp = self.hparams
        return torch.optim.SGD(
            self.student.parameters(), lr=hp["lr"], momentum=hp["momentum"], weight_decay=hp["weight_decay"]
        )

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Product of the layers' distances, each resized to the image."""
        maps = [F.interpolate(values, size=image.shape[2:], mode="bilinear") for values in self.distances(image)]
        anomaly_map = torch.stack(maps).prod(dim=0)
        return Prediction(None, anomaly_map)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1)
