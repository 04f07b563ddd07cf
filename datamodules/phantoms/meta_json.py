"""Uni-Medical: three classes of pictures with outlines, listed in ``meta.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.phantoms.shapes import head, picture
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_image, write_text

#: preset -> training pictures and test pictures of each kind, a class; their side.
PRESETS = {"smoke": (16, 6, 64), "small": (96, 24, 128), "demo": (384, 96, 256), "full-shape": (2, 1, 512)}
CLASSES = ("brain", "liver", "retinal")


class Job(NamedTuple):
    """One picture."""

    number: int
    name: str
    part: str
    ill: bool


def jobs(settings: Settings) -> list[Job]:
    """List all pictures of the preset."""
    train, test, _ = PRESETS[settings.preset]
    rows = [("train", False)] * train + [("test", False)] * test + [("test", True)] * test
    each = [(name, *row) for name in CLASSES for row in rows]
    return [Job(number, *row) for number, row in enumerate(each)]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one picture, and if ill its outline and its healthy twin."""
    side, draw = PRESETS[settings.preset][2], head if job.name == "brain" else picture
    image, mask = draw(settings.seed, job.number, side, job.ill, 1 / settings.difficulty)
    image = image[::-1] if job.name == "retinal" else image
    kind, file = "Ungood" if job.ill else "good", f"{job.number // 2:05d}_{60 + job.number % 2}.png"
    path = f"{job.name}/{job.part}/{kind}/{file}"
    write_image(root / path, image)
    place = f"{job.name}/ground_truth/{kind}/{file}" if job.ill else ""
    entry = {"img_path": path, "mask_path": place, "cls_name": job.name, "specie_name": kind, "anomaly": int(job.ill)}
    record = {"part": job.part, "name": job.name, "entry": entry}
    if not job.ill:
        return Result([Truth(path, 0)], record)
    write_image(root / place, (mask[::-1] if job.name == "retinal" else mask).astype(np.uint8) * 255)
    twin = draw(settings.seed, job.number, side, False)[0]
    write_image(root / healthy_path(path), twin[::-1] if job.name == "retinal" else twin)
    return Result([Truth(path, 1, healthy_path(path), place)], record)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the lists."""
    lists: dict[str, dict[str, list[object]]] = {part: {name: [] for name in CLASSES} for part in ("train", "test")}
    for result in results:
        lists[result.record["part"]][result.record["name"]].append(result.record["entry"])
    write_text(root / "meta.json", json.dumps(lists, indent=1) + "\n")
