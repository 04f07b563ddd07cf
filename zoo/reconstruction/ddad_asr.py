"""DDAD-ASR: the discrepancies of DDAD, refined by a small network that has seen pasted squares.

Cai et al. 2023, "Dual-distribution discrepancy with self-supervised refinement for anomaly detection in medical images"
(Medical Image Analysis, arXiv 2210.04227).
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from zoo.module import Batch, Prediction, Stage
from zoo.nn.losses import focal_loss
from zoo.reconstruction.ddad import DDAD

_EPOCHS = (250.0, 100.0)  # of the ensembles and of the refiner
_HALF = (0.05, 0.2)  # half the side of a square, as a share of the image's
_CORE = 0.8  # squares are centred in so much of each side


class DDADASR(DDAD):
    """DDAD with anomaly score refinement (DDAD-ASR).

    The refiner is trained after the ensembles, which are then fixed: half of the images stay clean, the others get a
    square mixed with another image; it tells from the discrepancies which pixels those are. Without unlabelled images
    (``discrepancy`` intra, the default) it sees the deviation within the normative ensemble alone: the one-class form.
    With ``inter`` it sees both, and the results are semi-supervised. The members are in evaluation mode while the
    refiner learns, where the release leaves them in training mode; the last step counts, not the best on test images.

    Args:
        width: channels of the refiner.
        refiner_lr: learning rate of the refiner's Adam.
        refiner_weight_decay: its weight decay.
        **parent: arguments of :class:`DDAD`.
    """

    reference = {
        "title": "Dual-distribution discrepancy with self-supervised refinement for anomaly detection in medical "
        "images",
        "venue": "Medical Image Analysis",
        "year": 2023,
        "url": "https://arxiv.org/abs/2210.04227",
    }
    tiny = {"image_size": 32, "hidden_dims": (4, 8), "hidden": 16, "latent_dim": 4, "ensemble": 2, "width": 4}
    small = {"hidden": 128, "width": 16, "lr": 0.001, "refiner_lr": 0.001}

    refiner: nn.Sequential

    def __init__(
        self, *, width: int = 128, refiner_lr: float = 1e-4, refiner_weight_decay: float = 1e-4, **parent: Any
    ) -> None:
        super().__init__(**parent)

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Squares of another image: both blends."""
        return ("intra_blend", "inter_blend")

    def build(self) -> None:
        """Create the members and the refiner."""
        super().build()
        layers: list[nn.Module] = []
        width = self.hparams["width"]
        for source, target in itertools.pairwise((2 if self.uses_unlabeled else 1, width, width)):
            layers += [nn.Conv2d(source, target, 3, padding=1), nn.BatchNorm2d(target), nn.ReLU()]
        self.refiner = nn.Sequential(*layers, nn.Conv2d(width, 2, 3, padding=1))

    def stages(self) -> tuple[Stage, ...]:
        """The ensembles, then the refiner."""
        members, refiner = _EPOCHS
        return Stage("optimise", self._train_ensembles, share=members), Stage("optimise", self._refine, share=refiner)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """The current stage's step."""
        return super(DDAD, self).training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One Adam with the settings of each part; what has no gradient in a stage does not move."""
        hp = self.hparams
        members = [*self.normative.parameters(), *self.unknown.parameters()]
        refiner = {"params": self.refiner.parameters(), "lr": hp["refiner_lr"]}
        return torch.optim.Adam(
            [{"params": members}, refiner | {"weight_decay": hp["refiner_weight_decay"]}],
            lr=hp["lr"],
            betas=(0.5, 0.999),
        )

    def _train_ensembles(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self.train_members(batch)

    def _refine(self, batch: Batch, batch_idx: int) -> Tensor:
        altered, inside = mix_squares(batch["image"])
        for ensemble in (self.normative, self.unknown):
            ensemble.eval()
        with torch.no_grad():
            seen = self._seen(altered)[0]
        loss = focal_loss(self.refiner(seen).float(), inside[:, 0].long())
        self.log("train/refiner_loss", loss, batch_size=len(altered))
        return loss

    def _seen(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the refiner sees, and the mean reconstruction."""
        intra, inter, mean = self.discrepancies(image)
        return (intra if inter is None else torch.cat([inter, intra], dim=1)), mean

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Probability of each pixel to be anomalous, and its mean."""
        seen, mean = self._seen(image)
        anomaly_map = self.refiner(seen).float().softmax(dim=1)[:, 1:]
        return Prediction(anomaly_map.mean(dim=(1, 2, 3)), anomaly_map, mean)


def mix_squares(image: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the images with a square that is mixed with the next image of the batch, by a weight in (0, 1).

    Args:
        image: ``(B, C, H, W)``.

    Returns:
        tuple: altered images, and where the squares are: ``(B, 1, H, W)`` bool.
    """
    count, (height, width) = len(image), image.shape[2:]
    altered, weight, half, down, right = torch.rand(5, count, 1, 1, 1).to(image.device)
    half = _HALF[0] + (_HALF[1] - _HALF[0]) * half
    margin = (1 - _CORE) / 2
    inside = altered < 0.5
    for axis, side, centre in ((2, height, down), (3, width, right)):
        place = (torch.arange(side, device=image.device) + 0.5) / side
        shape = [1, 1, side, 1] if axis == 2 else [1, 1, 1, side]
        inside = inside & ((place.view(shape) - (margin + _CORE * centre)).abs() <= half)
    mixed = (1 - weight) * image + weight * image.roll(1, dims=0)
    return torch.where(inside, mixed, image), inside
