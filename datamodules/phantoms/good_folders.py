"""Trees of ``good`` folders: MVTec's by default, BMAD's with ``valid`` and masks beside ``img``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.phantoms.shapes import picture
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_image

#: preset -> training, validation (each kind, BMAD only) and test pictures (each kind), their side.
PRESETS = {
    "smoke": (32, 4, 12, 64),
    "small": (256, 16, 64, 128),
    "demo": (1024, 32, 256, 128),
    "full-shape": (4, 2, 2, 240),
}


class Job(NamedTuple):
    """One picture."""

    number: int
    part: str
    ill: bool


def jobs(settings: Settings) -> list[Job]:
    """List all pictures of the preset."""
    train, valid, test, _ = PRESETS[settings.preset]
    rows = [("train", False)] * train + [("test", False)] * test + [("test", True)] * test
    if settings.layout == "bmad":
        rows += [("valid", False)] * valid + [("valid", True)] * valid
    return [Job(number, *row) for number, row in enumerate(rows)]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one picture, and if ill its mask and its healthy twin; every tenth of BMAD's masks is empty."""
    side, bmad = PRESETS[settings.preset][3], settings.layout == "bmad"
    image, mask = picture(settings.seed, job.number, side, job.ill, 1 / settings.difficulty)
    name = f"{job.number // 4:05d}_{60 + job.number % 4}" if bmad else f"{job.number:03d}"
    kind = ("Ungood" if bmad else "spot") if job.ill else "good"
    path = f"{job.part}/{kind}/{'img/' if bmad and job.part != 'train' else ''}{name}.png"
    write_image(root / path, image)
    if not job.ill:
        return Result([Truth(path, 0)], {})
    place = f"{job.part}/{kind}/anomaly_mask/{name}.png" if bmad else f"ground_truth/{kind}/{name}_mask.png"
    shown = mask & (not bmad or job.number % 10 != 0)
    write_image(root / place, shown.astype(np.uint8) * 255)
    write_image(root / healthy_path(path), picture(settings.seed, job.number, side, False)[0])
    return Result([Truth(path, 1, healthy_path(path), place)], {})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of pictures only."""
