"""Losses that several methods share, and a gate for gradients."""

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


def global_cosine(target: Tensor, found: Tensor) -> Tensor:
    """Mean over the batch of 1 - cosine of whole maps, each flattened to one vector: a scalar in [0, 2], float32.

    Args:
        target: ``(B, C, *S)``.
        found: of the same shape.
    """
    return (1 - F.cosine_similarity(target.float().flatten(1), found.float().flatten(1))).mean()


def gate_gradient(values: Tensor, factor: Tensor) -> None:
    """Multiply the gradient that will reach ``values`` by ``factor``, which broadcasts over it; the values stay."""
    if values.requires_grad:
        values.register_hook(lambda gradient: gradient * factor)
