"""Losses that several methods share."""

import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss of Lin et al. 2017 without class weights.

    Args:
        logits: ``(B, K, *S)``.
        target: ``(B, *S)`` int64.
        gamma: how much less sure pixels count.
    """
    negative = F.cross_entropy(logits, target, reduction="none")
    return ((1 - (-negative).exp()) ** gamma * negative).mean()
