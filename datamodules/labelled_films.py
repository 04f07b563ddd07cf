"""Chest films by a table of labels with age and sex: NIH ChestX-ray14, CheXpert, RSNA's pneumonia challenge."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.collection import Collection, first_group
from datamodules.listing import RASTER, list_files, shown
from datamodules.reading import BadFile
from datamodules.records import Record, hash_order, held_out
from zoo.errors import UserError

_TABLES = {
    "nih": ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"),
    "chexpert": ("train.csv",),
    "rsna": ("stage_2_detailed_class_info.csv",),
}
_OLDEST = 120  # NIH's table holds ages up to 414
_YOUNG, _OLD = 31, 61
_NO_FINDINGS = ("path", "sex", "age", "frontal/lateral", "ap/pa", "no finding")


class Film(NamedTuple):
    """One line of a table.

    Attributes:
        file: path, relative or absolute.
        normal: no finding; None where that is uncertain.
        patient: of the film.
        about: age, sex, view as the table has them.
    """

    file: Path
    normal: bool | None
    patient: str
    about: Mapping[str, str]


class LabelledFilms(Collection):
    """Films without finding to train on; films of other patients, with and without, to test.

    The table in the root says which set it is: ``Data_Entry_2017*.csv`` (NIH, "No Finding" alone is normal; files
    anywhere below), ``train.csv`` (CheXpert, frontal films; uncertain labels and support devices are left out) or
    ``stage_2_detailed_class_info.csv`` (RSNA, "Normal" is normal). NIH's ``train_val_list.txt`` and ``test_list.txt``
    divide where they are there, else patients are divided by hash; ill films of training patients are not used.
    ``group_column`` tells results by ``sex``, ``age_group`` (up to 31 young, from 61 old) or ``view``. Values are in
    [0, 1], as those of :class:`~datamodules.folder.Folder`.
    """

    card = {
        "title": "chest films with age and sex: NIH ChestX-ray14, CheXpert, RSNA",
        "access": "nihcc.app.box.com; stanfordmlgroup.github.io; kaggle rsna-pneumonia-detection-challenge",
        "licence": "NIH: free use with citation; CheXpert: research agreement; RSNA: rules of the challenge",
        "layout": "Data_Entry_2017*.csv images; train.csv train; stage_2_detailed_class_info.csv and its images",
        "size": "NIH about 45 GB, CheXpert-small 11 GB",
        "steps": (
            "NIH: nihcc.app.box.com/v/ChestXray-NIHCC, images_001 to _012 and the tables; CheXpert: sign its agreement",
            "RSNA: kaggle competitions download -c rsna-pneumonia-detection-challenge, after accepting its rules",
        ),
        "phantom": "labelled_films",
        "phantom_options": {"layout": ("chexpert",)},
        "config": "data/labelled_films",
        "images": "pictures",
        "channels": (1, 3),
        "value_range": (0.0, 1.0),
        "foreground": "all",
        "subject": "the patient of the table; RSNA has one film of each",
        "protocol": "performance bias (Meissen 2023): frontal, no support devices, groups by sex and age",
        "leaks": "labels are mined from reports; devices and projection give illness away: compare groups and views",
    }
    official_sets = {
        "nih": {"films": 112120, "films without finding": 60361},
        "chexpert": {"films": 223414},
        "rsna": {"films": 26684, "films without finding": 8851},
    }

    def __init__(
        self,
        *,
        root: str | None = None,
        subset: str | None = None,
        group_column: str | None = None,
        test_fraction: float = 0.2,
        in_channels: int | None = 1,
        **options: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            root: folder of the table, or the folder above several.
            subset: folder of one of them.
            group_column: ``sex``, ``age_group`` or ``view``; None: results are not told by group.
            test_fraction: share of the patients that are tested where no list says which, by hash.
            in_channels: 1 or 3; None: 3 if the first training file is in colour.
            **options: see :class:`~datamodules.folder.Folder`, but for the table.
        """
        super().__init__(root=root, subset=subset, in_channels=in_channels, **options)
        if group_column not in (None, "sex", "age_group", "view"):
            raise UserError(f"data.group_column {group_column}: sex, age_group or view are known of films")
        if not 0 < test_fraction < 1:
            raise UserError(f"data.test_fraction must be in (0, 1), found {test_fraction}")
        self.group_column, self.test_fraction = group_column, test_fraction
        self._counts: dict[str, int] = {}
        self._indexed: list[Record] | None = None

    def set_folder(self) -> Path:
        """The folder of the table.

        Raises:
            UserError: no table of the three sets is there.
        """
        root = self.folder()
        folder = root if self.root is None or self.subset is None else root / self.subset
        if not any((folder / name).is_file() for names in _TABLES.values() for name in names):
            wanted = ", ".join(name for names in _TABLES.values() for name in names)
            inner = sorted(
                {path.parent.name for names in _TABLES.values() for n in names for path in root.glob(f"*/{n}")}
            )
            remedy = f"set data.subset to one of {', '.join(inner)}" if inner else "give the folder of the table"
            raise UserError(f"{folder}: none of {wanted} there; {remedy}")
        return folder

    @property
    def set_name(self) -> str:
        """``nih``, ``chexpert`` or ``rsna``, by the table."""
        folder = self.set_folder()
        return next(kind for kind, names in _TABLES.items() if any((folder / name).is_file() for name in names))

    def index(self, root: Path) -> list[Record]:
        """Records by the table."""
        if self._indexed is None:
            self._indexed = self._by_table(root)
        return self._indexed

    def _by_table(self, root: Path) -> list[Record]:
        folder, kind = self.set_folder(), self.set_name
        table = next(folder / name for name in _TABLES[kind] if (folder / name).is_file())
        films = list(_READERS[kind](folder, table, self.group_column))
        self._counts = {"films": len(films), "films without finding": sum(film.normal is True for film in films)}
        official = _official_lists(folder) if kind == "nih" else None
        patients = {film.patient for film in films}
        order = hash_order(patients, self.seed)
        by_hash = set(order[: max(1, round(self.test_fraction * len(order)))])
        problems: list[BadFile] = []
        records: list[Record] = []
        for film in films:
            tested = film.patient in by_hash if official is None else film.file.name in official
            if film.normal is None or (not film.normal and not tested):
                continue
            if not film.file.is_file():
                remedy = "fetch the missing part, or read what is there: --data.bad_files lenient"
                problems.append(BadFile(film.file, f"listed in {table.name} but absent", remedy))
                continue
            name = shown(film.file.relative_to(root).as_posix())
            about = {**film.about, "age_group": _age_group(film.about.get("age", ""))}
            subject, label = self.case_of(name) or film.patient, int(not film.normal)
            split = "test" if tested else "train"
            records.append(Record(name, str(film.file), split, label, subject, columns=tuple(about.items())))
        self.report(problems)
        val = held_out([one.subject for one in records if one.split == "train"], self.val_fraction, self.seed)
        return [
            Record(**{**vars(one), "split": "val"}) if one.split == "train" and one.subject in val else one
            for one in records
        ]

    def _training_files(self) -> list[Path]:
        return [Path(one.image) for one in self.index(self.folder()) if one.split in ("train", "val")]

    def official_counts(self) -> dict[str, int]:
        """Lines of the table."""
        return dict(self._counts)


