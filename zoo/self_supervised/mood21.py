"""The winner of the Medical Out-of-Distribution challenge 2021: CutPaste in volumes, and a U-Net that segments it.

Cho, Kang and Park 2022, "Self-supervised 3D out-of-distribution detection via pseudoanomaly generation" (MOOD 2021,
MICCAI 2021 challenges, LNCS 13166). Boxes of a volume are copied to other places of the same volume.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.nn.schedules import cosine, trained
from zoo.self_supervised._segmenter import UNetSegmenter


class Mood21(UNetSegmenter):
    """Segmentation of boxes that were copied from elsewhere in the same volume (MOOD 2021, first place).

    Stated: the task and a 3-D U-Net. Ours: sizes, numbers, the jitter of the copies' intensity (as in CutPaste),
    optimiser, score, and this package's U-Net.

    Args:
        sides: bounds of a box's sides, as shares of the image's.
        copies: most boxes in an image.
        jitter: largest change of a copy's intensity, as a share of the image's range.
        share: share of training images with copies.
        depth: halvings of the U-Net.
        **unet: arguments of :class:`~zoo.self_supervised._segmenter.UNetSegmenter`; ``lr`` falls along a cosine.
    """

    reference = {
        "title": "Self-supervised 3D Out-of-Distribution Detection via Pseudoanomaly Generation",
        "venue": "MICCAI challenges (MOOD 2021, first place)",
        "year": 2022,
        "url": "https://doi.org/10.1007/978-3-030-97281-3_15",
    }
    dims = (2, 3)
    tiny = {"image_size": 32, "depth": 3, "width": 4}
    small = {"depth": 3, "width": 8}

    def __init__(
        self,
        *,
        sides: tuple[float, float] = (0.05, 0.4),
        copies: int = 3,
        jitter: float = 0.1,
        share: float = 0.9,
        depth: int = 4,
        **unet: Any,
    ) -> None:
        super().__init__(depth=depth, **unet)

    def make_anomalies(
        self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Copies within each image; labels are 1 where a copy changed it."""
        hp = self.hparams
        altered, label = image.clone(), torch.zeros_like(image[:, :1])
        size = np.array(image.shape[2:])
        spread = (image.amax() - image.amin()).float()
        for number in range(len(image)):
            if rng.random() >= hp["share"]:
                continue
            for _ in range(int(rng.integers(1, hp["copies"] + 1))):
                low, high = hp["sides"]
                sides = np.clip((rng.uniform(low, high, len(size)) * size).astype(int), 2, size - 1)
                source, target = (rng.integers(0, size - sides + 1) for _ in range(2))
                own, place = (
                    (slice(None), *(slice(int(a), int(a + n)) for a, n in zip(corner, sides, strict=True)))
                    for corner in (source, target)
                )
                copy = image[number][own] + spread * float(rng.uniform(-hp["jitter"], hp["jitter"]))
                altered[number][place] = copy
                changed = (copy != image[number][place]).any(dim=0, keepdim=True)
                label[number][place] = changed.to(label.dtype)
        return altered, label

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine."""
        return cosine(torch.optim.AdamW(trained(self), lr=self.hparams["lr"]), self.optimise_batches)
