"""A map of noise: the floor that every table of metrics stands on, its last row."""

from typing import Any

import torch
from torch import Tensor

from zoo.module import Prediction
from zoo.statistical._untrained import Untrained

_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # splitmix64's constants, as int64


class RandomMap(Untrained):
    """Uniform noise as anomaly map; nothing is trained.

    The noise follows from the image's own values, so that predictions can be repeated and do not depend on the batch.

    Args:
        noise_seed: another seed, other noise.
        **untrained: arguments of :class:`~zoo.statistical._untrained.Untrained`.
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

    def __init__(self, *, noise_seed: int = 0, **untrained: Any) -> None:
        super().__init__(**untrained)

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
