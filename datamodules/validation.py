"""Validation without real anomalies: healthy images, as they are and with a soft bright or dark blob."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.utils.data import Dataset

from datamodules.loading import Batch, CachedImages
from datamodules.reading import Array


class WithSyntheticAnomalies(Dataset[Batch]):
    """The healthy images, followed by the same images with one blob each.

    The blob of an image is a function of the seed and the image's position: every validation sees the same ones.

    Args:
        healthy: the images.
        seed: of the blobs.
        value_range: bounds the result.
    """

    def __init__(self, healthy: CachedImages, seed: int, value_range: tuple[float, float]) -> None:
        self.healthy, self.seed, self.value_range = healthy, seed, value_range

    def __len__(self) -> int:
        return 2 * len(self.healthy)

    def __getitem__(self, index: int) -> Batch:
        batch = self.__getitems__([index])
        return {key: value[0] for key, value in batch.items()}

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The batch of these positions; ids of altered images end in ``+blob``."""
        count = len(self.healthy)
        batch = self.healthy.__getitems__([position % count for position in positions])
        images, foreground = batch["image"].numpy(), batch["foreground"].numpy()
        masks = np.zeros(foreground.shape, bool)
        for number, position in enumerate(positions):
            if position >= count:
                generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, 7, position])))
                images[number], masks[number, 0] = add_blob(
                    images[number], foreground[number, 0], generator, self.value_range
                )
                batch["id"][number] += "+blob"
        batch["mask"] = torch.from_numpy(masks)
        batch["label"] = torch.tensor([int(position >= count) for position in positions])
        return batch


def add_blob(
    image: Array, foreground: Array, generator: np.random.Generator, value_range: tuple[float, float]
) -> tuple[Array, Array]:
    """Brighten or darken a soft ellipsoid inside the foreground.

    Args:
        image: ``(C, *S)`` float32.
        foreground: ``(*S)`` bool.
        generator: source of randomness.
        value_range: the result is clipped to it.

    Returns:
        tuple: the altered image and its mask ``(*S)`` bool, which is never empty.
    """
    size = np.array(image.shape[1:])
    places = np.argwhere(foreground)
    centre = places[generator.integers(len(places))] if len(places) else size // 2
    radii = np.maximum(size.min() * generator.uniform(0.05, 0.16, len(size)), 1.5)
    axes = np.ogrid[tuple(slice(0, side) for side in size)]
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    shape = np.asarray(distance) <= 1
    weight = gaussian_filter(shape.astype(np.float32), float(radii.min()) / 3) * foreground
    values = image[:, foreground] if len(places) else image.reshape(len(image), -1)
    spread = max(float(np.ptp(np.percentile(values, [2, 98]))), 0.1 * (value_range[1] - value_range[0]))
    sign = 1.0 if generator.random() < 0.5 else -1.0
    level = float(image[(slice(None), *centre)].mean())
    if not value_range[0] <= level + sign * 0.3 * spread <= value_range[1]:
        sign = -sign
    altered = np.clip(image + np.float32(sign * generator.uniform(0.3, 0.6) * spread) * weight, *value_range)
    mask = weight > 0.3 * weight.max() if weight.max() > 0 else shape
    return altered.astype(np.float32), mask
