"""What the layouts of brain sets share: subjects by preset, scans on a set's official grid, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.phantoms import brain
from datamodules.phantoms.brain import Axes, Domain, LesionKind, anatomy, grow_lesion, scan
from datamodules.phantoms.fields import BOX, streams
from datamodules.phantoms.storage import Grid, Settings, healthy_path, write_volume

#: preset -> subjects of a healthy set, of a set with tumours, of one with strokes; grid divisor at 0.7 mm and at 1 mm.
PRESETS = {
    "smoke": (4, 3, 3, 4, 4),
    "small": (40, 16, 12, 3, 2),
    "demo": (120, 60, 28, 3, 2),
    "full-shape": (2, 2, 2, 1, 1),
}


class Spec(NamedTuple):
    """Official grid of a set, world coordinates of the brain centre in it, and its domain."""

    grid: Grid
    centre: tuple[float, float, float]
    domain: Domain


def straight_grid(
    shape: tuple[int, int, int], diagonal: tuple[float, float, float], origin: tuple[float, float, float]
) -> Grid:
    """The grid whose axes are those of the world, with these voxel sizes (signed) and this first voxel."""
    affine = np.diag([*diagonal, 1.0])
    affine[:3, 3] = origin
    return Grid(shape, affine)


class Job(NamedTuple):
    """One subject."""

    place: int
    lesion: LesionKind | None


def volunteers(settings: Settings) -> list[Job]:
    """Healthy subjects of the preset."""
    return [Job(place, None) for place in range(PRESETS[settings.preset][0])]


def tumour_patients(settings: Settings) -> list[Job]:
    """Patients of the preset; one in four has a low-grade glioma."""
    return [Job(place, "lgg" if place % 4 == 2 else "hgg") for place in range(PRESETS[settings.preset][1])]


def stroke_patients(settings: Settings) -> list[Job]:
    """Patients of the preset."""
    return [Job(place, "stroke") for place in range(PRESETS[settings.preset][2])]


def divisor(spec: Spec, settings: Settings) -> int:
    """How much coarser than the official one the preset's grid is."""
    fine, coarse = PRESETS[settings.preset][3:]
    return fine if abs(np.linalg.det(spec.grid.affine[:3, :3])) < 0.5 else coarse


def preset_grid(spec: Spec, settings: Settings) -> Grid:
    """The set's grid at the preset's resolution."""
    return spec.grid.coarser(divisor(spec, settings))


def prepare(settings: Settings) -> dict[str, Any]:
    """For the marker: where the tissue maps come from."""
    return {"anatomy": brain.anatomy_source()}


class Scan(NamedTuple):
    """Volumes of one subject in right-anterior-superior order on the whole grid, with healthy twins."""

    grid: Grid
    volumes: dict[str, NDArray[np.floating[Any]]]
    twins: dict[str, NDArray[np.floating[Any]]]
    labels: NDArray[np.uint8]
    tissues: NDArray[np.uint8]


def _window(grid: Grid, centre: NDArray[np.float64], skull: bool) -> tuple[tuple[slice, slice, slice], Axes]:
    """Part of the canonical grid around the head, and its coordinates in mm from the brain centre."""
    plain = grid.canonical()
    slices, axes = [], []
    for axis, half in enumerate(BOX if skull else (86.0, 104.0, 92.0)):
        place = plain.affine[axis, 3] + plain.affine[axis, axis] * np.arange(plain.shape[axis]) - centre[axis]
        low, high = np.searchsorted(place, -half), np.searchsorted(place, half)
        slices.append(slice(int(low), int(high)))
        axes.append(place[low:high].astype(np.float32))
    return (slices[0], slices[1], slices[2]), (axes[0], axes[1], axes[2])


def acquire(
    spec: Spec,
    settings: Settings,
    job: Job,
    sequences: tuple[str, ...],
    skull: bool = False,
    shift: float = 0.0,
    grid: Grid | None = None,
) -> Scan:
    """Scan one subject.

    Args:
        spec: of the set.
        settings: of the phantom.
        job: the subject.
        sequences: to acquire.
        skull: keep the head around the brain.
        shift: moves the head by so many mm along all axes (another position).
        grid: other than the set's own at the preset's resolution.
    """
    grid = preset_grid(spec, settings) if grid is None else grid
    first, again = (streams(settings.seed, settings.name, job.place) for _ in range(2))
    window, axes = _window(grid, np.array(spec.centre) + shift, skull)
    lesion = grow_lesion(first.lesion, axes, job.lesion) if job.lesion else None
    tissue = anatomy(first.anatomy, axes, spec.domain, lesion)
    contrast = 1 / settings.difficulty
    volumes = scan(first.acquisition, tissue, spec.domain, sequences, lesion, first.lesion, contrast, skull)
    twins = {}
    if lesion is not None:
        healthy = anatomy(again.anatomy, axes, spec.domain)
        twins = scan(again.acquisition, healthy, spec.domain, sequences, skull=skull)
    shape = grid.canonical().shape

    def whole(part: NDArray[Any], kind: Any) -> NDArray[Any]:
        out = np.zeros(shape, kind)
        out[window] = part
        return out

    classes = 1 + np.argmax([tissue.fluid, tissue.grey, tissue.white], axis=0)
    return Scan(
        grid,
        {key: whole(value, np.float32) for key, value in volumes.items()},
        {key: whole(value, np.float32) for key, value in twins.items()},
        whole(tissue.labels, np.uint8),
        whole(np.where(tissue.brain, classes, 0), np.uint8),
    )


def save(root: Path, scanned: Scan, paths: dict[str, str], kind: Any, scale: float = 1.0) -> None:
    """Write the sequences named in `paths` and their twins."""
    for sequence, path in paths.items():
        pairs = [(path, scanned.volumes[sequence])]
        pairs += [(healthy_path(path), scanned.twins[sequence])] if scanned.twins else []
        for place, volume in pairs:
            values = np.rint(volume) if np.issubdtype(kind, np.integer) else volume * np.float32(scale)
            write_volume(root / place, values.astype(kind), scanned.grid)
