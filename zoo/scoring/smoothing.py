"""Smoothing of anomaly maps."""

import torch
from torch import Tensor

_TRUNCATE = 4.0  # deviations at which the kernel ends, as in scipy


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian filter over the spatial axes, equal to ``scipy.ndimage.gaussian_filter`` (mirrored borders).

    One product with a banded matrix for each axis: exact at any size, even where the kernel is wider than the image.

    Args:
        maps: ``(B, C, *S)``; computed in float32 whatever the autocast mode.
        sigma: standard deviation in pixels; 0 leaves the maps as they are.

    Returns:
        float32, of the same shape.
    """
    maps = maps.float()
    if sigma <= 0:
        return maps
    with torch.autocast(maps.device.type, enabled=False):
        for axis in range(2, maps.ndim):
            matrix = _blur_matrix(maps.shape[axis], sigma, maps.device)
            maps = (maps.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return maps.contiguous()


def _blur_matrix(size: int, sigma: float, device: torch.device) -> Tensor:
    radius = int(_TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    weights = (weights / weights.sum()).float()
    source = (torch.arange(size)[:, None] + offsets) % (2 * size)
    source = torch.where(source < size, source, 2 * size - 1 - source)
    matrix = torch.zeros(size, size).scatter_add_(1, source, weights.expand(size, -1).contiguous())
    return matrix.to(device)
