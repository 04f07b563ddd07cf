"""The layout of all years of BraTS: a folder for each case with one file for each sequence and ``seg``.

Up to 2021 the parts of a file's name are joined by ``_`` (``BraTS2021_00000_t1.nii.gz``), since 2023 by ``-``, the
sequences have other names (``t1n``, ``t2w``, ``t2f``), and the last number of a case is its time point.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from datamodules.brain.trees import Case, volumes, with_outlines
from datamodules.listing import NIFTI, is_hidden, list_folders
from datamodules.reading import BadFile
from datamodules.records import Record
from zoo.files import suffix

_WORDS = {"t1": ("t1", "t1n"), "t2": ("t2", "t2w"), "flair": ("flair", "t2f")}


def find_cases(
    root: Path, sequence: str, problems: list[BadFile], *, prefix: str, refused: tuple[str, str, str] | None = None
) -> Iterator[Record]:
    """Patients with their ground truth.

    Args:
        root: any folder above the cases.
        sequence: ``t1``, ``t2`` or ``flair``.
        problems: gets what is wrong.
        prefix: beginning of the names of the cases' folders.
        refused: a longer prefix of cases that cannot be read, what they are, and what to do.
    """
    folders = [path for path in list_folders(root) if path.name.startswith(prefix)]
    if refused is not None:
        other, found, remedy = refused
        problems += [BadFile(path, found, remedy) for path in folders if path.name.startswith(other)][:1]
        folders = [path for path in folders if not path.name.startswith(other)]
    cases = (
        Case(
            folder,
            re.sub(r"-\d{3}$", "", folder.name),
            _file(folder, _WORDS[sequence]),
            _file(folder, _WORDS["t1"]),
            _file(folder, ("seg",)) or next(iter(volumes(folder, "*Segm.nii*")), None),
        )
        for folder in sorted(folders)
        if any(suffix(file) in NIFTI for file in folder.iterdir())
    )
    return with_outlines(root, cases, sequence, problems)


def _file(case: Path, words: tuple[str, ...]) -> Path | None:
    for path in sorted(case.iterdir()):
        stem = path.name[: -len(suffix(path))] if suffix(path) in NIFTI else ""
        if not is_hidden(path) and re.split(r"[_-]", stem)[-1] in words:
            return path
    return None
