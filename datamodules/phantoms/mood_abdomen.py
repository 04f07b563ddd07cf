"""MOOD's abdominal part: CT volumes in [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.phantoms.fields import Array, Rng, field_3d, streams
from datamodules.phantoms.storage import Grid, Result, Settings, Truth, write_volume

#: preset -> abdomens, divisor of their 512^3 grid.
PRESETS = {"smoke": (3, 8), "small": (16, 6), "demo": (60, 4), "full-shape": (2, 1)}


class Job(NamedTuple):
    """One volume."""

    place: int


def jobs(settings: Settings) -> list[Job]:
    """List all volumes of the preset."""
    return [Job(place) for place in range(PRESETS[settings.preset][0])]


def abdomen(rng: Rng, grid: Grid) -> Array:
    """Return an abdominal CT in [0, 1], float32: body, fat, liver, spleen, kidneys, spine, bowel gas."""
    plain = grid.canonical()
    x, y, z = (plain.affine[i, 3] + plain.affine[i, i] * np.arange(n) for i, n in enumerate(plain.shape))
    out = np.empty(plain.shape, np.float32)
    before = rng.bit_generator.state
    after = None
    # the official 512^3 voxels would take several GB at once; every slab replays the same draws
    for start in range(0, len(x), 32):
        rng.bit_generator.state = before
        part = _organs(rng, (x[start : start + 32], y, z))
        rng.bit_generator.state = after or rng.bit_generator.state
        noisy = part + (part > 0) * rng.normal(0, 0.012, part.shape)
        after = rng.bit_generator.state
        out[start : start + 32] = np.clip(noisy, 0, 1)
    return out


def _organs(rng: Rng, axes: tuple[Array, Array, Array]) -> Array:
    """Grey values without noise on a grid of millimetres, 0 outside the body."""
    # the fields' box is a head's; a body is about twice as large
    scaled = (axes[0] / 2, axes[1] / 2, axes[2] / 2)
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    bend = field_3d(rng, scaled, 30, 0.06)

    def blob(centre: tuple[float, float, float], size: tuple[float, float, float]) -> Array:
        place = np.array(centre) + rng.normal(0, 4, 3)
        extent = np.array(size) * np.exp(rng.normal(0, 0.08, 3))
        terms = [((axis - c) / s) ** 2 for axis, c, s in zip((x, y, z), place, extent, strict=True)]
        distance: Array = np.sqrt(terms[0] + terms[1] + terms[2]) + bend
        return distance

    body = blob((0, 0, 0), (165, 115, 1000))
    out = np.where(body < 1, 0.42, 0.0)
    out = np.where(body < 0.86, 0.52, out)
    out = np.where(body < 0.80, 0.44 + 0.03 * np.clip(field_3d(rng, scaled, 12), -2, 2), out)
    organs = (
        ((75, 15, 60), (75, 70, 75), 0.60),
        ((-95, -30, 70), (35, 45, 50), 0.62),
        ((60, -50, -20), (28, 28, 55), 0.66),
        ((-60, -50, -10), (28, 28, 55), 0.66),
        ((-45, 40, 70), (50, 40, 40), 0.54),
    )
    for centre, size, value in organs:
        out = np.where((blob(centre, size) < 1) & (body < 0.83), value, out)
    out = np.where(np.hypot(x - 8, y + 45) + 0 * z < 11, 0.70, out)
    spine = np.hypot(x, (y + 75) * 1.1) + 6 * bend
    out = np.where(spine < 22 + 2 * np.cos(z * 2 * np.pi / 32), 0.78 + 0.12 * (spine > 17), out)
    gas = (field_3d(rng, scaled, 14) > 1.9) & (body < 0.7) & (y > 0) & (z < 20)
    return np.where(gas, 0.06, out)


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one volume."""
    rng = streams(settings.seed, "mood_abdomen", job.place).anatomy
    affine = np.diag([0.75, 0.75, 0.75, 1.0])
    affine[:3, 3] = -0.75 * 255.5
    grid = Grid((512, 512, 512), affine).coarser(PRESETS[settings.preset][1])
    path = f"abdom_train/{job.place:05d}.nii.gz"
    write_volume(root / path, abdomen(rng, grid), grid)
    return Result([Truth(path, 0)], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of volumes only."""
