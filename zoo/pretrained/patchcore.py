"""PatchCore: a bank of healthy patches' features, thinned to a coreset; the distance to the nearest is the map.

Roth et al. 2022, "Towards total recall in industrial anomaly detection". With a vision transformer's tokens, cosine
distance and no re-weighting it is AnomalyDINO of Damm et al. 2025 (arXiv 2405.14529).
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import UserError
from zoo.module import Batch, Prediction, Stage
from zoo.nn.features import FeatureExtractor
from zoo.nn.fitted import FittedStatistics
from zoo.nn.local_patches import local_patches
from zoo.nn.neighbours import Search, greedy_coreset, nearest_neighbours, require_faiss
from zoo.nn.processes import gathered, process_count
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import PoolingRule, pool_map
from zoo.scoring.smoothing import gaussian_blur


class PatchCore(FrozenFeatures):
    """Nearest healthy patch (PatchCore).

    1 or 3 channels. Memory is bounded by ``max_patches``: of more patches a uniform sample is kept,
    ``4 * max_patches * K`` bytes for ``K`` values a patch (0.8 GB by default), however many training images there are.

    Args:
        backbone: a timm model.
        layers: its layers, the finest first; the others are resized to the first one's grid.
        pooling: side in places of the square that describes a place in each layer; 1 = none.
        dimensions: values that describe a patch. The authors' code averages the unfolded square of each layer to so
            many, and the joined layers again; None averages each channel over the square and joins the channels, as the
            paper's text and files from before this option have it.
        coreset_ratio: share of the patches kept in the bank; 1 keeps all.
        max_patches: patches that the coreset is chosen from.
        projection_dim: dimensions of the Gaussian random projection in which the coreset is chosen.
        distance: to the nearest patch: ``euclidean``, or ``cosine`` = 1 - cosine of the patches' angle.
        score: ``reweighted`` as the paper, or a pooling of the patches' distances.
        score_fraction: share of patches that ``top_q`` averages.
        neighbours: bank entries around the nearest one that re-weight the score.
        smoothing: standard deviation in pixels of the Gaussian filter on the map.
        search: for the nearest patch: ``blocked`` products, or ``faiss`` (exhaustive, on the CPU: the same neighbours;
            one thread of it took 1.3 to 5 times as long here). The bank in the checkpoint is the same.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`.
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
        "dimensions": 64,
        "max_patches": 400,
    }
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.2", "blocks.4"), "dimensions": 128}

    before: ClassVar[dict[str, Any]] = {"dimensions": None}

    extractor: FeatureExtractor
    memory: FittedStatistics

    def __init__(
        self,
        *,
        backbone: str = "wide_resnet50_2",
        layers: tuple[str, ...] = ("layer2", "layer3"),
        pooling: int = 3,
        dimensions: int | None = 1024,
        coreset_ratio: float = 0.1,
        max_patches: int = 200_000,
        projection_dim: int = 128,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        score: Literal["reweighted"] | PoolingRule = "reweighted",
        score_fraction: float = 0.01,
        neighbours: int = 9,
        smoothing: float = 4.0,
        search: Search = "blocked",
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create the extractor and the empty bank.

        Raises:
            UserError: a pooling square without a middle, or a search that is not installed.
        """
        hp = self.hparams
        if hp["search"] == "faiss":
            require_faiss()
        if hp["pooling"] % 2 != 1:
            raise UserError(f"pooling is {hp['pooling']}: PatchCore needs an odd number of places, for example 3")
        self.extractor = self.frozen(*hp["layers"])
        self.memory = FittedStatistics("keys", "sample", "bank")

    def stages(self) -> tuple[Stage, ...]:
        """One pass over the training images, then the coreset."""
        return (Stage("collect", self.collect, self.finish),)

    def features(self, image: Tensor) -> Tensor:
        """What describes the places of the first layer's grid: float32 ``(B, h, w, K)``."""
        return torch.cat([self._at_places(maps) for maps in self.extractor.parts(image)])

    def _at_places(self, maps: list[Tensor]) -> Tensor:
        side, length, size = self.hparams["pooling"], self.hparams["dimensions"], maps[0].shape[2:]
        if length is not None:
            joined = local_patches(maps, length, side)
        else:
            pooled = [F.avg_pool2d(values.float(), side, stride=1, padding=side // 2) for values in maps]
            joined = torch.cat([F.interpolate(values, size=size, mode="bilinear") for values in pooled], dim=1)
        joined = joined.movedim(1, -1)
        return F.normalize(joined, dim=-1) if self.hparams["distance"] == "cosine" else joined

    def collect(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch's patches; each has a random key and those with the largest keys stay, in place."""
        features = self.features(batch["image"])
        self._places = features.shape[1] * features.shape[2]
        patches = features.flatten(0, 2)
        keys = torch.rand(len(patches)).to(patches)
        memory = self.memory
        if not memory.sample.numel():
            room = min(self.hparams["max_patches"], len(patches) * self._batches())
            memory.keys, memory.sample = keys.new_full((room,), -1.0), patches.new_zeros(room, patches.shape[1])
        free = int((memory.keys < 0).sum())  # these lie at the end
        start = len(memory.keys) - free
        memory.keys[start : start + len(keys)] = keys[:free]
        memory.sample[start : start + len(keys)] = patches[:free]
        if len(keys) <= free:
            return
        keys, patches = keys[free:], patches[free:]
        stays = torch.zeros(len(memory.keys) + len(keys), dtype=torch.bool, device=keys.device)
        stays[torch.cat([memory.keys, keys]).topk(len(memory.keys)).indices] = True
        slots, added = (~stays[: len(memory.keys)]).nonzero()[:, 0], stays[len(memory.keys) :].nonzero()[:, 0]
        memory.keys[slots], memory.sample[slots] = keys[added], patches[added]

    def _batches(self) -> int:
        """Batches of the pass: room for more patches is not taken."""
        return self.hparams["max_patches"] if self._trainer is None else int(self.trainer.num_training_batches)

    def finish(self) -> None:
        """Choose the coreset and drop the other patches.

        Of several processes those patches stay that have the largest keys of all. While there is room for every patch
        they come in the order in which one process alone would have met them, and so lead to the same coreset.
        """
        hp = self.hparams
        sample = self._of_all_processes(self.memory.sample[: int((self.memory.keys >= 0).sum())])
        self.memory.keys, self.memory.sample = sample.new_empty(0), sample.new_empty(0)
        count = max(1, int(len(sample) * hp["coreset_ratio"]))
        self.memory.bank = sample[self._coreset(sample, count)] if count < len(sample) else sample.clone()

    def _of_all_processes(self, sample: Tensor) -> Tensor:
        if process_count() == 1:
            return sample
        keys, room = self.memory.keys[: len(sample)], self.hparams["max_patches"]
        everything = gathered(keys)
        if len(everything) <= room:
            return gathered(sample, self._places)
        return gathered(sample[keys >= everything.topk(room).values[-1]])[:room]

    def _coreset(self, sample: Tensor, count: int) -> Tensor:
        """Indices of the greedy coreset, chosen in a random projection."""
        channels, dim = sample.shape[1], self.hparams["projection_dim"]
        with torch.autocast(sample.device.type, enabled=False):
            if channels > dim:
                sample = sample @ torch.randn(channels, dim, generator=torch.Generator().manual_seed(0)).to(sample)
            return greedy_coreset(sample, count)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Distance to the nearest bank entry, resized and smoothed; the score is re-weighted or pooled, not smoothed.

        Raises:
            UserError: the bank was not fitted.
        """
        bank, hp = self.memory.bank, self.hparams
        if not bank.numel():
            raise UserError("PatchCore has no bank yet: run fit, or load a checkpoint of a finished fit")
        features = self.features(image)
        patches = features.flatten(1, 2)
        distance, index = nearest_neighbours(patches.flatten(0, 1), bank, search=hp["search"])
        if hp["distance"] == "cosine":
            distance = 0.5 * distance.square()
        small_map = distance.view(image.shape[0], 1, *features.shape[1:3])
        if hp["score"] == "reweighted":
            score = self._reweighted(patches, *(values.view(image.shape[0], -1) for values in (distance, index)))
        else:
            score = pool_map(small_map, hp["score"], hp["score_fraction"])
        resized = F.interpolate(small_map, size=image.shape[2:], mode="bilinear")
        return Prediction(score, gaussian_blur(resized, hp["smoothing"]))

    def _reweighted(self, patches: Tensor, distance: Tensor, index: Tensor) -> Tensor:
        """Largest distance of each image, lowered where the bank is sparse.

        Args:
            patches: ``(B, P, K)``.
            distance: of each patch to the bank, ``(B, P)``.
            index: of the bank's entry nearest to each patch, ``(B, P)``.

        Returns:
            ``(B,)``.
        """
        bank = self.memory.bank
        largest, place = distance.max(dim=1)
        rows = torch.arange(patches.shape[0], device=patches.device)
        hp = self.hparams
        _, around = nearest_neighbours(bank[index[rows, place]], bank, hp["neighbours"], hp["search"])
        if around.shape[1] == 1:
            return largest
        to_around = (patches[rows, place][:, None] - bank[around]).norm(dim=2)
        return (1 - torch.softmax(to_around, dim=1)[:, 0]) * largest
