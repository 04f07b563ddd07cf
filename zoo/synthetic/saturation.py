"""Equal saturation instead of equal steps (nnOOD): how well a network finds the anomalies of its own task."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from zoo.metrics.functional import average_precision

if TYPE_CHECKING:
    from zoo.module import AnomalyModule, Batch


def log_task_ap(
    module: "AnomalyModule",
    batch: "Batch",
    batch_idx: int,
    make: Callable[[Tensor, np.random.Generator], tuple[Tensor, ...]],
    locate: Callable[[Tensor], Tensor],
) -> None:
    """Log ``val/task_pixel_ap``, the mean over batches of the pixel AP on held-out images altered by the own task.

    nnOOD stops at a moving average of 0.875. Its validation anomalies are new in every epoch; here they are the same,
    so that there is nothing to average over. A pixel is anomalous when its label is above 0.1.

    Args:
        module: logs.
        batch: of the validation loader; only its healthy images are used.
        batch_idx: seeds the anomalies.
        make: from images and generator to altered images and labels (and more).
        locate: from altered images to the map ``(B, 1, H, W)``.
    """
    healthy = batch["image"][batch["label"] == 0]
    if not len(healthy):
        return
    if len(healthy) == 1:  # tasks take patches from the other images
        healthy = torch.cat([healthy, healthy.flip(-1)])
    altered, label = make(healthy, np.random.default_rng([42, batch_idx]))[:2]
    found = average_precision(locate(altered).float(), label > 0.1)
    if not np.isnan(found):
        module.log("val/task_pixel_ap", found, batch_size=len(healthy))
