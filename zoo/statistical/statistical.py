"""Voxel-wise statistics: how many standard deviations a voxel lies from the healthy mean at its place.

The statistical baseline ("BM") of Meissen et al. 2022 for registered images, after Saase et al. 2020, "Simple
statistical methods for unsupervised brain anomaly detection on MRI are competitive to deep learning methods"
(arXiv 2011.12735).
"""

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.processes import merged_moments, total
from zoo.scoring.pooling import PoolingRule


class VoxelStatistics(AnomalyModule):
    """Voxel-wise z-score.

    Meant for volumes in one space: the paper's baseline has a mean for each height (``data.mode: slab``).
    Two-dimensional images share one mean image, whatever slice they are.

    Args:
        image_size: (H, W) or (D, H, W) in pixels.
        in_channels: image channels.
        min_std: added to the standard deviation; the original's 1e-7 makes any voxel that was constant in training,
            such as the background, arbitrarily anomalous.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        score_foreground: pool over the foreground only, as the original does.
    """

    reference = {
        "title": "Simple statistical methods for unsupervised brain anomaly detection on MRI are competitive to deep "
        "learning methods",
        "venue": "arXiv",
        "year": 2020,
        "url": "https://arxiv.org/abs/2011.12735",
    }
    dims = (2, 3)
    fitting = "single_pass"
    tiny = {"image_size": 32}

    count: Tensor
    mean: Tensor
    sum_of_squares: Tensor

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        min_std: float = 1e-7,
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        score_foreground: bool = True,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the running mean and sum of squared deviations."""
        shape = (self.in_channels, *self.image_size)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("sum_of_squares", torch.zeros(shape))

    def stages(self) -> tuple[Stage, ...]:
        """One pass over the training images."""
        return (Stage("collect", self.collect, self.finish),)

    def collect(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch's images to the statistics (Chan's update, which does not cancel)."""
        image = batch["image"].float()
        added, before = len(image), int(self.count)
        batch_mean = image.mean(dim=0)
        shift = batch_mean - self.mean
        self.sum_of_squares += (image - batch_mean).square().sum(dim=0)
        self.sum_of_squares += shift.square() * (before * added / (before + added))
        self.mean += shift * (added / (before + added))
        self.count += added

    def finish(self) -> None:
        """Put the statistics of several processes together."""
        added, (count, mean, offset) = self.count, merged_moments(self.count, self.mean)
        self.sum_of_squares = total(self.sum_of_squares + added * offset.square())
        self.count, self.mean = count, mean

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Absolute z-score, averaged over channels.

        Raises:
            UserError: fewer than two training images were seen.
        """
        if not torch.compiler.is_compiling() and self.count < 2:
            raise UserError(
                f"VoxelStatistics was fitted to {int(self.count)} images and needs at least 2; run fit first"
            )
        deviation = (self.sum_of_squares / (self.count - 1)).sqrt() + self.hparams["min_std"]
        anomaly_map = ((image.float() - self.mean).abs() / deviation).mean(dim=1, keepdim=True)
        return Prediction(None, anomaly_map)
