"""HCP's structural release: T1w and T2w without skull and FreeSurfer's maps, 0.7 mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms.brain import YOUNG
from datamodules.phantoms.brain_scans import Job, Spec, acquire, prepare, save, straight_grid, volunteers
from datamodules.phantoms.storage import Result, Settings, Truth, write_volume

__all__ = ["SPEC", "finish", "jobs", "prepare", "render"]
SPEC = Spec(straight_grid((260, 311, 260), (-0.7, 0.7, 0.7), (90, -126, -72)), (0, -18, 8), YOUNG)
jobs = volunteers


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write both sequences and the maps of FreeSurfer of one subject."""
    scanned = acquire(SPEC, settings, job, ("t1", "t2"))
    subject = str(100206 + 907 * job.place)
    folder = f"{subject}/T1w"
    # spline interpolation leaves a few negative voxels inside the real brains; loaders must survive them
    t2 = scanned.volumes["t2"]
    inside = np.flatnonzero(scanned.tissues)
    t2.flat[inside[:: max(1, len(inside) // 20)]] *= -0.01
    paths = {"t1": f"{folder}/T1w_acpc_dc_restore_brain.nii.gz", "t2": f"{folder}/T2w_acpc_dc_restore_brain.nii.gz"}
    save(root, scanned, paths, np.float32)
    right = np.arange(scanned.tissues.shape[0])[:, None, None] > scanned.tissues.shape[0] // 2
    brain = scanned.tissues > 0
    # FreeSurfer numbers: fluid 24, cortex 3 / 42, white matter 2 / 41
    parts = np.select([scanned.tissues == n for n in (1, 2, 3)], [24, np.where(right, 42, 3), np.where(right, 41, 2)])
    write_volume(root / folder / "brainmask_fs.nii.gz", brain.astype(np.uint8), scanned.grid)
    for name in ("wmparc", "aparc+aseg"):
        write_volume(root / folder / f"{name}.nii.gz", parts.astype(np.int16), scanned.grid)
    ribbon = np.where(np.isin(parts, (2, 3, 41, 42)), parts, 0)
    write_volume(root / folder / "ribbon.nii.gz", ribbon.astype(np.int16), scanned.grid)
    return Result([Truth(path, 0) for path in paths.values()], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of volumes only."""
