"""MedMNIST's container: one ``.npz`` with pictures of 28 x 28 pixels and labels, 0 normal and 1 with a spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.phantoms.shapes import picture
from datamodules.phantoms.storage import Result, Settings

#: preset -> training, validation and test pictures.
PRESETS = {
    "smoke": (256, 64, 128),
    "small": (1024, 128, 256),
    "demo": (4708, 524, 624),
    "full-shape": (16, 8, 8),
}
PARTS = ("train", "val", "test")
SUBSET = "pneumoniamnist"


class Job(NamedTuple):
    """One part: its name, number of pictures and the number of the first one."""

    part: str
    pictures: int
    first: int


def jobs(settings: Settings) -> list[Job]:
    """The three parts."""
    counts = PRESETS[settings.preset]
    return [Job(part, counts[i], sum(counts[:i])) for i, part in enumerate(PARTS)]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Draw one part; :func:`finish` writes it."""
    labels = np.arange(job.pictures) % 2
    contrast = 1 / settings.difficulty
    large = [picture(settings.seed, job.first + i, 56, bool(ill), contrast)[0] for i, ill in enumerate(labels)]
    small = [image.reshape(28, 2, 28, 2).mean((1, 3)) for image in large]
    columns = labels.astype(np.uint8)[:, None]
    if settings.layout.startswith("chestmnist"):  # fourteen findings, none of them in normal films
        columns = columns * (np.arange(14) == np.arange(job.pictures)[:, None] % 14).astype(np.uint8)
    arrays = {
        f"{job.part}_images": np.rint(small).astype(np.uint8),
        f"{job.part}_labels": columns,
    }
    return Result([], arrays)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the container of the subset that the layout names."""
    arrays: dict[str, Any] = {key: value for result in results for key, value in result.record.items()}
    subset = SUBSET if settings.layout == "official" else settings.layout
    np.savez_compressed(root / f"{subset}.npz", **arrays)
