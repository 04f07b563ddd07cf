"""A table of images as input: path, label, mask, subject, split, and whatever else is known about them."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datamodules.listing import shown
from datamodules.reading import BadFile
from datamodules.records import Record, held_out
from zoo.errors import UserError

COLUMNS = ("path", "label", "mask", "subject", "split")
_LABELS = {
    **dict.fromkeys(("0", "0.0", "normal", "healthy", "good", "negative", "false"), 0),
    **dict.fromkeys(("1", "1.0", "anomalous", "abnormal", "ill", "positive", "true"), 1),
}
_SPLITS = ("train", "val", "test", "unlabeled")
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Row:
    """One line of the table, its cells stripped.

    Attributes:
        line: number in the file, from 1.
        cells: by column; empty where nothing stands.
    """

    line: int
    cells: dict[str, str]


def read_table(
    table: Path,
    root: Path,
    *,
    val_fraction: float,
    seed: int,
    case_of: Callable[[str], str],
    report: Callable[[list[BadFile]], None],
) -> list[Record]:
    """Records of a CSV file.

    ``path`` and ``mask`` are relative to the root. ``label`` is 0 or 1 (or words such as normal and anomalous); without
    this column all images are healthy. ``split`` is train, val, test or unlabeled; without it healthy images train and
    the others are tested. Where no line says val, a share of the healthy training subjects is held out. Further columns
    are kept in :attr:`~datamodules.records.Record.columns`.

    Args:
        table: the file; UTF-8, separated by commas, semicolons or tabs.
        root: folder of the images.
        val_fraction: share held out.
        seed: of the choice.
        case_of: finds the patient in a path where the table has no ``subject``.
        report: takes the lines that cannot be used.

    Raises:
        UserError: no such table, or one without the column ``path``.
    """
    problems: list[BadFile] = []
    records: list[Record] = []
    first: dict[str, int] = {}
    for row in rows(table):
        try:
            record = _record(table, row, root, case_of)
        except BadFile as problem:
            problems.append(problem)
            continue
        if first.setdefault(record.image, row.line) != row.line:
            found = f"line {row.line} of {table.name} names it again, line {first[record.image]} did"
            problems.append(BadFile(record.image, found, "keep one line a file"))
        else:
            records.append(record)
    tested = [record for record in records if record.split == "test" and record.label]
    if any(record.mask for record in tested):
        lacking = [record for record in tested if not record.mask]
        problems += [BadFile(one.image, f"no mask in {table.name}, others have one", "add it") for one in lacking]
        records = [record for record in records if record not in lacking]
    report(problems)
    if any(record.split == "val" for record in records):
        return records
    training = [record for record in records if record.split == "train"]
    val = held_out([record.subject or record.id for record in training], val_fraction, seed)
    return [
        Record(**{**vars(record), "split": "val"})
        if record.split == "train" and (record.subject or record.id) in val
        else record
        for record in records
    ]


def rows(table: Path) -> list[Row]:
    """The lines of the table.

    Raises:
        UserError: no such file, no text, too large, or without the column ``path``.
    """
    if not table.is_file():
        raise UserError(f"data.table {table}: no such file; a CSV with the columns {', '.join(COLUMNS)} is expected")
    if table.stat().st_size > _MAX_BYTES:
        raise UserError(f"data.table {table}: larger than {_MAX_BYTES >> 20} MiB; one line an image is expected")
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            separator = max(",;\t", key=head.count)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=separator)
            names = [name.strip().lower() for name in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data.table {table}: no CSV in UTF-8 ({error}); save it as such") from error
    if "path" not in names:
        found = ", ".join(name for name in names[:6] if name) or "nothing"
        raise UserError(f"data.table {table}: no column path (found {found}); expected are {', '.join(COLUMNS)}")
    doubled = next((name for name in names if name and names.count(name) > 1), None)
    if doubled is not None:
        raise UserError(f"data.table {table}: two columns {doubled}; keep one")
    wrong = next((number for number, cells in lines if len(cells) != len(names)), None)
    if wrong is not None:
        count = next(len(cells) for number, cells in lines if number == wrong)
        found = f"line {wrong} has {count} cells, the first line {len(names)}"
        raise UserError(f"data.table {table}: {found}; put cells with a separator in quotes")
    stripped = [(number, [cell.strip() for cell in cells]) for number, cells in lines]
    return [Row(number, dict(zip(names, cells, strict=True))) for number, cells in stripped]


def _record(table: Path, row: Row, root: Path, case_of: Callable[[str], str]) -> Record:
    where = f"{shown(table)}:{row.line}"
    name = row.cells["path"]
    if not name:
        raise BadFile(where, "no path", "name a file or remove the line")
    if "\\" in name and not (root / name).is_file():  # written on Windows
        name = name.replace("\\", "/")
    image = root / name
    if not image.is_file():
        raise BadFile(image, f"no such file (line {row.line} of {table.name})", f"paths are relative to {root}")
    label = _LABELS.get(row.cells.get("label", "0").lower())
    if label is None:
        found = f"label '{row.cells['label']}'"
        raise BadFile(where, found, "write 0 for healthy, 1 for anomalous")
    split = row.cells.get("split", "").lower() or ("test" if label else "train")
    split = {"validation": "val", "valid": "val", "training": "train", "testing": "test"}.get(split, split)
    if split not in _SPLITS:
        raise BadFile(where, f"split '{split}'", f"write one of {', '.join(_SPLITS)}")
    if label and split in ("train", "val"):
        raise BadFile(where, f"an anomalous image in {split}", "training and validation take healthy ones; write test")
    mask = row.cells.get("mask", "")
    if mask and not (root / mask).is_file():
        raise BadFile(root / mask, f"no such file (line {row.line} of {table.name})", f"paths are relative to {root}")
    inside = shown((image.relative_to(root) if image.is_relative_to(root) else image).as_posix())
    return Record(
        inside,
        str(image),
        split,
        label if split != "unlabeled" else 0,
        row.cells.get("subject", "") or case_of(inside),
        mask=str(root / mask) if mask and label else None,
        columns=tuple((key, cell) for key, cell in row.cells.items() if key and key not in COLUMNS),
    )
