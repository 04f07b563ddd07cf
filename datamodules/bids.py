"""BIDS (Gorgolewski et al., Scientific Data 2016): volumes of participants, healthy or not by a table."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.listing import NIFTI, list_files, shown
from datamodules.reading import BadFile
from datamodules.records import Record
from datamodules.scans import Scans
from zoo.errors import UserError
from zoo.files import suffix

_TABLE = "participants.tsv"
_COLUMNS = ("group", "diagnosis", "dx", "status", "label")
_HEALTHY = ("control", "controls", "healthy", "healthy control", "hc", "cn", "nc", "normal", "0")
_UNKNOWN = ("", "n/a")


class BIDS(Scans):
    """``sub-*/[ses-*/]anat/*_T1w.nii.gz``; ``participants.tsv`` says who is healthy.

    Healthy participants train, validate and, a share by hash, are tested with all others. Outlines of lesions are
    files ``*lesion*_mask`` or ``*lesion*_dseg`` of the same participant and session below ``derivatives``, a mask of
    the brain is ``*brain*_mask``. Where ill participants have no outlines, all their slices count as ill. Further
    columns (age, sex, site) group the results with ``group_column``. Values are in [0, 1], see
    :class:`~datamodules.scans.Scans`.
    """

    card = {
        "title": "volumes in BIDS, participants by a table",
        "access": "-",
        "licence": "that of the set",
        "layout": "participants.tsv sub-*/[ses-*/]anat/*_T1w.nii.gz [derivatives]",
        "phantom": "bids",
        "config": "data/bids",
        "images": "slices or volumes",
        "channels": (1,),
        "value_range": (0.0, 1.0),
        "foreground": "above_minimum",
        "subject": "participant_id",
        "leaks": "patients and controls may differ in age, site and scanner: look at the groups",
    }
    marker = _TABLE

    def __init__(
        self,
        *,
        root: str | None = None,
        subset: str | None = None,
        sequence: str = "T1w",
        label_column: str | None = None,
        healthy: tuple[str, ...] = _HEALTHY,
        group_column: str | None = None,
        **options: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            root: folder that holds ``participants.tsv``, or the folder above several such sets.
            subset: folder of one of them.
            sequence: end of the files' names: ``T1w``, ``T2w``, ``FLAIR``, ...
            label_column: column that says who is healthy; None: the first of group, diagnosis, dx, status, label.
            healthy: values of that column, in any case.
            group_column: column by which results are told apart: sex, site, ...
            **options: see :class:`~datamodules.scans.Scans`.
        """
        super().__init__(root=root, subset=subset, **options)
        self.sequence, self.healthy = sequence, tuple(healthy)
        self.label_column = None if label_column is None else label_column.lower()
        self.group_column = None if group_column is None else group_column.lower()

    def index(self, root: Path) -> list[Record]:
        """Records by participant."""
        folder = self.set_folder()
        people = read_participants(folder / _TABLE, self.label_column, self.group_column)
        column = self.label_column or next(name for name in _COLUMNS if name in next(iter(people.values())))
        normal = {value.lower() for value in self.healthy}
        derived = list_files(folder / "derivatives", NIFTI) if (folder / "derivatives").is_dir() else []
        healthy: list[Record] = []
        ill: list[Record] = []
        problems: list[BadFile] = []
        for person, row in people.items():
            value = row[column].lower()
            images = self._scans(folder / person)
            if value in _UNKNOWN:
                continue
            if not images:
                remedy = "fetch it, or remove the line"
                problems.append(BadFile(folder / person, f"no *_{self.sequence}.nii* of {person}", remedy))
            own = [path for path in derived if path.name.startswith(f"{person}_")]
            for image in images:
                record = self._record(root, image, person, row, own)
                if value in normal:
                    healthy.append(replace(record, mask=None))
                else:
                    ill.append(replace(record, split="test", label=1))
        self.report(problems)
        if not healthy:
            found = ", ".join(sorted({row[column] for row in people.values()})[:6])
            raise UserError(
                f"{folder / _TABLE}: {column} is {found}, none of data.healthy; say which values are healthy"
            )
        return self.divided(healthy) + ill

    def _scans(self, folder: Path) -> list[Path]:
        files = list_files(folder, NIFTI) if folder.is_dir() else []
        return [file for file in files if file.name[: -len(suffix(file))].endswith(f"_{self.sequence}")]

    def _record(self, root: Path, image: Path, person: str, row: dict[str, str], derived: Sequence[Path]) -> Record:
        session = next((part for part in image.name.split("_") if part.startswith("ses-")), "")
        own = [path for path in derived if session in path.name]
        masks = [path for path in own if path.name[: -len(suffix(path))].endswith(("_mask", "_dseg"))]
        lesion = next((path for path in masks if "lesion" in path.name.lower()), None)
        brain = next((path for path in masks if "brain" in path.name.lower() and path != lesion), None)
        name = shown(image.relative_to(root).as_posix())
        columns = tuple(row.items())
        companions = () if brain is None else (str(brain),)
        outline = None if lesion is None else str(lesion)
        return Record(name, str(image), "train", 0, person, outline, companions=companions, columns=columns)

    def notes(self) -> list[str]:
        """Participants whose health is not stated."""
        folder = self.set_folder()
        people = read_participants(folder / _TABLE, self.label_column, self.group_column)
        column = self.label_column or next(name for name in _COLUMNS if name in next(iter(people.values())))
        unknown = [person for person, row in people.items() if row[column].lower() in _UNKNOWN]
        told = f"{len(unknown)} participants without {column} are left out, first {unknown[0]}" if unknown else ""
        return [told] if told else []


def read_participants(path: Path, label_column: str | None, group_column: str | None) -> dict[str, dict[str, str]]:
    """Rows of ``participants.tsv`` by participant.

    Raises:
        UserError: no table in UTF-8, or without the columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = [
                {str(key).strip().lower(): (cell or "").strip() for key, cell in row.items() if key}
                for row in csv.DictReader(stream, delimiter="\t", restval="")
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no table in UTF-8 with tabs ({error}); save it as such") from error
    columns = list(lines[0]) if lines else []
    wanted = ["participant_id", *(name for name in (label_column, group_column) if name)]
    missing = next((name for name in wanted if name not in columns), None)
    if missing is not None:
        raise UserError(f"{path}: no column {missing} (found {', '.join(columns[:8]) or 'nothing'})")
    if label_column is None and not any(name in columns for name in _COLUMNS):
        raise UserError(
            f"{path}: no column {', '.join(_COLUMNS)} (found {', '.join(columns[:8])}); "
            "name the one that says who is healthy: data.label_column"
        )
    return {row["participant_id"]: row for row in lines}
