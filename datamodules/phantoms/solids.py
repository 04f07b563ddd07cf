"""Volumes for layouts without a theme of their own: a textured head in black, lesions are bright balls."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from datamodules.phantoms.storage import Grid, Settings, write_volume

#: preset -> healthy and ill subjects, grid of the files.
PRESETS = {
    "smoke": (12, 4, (32, 36, 20)),
    "small": (32, 12, (64, 72, 40)),
    "demo": (64, 24, (96, 112, 64)),
    "full-shape": (4, 2, (192, 220, 160)),
}
_SPAN = (150.0, 180.0, 130.0)  # mm


class Job(NamedTuple):
    """One subject."""

    number: int
    ill: bool


def subjects(settings: Settings) -> list[Job]:
    """Healthy subjects, then ill ones."""
    healthy, ill, _ = PRESETS[settings.preset]
    return [Job(number, number >= healthy) for number in range(healthy + ill)]


def grid_of(settings: Settings) -> Grid:
    """The grid of all files."""
    shape = PRESETS[settings.preset][2]
    affine = np.diag([*(span / side for span, side in zip(_SPAN, shape, strict=True)), 1.0])
    affine[:3, 3] = [-span / 2 for span in _SPAN]
    return Grid(shape, affine)


def solid(
    settings: Settings, number: int, ill: bool, kind: int = 0
) -> tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.bool_]]:
    """One volume, its head and its lesion, right-anterior-superior.

    Args:
        settings: seed, preset and difficulty.
        number: of the subject; the lesion has a random stream of its own, so that the healthy twin is exact.
        ill: add a lesion.
        kind: of the sequence.
    """
    shape = PRESETS[settings.preset][2]
    anatomy, lesion = (np.random.Generator(np.random.PCG64([settings.seed, number, stream])) for stream in (7, 8))
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    radii = anatomy.uniform(0.68, 0.8, 3)
    distance = sum((axis / radius) ** 2 for axis, radius in zip(axes, radii, strict=True))
    head = np.asarray(distance < 1)
    texture = gaussian_filter(anatomy.standard_normal(shape), shape[0] / 14)
    image = (
        500 + 120 * texture / texture.std() + 150 * np.cos(3 * distance + kind) + 15 * anatomy.standard_normal(shape)
    )
    mask = np.zeros(shape, bool)
    if ill:
        centre, radius = lesion.uniform(-0.35, 0.35, 3), lesion.uniform(0.14, 0.24)
        mask = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True)) < radius**2
        mask = np.asarray(mask & head)
        image = image + mask * lesion.uniform(350, 600) / settings.difficulty
    return np.where(head, image.clip(1, 3000), 0).astype(np.int16), head, mask


def save(path: Path, volume: NDArray[np.int16] | NDArray[np.bool_], settings: Settings) -> None:
    """Write a volume or a mask as NIfTI."""
    write_volume(path, volume.astype(np.uint8) if volume.dtype == bool else volume, grid_of(settings))
