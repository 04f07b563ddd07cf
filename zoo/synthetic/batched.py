"""Samples of a whole batch at once, on any device."""

import torch
from torch import Tensor

from zoo.synthetic.labels import anomaly_label


def label_batch(altered: Tensor, original: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """Labels ``(B, 1, *S)`` of images ``(B, C, *S)``."""
    arrays = (part.detach().cpu().numpy() for part in (altered, original, mask))
    return torch.from_numpy(anomaly_label(*arrays, sigma)).to(altered.device)
