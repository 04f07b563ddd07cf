"""BraTS 2020: a flat folder, one misnamed file of labels, tables of survival and of names in other years."""

from __future__ import annotations

from pathlib import Path

from datamodules.phantoms.brain_scans import Job, prepare
from datamodules.phantoms.brats import SPEC, jobs, survival, write_case
from datamodules.phantoms.storage import Result, Settings, write_csv

__all__ = ["SPEC", "finish", "jobs", "prepare", "render"]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one case; number 355 carries the original's misnamed segmentation."""
    if job.place == 1:
        case = "BraTS20_Training_355"
        return write_case(root, settings, job, case, case, "W39_1998.09.19_Segm.nii.gz")
    case = f"BraTS20_Training_{1 + job.place:03d}"
    return write_case(root, settings, job, case, case)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write both tables."""
    cases = [result.record for result in results]
    ages, days = survival(settings, len(results))
    header = ("Brats20ID", "Age", "Survival_days", "Extent_of_Resection")
    extent = [(case["case"], age, day, "GTR") for case, age, day in zip(cases, ages, days, strict=True)]
    write_csv(root / "survival_info.csv", header, extent)
    columns = ("Grade", *(f"BraTS_{year}_subject_ID" for year in (2017, 2018, 2019, 2020)), "TCGA_TCIA_subject_ID")
    mapping = []
    for case in cases:
        old = "NA" if case["place"] % 2 else f"Brats17_CBICA_A{chr(65 + case['place'] % 26)}A_1"
        newer = (old.replace("Brats17", "Brats18"), old.replace("Brats17", "BraTS19"))
        mapping.append((case["grade"], old, *newer, case["case"], "NA"))
    write_csv(root / "name_mapping.csv", columns, mapping)
