"""nnU-Net's raw folders: one channel, label 1 is a lesion, the labels of healthy cases are empty."""

from __future__ import annotations

import json
from pathlib import Path

from datamodules.phantoms.solids import Job, save, solid, subjects
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_text

jobs = subjects


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one case with its label, and if ill its healthy twin."""
    case = f"case_{job.number:03d}"
    path, label = f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"
    volume, _, mask = solid(settings, job.number, job.ill)
    save(root / path, volume, settings)
    save(root / label, mask, settings)
    if not job.ill:
        return Result([Truth(path, 0, mask=label)], {})
    save(root / healthy_path(path), solid(settings, job.number, False)[0], settings)
    return Result([Truth(path, 1, healthy_path(path), label)], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write ``dataset.json``."""
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(results),
        "file_ending": ".nii.gz",
    }
    write_text(root / "dataset.json", json.dumps(about, indent=1) + "\n")
