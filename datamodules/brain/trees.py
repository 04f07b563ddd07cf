"""What the sources of brains share: volumes by the pattern of their names, one a volunteer, patients with outlines."""

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from datamodules.listing import NIFTI, list_files
from datamodules.reading import BadFile
from datamodules.records import Record


def volumes(root: Path, pattern: str) -> list[Path]:
    """Volumes below ``root`` by a pattern of their names, which may be spelled in any case (``.NII.GZ``)."""
    folder, _, name = pattern.rpartition("/")
    return [
        path
        for path in list_files(root, NIFTI)
        if fnmatchcase(path.name.lower(), name.lower()) and folder in ("", path.parent.name)
    ]


def one_a_volunteer(
    root: Path, paths: Iterable[Path], subject_of: Callable[[Path], str], sequence: str, problems: list[BadFile]
) -> Iterator[Record]:
    """Records of healthy volunteers; further volumes of a volunteer are added to ``problems``."""
    first: dict[str, Path] = {}
    for path in paths:
        subject = subject_of(path)
        if first.setdefault(subject, path) == path:
            yield Record(path.relative_to(root).as_posix(), str(path), "train", 0, subject)
        else:
            found = f"a second {sequence} volume of {subject}, the first is {first[subject].name}"
            problems.append(BadFile(path, found, "keep one run of one session a subject"))


class Case(NamedTuple):
    """Files of one patient; None where there is none.

    Attributes:
        folder: of the case.
        subject: the patient.
        image: the sequence that is asked for.
        companion: a further sequence, which helps to find the bounding box of the brain.
        truth: the ground truth.
    """

    folder: Path
    subject: str
    image: Path | None
    companion: Path | None
    truth: Path | None


def with_outlines(root: Path, cases: Iterable[Case], sequence: str, problems: list[BadFile]) -> Iterator[Record]:
    """Records of patients; cases without ground truth or without the sequence are added to ``problems``."""
    for case in cases:
        if case.truth is None:
            remedy = "validation and testing data have none, give the training data"
            problems.append(BadFile(case.folder, "no ground truth", remedy))
        elif case.image is None:
            problems.append(BadFile(case.folder, f"no {sequence} volume", "fetch the case again"))
        else:
            other = case.companion
            companions = (str(other),) if other is not None and other != case.image else ()
            name = case.image.relative_to(root).as_posix()
            yield Record(name, str(case.image), "test", 1, case.subject, str(case.truth), companions=companions)
