"""Foreign patch interpolation.

Tan et al., "Detecting outliers with foreign patch interpolation", MELBA 2022 (arXiv 2011.04197). A square of another
healthy image is mixed in with a random weight; the network says with which.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.nn.residual import WideResidualSegmenter
from zoo.scoring.pooling import PoolingRule
from zoo.self_supervised._segmenter import SyntheticSegmenter
from zoo.synthetic.rectangles import draw_square
from zoo.synthetic.strategy import RatedTask, equalise_own_range, rated_batch


class ForeignPatchInterpolation(SyntheticSegmenter):
    """Foreign patch interpolation (FPI).

    Both images of a pair are used, each with a patch of the other at the same place. Label: the weight of the foreign
    patch where it differs from the own pixels.

    Args:
        image_size: (H, W), multiples of ``2 ** (len(widths) - 1)``.
        in_channels: image channels.
        widths: channels of the wide residual encoder; the paper: 64, 128, 256, 256, 256.
        core: central share of the image in which patches lie: 0.5 for brains, 0.8 for chest and abdomen.
        tolerance: smallest difference that counts as a change.
        strategy: put the confidence-aware strategy around the task (:mod:`zoo.synthetic.strategy`): histograms
            equalised, patches moved, gradients scaled up and raters averaged; places, sizes and label are then its own.
        score: how the map becomes a score; mean is the common choice, the paper scores subjects.
        score_fraction: share of pixels for ``top_q``.
        lr: of Adam.
    """

    reference = {
        "title": "Detecting Outliers with Foreign Patch Interpolation",
        "venue": "MELBA",
        "year": 2022,
        "url": "https://arxiv.org/abs/2011.04197",
    }
    tiny = {"image_size": 32, "widths": (8, 16, 16)}
    small = {"widths": (8, 16, 32, 32)}

    rated_task: ClassVar[RatedTask] = "linear"

    network: WideResidualSegmenter

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        widths: tuple[int, ...] = (64, 128, 256, 256, 256),
        core: float = 0.8,
        tolerance: float = 1e-3,
        strategy: bool = False,
        score: PoolingRule = "mean",
        score_fraction: float = 0.25,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the network."""
        self.network = WideResidualSegmenter(self.in_channels, self.image_size, tuple(self.hparams["widths"]))

    def prepare(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` as it is, or equalised to [0, 1] under the strategy."""
        return equalise_own_range(image) if self.hparams["strategy"] else image

    def interpolate(self, own: Tensor, other: Tensor, alpha: float, bounds: tuple[Tensor, Tensor]) -> Tensor:
        """Mix a patch ``(C, h, w)`` of the other image into the own one with weight ``alpha``.

        Args:
            own: patch.
            other: patch.
            alpha: weight of the other.
            bounds: smallest and largest value of both images.
        """
        return torch.lerp(own, other, alpha)

    def make_anomalies(
        self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Each image is mixed with the next one, wherever the foreground is."""
        if self.hparams["strategy"]:
            return rated_batch(image, rng, task=self.rated_task)[:2]
        size = (int(image.shape[2]), int(image.shape[3]))
        altered, label, others = image.clone(), torch.zeros_like(image[:, :1]), image.roll(-1, 0)
        low, high = image.amin((1, 2, 3)), image.amax((1, 2, 3))
        low, high = torch.minimum(low, low.roll(-1)), torch.maximum(high, high.roll(-1))
        for number in range(len(image)):
            box, alpha = draw_square(rng, size, self.hparams["core"]).slices(), float(rng.uniform(0.05, 0.95))
            own = image[number, :, *box]
            mixed = self.interpolate(own, others[number, :, *box], alpha, (low[number], high[number]))
            altered[number, :, *box] = mixed
            changed = (mixed - own).abs().mean(0) > self.hparams["tolerance"]
            label[number, 0, *box] = torch.where(changed, alpha, 0.0)
        return altered, label

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
