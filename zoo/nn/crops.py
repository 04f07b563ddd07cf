"""Boxes in a batch: random resized crops as torchvision's RandomResizedCrop draws them, and masks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_TRIES = 10


def draw_crops(
    count: int,
    area: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Boxes of square images (or of images stretched to squares), one an image.

    Share of the area and aspect ratio (log-uniform) are drawn anew, up to ten times, until the box fits; an image of
    which none fits is kept whole. Places are uniform. Unlike torchvision's, sides and places are not whole pixels.

    Args:
        count: number of boxes.
        area: smallest and largest share of the image's area.
        ratio: smallest and largest width over height.
        generator: source of randomness, on ``device``; None: the global one.
        device: of the result.

    Returns:
        float32 ``(count, 4)``: left, top, width, height as shares of the sides, in [0, 1].
    """
    drawn = torch.rand(2, _TRIES, count, generator=generator, device=device)
    share = area[0] + (area[1] - area[0]) * drawn[0]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * drawn[1])
    width, height = (share * aspect).sqrt(), (share / aspect).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(dim=0, keepdim=True)
    whole = ~fits.any(dim=0)
    width, height = (side.gather(0, first)[0].masked_fill(whole, 1.0) for side in (width, height))
    place = torch.rand(2, count, generator=generator, device=device)
    return torch.stack([(1 - width) * place[0], (1 - height) * place[1], width, height], dim=1)


def crop_transform(boxes: Tensor) -> Tensor:
    """Boxes of :func:`draw_crops` as the ``(B, 2, 3)`` of ``torch.nn.functional.affine_grid``."""
    left, top, width, height = boxes.unbind(dim=1)
    theta = boxes.new_zeros(len(boxes), 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = width, 2 * left + width - 1
    theta[:, 1, 1], theta[:, 1, 2] = height, 2 * top + height - 1
    return theta


def box_masks(starts: Tensor, sides: Tensor, size: Sequence[int]) -> Tensor:
    """Masks of one box in each image.

    Args:
        starts: ``(B, 2)`` low ends along rows and columns, as shares of the image's sides.
        sides: ``(B, 2)`` lengths, likewise.
        size: ``(H, W)``.

    Returns:
        bool ``(B, 1, H, W)``, True where a pixel's middle lies inside.
    """
    inside = torch.ones(len(starts), 1, 1, 1, dtype=torch.bool, device=starts.device)
    for axis, length in enumerate(size):
        place = (torch.arange(length, device=starts.device) + 0.5) / length
        within = (place >= starts[:, axis, None]) & (place < (starts + sides)[:, axis, None])
        inside = inside & within.view((-1, 1, length, 1) if axis == 0 else (-1, 1, 1, length))
    return inside
