"""PatchCore: a bank of healthy patches' features, thinned to a coreset; the distance to the nearest is the map.

Roth et al. 2022, "Towards total recall in industrial anomaly detection".
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.features import FeatureExtractor
from zoo.nn.fitted import FittedStatistics
from zoo.nn.neighbours import greedy_coreset, nearest_neighbours
from zoo.scoring.smoothing import gaussian_blur


class PatchCore(AnomalyModule):
    """Nearest healthy patch (PatchCore).

    Images in [0, 1], 1 or 3 channels. Memory is bounded by ``max_patches``: of more patches a uniform sample is kept.

    Args:
        image_size: (H, W) in pixels.
        in_channels: 1 or 3.
        backbone: a timm model.
        layers: its layers, the finest first; each is averaged over 3 x 3 places and resized to the first one's grid.
        weights: ``imagenet``, ``random``, or the path of a state dict of torchvision or timm.
        coreset_ratio: share of the patches kept in the bank.
        max_patches: patches that the coreset is chosen from.
        projection_dim: dimensions of the Gaussian random projection in which the coreset is chosen.
        neighbours: bank entries around the nearest one that re-weight the score.
        smoothing: standard deviation in pixels of the Gaussian filter on the map.
    """

    reference = {
        "title": "Towards Total Recall in Industrial Anomaly Detection",
        "venue": "CVPR",
        "year": 2022,
        "url": "https://arxiv.org/abs/2106.08265",
    }
    fitting = "single_pass"
    tiny = {
        "image_size": 32,
        "backbone": "resnet18",
        "layers": ("layer1", "layer2"),
        "weights": "random",
        "max_patches": 400,
    }

    extractor: FeatureExtractor
    memory: FittedStatistics

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        backbone: str = "wide_resnet50_2",
        layers: tuple[str, ...] = ("layer2", "layer3"),
        weights: str = "imagenet",
        coreset_ratio: float = 0.1,
        max_patches: int = 200_000,
        projection_dim: int = 128,
        neighbours: int = 9,
        smoothing: float = 4.0,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the extractor and the empty bank."""
        hp = self.hparams
        self.extractor = FeatureExtractor(
            hp["backbone"], tuple(hp["layers"]), weights=hp["weights"], in_channels=self.in_channels
        )
        self.memory = FittedStatistics("keys", "sample", "bank")

    def stages(self) -> tuple[Stage, ...]:
        """One pass over the training images, then the coreset."""
        return (Stage("collect", self.collect, self.finish),)

    def features(self, image: Tensor) -> Tensor:
        """Locally averaged features of all layers on the first one's grid: float32 ``(B, K, h, w)``."""
        maps = [F.avg_pool2d(values.float(), 3, stride=1, padding=1) for values in self.extractor(image)]
        size = maps[0].shape[2:]
        return torch.cat([F.interpolate(values, size=size, mode="bilinear") for values in maps], dim=1)

    def collect(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch's patches; each has a random key and those with the largest keys stay."""
        patches = self.features(batch["image"]).movedim(1, -1).flatten(0, 2)
        memory, room = self.memory, self.hparams["max_patches"]
        keys = torch.cat([memory.keys, torch.rand(len(patches)).to(patches)])
        before = memory.sample if memory.sample.numel() else patches[:0]
        if len(keys) <= room:
            memory.keys, memory.sample = keys, torch.cat([before, patches])
            return
        kept = keys.topk(room).indices.sort().values
        memory.keys, memory.sample = keys[kept], torch.cat([before, patches])[kept]

    def finish(self) -> None:
        """Choose the coreset and drop the other patches."""
        sample, hp = self.memory.sample, self.hparams
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(sample.shape[1], hp["projection_dim"], generator=generator).to(sample)
        with torch.autocast(sample.device.type, enabled=False):
            projected = sample @ projection if sample.shape[1] > hp["projection_dim"] else sample
            picks = greedy_coreset(projected, max(1, int(len(sample) * hp["coreset_ratio"])))
        self.memory.bank = sample[picks]
        self.memory.keys, self.memory.sample = sample.new_empty(0), sample.new_empty(0)

    def predict_anomaly(self, image: Tensor) -> Prediction:
        """Distance to the nearest bank entry, resized and smoothed; the score is the re-weighted largest distance.

        Raises:
            UserError: the bank was not fitted.
        """
        bank = self.memory.bank
        if not bank.numel():
            raise UserError("PatchCore has no bank yet: run fit, or load a checkpoint of a finished fit")
        features = self.features(image)
        patches = features.movedim(1, -1).flatten(1, 2)
        distance, index = nearest_neighbours(patches.flatten(0, 1), bank)
        distance, index = distance.view(len(image), -1), index.view(len(image), -1)
        largest, place = distance.max(dim=1)
        rows = torch.arange(len(image), device=image.device)
        _, around = nearest_neighbours(bank[index[rows, place]], bank, self.hparams["neighbours"])
        to_around = (patches[rows, place][:, None] - bank[around]).norm(dim=2)
        weight = 1 - torch.softmax(to_around, dim=1)[:, 0] if around.shape[1] > 1 else 1.0
        small_map = distance.view(len(image), 1, *features.shape[2:])
        resized = F.interpolate(small_map, size=image.shape[2:], mode="bilinear")
        return Prediction(weight * largest, gaussian_blur(resized, self.hparams["smoothing"]))
