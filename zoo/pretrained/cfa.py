"""CFA: a descriptor pulls healthy patches into small spheres around a bank of target-oriented centres.

Lee et al. 2022, "CFA: coupled-hypersphere-based feature adaptation for target-oriented anomaly localization"
(arXiv 2206.04325).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import Batch, Prediction, Stage
from zoo.nn.features import FeatureExtractor
from zoo.nn.fitted import Centre
from zoo.nn.neighbours import nearest_neighbours
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.smoothing import gaussian_blur

_FIRST_RADIUS = 1e-5
_WEIGHT = 1000.0  # of both parts of the loss
_MARGIN = 0.1


class CFA(FrozenFeatures):
    """Coupled-hypersphere feature adaptation (CFA).

    1 or 3 channels; anatomy should lie at the same place in all images, for a centre is the mean at its place.

    Args:
        layers: layers of the backbone, the finest first; the others are resized to the first one's grid.
        reduction: channels of the features over those of the descriptor (gamma_d).
        attracted: nearest centres that attract a patch; of as many further ones it is repelled.
        smoothing: standard deviation in pixels of the Gaussian filter on the map.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of AdamW with amsgrad.
        weight_decay: of AdamW.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`.
    """

    reference = {
        "title": "CFA: Coupled-Hypersphere-Based Feature Adaptation for Target-Oriented Anomaly Localization",
        "venue": "IEEE Access",
        "year": 2022,
        "url": "https://arxiv.org/abs/2206.04325",
    }
    tiny = {
        "image_size": 32,
        "backbone": "resnet18",
        "layers": ("layer1", "layer2"),
        "weights": "random",
        "reduction": 8,
    }
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.1", "blocks.2", "blocks.4")}

    extractor: FeatureExtractor
    memory: Centre

    def __init__(
        self,
        *,
        backbone: str = "wide_resnet50_2",
        layers: tuple[str, ...] = ("layer1", "layer2", "layer3"),
        reduction: int = 1,
        attracted: int = 3,
        smoothing: float = 4.0,
        score: PoolingRule = "max",
        score_fraction: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create extractor and descriptor, and reserve the centres."""
        hp = self.hparams
        self.extractor = self.frozen(*hp["layers"])
        channels = sum(self.extractor.channels)
        self.descriptor = nn.Conv2d(channels + 2, max(1, channels // hp["reduction"]), 1)  # and two coordinates
        self.radius = nn.Parameter(torch.tensor(_FIRST_RADIUS))
        self.memory = Centre()

    def describe(self, image: Tensor) -> tuple[Tensor, torch.Size]:
        """Descriptors of all places ``(B, h * w, K)``, float32, and the grid."""
        pooled = [F.avg_pool2d(values.float(), 3, stride=1, padding=1) for values in self.extractor(image)]
        grid = pooled[0].shape[2:]
        rows, columns = (torch.linspace(-1, 1, side, device=image.device) for side in grid)
        places = torch.stack([columns.expand(*grid), rows[:, None].expand(*grid)]).expand(image.shape[0], -1, -1, -1)
        resized = [F.interpolate(values, size=grid, mode="bilinear") for values in pooled]
        return self.descriptor(torch.cat([*resized, places], dim=1)).float().flatten(2).mT, grid

    def stages(self) -> tuple[Stage, ...]:
        """The centres, from the untrained descriptor, then the training."""
        return Stage("collect", self._collect, self.memory.finish), Stage("optimise", self._adapt)

    def _collect(self, batch: Batch, batch_idx: int) -> None:
        self.memory.add(self.describe(batch["image"])[0])

    def _adapt(self, batch: Batch, batch_idx: int) -> Tensor:
        """Attract patches into the spheres of the nearest centres, repel them from those of the next."""
        patches = self.describe(batch["image"])[0].flatten(0, 1)
        centres, near = self.memory.centre, self.hparams["attracted"]
        with torch.autocast(patches.device.type, enabled=False):
            apart = torch.addmm(centres.square().sum(dim=1), patches, centres.T, alpha=-2)
            squared = apart + patches.square().sum(dim=1, keepdim=True)
        squared = squared.topk(2 * near, dim=1, largest=False).values.clamp(min=0)
        inside = self.radius.square()
        attraction = F.relu(squared[:, :near] - inside).mean()
        repulsion = F.relu(inside - squared[:, near:] - _MARGIN).mean()
        loss = _WEIGHT * (attraction + repulsion)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with a constant rate over descriptor and radius."""
        hp = self.hparams
        trained = [*self.descriptor.parameters(), self.radius]
        return torch.optim.AdamW(trained, lr=hp["lr"], weight_decay=hp["weight_decay"], amsgrad=True)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Distance to the nearest centre, times its share in a softmin over the nearest; resized and smoothed.

        Raises:
            UserError: the centres were not collected.
        """
        if not self.memory.centre.numel():
            raise UserError("CFA has no centres yet: run fit, or load a checkpoint of a finished fit")
        patches, grid = self.describe(image)
        distances, _ = nearest_neighbours(patches.flatten(0, 1), self.memory.centre, self.hparams["attracted"])
        small_map = distances[:, 0] * torch.softmax(-distances, dim=1)[:, 0]
        resized = F.interpolate(small_map.view(image.shape[0], 1, *grid), size=image.shape[2:], mode="bilinear")
        return Prediction(None, gaussian_blur(resized, self.hparams["smoothing"]))
