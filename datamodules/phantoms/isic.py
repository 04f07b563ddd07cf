"""ISIC 2018, task 3: skin with a dark spot; the lesions that are no moles have a brighter one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.phantoms.shapes import picture
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_csv, write_image

#: preset -> training moles, test pictures of each kind, their side.
PRESETS = {"smoke": (32, 12, 64), "small": (256, 64, 128), "demo": (1024, 256, 256), "full-shape": (4, 2, 450)}
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


class Job(NamedTuple):
    """One picture."""

    number: int
    part: str
    kind: str


def jobs(settings: Settings) -> list[Job]:
    """List all pictures of the preset; some lesions of the training part are no moles and are not used."""
    train, test, _ = PRESETS[settings.preset]
    others = [kind for kind in CLASSES if kind != "NV"]
    rows = [("Training", "NV")] * train + [("Training", kind) for kind in others] + [("Test", "NV")] * test
    rows += [("Test", others[number % len(others)]) for number in range(test)]
    return [Job(number, *row) for number, row in enumerate(rows)]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one picture, and if it shows no mole its healthy twin."""
    side, ill = PRESETS[settings.preset][2], job.kind != "NV"
    name = f"ISIC_{24306 + job.number:07d}"
    path = f"ISIC2018_Task3_{job.part}_Input/{name}.jpg"
    images = [picture(settings.seed, job.number, side, spot, 1 / settings.difficulty)[0] for spot in (ill, False)]
    skin = [np.stack([255 - image // 3, 200 - image // 2, 180 - image // 2], -1).astype(np.uint8) for image in images]
    write_image(root / path, skin[0])
    record = {"part": job.part, "name": name, "kind": job.kind, "lesion": f"HAM_{job.number // 2:07d}"}
    if not ill:
        return Result([Truth(path, 0)], record)
    write_image(root / healthy_path(path), skin[1])
    return Result([Truth(path, 1, healthy_path(path))], record)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the tables."""
    for part in ("Training", "Test"):
        own = [result.record for result in results if result.record["part"] == part]
        rows = [[one["name"], *(f"{float(one['kind'] == kind)}" for kind in CLASSES)] for one in own]
        name = f"ISIC2018_Task3_{part}_GroundTruth"
        write_csv(root / name / f"{name}.csv", ("image", *CLASSES), rows)
        if part == "Training":
            groups = [(one["name"], one["lesion"], "histopathology") for one in own]
            header = ("image", "lesion_id", "diagnosis_confirm_type")
            write_csv(root / "ISIC2018_Task3_Training_LesionGroupings.csv", header, groups)
