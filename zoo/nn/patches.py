"""Images cut into overlapping squares, and maps of squares put together again."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cut_patches(image: Tensor, side: int, stride: int) -> Tensor:
    """All squares ``(B * P, C, side, side)`` of ``(B, C, H, W)``, those of an image one after another, row by row.

    Args:
        image: sides of at least ``side``; what a last stride does not reach is left out.
        side: of the squares in pixels.
        stride: from one square to the next.
    """
    columns = F.unfold(image, side, stride=stride)
    return columns.transpose(1, 2).reshape(-1, image.shape[1], side, side)


def join_patches(maps: Tensor, count: int, size: tuple[int, ...], stride: int) -> Tensor:
    """Maps of squares ``(B * P, C, side, side)`` back to images ``(B, C, H, W)``, averaged where they overlap.

    Args:
        maps: in the order of :func:`cut_patches`.
        count: images B.
        size: ``(H, W)``; the squares have to cover it.
        stride: see there.
    """
    side = maps.shape[-1]
    columns = maps.reshape(count, -1, maps.shape[1] * side * side).transpose(1, 2)
    total = F.fold(columns, size, side, stride=stride)
    return total / F.fold(torch.ones_like(columns), size, side, stride=stride)
