"""Boxes of different sizes of the images of a batch, padded to a common size."""

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
        shape: ``(B, C, *S)`` of the images.
        images: ``(n,)`` number of each box's image.
        corners: ``(n, D)`` low corners.
        sides: ``(n, D)`` sides.
        device: of the index.
    """

    def __init__(
        self, shape: Sequence[int], images: Sequence[int], corners: Array, sides: Array, device: torch.device | str
    ) -> None:
        self.shape, self.corners, self.sides = tuple(shape), np.asarray(corners), np.asarray(sides)
        size, channels = self.shape[2:], self.shape[1]
        dims, volume = len(size), int(np.prod(size))
        numbers = torch.as_tensor(np.asarray(images, np.int64), device=device)
        ones = [1] * dims
        place, inside = torch.zeros([1, *ones], dtype=torch.int64, device=device), None
        for axis, padded in enumerate(self.sides.max(0)):
            steps = np.arange(padded)
            along = [*ones]
            along[axis] = int(padded)
            row = np.minimum(self.corners[:, axis : axis + 1] + steps, size[axis] - 1)
            stride = int(np.prod(size[axis + 1 :]))
            place = place + torch.as_tensor(row * stride, device=device).view(-1, *along)
            held = torch.as_tensor(steps < self.sides[:, axis : axis + 1], device=device).view(-1, *along)
            inside = held if inside is None else inside & held
        channel = torch.arange(channels, device=device).view(1, -1, *ones)
        self.inside = inside.unsqueeze(1)  # type: ignore[union-attr]
        self.index = (numbers.view(-1, 1, *ones) * channels + channel) * volume + place.unsqueeze(1)

    def gather(self, images: Tensor) -> Tensor:
        """``(n, C, *M)`` of ``(B, C, *S)``; the padding holds other pixels."""
        return images.reshape(-1)[self.index]

    def scatter(self, images: Tensor, values: Tensor) -> Tensor:
        """New ``(B, C, *S)`` with the boxes replaced by ``(n, C, *M)``; boxes of one image must not overlap."""
        spare = images.new_zeros(1)
        flat = torch.cat([images.reshape(-1), spare])
        flat[torch.where(self.inside, self.index, flat.numel() - 1)] = values.to(images.dtype)
        return flat[:-1].view(self.shape)


def pad_masks(masks: Sequence[Array], device: torch.device | str) -> Tensor:
    """``(n, *M)`` bool on the device, each mask at the low end."""
    padded = np.zeros((len(masks), *np.max([mask.shape for mask in masks], 0)), bool)
    for number, mask in enumerate(masks):
        padded[(number, *map(slice, mask.shape))] = mask
    return torch.from_numpy(padded).to(device)
