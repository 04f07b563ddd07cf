"""Validation without real anomalies: healthy images, as they are and with synthetic anomalies.

The anomalies are those of :mod:`zoo.synthetic` and a soft blob, all kinds in turn, except what the method was trained
on: a model is judged by anomalies of kinds that it has not seen.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import find_objects, gaussian_filter
from torch.utils.data import Dataset

from datamodules.loading import Batch, CachedImages
from datamodules.reading import Array
from zoo.synthetic import anomaly_label, synthesise
from zoo.synthetic.folds import TASK_NAMES
from zoo.synthetic.sources import ImagesOfSplit
from zoo.synthetic.tasks import five_tasks

KINDS = (*TASK_NAMES, "blob")
ALIKE = {"blob": "smooth_intensity"}  # kinds that are another task by a different name
_VISIBLE = 0.1  # label from which a pixel counts: a change of 4.6 % of the range
_TRIES = 8


class _Change(NamedTuple):
    """The box of an image that differs from the healthy one, the new values there, and the mask."""

    box: tuple[slice, ...]
    values: Array
    mask: Array


def unseen_kinds(trained: Collection[str]) -> tuple[str, ...]:
    """Kinds of anomalies that a method trained on the tasks ``trained`` has not seen, nor anything alike."""
    return tuple(kind for kind in KINDS if kind not in trained and ALIKE.get(kind) not in trained)


def _scaled(batch: Batch, *, middle: float, half: float) -> torch.Tensor:
    image: torch.Tensor = batch["image"]
    return (image - middle) / half


class WithSyntheticAnomalies(Dataset[Batch]):
    """The healthy images, followed by the same images with synthetic anomalies.

    The anomalies of an image are a function of the seed and the image's position: every validation sees the same ones.
    They are made once and kept (the changed boxes only), by each loader process for itself. An image on which no
    attempt leaves a visible change stays healthy.

    Args:
        healthy: the images.
        seed: of the anomalies.
        value_range: of the images; bounds the result.
        scale: values that the tasks take for -1 and 1: ``value_range``, or (-1, 1) for z-scores.
        kinds: of anomalies, in turn; see :func:`unseen_kinds`.
    """

    def __init__(
        self,
        healthy: CachedImages,
        seed: int,
        value_range: tuple[float, float],
        scale: tuple[float, float] | None = None,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        self.healthy, self.seed, self.value_range, self.kinds = healthy, seed, value_range, kinds
        low, high = value_range if scale is None else scale
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        own = ImagesOfSplit(healthy, partial(_scaled, middle=self.middle, half=self.half))
        # patches of the inverted images stand for those of another data set
        inverted = ImagesOfSplit(healthy, partial(_scaled, middle=self.middle, half=-self.half))
        self.sources: dict[str, Any] = {"intra_blend": own, "inter_blend": inverted}
        self._made: dict[int, _Change | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": {}}

    def __len__(self) -> int:
        return 2 * len(self.healthy)

    def __getitem__(self, index: int) -> Batch:
        batch = self.__getitems__([index])
        return {key: value[0] for key, value in batch.items()}

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The batch of these positions; ids of altered images end in ``+KIND``."""
        count = len(self.healthy)
        batch = self.healthy.__getitems__([position % count for position in positions])
        images, foreground = batch["image"].numpy(), batch["foreground"].numpy()
        masks = np.zeros(foreground.shape, bool)
        for number, position in enumerate(positions):
            if position < count:
                continue
            if position not in self._made:
                self._made[position] = self._make(position, images[number], foreground[number, 0])
            change = self._made[position]
            if change is not None:
                images[number][(slice(None), *change.box)] = change.values
                masks[number, 0][change.box] = change.mask
            batch["id"][number] += f"+{self._kind(position)}"
        batch["mask"] = torch.from_numpy(masks)
        batch["label"] = batch["mask"].flatten(1).any(1).long()
        return batch

    def _kind(self, position: int) -> str:
        return self.kinds[position % len(self.healthy) % len(self.kinds)]

    def _make(self, position: int, image: Array, foreground: Array) -> _Change | None:
        kind = self._kind(position)
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, 7, position])))
        if kind == "blob":
            return _difference(image, *add_blob(image, foreground, generator, self.value_range))
        task = five_tasks(max_push=max(0.04 * min(image.shape[1:]), 1.0))[TASK_NAMES.index(kind)]
        original = (image - np.float32(self.middle)) / np.float32(self.half)
        for _ in range(_TRIES):
            altered, mask = synthesise(
                original,
                task,
                generator,
                sources=self.sources.get(kind),
                foreground=foreground if foreground.any() else None,
            )
            visible = anomaly_label(altered, original, mask) > _VISIBLE
            if visible.any():
                values = np.clip(altered * np.float32(self.half) + np.float32(self.middle), *self.value_range)
                return _difference(image, np.where(mask, values, image), visible)
        return None


def _difference(image: Array, altered: Array, mask: Array) -> _Change:
    """What the altered image and its mask hold inside the bounding box of all changes."""
    box = find_objects(((altered != image).any(0) | mask).astype(np.uint8))[0]
    return _Change(box, altered[(slice(None), *box)].copy(), mask[box].copy())


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
