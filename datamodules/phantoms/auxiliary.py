"""Auxiliary sources for blending: MOOD's abdominal CT and photograph-like images in ImageNet's layout."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.phantoms.fields import Array, Rng, field_2d, field_3d, streams
from datamodules.phantoms.storage import Grid, Result, Settings, Truth, write_image, write_volume

#: preset -> abdomens, divisor of their 512^3 grid, photographs, side of a photograph.
PRESETS = {
    "smoke": (3, 8, 24, 96),
    "small": (16, 6, 200, 192),
    "demo": (60, 4, 2000, 256),
    "full-shape": (2, 1, 10, 500),
}
CLASSES = ("n01440764", "n02106662", "n03888257", "n07747607")


class Job(NamedTuple):
    """One volume or photograph."""

    place: int


def jobs(settings: Settings) -> list[Job]:
    """List all files of the preset."""
    abdomens, _, photographs, _ = PRESETS[settings.preset]
    return [Job(place) for place in range(abdomens if settings.name == "mood_abdomen" else photographs)]


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
        return np.sqrt(terms[0] + terms[1] + terms[2]) + bend

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
    """Write one volume or photograph."""
    rng = streams(settings.seed, settings.name, job.place).anatomy
    _, divisor, _, side = PRESETS[settings.preset]
    if settings.name == "mood_abdomen":
        affine = np.diag([0.75, 0.75, 0.75, 1.0])
        affine[:3, 3] = -0.75 * 255.5
        grid = Grid((512, 512, 512), affine).coarser(divisor)
        path = f"abdom_train/{job.place:05d}.nii.gz"
        write_volume(root / path, abdomen(rng, grid), grid)
    else:
        folder = CLASSES[job.place % len(CLASSES)]
        path = f"train/{folder}/{folder}_{job.place + 18}.JPEG"
        write_image(root / path, (photograph(rng, side) * 255).astype(np.uint8), 90)
    return Result([Truth(path, 0)], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Both sets consist of images only."""
