"""How an anomaly map becomes the score of its image."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

PoolingRule = Literal["mean", "max", "top_q"]


def pool_map(
    anomaly_map: Tensor, rule: PoolingRule = "mean", q: float = 0.1, foreground: Tensor | None = None
) -> Tensor:
    """Pool a map to one score an image, each image by itself.

    Args:
        anomaly_map: ``(B, 1, *S)``, larger = more anomalous.
        rule: ``mean``; ``max``; ``top_q`` = mean of the values strictly above the ``1 - q`` quantile (linear
            interpolation), the score of the structural feature autoencoder with ``q = 0.1``.
        q: share of pixels that ``top_q`` averages, in (0, 1).
        foreground: bool ``(B, 1, *S)``; only these pixels count. An image without any is pooled over all its pixels,
            so that blank images get a score.

    Returns:
        float32 ``(B,)``. Where no value lies above the quantile (constant map) ``top_q`` gives the quantile itself.

    Raises:
        ValueError: unknown rule, ``q`` outside (0, 1), or shapes that differ.
    """
    if rule not in get_args(PoolingRule):
        raise ValueError(f"pooling rule '{rule}' is unknown; known: {', '.join(get_args(PoolingRule))}")
    if not 0.0 < q < 1.0:
        raise ValueError(f"pooling share q must lie between 0 and 1, found {q}")
    values = anomaly_map.float().flatten(1)
    if foreground is None:
        counted = torch.ones_like(values, dtype=torch.bool)
    elif foreground.shape != anomaly_map.shape:
        raise ValueError(f"foreground {tuple(foreground.shape)} must have the map's shape {tuple(anomaly_map.shape)}")
    else:
        counted = foreground.flatten(1)
        counted = counted | ~counted.any(dim=1, keepdim=True)
    if rule == "max":
        return values.masked_fill(~counted, -torch.inf).amax(dim=1)
    if rule == "mean":
        return _masked_mean(values, counted)
    threshold = _quantile(values, counted, 1.0 - q)
    above = counted & (values > threshold)
    return torch.where(above.any(dim=1), _masked_mean(values, above), threshold.squeeze(1))


def largest_average(anomaly_map: Tensor, side: int) -> Tensor:
    """Largest mean over squares, zeros beyond the border: ``(B, 1, H, W)`` -> ``(B,)``.

    Args:
        anomaly_map: larger = more anomalous.
        side: of the squares in pixels, odd.
    """
    return F.avg_pool2d(anomaly_map, side, stride=1, padding=side // 2).amax(dim=(1, 2, 3))


def _masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, values, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _quantile(values: Tensor, counted: Tensor, level: float) -> Tensor:
    """Quantile of the counted values of each row, linearly interpolated: ``(B, 1)``."""
    ordered = values.masked_fill(~counted, torch.inf).sort(dim=1).values
    position = (counted.sum(dim=1, keepdim=True) - 1).double() * level
    lower = position.floor().long()
    low, high = ordered.gather(1, lower), ordered.gather(1, position.ceil().long())
    return torch.lerp(low, high, (position - lower).to(low.dtype))
