"""MedIAnomaly's layout: `images` and the lists of `data.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from datamodules.phantoms.shapes import picture
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_image, write_text

#: preset -> training pictures, test pictures of each kind, their side.
PRESETS = {"smoke": (32, 12, 64), "small": (256, 64, 128), "demo": (1024, 256, 256), "full-shape": (4, 2, 1024)}


class Job(NamedTuple):
    """One picture."""

    number: int
    split: str
    label: int


def jobs(settings: Settings) -> list[Job]:
    """List all pictures of the preset."""
    train, test, _ = PRESETS[settings.preset]
    rows = [("train", 0)] * train + [("test", 0)] * test + [("test", 1)] * test
    return [Job(number, *row) for number, row in enumerate(rows)]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one picture, and if ill its healthy twin."""
    side = PRESETS[settings.preset][2]
    path = f"images/{job.number:05d}.png"
    write_image(root / path, picture(settings.seed, job.number, side, bool(job.label), 1 / settings.difficulty)[0])
    record = {"split": job.split, "label": str(job.label), "name": Path(path).name}
    if not job.label:
        return Result([Truth(path, 0)], record)
    write_image(root / healthy_path(path), picture(settings.seed, job.number, side, False)[0])
    return Result([Truth(path, 1, healthy_path(path))], record)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the lists."""
    lists: dict[str, dict[str, list[str]]] = {"train": {"0": []}, "test": {"0": [], "1": []}}
    for result in results:
        lists[result.record["split"]][result.record["label"]].append(result.record["name"])
    write_text(root / "data.json", json.dumps(lists, indent=1) + "\n")
