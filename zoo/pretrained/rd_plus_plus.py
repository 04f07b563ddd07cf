"""RD++: reverse distillation whose student reads features projected so that noise in the image does not reach it.

Tien et al. 2023, "Revisiting reverse distillation for anomaly detection".
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import Batch
from zoo.nn.crops import box_masks
from zoo.nn.losses import global_cosine
from zoo.pretrained.reverse_distillation import ReverseDistillation
from zoo.scoring.residual import cosine_map
from zoo.synthetic.perlin import fractal_noise

_SHORTEST, _LONGEST = 10 / 256, 32 / 256  # sides of the noisy rectangle, as shares of the image's
_PERIOD, _OCTAVES, _PERSISTENCE = 64.0, 6, 0.6  # of the noise
_RECONSTRUCTION, _CONTRAST = 0.01, 0.1  # weights beside the optimal transport's 1
_MARGIN = 0.5


class RDPlusPlus(ReverseDistillation):
    """Reverse distillation with projected features (RD++).

    1 or 3 channels. The paper's third term, a self-supervised optimal transport between a batch and the same batch in
    another order, is zero up to rounding, and left out. Perlin noise stands in for simplex noise. The original chooses
    the epoch on the test set; here the last weights are used.

    Args:
        projector_lr: learning rate of Adam over the projector.
        projection_weight: of the projector's losses beside the distillation's.
        noise: height of the noise on a rectangle of the image.
        **parent: arguments of :class:`~zoo.pretrained.reverse_distillation.ReverseDistillation`.
    """

    reference = {
        "title": "Revisiting Reverse Distillation for Anomaly Detection",
        "venue": "CVPR",
        "year": 2023,
        "url": "https://openaccess.thecvf.com/content/CVPR2023/html/"
        "Tien_Revisiting_Reverse_Distillation_for_Anomaly_Detection_CVPR_2023_paper.html",
    }
    tiny = {"image_size": 32, "backbone": "resnet18", "layers": ("layer1", "layer2"), "weights": "random"}
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.1", "blocks.2", "blocks.4")}

    def __init__(
        self, *, projector_lr: float = 1e-3, projection_weight: float = 0.2, noise: float = 0.2, **parent: Any
    ) -> None:
        super().__init__(**parent)

    def build(self) -> None:
        """Create teacher, student and a projector for each layer."""
        super().build()
        self.projectors = nn.ModuleList(_projector(channels) for channels in self.teacher.channels)

    def project(self, taught: list[Tensor]) -> list[Tensor]:
        """The teacher's maps, projected: of the same shapes."""
        return [project(values) for project, values in zip(self.projectors, taught, strict=True)]

    def rebuild(self, taught: list[Tensor]) -> list[Tensor]:
        """What the student makes of the projected maps."""
        return super().rebuild(self.project(taught))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Distillation of the clean image; noisy features are projected onto clean ones and kept apart from them."""
        image = batch["image"]
        taught, noisy = self.teacher(image), self.teacher(add_noise(image, self.hparams["noise"]))
        clean, cleaned = self.project(taught), self.project(noisy)
        pairs = zip(taught, self.student(clean), strict=True)
        distillation = torch.stack([global_cosine(a, b) for a, b in pairs]).sum()
        terms = []
        for given, wanted, found in zip(noisy, clean, cleaned, strict=True):
            reconstruction = cosine_map(found, wanted).mean()
            alike = F.cosine_similarity(given.float().flatten(1), wanted.float().flatten(1))
            terms.append(_RECONSTRUCTION * reconstruction + _CONTRAST * F.relu(alike - _MARGIN).mean())
        projection = torch.stack(terms).sum() / (1 + _RECONSTRUCTION + _CONTRAST)
        loss: Tensor = distillation + self.hparams["projection_weight"] * projection
        self.log_dict({"train/loss": loss, "train/distillation": distillation, "train/projection": projection})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate each over student and projectors."""
        hp = self.hparams
        groups = [
            {"params": self.student.parameters()},
            {"params": self.projectors.parameters(), "lr": hp["projector_lr"]},
        ]
        return torch.optim.Adam(groups, lr=hp["lr"], betas=tuple(hp["betas"]))


def add_noise(image: Tensor, height: float) -> Tensor:
    """Fractal noise on a rectangle of each image, 10 to 31 of 256 pixels a side.

    Args:
        image: ``(B, C, H, W)``.
        height: factor of the noise.
    """
    count, size = len(image), image.shape[2:]
    noise = height * fractal_noise(count, (size[0], size[1]), _PERIOD, _OCTAVES, _PERSISTENCE)
    sides, starts = torch.rand(2, count, 2)
    sides = _SHORTEST + (_LONGEST - _SHORTEST) * sides
    return image + (noise * box_masks(starts * (1 - sides), sides, size)).to(image.device)


def _projector(channels: int) -> nn.Sequential:
    widths = (channels, channels // 2, channels // 4, channels // 2, channels)
    layers: list[nn.Module] = []
    for source, target in itertools.pairwise(widths):
        layers += [nn.Conv2d(source, target, 3, padding=1), nn.InstanceNorm2d(target), nn.LeakyReLU()]
    return nn.Sequential(*layers)
