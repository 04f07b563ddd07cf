"""MSC: a backbone adapted by contrasting views around the healthy centre; nearest healthy features give the score.

Reiss & Hoshen 2023, "Mean-shifted contrastive loss for anomaly detection" (arXiv 2106.03844). Written from a
description, not from the authors' code.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.module import Batch
from zoo.nn.contrastive import jitter_colour, jitter_intensity, nt_xent, random_blur, random_crop_and_turn
from zoo.pretrained.panda import PANDA


class MSC(PANDA):
    """Mean-shifted contrastive adaptation (MSC).

    1 or 3 channels; no map. As PANDA, with features of length 1 and another loss: two views of each image attract each
    other, all others repel, as seen from the centre of the untrained features.

    Args:
        angular: also pull the views towards the centre.
        temperature: divides the cosines.
        trained: names that the parameters to be trained start with.
        lr: learning rate of SGD.
        momentum: of SGD.
        clip: largest norm of the gradient; 0 for none.
        **parent: arguments of :class:`~zoo.pretrained.panda.PANDA`.
    """

    reference = {
        "title": "Mean-Shifted Contrastive Loss for Anomaly Detection",
        "venue": "AAAI",
        "year": 2023,
        "url": "https://arxiv.org/abs/2106.03844",
    }
    tiny = {"image_size": 32, "backbone": "resnet18", "layer": "layer3", "weights": "random"}
    small = {"backbone": "tf_efficientnet_lite0", "layer": "blocks.4", "trained": ("blocks.3", "blocks.4"), "lr": 1e-3}

    def __init__(
        self,
        *,
        angular: bool = False,
        temperature: float = 0.25,
        trained: tuple[str, ...] = ("layer3", "layer4"),
        lr: float = 1e-5,
        momentum: float = 0.0,
        clip: float = 0.0,
        **parent: Any,
    ) -> None:
        super().__init__(trained=trained, lr=lr, momentum=momentum, clip=clip, **parent)

    def embed(self, image: Tensor) -> Tensor:
        """Features averaged over all places, of length 1: float32 ``(B, K)``."""
        return F.normalize(super().embed(image), dim=1)

    def adapt(self, batch: Batch, batch_idx: int) -> Tensor:
        """Contrast two views of each image around the centre, and pull them to it if ``angular``."""
        centre, views = F.normalize(self.memory.centre, dim=0), [_view(batch["image"]) for _ in range(2)]
        first, second = (self.embed(view) for view in views)
        loss = nt_xent(first - centre, second - centre, self.hparams["temperature"])
        if self.hparams["angular"]:
            loss = loss + (torch.cat([first, second]) - centre).square().sum(dim=1).mean()
        self.log("train/loss", loss)
        return loss


def _view(image: Tensor) -> Tensor:
    """Crop, colour, blur and flip: ``(B, C, H, W)`` in [0, 1]."""
    view = jitter_intensity(random_crop_and_turn(image, (0.2, 1.0)), 0.4, 0.8)
    if view.shape[1] == 3:
        view = jitter_colour(view, 0.4, 0.1, 0.8, 0.2)
    view = random_blur(view, (0.1, 2.0), 0.5)
    flipped = torch.rand(len(view), 1, 1, 1).to(view.device) < 0.5
    return torch.where(flipped, view.flip(3), view)