def _age_group(age: str) -> str:
    return "" if not age else "young" if int(age) <= _YOUNG else "old" if int(age) >= _OLD else "middle"


def _age(text: str) -> str:
    """Whole years; empty where the table's age is none (``058Y``, ``414``)."""
    digits = text.strip().rstrip("Yy").split(".")[0]
    return str(int(digits)) if digits.isdigit() and int(digits) <= _OLDEST else ""


def _sex(text: str) -> str:
    return text.strip()[:1].upper() if text.strip()[:1].upper() in ("F", "M") else ""


def _rows(table: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Lines of a table, columns in lower case.

    Raises:
        UserError: no CSV, or without the columns.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            names = [str(name).strip().lower() for name in reader.fieldnames or []]
            missing = next((column for column in columns if column not in names), None)
            if missing is not None:
                found = ", ".join(names[:6]) or "nothing"
                raise UserError(f"{table}: no column {missing} (found {found}); give the official table")
            for row in reader:
                yield {str(key).strip().lower(): cell for key, cell in row.items() if isinstance(cell, str)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: no CSV in UTF-8 ({error}); fetch it again") from error


def _nih(folder: Path, table: Path, _: str | None) -> Iterator[Film]:
    files = {path.name: path for path in list_files(folder, RASTER)}  # images, or images_001/images, ...
    columns = ("image index", "finding labels", "patient id", "patient age", "patient gender", "view position")
    for row in _rows(table, columns):
        name = row["image index"]
        about = {"age": _age(row["patient age"]), "sex": _sex(row["patient gender"]), "view": row["view position"]}
        normal = row["finding labels"] == "No Finding"
        yield Film(files.get(name, folder / "images" / name), normal, row["patient id"], about)


def _official_lists(folder: Path) -> set[str] | None:
    """Names of the official test films; None without the list."""
    path = folder / "test_list.txt"
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else None


def _chexpert(folder: Path, table: Path, _: str | None) -> Iterator[Film]:
    for row in _rows(table, _NO_FINDINGS):
        if row["frontal/lateral"] != "Frontal":
            continue
        path = row["path"].replace("\\", "/")
        inside = path[path.find("train/") :] if "train/" in path else path  # the archive's name stands before
        findings = {name: cell for name, cell in row.items() if name not in _NO_FINDINGS}
        normal: bool | None = row["no finding"] in ("1", "1.0")
        if "-1.0" in findings.values() or findings.get("support devices") == "1.0":
            normal = None
        about = {"age": _age(row["age"]), "sex": _sex(row["sex"]), "view": row["ap/pa"]}
        yield Film(folder / inside, normal, first_group(r"(patient\d+)", path) or path, about)


def _rsna(folder: Path, table: Path, group_column: str | None) -> Iterator[Film]:
    classes = {row["patientid"]: row["class"] for row in _rows(table, ("patientid", "class"))}  # a line a box
    for patient, kind in classes.items():
        file = folder / "stage_2_train_images" / f"{patient}.dcm"
        about = {} if group_column is None or not file.is_file() else _header(file)
        yield Film(file, kind == "Normal", patient, about)


def _header(file: Path) -> dict[str, str]:
    import pydicom

    try:
        data = pydicom.dcmread(
            file, stop_before_pixels=True, specific_tags=["PatientAge", "PatientSex", "ViewPosition"]
        )
    except Exception:  # told when the film is read
        return {}
    age, sex, view = (str(data.get(tag, "")) for tag in ("PatientAge", "PatientSex", "ViewPosition"))
    return {"age": _age(age), "sex": _sex(sex), "view": view}


_READERS = {"nih": _nih, "chexpert": _chexpert, "rsna": _rsna}
