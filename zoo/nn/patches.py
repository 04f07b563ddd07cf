"""Images cut into squares, maps of squares put together again, and squares beside each other."""

import torch
import torch.nn.functional as F
from torch import Tensor

# rows and columns from a square to each of its neighbours, in squares
NEIGHBOURS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))


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


def neighbouring_patches(image: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """A random square of each image and one that touches it, in a random one of eight directions.

    Args:
        image: ``(B, C, H, W)``, sides of at least ``2 * side``.
        side: of the squares in pixels.

    Returns:
        tuple: squares ``(B, C, side, side)``, their neighbours, and the number of the direction in
        :data:`NEIGHBOURS`, ``(B,)`` int64.
    """
    place = torch.randint(len(NEIGHBOURS), (len(image),))
    steps = torch.tensor(NEIGHBOURS)[place] * side
    room = torch.tensor(image.shape[2:]) - side
    low, high = (-steps).clamp(min=0), room - steps.clamp(min=0)  # both squares lie inside
    corner = (low + torch.rand(steps.shape) * (high - low + 1)).long().minimum(high)
    return _take(image, corner, side), _take(image, corner + steps, side), place.to(image.device)


def _take(image: Tensor, corner: Tensor, side: int) -> Tensor:
    """Squares of a batch whose low corners are ``(B, 2)``."""
    rows, columns = ((corner[:, axis, None] + torch.arange(side)).to(image.device) for axis in range(2))
    batch = torch.arange(len(image), device=image.device)[:, None, None]
    return image[batch, :, rows[:, :, None], columns[:, None]].movedim(-1, 1)
