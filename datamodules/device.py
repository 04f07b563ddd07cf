"""For methods that outrun any loader: the training images as one tensor on the accelerator, and crops made there."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.loading import Batch, CachedImages
from zoo.nn.crops import crop_transform, draw_crops

Precision = Literal["uint8", "float16"]


class DeviceImages(CachedImages):
    """The images of a split held in memory, on any device; batches are gathered there.

    Values are rounded to 256 levels of their range (``uint8``) or to half precision (``float16``).

    Args:
        images: the split.
        device: where the images live.
        precision: see above.
    """

    def __init__(self, images: CachedImages, device: torch.device, precision: Precision) -> None:
        self.__dict__.update(vars(images))
        self.device = device
        shape = (len(images), *images.store.shape)
        self._low, self._step = _range(images) if precision == "uint8" else (0.0, 1.0)
        self._images = torch.empty(shape, dtype=getattr(torch, precision), device=device)
        self._foreground = torch.empty((len(images), 1, *shape[2:]), dtype=torch.bool, device=device)
        for start in range(0, len(images), 256):
            where = images.indices[start : start + 256]
            values = torch.from_numpy(images.store.image(where))
            if precision == "uint8":
                values = ((values - self._low) / self._step).round()
            self._images[start : start + 256] = values.to(device, self._images.dtype)
            self._foreground[start : start + 256] = torch.from_numpy(images.store.foreground(where)).to(device)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The batch of these positions, on the device; without ground truth."""
        chosen = np.asarray(positions, np.int64)
        where = torch.from_numpy(chosen).to(self.device)
        image = self._images[where].float()
        return {
            "image": image if self._step == 1.0 else image.mul_(self._step).add_(self._low),
            "label": torch.from_numpy(self.labels[chosen]).to(self.device),
            "foreground": self._foreground[where],
            **self.names(chosen),
        }


def _range(images: CachedImages) -> tuple[float, float]:
    low, high = math.inf, -math.inf
    for start in range(0, len(images), 256):
        values = images.store.image(images.indices[start : start + 256])
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, max(high - low, 1e-6) / 255


def random_resized_crop(
    image: Tensor,
    foreground: Tensor,
    generator: torch.Generator,
    area: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[Tensor, Tensor]:
    """One random crop per image, resized back to the image's size, in one call for the whole batch.

    Args:
        image: ``(B, C, H, W)`` float32, on any device.
        foreground: ``(B, 1, H, W)`` bool.
        generator: on the CPU; the same numbers give the same crops on every device.
        area: smallest and largest share of the image's area.
        ratio: smallest and largest aspect ratio, drawn log-uniformly.

    Returns:
        tuple: crops of image (bilinear) and foreground (nearest), same shapes; half of them mirrored.
    """
    count = len(image)
    theta = crop_transform(draw_crops(count, area, ratio, generator=generator))
    mirror = torch.rand(count, generator=generator) < 0.5
    theta[:, 0, 0] = torch.where(mirror, -theta[:, 0, 0], theta[:, 0, 0])
    grid = F.affine_grid(theta.to(image.device), list(image.shape), align_corners=False)
    crops = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = F.grid_sample(foreground.float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return crops, inside > 0.5
