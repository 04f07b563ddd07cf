"""IXI's flat folder: heads with skull, T1 sagittal (stored posterior-superior-right, 1.2 mm), T2 axial."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms.brain import AGEING
from datamodules.phantoms.brain_scans import Job, Spec, acquire, divisor, prepare, save, straight_grid, volunteers
from datamodules.phantoms.storage import Grid, Result, Settings, Truth

__all__ = ["SPEC", "finish", "jobs", "prepare", "render"]
_AFFINE = np.array([[0, 0, 1.2, -89.4], [-0.94, 0, 0, 119.8], [0, 0.94, 0, -119.8], [0, 0, 0, 1.0]])
SPEC = Spec(Grid((256, 256, 150), _AFFINE), (0, 0, 10), AGEING)
jobs = volunteers


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write both sequences of one subject, each in a frame of its own."""
    stem = f"IXI{2 + 10 * job.place:03d}-{('Guys', 'HH', 'IOP')[job.place % 3]}-{828 + 7 * job.place:04d}"
    axial = straight_grid((256, 256, 130), (-0.94, -0.94, 1.25), (119.8, 119.8, -80.6)).coarser(divisor(SPEC, settings))
    t1, t2 = f"{stem}-T1.nii.gz", f"{stem}-T2.nii.gz"
    save(root, acquire(SPEC, settings, job, ("t1",), skull=True), {"t1": t1}, np.int16)
    save(root, acquire(SPEC, settings, job, ("t2",), skull=True, shift=2.0, grid=axial), {"t2": t2}, np.int16)
    return Result([Truth(t1, 0), Truth(t2, 0)], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of volumes only."""
