"""ISLES 2022's BIDS tree: FLAIR, DWI and ADC on grids of their own, the outline on that of DWI."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms.brain import STROKES
from datamodules.phantoms.brain_scans import Job, Spec, acquire, divisor, prepare, save, straight_grid, stroke_patients
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_volume

__all__ = ["SPEC", "finish", "jobs", "prepare", "render"]
SPEC = Spec(straight_grid((192, 256, 192), (1, 1, 1), (-95.5, -127.5, -95.5)), (0, 0, 0), STROKES)
_DIFFUSION = straight_grid((112, 112, 73), (-2, 2, 2), (111, -111, -72))
jobs = stroke_patients


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write the three images and the outline of one patient."""
    subject = f"sub-strokecase{1 + job.place:04d}"
    stem = f"{subject}/ses-0001/{{}}/{subject}_ses-0001_{{}}.nii.gz"
    flair = {"flair": stem.format("anat", "FLAIR")}
    save(root, acquire(SPEC, settings, job, ("flair",)), flair, np.float32)
    # twice the voxel: at most half the coarsening
    grid = _DIFFUSION.coarser(max(1, divisor(SPEC, settings) // 2))
    diffusion = acquire(SPEC, settings, job, ("dwi", "adc"), grid=grid)
    paths = {"dwi": stem.format("dwi", "dwi"), "adc": stem.format("dwi", "adc")}
    save(root, diffusion, paths, np.float32)
    mask = f"derivatives/{subject}/ses-0001/{subject}_ses-0001_msk.nii.gz"
    write_volume(root / mask, diffusion.labels, grid)
    return Result([Truth(path, 1, healthy_path(path), mask) for path in (*flair.values(), *paths.values())], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of volumes only."""
