"""BraTS 2017 to 2019: cases of three sites in the folders of their grade, and a table of survival."""

from __future__ import annotations

from pathlib import Path

from datamodules.phantoms.brain_scans import Job, prepare
from datamodules.phantoms.brats import SPEC, jobs, survival, write_case
from datamodules.phantoms.storage import Result, Settings, write_csv
from datamodules.registry import cards

__all__ = ["SPEC", "finish", "jobs", "prepare", "render"]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one case."""
    place, letters = job.place, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    site = ("CBICA", "TCIA", "2013")[place % 3]
    number = {"CBICA": f"A{letters[place // 26 % 26]}{letters[place % 26]}", "TCIA": f"{101 + place}"}.get(
        site, str(2 + place)
    )
    case = cards()[settings.name].more["case"].format(site=f"{site}_{number}")
    return write_case(root, settings, job, f"{'LGG' if job.lesion == 'lgg' else 'HGG'}/{case}", case)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the table of survival."""
    ages, days = survival(settings, len(results))
    rows = [(one.record["case"], age, day) for one, age, day in zip(results, ages, days, strict=True)]
    year = cards()[settings.name].more["case"].partition("_")[0]
    write_csv(root / "survival_data.csv", (f"{year}ID", "Age", "Survival"), rows)
