"""The user's own folders: healthy pictures to train on, healthy and anomalous ones with masks to test on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.phantoms.shapes import picture
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path

#: preset -> training, normal test and anomalous test pictures, their side.
PRESETS = {
    "smoke": (64, 16, 16, 64),
    "small": (256, 64, 64, 128),
    "demo": (1024, 256, 256, 128),
    "full-shape": (4, 2, 2, 1024),
}
FOLDERS = ("train/normal", "test/normal", "test/anomalous")


class Job(NamedTuple):
    """One picture."""

    number: int
    folder: str
    side: int


def jobs(settings: Settings) -> list[Job]:
    """List all pictures of the preset."""
    *counts, side = PRESETS[settings.preset]
    folders = [folder for folder, count in zip(FOLDERS, counts, strict=True) for _ in range(count)]
    return [Job(number, folder, side) for number, folder in enumerate(folders)]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one picture, and if anomalous its mask and its healthy twin."""
    anomalous = job.folder == "test/anomalous"
    image, mask = picture(settings.seed, job.number, job.side, anomalous, 1 / settings.difficulty)
    path = f"{job.folder}/{job.number:04d}.png"
    _save(root / path, image)
    if not anomalous:
        return Result([Truth(path, 0)], {})
    place = f"masks/{job.number:04d}.png"
    _save(root / place, mask.astype(np.uint8) * 255)
    _save(root / healthy_path(path), picture(settings.seed, job.number, job.side, False)[0])
    return Result([Truth(path, 1, healthy_path(path), place)], {})


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """The set consists of pictures only."""
