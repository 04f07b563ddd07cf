"""ISIC 2018, task 3 (Tschandl et al., Scientific Data 2018; Codella et al., 2019): moles against other skin lesions."""

import csv
from pathlib import Path

from datamodules.collection import Collection
from datamodules.listing import RASTER, list_files, shown, stem
from datamodules.reading import BadFile
from datamodules.records import Record, held_out
from zoo.errors import UserError

_HEAD = "ISIC2018_Task3"
_NORMAL = "NV"


class ISIC(Collection):
    """Moles (``NV``) of the training part to train on; the test part, moles against the six other classes.

    The tables decide: ``ISIC2018_Task3_{Training,Test}_GroundTruth/*.csv`` with the columns ``image`` and ``NV``;
    images in ``ISIC2018_Task3_{Training,Test}_Input``. Images of one lesion are a subject where
    ``ISIC2018_Task3_Training_LesionGroupings.csv`` is there. Values are in [0, 1].
    """

    card = {
        "title": "skin lesions, moles against the others",
        "access": "challenge.isic-archive.com/data/#2018",
        "licence": "CC BY-NC 4.0",
        "layout": "ISIC2018_Task3_Training_Input and _GroundTruth, ISIC2018_Task3_Test_Input and _GroundTruth",
        "phantom": "isic",
        "config": "data/isic",
        "images": "pictures",
        "channels": (1, 3),
        "value_range": (0.0, 1.0),
        "foreground": "all",
        "subject": "the lesion, by the table of groupings of the training part; else unknown",
        "protocol": "MedIAnomaly: 64 x 64, grey, 250 epochs, five seeds",
        "leaks": "normal is a benign mole: other content, not ill health; test lesions are not grouped",
    }
    marker = f"{_HEAD}_Training_GroundTruth"
    official_sets = {"isic2018": {"training images": 6705, "test normal": 909, "test anomalous": 603}}

    def index(self, root: Path) -> list[Record]:
        """Records by the two tables."""
        folder = self.set_folder()
        lesions = _lesions(folder)
        train = [name for name, normal in _table(folder, "Training").items() if normal]
        val = held_out([lesions.get(name, name) for name in train], self.val_fraction, self.seed)
        wanted = [(name, "val" if lesions.get(name, name) in val else "train", 0) for name in train]
        problems: list[BadFile] = []
        records = self._records(root, folder, "Training", wanted, lesions, problems)
        tested = [(name, "test", int(not normal)) for name, normal in _table(folder, "Test").items()]
        records += self._records(root, folder, "Test", tested, {}, problems)
        self.report(problems)
        return records

    def _records(
        self,
        root: Path,
        folder: Path,
        part: str,
        wanted: list[tuple[str, str, int]],
        lesions: dict[str, str],
        problems: list[BadFile],
    ) -> list[Record]:
        place = folder / f"{_HEAD}_{part}_Input"
        files = {stem(path.name): path for path in list_files(place, RASTER)} if place.is_dir() else {}
        records = []
        for name, split, label in wanted:
            if name in files:
                inside = shown(files[name].relative_to(root).as_posix())
                records.append(Record(inside, str(files[name]), split, label, lesions.get(name, "")))
            else:
                problems.append(BadFile(place / f"{name}.jpg", "listed but absent", "unpack the archive again"))
        return records

    def _training_files(self) -> list[Path]:
        place = self.set_folder() / f"{_HEAD}_Training_Input"
        return list_files(place, RASTER) if place.is_dir() else []

    @property
    def set_name(self) -> str:
        """There is one set, whatever its folder is called."""
        return "isic2018"


def _table(folder: Path, part: str) -> dict[str, bool]:
    """Whether an image shows a mole, by its name.

    Raises:
        UserError: no such table, or one without the columns.
    """
    path = folder / f"{_HEAD}_{part}_GroundTruth" / f"{_HEAD}_{part}_GroundTruth.csv"
    if not path.is_file():
        archive = f"{_HEAD}_{part}_GroundTruth.zip"
        raise UserError(
            f"{path}: no such table; fetch {archive} (`zoo data get isic`) and unpack it into {path.parent}"
        )
    rows = _rows(path, ("image", _NORMAL))
    try:
        return {row["image"].removesuffix(".jpg"): float(row[_NORMAL]) == 1 for row in rows}
    except ValueError as error:
        raise UserError(f"{path}: column {_NORMAL} holds no number ({error}); fetch the table again") from error


def _lesions(folder: Path) -> dict[str, str]:
    path = folder / f"{_HEAD}_Training_LesionGroupings.csv"
    rows = _rows(path, ("image", "lesion_id")) if path.is_file() else []
    return {row["image"].removesuffix(".jpg"): row["lesion_id"] for row in rows}


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no CSV in UTF-8 ({error}); fetch it again") from error
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        found = ", ".join(list(rows[0])[:6]) if rows else "no line"
        raise UserError(f"{path}: no column {missing[0]} (found {found}); give the official table")
    return rows
