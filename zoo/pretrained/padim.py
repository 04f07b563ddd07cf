"""PaDiM: at every place of aligned images a Gaussian of a frozen backbone's features; the distance to it is the map.

Defard et al. 2021, "PaDiM: a patch distribution modeling framework for anomaly detection and localization".
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import UserError
from zoo.module import Batch, Prediction, Stage
from zoo.nn.features import FeatureExtractor
from zoo.nn.fitted import FittedStatistics
from zoo.nn.processes import merged_moments, process_count, total
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.smoothing import gaussian_blur

_PLACES_AT_ONCE = 256  # whose covariances are updated and factorised together: bounds the memory beside the model


class PaDiM(FrozenFeatures):
    """Patch distribution modelling (PaDiM).

    1 or 3 channels; anatomy should lie at the same place in all of them. Mean and covariance are
    updated batch by batch, so memory does not grow with the training set: ``P * d * d`` floats for ``P`` places (those
    of the first layer's map) and ``d`` feature channels, 125 MB at 224 pixels with the defaults.

    Args:
        backbone: a timm model; the paper's are ``resnet18`` and ``wide_resnet50_2``.
        layers: its layers, the finest first; the others' maps are repeated to its grid (nearest neighbour).
        feature_channels: random channels kept of all layers' (paper: 100 of 448, or 550 of 1792).
        channel_seed: seed of that choice; the choice itself is part of the checkpoint.
        regularisation: added to the diagonal of each covariance.
        smoothing: standard deviation in pixels of the Gaussian filter on the map.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`.
    """

    reference = {
        "title": "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization",
        "venue": "ICPR Workshops",
        "year": 2021,
        "url": "https://arxiv.org/abs/2011.08785",
    }
    fitting = "single_pass"
    tiny = {"image_size": 32, "layers": ("layer1", "layer2"), "weights": "random", "feature_channels": 16}
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.1", "blocks.2", "blocks.4")}

    extractor: FeatureExtractor
    gaussian: FittedStatistics
    channel_index: Tensor

    def __init__(
        self,
        *,
        layers: tuple[str, ...] = ("layer1", "layer2", "layer3"),
        feature_channels: int = 100,
        channel_seed: int = 0,
        regularisation: float = 0.01,
        smoothing: float = 4.0,
        score: PoolingRule = "max",
        score_fraction: float = 0.1,
        **frozen: Any,
    ) -> None:
        super().__init__(**frozen)

    def build(self) -> None:
        """Create the extractor, choose the channels and reserve the statistics.

        Raises:
            UserError: more channels asked for than the layers have.
        """
        hp = self.hparams
        self.extractor = self.frozen(*hp["layers"])
        known, kept = sum(self.extractor.channels), hp["feature_channels"]
        if not 1 <= kept <= known:
            raise UserError(f"feature_channels is {kept}; layers {hp['layers']} of {hp['backbone']} have {known}")
        generator = torch.Generator().manual_seed(hp["channel_seed"])
        self.register_buffer("channel_index", torch.randperm(known, generator=generator)[:kept].sort().values)
        self.count_channels()
        self.gaussian = FittedStatistics("count", "mean", "scatter", "whitening")

    def count_channels(self) -> None:
        """Count how many of ``channel_index``, which is sorted, lie in each layer; to be called when it has changed."""
        ends = torch.tensor(self.extractor.channels).cumsum(0)
        layer = torch.bucketize(self.channel_index.cpu(), ends, right=True)
        self._counts = layer.bincount(minlength=len(ends)).tolist()

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """As every module; a checkpoint has channels of its own."""
        found = super().load_state_dict(*args, **options)
        self.count_channels()
        return found

    def stages(self) -> tuple[Stage, ...]:
        """One pass over the training images."""
        return (Stage("collect", self.collect, self.finish),)

    def features(self, image: Tensor) -> Tensor:
        """The kept channels at every place: ``(B, C, H, W)`` -> float32 ``(P, B, d)``."""
        stride = self.extractor.strides[0]
        size = tuple(-(-side // stride) for side in image.shape[2:])
        if torch.compiler.is_compiling():  # where writing into parts gains nothing
            joined = torch.cat([*self._chosen(self.extractor(image), size, (2, 3, 1))], dim=1)
            return joined.float().flatten(2).permute(2, 0, 1)
        found = torch.empty(*size, len(image), len(self.channel_index), device=image.device)
        first = 0
        for maps in self.extractor.parts(image):
            last, filled = first + len(maps[0]), 0
            for values in self._chosen([values.permute(2, 3, 0, 1) for values in maps], size, (0, 1, 3)):
                found[:, :, first:last, filled : filled + values.shape[3]] = values
                filled += values.shape[3]
            first = last
        return found.flatten(0, 1)

    def _chosen(self, maps: list[Tensor], size: tuple[int, ...], axes: tuple[int, int, int]) -> Iterator[Tensor]:
        """Each layer's kept channels at ``size``, coarser maps repeated; ``axes`` of rows, columns and channels."""
        start, channels = 0, axes[2]
        for values, index in zip(maps, self.channel_index.split(self._counts), strict=True):
            chosen = values.index_select(channels, index - start)
            for axis, side in zip(axes, size, strict=False):
                if chosen.shape[axis] != side:  # nearest neighbour
                    source = torch.arange(side, device=chosen.device) * chosen.shape[axis] // side
                    chosen = chosen.index_select(axis, source)
            yield chosen
            start += values.shape[channels]

    def collect(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the running means and scatter matrices (Chan's update, which does not cancel)."""
        features = self.features(batch["image"])
        places, added, channels = features.shape
        stats = self.gaussian
        if not stats.mean.numel():
            stats.count = torch.zeros((), dtype=torch.int64, device=features.device)
            stats.mean = features.new_zeros(places, channels)
            stats.scatter = features.new_zeros(places, channels, channels)
        before = int(stats.count)
        parts = (values.split(_PLACES_AT_ONCE) for values in (features, stats.mean, stats.scatter))
        for values, mean, scatter in zip(*parts, strict=True):
            batch_mean = values.mean(dim=1)
            shift = batch_mean - mean
            rank_one = shift * (before * added / (before + added)) ** 0.5
            centred = torch.cat([values - batch_mean[:, None], rank_one[:, None]], dim=1)
            with torch.autocast(features.device.type, enabled=False):
                scatter.baddbmm_(centred.mT, centred)
            mean += shift * (added / (before + added))
        stats.count += added

    def finish(self) -> None:
        """Turn the scatter matrices in place into whitening matrices: ``W C W^T = 1`` for the covariance ``C``."""
        stats, added = self.gaussian, self.gaussian.count
        stats.count, stats.mean, offset = merged_moments(added, stats.mean)
        whitening, degrees = stats.scatter, max(int(stats.count) - 1, 1)
        identity = torch.eye(whitening.shape[-1], device=whitening.device)
        for block, apart in zip(whitening.split(_PLACES_AT_ONCE), offset.split(_PLACES_AT_ONCE), strict=True):
            if process_count() > 1:
                block.copy_(total(block.addcmul(apart[:, :, None], apart[:, None] * added)))
            block /= degrees
            block.diagonal(dim1=1, dim2=2).add_(self.hparams["regularisation"])
            factor = torch.linalg.cholesky(block)
            block.copy_(torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False))
        stats.whitening = whitening
        stats.scatter = whitening.new_empty(0)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mahalanobis distance at every place, resized to the image and smoothed; its maximum is the score.

        Raises:
            UserError: the statistics were not fitted.
        """
        if not self.gaussian.whitening.numel():
            raise UserError("PaDiM has no statistics yet: run fit, or load a checkpoint of a finished fit")
        features, stats = self.features(image), self.gaussian
        parts = (values.split(_PLACES_AT_ONCE) for values in (features, stats.mean, stats.whitening))
        with torch.autocast(image.device.type, enabled=False):
            distance = torch.cat(
                [((values - mean[:, None]) @ white.mT).norm(dim=2) for values, mean, white in zip(*parts, strict=True)]
            )
        first = self.extractor.strides[0]
        rows, columns = (-(-side // first) for side in image.shape[2:])
        small_map = distance.T.reshape(-1, 1, rows, columns)
        resized = F.interpolate(small_map, size=image.shape[2:], mode="bilinear", align_corners=False)
        anomaly_map = gaussian_blur(resized, self.hparams["smoothing"])
        return Prediction(None, anomaly_map)
