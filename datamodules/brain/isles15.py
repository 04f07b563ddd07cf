"""ISLES 2015, SISS (Maier et al., Medical Image Analysis 2017): subacute strokes with outlines."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from datamodules.brain.trees import Case, with_outlines
from datamodules.listing import NIFTI, is_hidden, list_folders
from datamodules.reading import BadFile
from datamodules.records import Record
from zoo.files import suffix

card = {
    "title": "strokes, T1 T2 FLAIR DWI with outlines",
    "access": "zenodo.org 17736412",
    "licence": "CC BY 4.0",
    "layout": "SISS2015_Training",
    "official": {"volumes": 28},
    "phantom": "isles15",
    "config": "data/isles15",
    "images": "slices or volumes",
    "subject": "the number of the case",
    "protocol": "multi-task paper: T2, all 28 training cases, slices and voxels",
    "leaks": "few cases; chronic lesions and white-matter lesions are not outlined",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1),
    "cradl": "turned",
}
_WORDS = {"t1": "MR_T1", "t2": "MR_T2", "flair": "MR_Flair"}


def find(root: Path, sequence: str, problems: list[BadFile]) -> Iterator[Record]:
    """Cases with their ground truth (``OT``); testing data have none."""
    found = {path.parent for path in list_folders(root) if fnmatchcase(path.name, "VSD.Brain*MR_T2*")}
    folders = sorted(found, key=lambda path: (path.parent, path.name.zfill(4)))
    cases = (
        Case(folder, folder.name, *(_file(folder, word) for word in (_WORDS[sequence], "MR_T1", "OT")))
        for folder in folders
    )
    return with_outlines(root, cases, sequence, problems)


def _file(case: Path, word: str) -> Path | None:
    for folder in sorted(case.iterdir()):
        if folder.is_dir() and word in folder.name.split("."):
            files = [path for path in sorted(folder.iterdir()) if suffix(path) in NIFTI and not is_hidden(path)]
            if files:
                return files[0]
    return None
