"""BIDS: controls and patients with age and sex, masks of brains and lesions below ``derivatives``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms.solids import Job, save, solid, subjects
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_csv, write_text

jobs = subjects


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one participant, and if ill the outline and the healthy twin."""
    person = f"sub-{job.number:03d}"
    path = f"{person}/anat/{person}_T1w.nii.gz"
    volume, head, mask = solid(settings, job.number, job.ill)
    save(root / path, volume, settings)
    place = f"derivatives/masks/{person}/anat/{person}"
    save(root / f"{place}_desc-brain_mask.nii.gz", head, settings)
    chance = np.random.Generator(np.random.PCG64([settings.seed, job.number, 9]))
    row = (person, str(chance.integers(20, 80)), "FM"[job.number % 2], "patient" if job.ill else "control")
    if not job.ill:
        return Result([Truth(path, 0)], {"row": row})
    outline = f"{place}_label-lesion_mask.nii.gz"
    save(root / outline, mask, settings)
    save(root / healthy_path(path), solid(settings, job.number, False)[0], settings)
    return Result([Truth(path, 1, healthy_path(path), outline)], {"row": row})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the table of participants and the description."""
    header = ("participant_id", "age", "sex", "group")
    write_csv(root / "participants.tsv", header, [result.record["row"] for result in results], "\t")
    write_text(root / "dataset_description.json", '{"Name": "phantom", "BIDSVersion": "1.8.0"}\n')
