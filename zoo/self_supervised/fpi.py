"""Foreign patch interpolation.

Tan et al., "Detecting outliers with foreign patch interpolation", MELBA 2022 (arXiv 2011.04197). A square of another
healthy image is mixed in with a random weight; the network says with which.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.module import Batch
from zoo.nn.residual import WideResidualSegmenter
from zoo.sample import DataSource
from zoo.self_supervised._segmenter import ResidualSegmenter
from zoo.synthetic.rectangles import mix_squares
from zoo.synthetic.sources import SameSlices
from zoo.synthetic.strategy import RatedTask, equalise_own_range, rated_batch


class ForeignPatchInterpolation(ResidualSegmenter):
    """Foreign patch interpolation (FPI).

    Each image gets a patch of another one at the same place: of the same slice of another volume, else of the next
    image of the batch. Label: the weight of the foreign patch where it differs from the own pixels.

    Args:
        layout: of the network, see :class:`~zoo.nn.residual.WideResidualSegmenter`; files from before this option
            are ``headed``.
        core: central share of the image in which patches lie: 0.5 for brains, 0.8 for chest and abdomen.
        tolerance: smallest difference that counts as a change.
        strategy: put the confidence-aware strategy around the task (:mod:`zoo.synthetic.strategy`): histograms
            equalised, patches moved, gradients scaled up and raters averaged; places, sizes and label are then its own.
        **residual: arguments of :class:`~zoo.self_supervised._segmenter.ResidualSegmenter`; ``lr`` is constant; the
            paper scores subjects.
    """

    reference = {
        "title": "Detecting Outliers with Foreign Patch Interpolation",
        "venue": "MELBA",
        "year": 2022,
        "url": "https://arxiv.org/abs/2011.04197",
    }
    tiny = {"image_size": 32, "widths": (8, 16, 16)}
    small = {"widths": (8, 16, 32, 32)}

    before: ClassVar[dict[str, Any]] = {"layout": "headed"}

    rated_task: ClassVar[RatedTask] = "linear"

    def __init__(
        self,
        *,
        layout: Literal["original", "headed"] = "original",
        core: float = 0.8,
        tolerance: float = 1e-3,
        strategy: bool = False,
        **residual: Any,
    ) -> None:
        super().__init__(**residual)

    def build(self) -> None:
        """Create the network."""
        widths, layout = tuple(self.hparams["widths"]), self.hparams["layout"]
        self.network = WideResidualSegmenter(self.in_channels, self.image_size, widths, layout=layout)
        self._same_slices = SameSlices(None)

    def prepare_fit(self, data: DataSource | None) -> None:
        """Note which training images are the same slice of other volumes."""
        self._same_slices = SameSlices(None if data is None or not hasattr(data, "dataset") else data.dataset("train"))

    def altered(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Each image mixed with its partner."""
        image = self.prepare(batch["image"])
        return self.make_anomalies(image, rng, batch["foreground"], self._partners(batch, image, rng))

    def _partners(self, batch: Batch, image: Tensor, rng: np.random.Generator) -> Tensor | None:
        """The same slices of other volumes, ``(B, C, H, W)`` prepared; None where the images are no slices."""
        if not self._same_slices.of_slice or "slice" not in batch:
            return None
        found: Tensor = self._same_slices.draw(batch["slice"].tolist(), batch["volume"], rng)
        return self.prepare(self.to_expected(found.to(image.device)))

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
        self,
        image: Tensor,
        rng: np.random.Generator,
        foreground: Tensor | None = None,
        others: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Each image is mixed with one of ``others``, else with the next one, wherever the foreground is."""
        if self.hparams["strategy"]:
            return rated_batch(image, rng, task=self.rated_task)[:2]
        others = image.roll(-1, 0) if others is None else others
        return mix_squares(image, others, rng, self.interpolate, self.hparams["core"], self.hparams["tolerance"])

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
