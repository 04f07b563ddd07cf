"""The winner of the Medical Out-of-Distribution challenge 2022 (team CitAI).

Naval Marimont and Tarroni, "Achieving state-of-the-art performance in the Medical Out-of-Distribution (MOOD) challenge
using plausible synthetic anomalies", 2023 (arXiv 2308.01412). Foreign patches in complex shapes with smoothed edges, so
that no straight or sharp border gives them away; a U-Net segments them.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.nn.schedules import each_step, trained
from zoo.self_supervised._segmenter import UNetSegmenter, beside
from zoo.synthetic.blending import poisson_blend
from zoo.synthetic.patches import draw_patch, take
from zoo.synthetic.shapes import box_of, draw_shape, place, soft_weight

Array = NDArray[Any]
_EDGES = (1, 1, 1, 1, 3, 3, 5, 7)


class Mood22(UNetSegmenter):
    """Segmentation of plausible synthetic anomalies (MOOD 2022, team CitAI).

    Stated: shares, sizes, weights, widths of the smoothed edges, both ways of blending, loss, optimiser. Deviations:
    complex shapes are ellipsoids cut by smooth noise, where the original stores 300 shapes; this package's U-Net
    (instance norm, GELU) without deep supervision, where the original has batch norm, LeakyReLU and four outputs; whole
    images instead of 160-voxel crops. Inferred: size of the intensity shift and of the noise, the score. The original
    averages five folds: ``ensemble``.

    Args:
        share: share of training images with an anomaly.
        alpha: bounds of the foreign patch's weight.
        shift: largest shift of the patch's intensity, as a share of the image's range (inferred).
        noise: deviation of the noise on the patch, as a share of the image's range (inferred).
        use_foreground: place anomalies at least half in the foreground.
        **unet: arguments of :class:`~zoo.self_supervised._segmenter.UNetSegmenter`; AdamW's one cycle starts at a tenth
            of ``lr``; the score is inferred.
    """

    reference = {
        "title": "Achieving state-of-the-art performance in the Medical Out-of-Distribution (MOOD) challenge using "
        "plausible synthetic anomalies",
        "venue": "arXiv (MOOD 2022, first place)",
        "year": 2023,
        "url": "https://arxiv.org/abs/2308.01412",
    }
    dims = (2, 3)
    tiny = {"image_size": 32, "depth": 3, "width": 4}
    small = {"depth": 3, "width": 8}

    def __init__(
        self,
        *,
        share: float = 0.9,
        alpha: tuple[float, float] = (0.3, 1.0),
        shift: float = 0.2,
        noise: float = 0.05,
        use_foreground: bool = True,
        **unet: Any,
    ) -> None:
        super().__init__(**unet)

    def make_anomalies(
        self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Patches come from the other images; labels are their weights."""
        images = image.cpu().numpy()
        inside = None if foreground is None or not self.hparams["use_foreground"] else foreground[:, 0].cpu().numpy()
        altered, label = images.copy(), np.zeros_like(images[:, :1])
        for number, one in enumerate(rng.spawn(len(images))):
            if one.random() >= self.hparams["share"]:
                continue
            shape = draw_shape(one, images.shape[2:])
            weight = soft_weight(one, shape.mask, _EDGES[one.integers(len(_EDGES))])
            weight *= one.uniform(*self.hparams["alpha"])
            corner = place(one, weight > 0, images.shape[2:], None if inside is None else inside[number])
            if corner is None:
                continue
            box = (slice(None), *box_of(corner, weight.shape))
            own = images[number][box]
            patch = self._patch(one, images[(number + 1) % len(images)], weight.shape)
            mixed = (
                (1 - weight) * own + weight * patch
                if one.random() < 0.5
                else poisson_blend(own, patch, weight, [0] * weight.ndim, True)
            )
            mixed = np.clip(mixed, images[number].min(), images[number].max()).astype(own.dtype)
            altered[number][box] = mixed
            label[number][(slice(0, 1), *box[1:])] = np.where((mixed != own).any(0), weight, 0)
        return beside(image, altered, label)

    def _patch(self, rng: np.random.Generator, source: Array, sides: tuple[int, ...]) -> Array:
        """A turned part of ``source`` ``(C, *S)``, shifted in intensity and noisy."""
        drawn, spread = draw_patch(rng, 1, source.shape[1:], sides), float(np.ptp(source))
        patch = take(source, drawn.region, drawn.corner, sides)
        patch = patch + spread * rng.uniform(-self.hparams["shift"], self.hparams["shift"])
        return np.asarray(patch + spread * rng.normal(0, self.hparams["noise"], patch.shape), source.dtype)

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate over the fit."""
        lr, steps = self.hparams["lr"], max(self.optimise_batches, 1) + 1
        optimizer = torch.optim.AdamW(trained(self), lr=lr)
        return each_step(optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, div_factor=10))
