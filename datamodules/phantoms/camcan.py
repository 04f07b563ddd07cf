"""Cam-CAN's BIDS tree: T1w and T2w heads with skull, 1 mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms.brain import AGEING
from datamodules.phantoms.brain_scans import Job, Spec, acquire, prepare, save, straight_grid, volunteers
from datamodules.phantoms.storage import Result, Settings, Truth

__all__ = ["SPEC", "finish", "jobs", "prepare", "render"]
SPEC = Spec(straight_grid((192, 256, 256), (1, 1, 1), (-95.5, -127.5, -127.5)), (0, 0, 0), AGEING)
jobs = volunteers


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write both sequences of one subject."""
    scanned = acquire(SPEC, settings, job, ("t1", "t2"), skull=True)
    subject = f"sub-CC{110033 + 1009 * job.place:06d}"
    folder = f"cc700/mri/pipeline/release004/BIDS_20190411/anat/{subject}/anat"
    paths = {"t1": f"{folder}/{subject}_T1w.nii.gz", "t2": f"{folder}/{subject}_T2w.nii.gz"}
    save(root, scanned, paths, np.int16)
    return Result([Truth(path, 0) for path in paths.values()], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of volumes only."""
