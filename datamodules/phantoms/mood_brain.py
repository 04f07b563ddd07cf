"""MOOD's brain part: training volumes in [0, 1] and the toy cases with their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms.brain import YOUNG
from datamodules.phantoms.brain_scans import PRESETS, Job, Spec, acquire, prepare, save, straight_grid, volunteers
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, mask_path, write_text, write_volume

__all__ = ["SPEC", "finish", "jobs", "prepare", "render"]
SPEC = Spec(straight_grid((256, 256, 256), (0.7, 0.7, 0.7), (-89.25, -89.25, -89.25)), (0, 0, 0), YOUNG)


def jobs(settings: Settings) -> list[Job]:
    """The training volumes and four toy cases, two of them with a tumour."""
    healthy = volunteers(settings)
    return [*healthy, *(Job(len(healthy) + k, "hgg" if k % 2 else None) for k in range(4))]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one training volume, or one of the four toy cases with its labels."""
    scanned = acquire(SPEC, settings, job, ("t1",))
    training = PRESETS[settings.preset][0]
    if job.place < training:
        path = f"brain_train/{job.place:05d}.nii.gz"
    else:
        path = f"toy/toy_{job.place - training}.nii.gz"
        write_volume(root / "toy_label/pixel" / Path(path).name, (scanned.labels > 0).astype(np.uint8), scanned.grid)
        write_text(root / "toy_label/sample" / f"{Path(path).name}.txt", str(int(scanned.labels.any())))
    save(root, scanned, {"t1": path}, np.float32, 1 / max(1.0, float(scanned.volumes["t1"].max())))
    if not scanned.twins:
        return Result([Truth(path, 0)], {})
    mask = mask_path(path, ".nii.gz")
    write_volume(root / mask, (scanned.labels > 0).astype(np.uint8), scanned.grid)
    return Result([Truth(path, 1, healthy_path(path), mask)], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of volumes only."""
