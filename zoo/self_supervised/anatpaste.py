"""AnatPaste: CutPaste whose patches are pasted, softly, where the anatomy is: in the lungs of chest films.

Sato et al. 2023, "Anatomy-aware self-supervised learning for anomaly detection in chest radiographs" (arXiv
2205.04282).
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.module import Batch
from zoo.self_supervised.cutpaste import CutPaste
from zoo.synthetic.soft_patches import lungs, paste_softly


class AnatPaste(CutPaste):
    """Anatomy-aware pasting (AnatPaste): clean images against such with a soft patch in the lungs.

    The original's score is a kernel density; here it is CutPaste's Gaussian, as in MedIAnomaly's two-stage protocol, or
    the classifier's opinion, its one-stage protocol. The order of the steps that find lungs is ours where the
    description leaves it open.

    Args:
        region: where patches are pasted: ``lungs``, dark parts of a chest film that do not touch its border, or the
            ``foreground`` of other organs, which the paper does not treat.
        **parent: arguments of :class:`~zoo.self_supervised.cutpaste.CutPaste`.
    """

    reference = {
        "title": "Anatomy-aware self-supervised learning for anomaly detection in chest radiographs",
        "venue": "iScience",
        "year": 2023,
        "url": "https://arxiv.org/abs/2205.04282",
    }
    tiny = {"image_size": 32, "backbone": "resnet10t", "head_dims": (16,)}
    small = {"backbone": "resnet10t"}
    kinds: ClassVar[int] = 1

    def __init__(self, *, region: Literal["lungs", "foreground"] = "lungs", **parent: Any) -> None:
        super().__init__(**parent)

    def alter(self, batch: Batch, rng: np.random.Generator) -> list[Tensor]:
        """One patch in each image."""
        image = batch["image"].cpu().float().numpy()
        if self.hparams["region"] == "lungs":
            regions = [lungs(one.mean(axis=0)) for one in image]
        else:
            regions = list(batch["foreground"][:, 0].cpu().numpy())
        pasted = np.stack([paste_softly(one, region, rng) for one, region in zip(image, regions, strict=True)])
        return [torch.from_numpy(pasted).to(batch["image"])]
