"""Intensity as anomaly: bright tissue is suspicious. The baseline that a brain method for FLAIR must beat.

Meissen, Kaissis, Rueckert 2021, "Challenging current semi-supervised anomaly segmentation methods for brain MRI"
(arXiv 2109.06023): histogram-equalise, then threshold.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from zoo.module import Prediction
from zoo.scoring.pooling import PoolingRule, pool_map
from zoo.statistical._untrained import Untrained

_BINS = 256


class HistogramThreshold(Untrained):
    """Histogram equalisation and intensity threshold; nothing is trained.

    The map is the equalised intensity, averaged over channels; the threshold is left to the metrics. Right where
    lesions are brighter than all healthy tissue (FLAIR), wrong elsewhere (T1, where ``bright`` false may serve).

    Args:
        equalise: ``none`` where the DataModule equalises whole volumes, as the paper does; ``image`` equalises each
            image over its foreground.
        bright: bright pixels are anomalous; False: dark ones.
        score: pooling of the map to the image score; the mean of an equalised image says nothing.
        **untrained: arguments of :class:`~zoo.statistical._untrained.Untrained`.
    """

    reference = {
        "title": "Challenging Current Semi-Supervised Anomaly Segmentation Methods for Brain MRI",
        "venue": "BrainLes, MICCAI Workshop",
        "year": 2021,
        "url": "https://arxiv.org/abs/2109.06023",
    }
    dims = (2, 3)
    fitting = "single_pass"
    tiny = {"image_size": 32}

    def __init__(
        self,
        *,
        equalise: Literal["none", "image"] = "none",
        bright: bool = True,
        score: PoolingRule = "top_q",
        **untrained: Any,
    ) -> None:
        super().__init__(score=score, **untrained)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Equalised intensity of the foreground, 0 in the background."""
        intensity = image.float().mean(dim=1, keepdim=True)
        if self.hparams["equalise"] == "image":
            intensity = _equalise(intensity, foreground)
        anomaly_map = torch.where(foreground, intensity if self.hparams["bright"] else 1.0 - intensity, 0.0)
        score = pool_map(anomaly_map, self.hparams["score"], self.hparams["score_fraction"], foreground)
        return Prediction(score, anomaly_map)


def _equalise(intensity: Tensor, foreground: Tensor) -> Tensor:
    """Share of each image's foreground pixels that are in the same or a darker one of 256 equal bins."""
    values, counted = intensity.flatten(1), foreground.flatten(1)
    low = values.masked_fill(~counted, torch.inf).amin(dim=1, keepdim=True)
    high = values.masked_fill(~counted, -torch.inf).amax(dim=1, keepdim=True)
    span = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    bins = ((values - low) / span * _BINS).nan_to_num().long().clamp(0, _BINS - 1)
    histogram = torch.zeros(len(values), _BINS, device=values.device).scatter_add_(1, bins, counted.float())
    cumulative = histogram.cumsum(dim=1) / counted.sum(dim=1, keepdim=True).clamp(min=1)
    return cumulative.gather(1, bins).view_as(intensity)
