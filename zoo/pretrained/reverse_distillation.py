"""Reverse distillation: a decoder rebuilds the teacher's features from a narrow embedding; where it fails is anomalous.

Deng & Li 2022, "Anomaly detection via reverse distillation from one-class embedding" (arXiv 2201.10703).
"""

from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.module import Batch, Prediction
from zoo.nn.features import FeatureExtractor
from zoo.nn.losses import global_cosine
from zoo.nn.mirrored_resnet import MirroredResNet
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import cosine_error
from zoo.scoring.smoothing import gaussian_blur

Pairs = list[tuple[Tensor, Tensor]]

_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ReverseDistillation(FrozenFeatures):
    """Reverse distillation (RD4AD).

    1 or 3 channels. The student's batch norms need batches of at least 8 images.

    Args:
        backbone: a timm model, the teacher. Of a ResNet the student has the same kind and number of blocks, and its
            embedding is as wide as the teacher's next stage; of others, which the paper does not treat, it has two
            blocks of two 3 x 3 convolutions a stage.
        layers: its layers that are rebuilt, each of half the size of the one before: successive ones of ``layer1`` to
            ``layer4`` of a ResNet.
        smoothing: standard deviation in pixels of the Gaussian filter on the map.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam.
        betas: of Adam.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`; the weights are the teacher's,
            ``image_size`` in multiples of twice the last layer's stride (32 with the defaults).
    """

    reference = {
        "title": "Anomaly Detection via Reverse Distillation from One-Class Embedding",
        "venue": "CVPR",
        "year": 2022,
        "url": "https://arxiv.org/abs/2201.10703",
    }
    tiny = {"image_size": 32, "backbone": "resnet18", "layers": ("layer1", "layer2"), "weights": "random"}
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.1", "blocks.2", "blocks.4")}

    teacher: FeatureExtractor
    student: MirroredResNet

    def __init__(
        self,
        *,
        backbone: str = "wide_resnet50_2",
        layers: tuple[str, ...] = ("layer1", "layer2", "layer3"),
        smoothing: float = 4.0,
        score: PoolingRule = "max",
        score_fraction: float = 0.1,
        lr: float = 5e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create the teacher and the student that mirrors it.

        Raises:
            UserError: layers whose maps do not halve from one to the next, or an unfit image size.
        """
        hp = self.hparams
        layers = tuple(hp["layers"])
        self.teacher = self.frozen(*layers)
        strides = self.teacher.strides
        if strides != tuple(strides[0] * 2**level for level in range(len(layers))):
            raise UserError(
                f"layers {layers} of {hp['backbone']} have strides {strides}: reverse distillation needs layers whose "
                "maps halve from one to the next, for example layer1, layer2 and layer3 of a ResNet"
            )
        multiple = 2 * strides[-1]
        if any(side % multiple for side in self.image_size):
            raise UserError(
                f"image_size {self.image_size}: reverse distillation needs sides that are multiples of {multiple}"
            )
        self.student = MirroredResNet(self.teacher.channels, signed=self.teacher.signed(), **self._blocks(layers))

    def _blocks(self, layers: tuple[str, ...]) -> dict[str, Any]:
        """Kind and number of the student's blocks."""
        found = dict(self.teacher.backbone.named_children())
        stages: list[Any] = [found.get(name) for name in layers]
        if not set(layers) <= set(_RESNET_STAGES) or not all(hasattr(stage[0], "conv2") for stage in stages):
            return {"inner_share": 1.0, "bottleneck": False, "depths": (2,) * len(layers), "embedding_depth": 2}
        first = stages[0][0]
        return {
            "inner_share": first.conv2.out_channels / self.teacher.channels[0],
            "bottleneck": hasattr(first, "conv3"),
            "depths": tuple(len(stage) for stage in stages),
            "embedding_depth": self.teacher.depths["layer4"],
        }

    def rebuild(self, taught: list[Tensor]) -> list[Tensor]:
        """What the student makes of the teacher's maps: of the same shapes."""
        rebuilt: list[Tensor] = self.student(taught)
        return rebuilt

    def pairs(self, image: Tensor) -> Pairs:
        """Of each layer the teacher's map and what the student makes of it."""
        taught = self.teacher(image)
        return list(zip(taught, self.rebuild(taught), strict=True))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum over the layers of 1 - cosine of the whole maps, each flattened to one vector an image."""
        loss = torch.stack([global_cosine(a, b) for a, b in self.pairs(batch["image"])]).sum()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate over the student."""
        return torch.optim.Adam(self.student.parameters(), lr=self.hparams["lr"], betas=tuple(self.hparams["betas"]))

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Sum over the pairs of 1 - cosine at every place, each resized to the image; smoothed."""
        error = cosine_error(self.pairs(image), image.shape[2:])
        return Prediction(None, gaussian_blur(error, self.hparams["smoothing"]))
