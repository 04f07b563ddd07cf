"""Feature vectors of small neighbourhoods, of one length for all layers (Roth et al. 2022; Liu et al. 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def local_patches(maps: list[Tensor], length: int, side: int = 3) -> Tensor:
    """Describe every place of the first map by the places around it, in all maps.

    The ``C * side * side`` values of a neighbourhood, channel by channel, are averaged in ``length`` groups (adaptively
    where they do not divide), the others' results are resized to the first map's grid, and the layers' vectors, joined,
    are averaged in ``length`` groups again.

    Args:
        maps: ``(B, C_i, h_i, w_i)``, the finest first.
        length: of the vectors.
        side: of the square around a place, odd.

    Returns:
        float32 ``(B, length, h, w)``.
    """
    size = maps[0].shape[2:]
    found = []
    for values in maps:
        around = F.unfold(values.float(), side, padding=side // 2)  # (B, C * side * side, places)
        averaged = _averages(around, length).unflatten(2, values.shape[2:])
        # resizing and averaging act on different axes: their order does not matter
        same = averaged.shape[2:] == size
        found.append(averaged if same else F.interpolate(averaged, size=size, mode="bilinear"))
    joined: Tensor = _averages(torch.cat(found, dim=1).flatten(2), length).unflatten(2, size)
    return joined


def _averages(values: Tensor, groups: int) -> Tensor:
    """Adaptive means over the second axis: ``(B, K, N)`` -> ``(B, groups, N)``."""
    count = values.shape[1]
    if count % groups == 0:
        means: Tensor = values.unflatten(1, (groups, count // groups)).mean(dim=2)
        return means
    starts = torch.arange(groups, device=values.device) * count // groups
    ends = -(-(torch.arange(groups, device=values.device) + 1) * count // groups)
    place = torch.arange(count, device=values.device)
    inside = ((place >= starts[:, None]) & (place < ends[:, None])).to(values.dtype)
    return (inside / inside.sum(dim=1, keepdim=True)) @ values
