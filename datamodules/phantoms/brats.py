"""The layout of BraTS: four sequences and the labels of each case, named by the format in the data set's card.

Names with hyphens have the words and labels of 2023 and later.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.phantoms.brain import TUMOURS
from datamodules.phantoms.brain_scans import Job, Spec, acquire, prepare, save, straight_grid, tumour_patients
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, write_volume
from datamodules.registry import cards

__all__ = ["SPEC", "finish", "jobs", "prepare", "render", "survival", "write_case"]
SPEC = Spec(straight_grid((240, 240, 155), (-1, -1, 1), (0, 239, 0)), (-119.5, 119.5, 72.0), TUMOURS)
_WORDS = {"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair"}
_WORDS_2023 = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
jobs = tumour_patients


def write_case(root: Path, settings: Settings, job: Job, folder: str, case: str, labels: str = "") -> Result:
    """Write one case.

    Args:
        root: of the phantom.
        settings: of the phantom.
        job: the patient.
        folder: of the case, relative to the root.
        case: beginning of the files' names.
        labels: name of the file of labels, if it is odd.
    """
    scanned = acquire(SPEC, settings, job, tuple(_WORDS))
    new = "-" in case
    names, joint = (_WORDS_2023, "-") if new else (_WORDS, "_")
    paths = {key: f"{folder}/{case}{joint}{name}.nii.gz" for key, name in names.items()}
    save(root, scanned, paths, np.int16)
    values = np.where(scanned.labels == 4, 3, scanned.labels) if new else scanned.labels
    segmentation = f"{folder}/{labels or f'{case}{joint}seg.nii.gz'}"
    write_volume(root / segmentation, values.astype(np.uint8), scanned.grid)
    truth = [Truth(path, 1, healthy_path(path), segmentation) for path in paths.values()]
    return Result(truth, {"case": case, "grade": "LGG" if job.lesion == "lgg" else "HGG", "place": job.place})


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one case; its number is even or leaves irregular gaps, as the format asks."""
    case = cards()[settings.name].more["case"].format(even=2 * job.place, gaps=2 * job.place + job.place % 3)
    return write_case(root, settings, job, case, case)


def survival(settings: Settings, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Ages in years and days of survival, for the tables of some years."""
    rng = np.random.default_rng([settings.seed, 2017])
    return rng.uniform(30, 80, count).round(3), rng.integers(30, 1500, count)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """These years have no tables."""
