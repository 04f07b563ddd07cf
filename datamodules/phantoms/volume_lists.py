"""Behrendt's lists of volumes, with their defects: names twice, test scans in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.phantoms.solids import Job, grid_of, solid, subjects
from datamodules.phantoms.storage import Grid, Result, Settings, Truth, healthy_path, write_csv, write_volume

jobs = subjects
_COLUMNS = ("", "img_name", "age", "SEX_ID (1=m, 2=f)", "label", "img_path", "mask_path", "seg_path")


_FINER = 2  # so that the volumes fill the authors' grid


def save(path: Path, volume: NDArray[np.int16] | NDArray[np.bool_], settings: Settings) -> None:
    """Write a volume or a mask with more and smaller voxels."""
    coarse = grid_of(settings)
    fine = coarse.affine @ np.diag([1 / _FINER] * 3 + [1])
    shape = (coarse.shape[0] * _FINER, coarse.shape[1] * _FINER, coarse.shape[2] * _FINER)
    values = volume.astype(np.uint8) if volume.dtype == bool else volume
    write_volume(path, values.repeat(_FINER, 0).repeat(_FINER, 1).repeat(_FINER, 2), Grid(shape, fine))


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write both sequences of one brain with its mask, and if ill the outline and the healthy twins."""
    if job.ill:
        place, name = "Test/Brats21", f"BraTS2021_{job.number:05d}"
    else:
        place, name = "Train/ixi", f"IXI{2 + 7 * job.number:03d}-Guys-{700 + job.number:04d}"
    truth, paths = [], {}
    for kind, sequence in enumerate(("t1", "t2")):
        paths[sequence] = f"{place}/{sequence}/{name}_{sequence}.nii.gz"
        volume, head, mask = solid(settings, job.number, job.ill, kind)
        save(root / paths[sequence], volume, settings)
        if job.ill:
            twin = healthy_path(paths[sequence])
            save(root / twin, solid(settings, job.number, False, kind)[0], settings)
            truth.append(Truth(paths[sequence], 1, twin, f"{place}/seg/{name}_seg.nii.gz"))
        else:
            truth.append(Truth(paths[sequence], 0))
    save(root / f"{place}/mask/{name}_mask.nii.gz", head, settings)
    outline = f"/{place}/seg/{name}_seg.nii.gz" if job.ill else ""
    if job.ill:
        save(root / outline.lstrip("/"), mask, settings)
    row = [name, 20 + job.number, 1 + job.number % 2, int(job.ill), f"/{paths['t1']}"]
    return Result(truth, {"ill": job.ill, "row": [*row, f"/{place}/mask/{name}_mask.nii.gz", outline]})


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the lists; the training list names its first scan twice, and one of the test list."""
    healthy, ill = ([one.record["row"] for one in results if one.record["ill"] == state] for state in (False, True))
    fourth = len(healthy) // 4
    test, val, train = healthy[:fourth], healthy[fourth : fourth + max(1, fourth // 2)], healthy[fourth + fourth // 2 :]
    lists = {"IXI_test": test, "Brats21_val": ill[:1], "Brats21_test": ill[1:], "avail_t2": [*healthy, *ill]}
    for fold in range(5):
        lists[f"IXI_train_fold{fold}"] = [*train[1:], train[-1], test[0]]
        lists[f"IXI_val_fold{fold}"] = val
    for name, rows in lists.items():
        numbered = [[number, *row] for number, row in enumerate(rows)]
        write_csv(root / "splits" / f"{name}.csv", _COLUMNS, numbered)
