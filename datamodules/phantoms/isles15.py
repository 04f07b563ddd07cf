"""ISLES 2015, SISS: four sequences and the outline of each patient, every one in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms.brain import STROKES
from datamodules.phantoms.brain_scans import (
    Job,
    Spec,
    acquire,
    divisor,
    prepare,
    preset_grid,
    save,
    straight_grid,
    stroke_patients,
)
from datamodules.phantoms.storage import Grid, Result, Settings, Truth, healthy_path, write_volume

__all__ = ["SPEC", "finish", "jobs", "prepare", "render"]
SPEC = Spec(straight_grid((230, 230, 154), (-1, 1, 1), (114.5, -114.5, -72)), (0, 0, 0), STROKES)
jobs = stroke_patients


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write the four sequences and the outline of one patient."""
    grid = preset_grid(SPEC, settings)
    if job.place % 2 and divisor(SPEC, settings) == 1:
        grid = Grid((grid.shape[0], grid.shape[1], grid.shape[2] - 1), grid.affine)
    scanned = acquire(SPEC, settings, job, ("dwi", "flair", "t1", "t2"), grid=grid)
    names = {"dwi": "MR_DWI", "flair": "MR_Flair", "t1": "MR_T1", "t2": "MR_T2"}
    paths = {}
    for number, (sequence, name) in enumerate(names.items()):
        stem = f"VSD.Brain.XX.O.{name}.{70613 + 6 * job.place + number}"
        paths[sequence] = f"SISS2015_Training/{1 + job.place}/{stem}/{stem}.nii"
    save(root, scanned, paths, np.int16)
    stem = f"VSD.Brain.XX.O.OT.{70617 + 6 * job.place}"
    mask = f"SISS2015_Training/{1 + job.place}/{stem}/{stem}.nii"
    write_volume(root / mask, scanned.labels, grid)
    return Result([Truth(path, 1, healthy_path(path), mask) for path in paths.values()], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of volumes only."""
