"""A map of noise: the floor that every table of metrics stands on, its last row."""

import torch
from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.scoring.pooling import PoolingRule

_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # splitmix64's constants, as int64


class RandomMap(AnomalyModule):
    """Uniform noise as anomaly map; nothing is trained.

    The noise follows from the image's own values, so that predictions can be repeated and do not depend on the batch.

    Args:
        image_size: (H, W) or (D, H, W) in pixels.
        in_channels: image channels.
        noise_seed: another seed, other noise.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
    """

    reference = {
        "title": "Many tasks make light work: Learning to localise medical anomalies from multiple synthetic tasks "
        "(the row `random`)",
        "venue": "MICCAI",
        "year": 2023,
        "url": "https://arxiv.org/abs/2307.00899",
    }
    dims = (2, 3)
    fitting = "single_pass"
    tiny = {"image_size": 32}

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        noise_seed: int = 0,
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
    ) -> None:
        super().__init__()

    def stages(self) -> tuple[Stage, ...]:
        """One pass that collects nothing: a fit leaves a checkpoint like any other method's."""
        return (Stage("collect", self.collect),)

    def collect(self, batch: Batch, batch_idx: int) -> None:
        """Nothing to learn."""

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Noise in [0, 1]."""
        bits = image.float().contiguous().view(torch.int32).flatten(1).long()
        places = torch.arange(1, bits.shape[1] + 1, device=image.device)
        own = (bits * _scramble(places)).sum(dim=1, keepdim=True) + self.hparams["noise_seed"]
        pixels = image[0, 0].numel()
        noise = _scramble(_scramble(own) + places[:pixels] * _ODD[0])
        uniform = ((noise >> 40) & 0xFFFFFF).float() / 2**24
        return Prediction(None, uniform.view(image.shape[0], 1, *image.shape[2:]))


def _scramble(values: Tensor) -> Tensor:
    """Splitmix64's mixing of int64 values: every bit of the input moves about half of those of the output."""
    values = (values ^ ((values >> 30) & 0x3FFFFFFFF)) * _ODD[1]
    values = (values ^ ((values >> 27) & 0x1FFFFFFFFF)) * _ODD[2]
    return values ^ ((values >> 31) & 0x1FFFFFFFF)
