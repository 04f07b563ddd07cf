"""Boxes of different sizes in the images of a batch, padded to a common size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


class Boxes:
    """Where ``n`` boxes lie in a batch of images; nothing waits for the device.

    Args:
        size: ``(*S)`` of the images.
        images: ``(n,)`` number of each box's image.
        corners: ``(n, D)`` low corners.
        sides: ``(n, D)`` sides.
        device: of the index.

    Attributes:
        inside: bool ``(n, 1, *M)``, False on the padding.
    """

    def __init__(
        self, size: Sequence[int], images: Sequence[int], corners: Array, sides: Array, device: torch.device | str
    ) -> None:
        self.corners, self.sides = np.asarray(corners), np.asarray(sides)
        dims, self.volume = len(size), int(np.prod(size))
        place, inside = np.zeros([1] * (dims + 2), np.int64), np.ones([1] * (dims + 2), bool)
        for axis, padded in enumerate(self.sides.max(0)):
            along = (-1, *[int(padded) if other == axis + 1 else 1 for other in range(dims + 1)])
            steps = np.arange(padded)
            row = np.minimum(self.corners[:, axis : axis + 1] + steps, size[axis] - 1)
            place = place + (row * int(np.prod(size[axis + 1 :]))).reshape(along)
            inside = inside & (steps < self.sides[:, axis : axis + 1]).reshape(along)
        self._place = torch.from_numpy(place).to(device)
        self._numbers = torch.as_tensor(np.asarray(images, np.int64), device=device).view(-1, *[1] * (dims + 1))
        self.inside = torch.from_numpy(inside).to(device)

    def _index(self, channels: int) -> Tensor:
        channel = torch.arange(channels, device=self._place.device).view(1, -1, *[1] * (self._place.dim() - 2))
        return (self._numbers * channels + channel) * self.volume + self._place

    def gather(self, images: Tensor) -> Tensor:
        """``(n, C, *M)`` of ``(B, C, *S)``; the padding holds other pixels."""
        return images.reshape(-1)[self._index(images.shape[1])]

    def scatter_(self, canvas: Tensor, values: Tensor, channels: int) -> None:
        """Replace the boxes by ``(n, C, *M)`` in a :func:`canvas`; boxes of one image must not overlap."""
        index = torch.where(self.inside, self._index(channels), len(canvas) - 1)
        canvas[index] = values.to(canvas.dtype)


def canvas(images: Tensor) -> Tensor:
    """Flat copy of images with one more element, where what belongs to no image is written."""
    return torch.cat([images.reshape(-1), images.new_zeros(1)])


def pad_masks(masks: Sequence[Array], device: torch.device | str) -> Tensor:
    """``(n, 1, *M)`` bool on the device, each mask at the low end."""
    padded = np.zeros((len(masks), 1, *np.max([mask.shape for mask in masks], 0)), bool)
    for number, mask in enumerate(masks):
        box: Any = (number, 0, *map(slice, mask.shape))
        padded[box] = mask
    return torch.from_numpy(padded).to(device)
