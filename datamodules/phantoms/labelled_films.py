"""Chest films with a table of ages and sexes: NIH's layout, or CheXpert's. A breast shadow marks women."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.phantoms.shapes import picture
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_csv, write_image, write_text

#: preset -> patients, their side; two films each, one patient of three is ill.
PRESETS = {"smoke": (36, 64), "small": (256, 128), "demo": (1024, 256), "full-shape": (6, 1024)}
_NIH = (
    *("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position"),
    *("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"),
)
_FINDINGS = ("Cardiomegaly", "Lung Opacity", "Edema", "Support Devices")


class Job(NamedTuple):
    """One film."""

    patient: int
    number: int


def jobs(settings: Settings) -> list[Job]:
    """Two films of each patient."""
    return [Job(patient, number) for patient in range(PRESETS[settings.preset][0]) for number in range(2)]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one film, and if ill its healthy twin."""
    side, ill = PRESETS[settings.preset][1], job.patient % 3 == 2
    chance = np.random.Generator(np.random.PCG64([settings.seed, job.patient, 9]))
    sex, age = "FM"[job.patient % 2], int(chance.integers(18, 90))
    if settings.layout == "chexpert":
        path = f"train/patient{job.patient:05d}/study1/view{job.number + 1}_{('frontal', 'lateral')[job.number]}.jpg"
    else:
        path = f"images/{job.patient + 1:08d}_{job.number:03d}.png"
    films = [_film(settings, job, side, spot, sex) for spot in (ill, False)]
    write_image(root / path, films[0])
    record = {"path": path, "ill": ill, "sex": sex, "age": age, "job": job}
    if not ill:
        return Result([Truth(path, 0)], record)
    write_image(root / healthy_path(path), films[1])
    return Result([Truth(path, 1, healthy_path(path))], record)


def _film(
    settings: Settings, job: Job, side: int, ill: bool, sex: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    film = picture(settings.seed, 2 * job.patient + job.number, side, ill, 1 / settings.difficulty)[0].astype(float)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    shadow = sum(((columns - x) / 0.16) ** 2 + ((rows - 0.12) / 0.12) ** 2 < 1 for x in (-0.2, 0.2)) > 0
    seen = film + 18 * (shadow & (sex == "F"))
    return np.asarray(np.clip(seen, 0, 255), np.uint8)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the table, and of NIH the official lists."""
    rows = [result.record for result in results]
    if settings.layout == "chexpert":
        header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *_FINDINGS)
        lines = []
        for one in rows:
            sex, view = {"F": "Female", "M": "Male"}[one["sex"]], ("Frontal", "Lateral")[one["job"].number]
            found = ["", "1.0" if one["ill"] else "", "-1.0" if one["job"].patient == 1 else "", ""]
            normal = "" if one["ill"] else "1.0"
            lines.append((f"CheXpert-v1.0-small/{one['path']}", sex, one["age"], view, "AP", normal, *found))
        write_csv(root / "train.csv", header, lines)
        return
    table = []
    for one in rows:
        label = "Effusion|Mass" if one["ill"] else "No Finding"
        patient, number = one["job"].patient + 1, one["job"].number
        age = 414 if patient == 1 else one["age"]
        table.append((Path(one["path"]).name, label, number, patient, age, one["sex"], "PA", 2048, 2048, 0.14, 0.14))
    write_csv(root / "Data_Entry_2017_v2020.csv", _NIH, table)
    tested = [line[0] for line in table if line[3] % 12 < 6]
    write_text(root / "test_list.txt", "\n".join(map(str, tested)) + "\n")
    write_text(root / "train_val_list.txt", "\n".join(str(line[0]) for line in table if line[0] not in tested) + "\n")
