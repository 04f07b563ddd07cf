"""Photograph-like images in ImageNet's layout."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.phantoms.fields import Array, Rng, field_2d, streams
from datamodules.phantoms.storage import Result, Settings, Truth, write_image

#: preset -> photographs, their side.
PRESETS = {"smoke": (24, 96), "small": (200, 192), "demo": (2000, 256), "full-shape": (10, 500)}
CLASSES = ("n01440764", "n02106662", "n03888257", "n07747607")


class Job(NamedTuple):
    """One photograph."""

    place: int


def jobs(settings: Settings) -> list[Job]:
    """List all photographs of the preset."""
    return [Job(place) for place in range(PRESETS[settings.preset][0])]


def photograph(rng: Rng, side: int) -> Array:
    """Return a dead-leaves picture (side, side, 3) in [0, 1]: occluding textured discs with natural edge statistics."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    out = np.zeros((side, side, 3)) + rng.uniform(0.2, 0.8, 3) * (1 + 0.2 * field_2d(rng, (side, side), 5)[..., None])
    for _ in range(120):
        # radii follow r^-3 between limits, as occlusion in natural scenes does
        radius = 0.03 / np.sqrt(1 - rng.uniform(0, 1) * (1 - (0.03 / 0.45) ** 2))
        place = rng.uniform(-0.1, 1.1, 2)
        low = np.maximum(((place - radius) * side).astype(int), 0)
        high = np.maximum(((place + radius) * side).astype(int) + 2, 0)
        part = (slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])))
        colour, knots, amount = rng.uniform(0.02, 0.98, 3), rng.uniform(4, 40), rng.uniform(0.02, 0.25)
        inside = np.hypot(rows[part] - place[0], columns[part] - place[1]) < radius
        if inside.size:
            texture = 1 + amount * field_2d(rng, inside.shape, knots)[..., None]
            out[part] = np.where(inside[..., None], colour * texture, out[part])
    return np.asarray(np.clip(out + rng.normal(0, 0.01, out.shape), 0, 1))


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one photograph."""
    rng = streams(settings.seed, "natural_images", job.place).anatomy
    folder = CLASSES[job.place % len(CLASSES)]
    path = f"train/{folder}/{folder}_{job.place + 18}.JPEG"
    write_image(root / path, (photograph(rng, PRESETS[settings.preset][1]) * 255).astype(np.uint8), 90)
    return Result([Truth(path, 0)], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of photographs only."""
