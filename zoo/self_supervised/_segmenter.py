"""What most of the family shares: a network that marks what a task put into healthy images."""

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.metrics.functional import average_precision
from zoo.module import AnomalyModule, Batch, Prediction, batch_generator


class SyntheticSegmenter(AnomalyModule):
    """A network's logits against the soft label of a task; a subclass writes ``build`` and :meth:`make_anomalies`.

    Training and the method's own validation make anomalies in the same way, from the same prepared images and with the
    same foreground.
    """

    network: nn.Module

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Foreign patches: both blends."""
        return ("intra_blend", "inter_blend")

    def prepare(self, image: Tensor) -> Tensor:
        """``(B, C, *S)`` in the expected range as the task and the network want it."""
        return image

    @abstractmethod
    def make_anomalies(
        self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Altered images and labels of a batch, and what else the method's loss needs.

        Args:
            image: ``(B, C, *S)``, prepared.
            rng: source of randomness.
            foreground: ``(B, 1, *S)`` bool.

        Returns:
            tuple: ``(B, C, *S)``, ``(B, 1, *S)`` and more.
        """

    def altered(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """:meth:`make_anomalies` of a training batch."""
        return self.make_anomalies(self.prepare(batch["image"]), rng, batch["foreground"])

    def locate(self, prepared: Tensor) -> Tensor:
        """``(B, 1, *S)``, larger where the network sees a change: its logits."""
        logits: Tensor = self.network(prepared).float()
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Binary cross-entropy with the label."""
        altered, label = self.altered(batch, batch_generator())[:2]
        loss = F.binary_cross_entropy_with_logits(self.locate(altered), label)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(label))
        return loss

    def log_validation(self, batch: Batch, batch_idx: int) -> None:
        """Log how well the own anomalies are found."""

        def make(image: Tensor, rng: np.random.Generator, foreground: Tensor | None) -> tuple[Tensor, ...]:
            return self.make_anomalies(self.prepare(image), rng, foreground)

        log_task_ap(self, batch, batch_idx, make, self.locate)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Map: probability."""
        return Prediction(None, self.locate(self.prepare(image)).sigmoid())


def log_task_ap(
    module: AnomalyModule,
    batch: Batch,
    batch_idx: int,
    make: Callable[[Tensor, np.random.Generator, Tensor | None], tuple[Tensor, ...]],
    locate: Callable[[Tensor], Tensor],
) -> None:
    """Log ``val/task_pixel_ap``, the mean over batches of the pixel AP on held-out images altered by the own task.

    For equal saturation instead of equal steps (nnOOD), which stops at a moving average of 0.875. Its validation
    anomalies are new in every epoch; here they are the same, so that there is nothing to average over. A pixel is
    anomalous when its label is above 0.1.

    Args:
        module: logs.
        batch: of the validation loader; only its healthy images are used.
        batch_idx: seeds the anomalies.
        make: from images, generator and foreground to altered images and labels (and more).
        locate: from altered images to the map ``(B, 1, H, W)``.
    """
    chosen = batch["label"] == 0
    healthy, inside = batch["image"][chosen], batch.get("foreground")
    inside = None if inside is None else inside[chosen]
    if not len(healthy):
        return
    if len(healthy) == 1:  # tasks take patches from the other images
        healthy = torch.cat([healthy, healthy.flip(-1)])
        inside = None if inside is None else torch.cat([inside, inside.flip(-1)])
    altered, label = make(healthy, np.random.default_rng([42, batch_idx]), inside)[:2]
    found = average_precision(locate(altered).float(), label > 0.1)
    if not np.isnan(found):
        module.log("val/task_pixel_ap", found, batch_size=len(healthy))
