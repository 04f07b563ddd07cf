"""MKD: a narrow network learns to give a VGG's features at several depths; the gradient of the distance localises.

Salehi et al. 2021, "Multiresolution knowledge distillation for anomaly detection" (arXiv 2011.11108). Written from a
description, not from the authors' code.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import Batch, Prediction
from zoo.nn.features import FeatureExtractor
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.smoothing import gaussian_blur

_NARROW = 16


class MKD(FrozenFeatures):
    """Multiresolution knowledge distillation (MKD).

    1 or 3 channels. The cloner has the teacher's depth and is narrow except before the pools, where it has the
    teacher's width: 0.34 M parameters for VGG-16.

    Args:
        backbone: a VGG of timm without batch norms.
        mse_weight: of the squared error beside 1 - cosine (0.5 for MVTec in the paper).
        smoothing: standard deviation in pixels of the Gaussian filter on the map.
        lr: learning rate of Adam.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`; ``image_size`` of at least 32.
    """

    reference = {
        "title": "Multiresolution Knowledge Distillation for Anomaly Detection",
        "venue": "CVPR",
        "year": 2021,
        "url": "https://arxiv.org/abs/2011.11108",
    }
    tiny = {"image_size": 32, "backbone": "vgg11", "weights": "random"}
    scores_with_gradient = True

    teacher: FeatureExtractor

    def __init__(
        self,
        *,
        backbone: str = "vgg16",
        mse_weight: float = 0.01,
        smoothing: float = 4.0,
        lr: float = 1e-3,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create teacher and cloner.

        Raises:
            UserError: a backbone that is no plain chain of convolutions, or images that its pools leave nothing of.
        """
        name = self.hparams["backbone"]
        if not name.startswith("vgg") or name.endswith("_bn"):
            raise UserError(f"backbone is {name}: MKD clones plain chains: vgg11, vgg13, vgg16 or vgg19")
        if min(self.image_size) < 32:
            raise UserError(f"image_size {self.image_size}: MKD halves images five times, they need at least 32 pixels")
        widths, stages, pools = _VGG[name], [], []
        place = -1
        for convolutions in widths:
            place += 2 * convolutions + 1  # a ReLU behind each, and the pool
            pools.append(f"features.{place}")
        self.teacher = self.frozen(*pools[1:], differentiable=True)
        before = 3
        for convolutions, after in zip(widths, (_NARROW, *self.teacher.channels), strict=True):
            chain = (before, *(_NARROW,) * (convolutions - 1), after)
            stages.append(_stage(chain))
            before = after
        self.cloner = nn.ModuleList(stages)

    def terms(self, image: Tensor) -> Tensor:
        """1 - cosine of the whole maps plus the weighted squared error after pools 2 to 5: float32 ``(4, B)``."""
        copied = (image.expand(-1, 3, -1, -1) - self.teacher.mean) / self.teacher.std
        found = []
        for number, stage in enumerate(self.cloner):
            copied = stage(copied)
            if number:
                found.append(copied.float().flatten(1))
        taught = [values.float().flatten(1) for values in self.teacher(image)]
        weight = self.hparams["mse_weight"]
        return torch.stack(
            [
                1 - F.cosine_similarity(a, b) + weight * (a - b).square().mean(dim=1)
                for a, b in zip(taught, found, strict=True)
            ]
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum over pools 2 to 5."""
        loss = self.terms(batch["image"]).sum(dim=0).mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate over the cloner."""
        return torch.optim.Adam(self.cloner.parameters(), lr=self.hparams["lr"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Sum over pools 3 to 5; the map is its gradient's absolute value in the image, smoothed."""
        image.requires_grad_()
        score = self.terms(image)[1:].sum(dim=0)
        (gradient,) = torch.autograd.grad(score.sum(), image)
        return Prediction(score, gaussian_blur(gradient.abs().mean(dim=1, keepdim=True), self.hparams["smoothing"]))


# convolutions before each pool
_VGG = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def _stage(widths: tuple[int, ...]) -> nn.Sequential:
    """Convolutions with batch norms, but for the one before the pool."""
    layers: list[nn.Module] = []
    for source, target in itertools.pairwise(widths):
        layers += [nn.Conv2d(source, target, 3, padding=1, bias=False), nn.BatchNorm2d(target), nn.ReLU()]
    del layers[-2]
    return nn.Sequential(*layers, nn.MaxPool2d(2))
