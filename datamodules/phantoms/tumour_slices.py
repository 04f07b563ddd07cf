"""MedIAnomaly's BraTS2021: slices of heads with bright spots, their outlines, patients in the names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.phantoms.shapes import head
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_image

#: preset -> training slices, test slices of each kind, their side.
PRESETS = {"smoke": (40, 12, 64), "small": (256, 64, 128), "demo": (1024, 256, 208), "full-shape": (8, 4, 208)}
_A_PATIENT = 4  # slices


class Job(NamedTuple):
    """One slice."""

    number: int
    part: str
    ill: bool


def jobs(settings: Settings) -> list[Job]:
    """List all slices of the preset."""
    train, test, _ = PRESETS[settings.preset]
    rows = [("train", False)] * train + [("test/normal", False)] * test + [("test/tumor", True)] * test
    return [Job(number, *row) for number, row in enumerate(rows)]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one slice, and if ill its outline and its healthy twin."""
    side = PRESETS[settings.preset][2]
    image, mask = head(settings.seed, job.number, side, job.ill, 1 / settings.difficulty)
    patient, number = job.number // _A_PATIENT, 70 + job.number % _A_PATIENT
    name = f"BraTS2021_{patient:05d}_flair_{number}.png"
    path = f"{job.part}/{name}"
    write_image(root / path, image)
    if not job.ill:
        return Result([Truth(path, 0)], {})
    place = f"test/annotation/{name.replace('flair', 'seg')}"
    write_image(root / place, mask.astype(np.uint8) * 255)
    write_image(root / healthy_path(path), head(settings.seed, job.number, side, False)[0])
    return Result([Truth(path, 1, healthy_path(path), place)], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of pictures only."""
