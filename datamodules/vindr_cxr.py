"""VinDr-CXR (Nguyen et al., Scientific Data 2022): chest films with boxes by radiologists."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.base import AnomalyDataModule
from datamodules.cache import Prepared
from datamodules.layout import locate
from datamodules.listing import DICOM, kind, list_files
from datamodules.preprocessing import body, box_mask, multi_task_film, plain, read_picture, resize_mask
from datamodules.reading import BadFile, Dicom, read_dicom
from datamodules.records import UNLABELED_ILL, Record, hash_order, held_out, unlabeled_pool
from zoo.errors import UserError

Box = tuple[float, float, float, float]
NO_FINDING = "No finding"
# of the whole film, never boxed
_GLOBAL = (NO_FINDING, "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "Other disease")
_LEVELS = ("", "1.0.0", "vindr-cxr/1.0.0", "physionet.org/files/vindr-cxr/1.0.0")


class VinDrCXR(AnomalyDataModule):
    """Chest films that three radiologists call healthy against films with boxed findings; grey, [-1, 1].

    ``split``:
      ``own``: train on all training films without finding (10,478), test on the 3,000 test films with their consensus.
      ``ddad``: the lists of DDAD (``ddad_json``), repaired as the multi-task paper does: films that are not healthy by
      all three readers are replaced by the first (training) and last (test) of the other healthy films in sorted order.
      ``rule``: 4,000 healthy films to train, 1,000 healthy and 1,000 with findings to test, by hash.

    Under ``unlabeled`` training films join a pool: for ``ddad`` 4,000 of the list's own, 60 % of them ill, otherwise by
    rule (:func:`~datamodules.records.unlabeled_pool`).

    A film is anomalous when the union of its boxes covers a pixel, as in the multi-task paper. Preprocessing is that
    paper's (:func:`~datamodules.preprocessing.multi_task_film`): aspect ratio not kept, rescaling not applied.
    """

    card = {
        "title": "chest films, boxes by radiologists",
        "access": "physionet.org/content/vindr-cxr",
        "licence": "PhysioNet credentialed health data licence",
        "layout": "train test annotations",
        "steps": (
            "sign up at physionet.org, complete its CITI training and ask for credentialed access",
            "sign the agreement at physionet.org/content/vindr-cxr/1.0.0 and fetch the files with the wget line there",
        ),
        "official": {"train films": 15000, "test films": 3000},
        "phantom": "vindr_cxr",
        "phantom_options": {"jpeg2000": (True,)},
        "config": "data/vindr_cxr",
        "images": "pictures",
        "channels": (1,),
        "value_range": (-1.0, 1.0),
        "foreground": "above_minimum",
        "pool": "training films, healthy and ill: those of DDAD or by rule",
        "subject": "the film",
        "protocol": "multi-task paper: split ddad, repaired; boxes at 256 x 256 pixels",
        "leaks": "training boxes are a union of three readers; patients are not known",
    }
    stored_range = (-1.0, 1.0)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] = 256,
        split: Literal["own", "ddad", "rule"] = "own",
        ddad_json: str | None = None,
        **common: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            image_size: side or (height, width).
            split: see above.
            ddad_json: path of ``ddad_split.json`` or of DDAD's ``data.json``, for ``split: ddad``.
            **common: see :class:`AnomalyDataModule`.
        """
        super().__init__(image_size=image_size, **common)
        if split == "ddad" and ddad_json is None:
            raise UserError("data.split ddad needs data.ddad_json, the path of ddad_split.json or of DDAD's data.json")
        self.split, self.ddad_json = split, ddad_json

    @property
    def name(self) -> str:  # type: ignore[override]
        """``vindr_cxr`` and the split."""
        return f"vindr_cxr_{self.split}"

    def index(self, root: Path) -> list[Record]:
        """Records by annotation files and split."""
        if not any((root / level / "annotations").is_dir() for level in _LEVELS) and (root / "train.csv").is_file():
            return self._index_kaggle(root)
        root = locate(root, "annotations", "VinDr-CXR", _LEVELS)
        labels = root / "annotations" / "image_labels_train.csv"
        boxes, problems = read_boxes(root / "annotations" / "annotations_train.csv")
        healthy = sorted(healthy_films(labels))
        everything = sorted(set(boxes) | set(healthy))
        if self.split == "own":
            test_boxes, more = read_boxes(root / "annotations" / "annotations_test.csv")
            problems += more
            train = healthy
            tested = [("test", film, test_boxes[film]) for film in sorted(test_boxes)]
        else:
            train, normal, abnormal = self._lists(healthy, [film for film in everything if boxes.get(film)])
            tested = [("train", film, boxes.get(film, ())) for film in [*normal, *abnormal]]
        self.report(problems)
        return self._listed(root, train, tested, [film for film in everything if boxes.get(film)])

    def _index_kaggle(self, root: Path) -> list[Record]:
        boxes, problems = read_boxes(root / "train.csv")
        self.report(problems)
        if self.split == "own":
            raise UserError(f"{root}: Kaggle's copy has no labelled test films; set data.split rule (or ddad)")
        healthy = sorted(film for film, found in boxes.items() if not found)
        train, normal, abnormal = self._lists(healthy, sorted(film for film, found in boxes.items() if found))
        ill = sorted(film for film, found in boxes.items() if found)
        return self._listed(root, train, [("train", film, boxes[film]) for film in [*normal, *abnormal]], ill)

    def _lists(self, healthy: list[str], ill: list[str]) -> tuple[list[str], list[str], list[str]]:
        if self.split == "ddad":
            return ddad_lists(Path(str(self.ddad_json)), healthy)
        scale = min(1.0, len(healthy) / 5000)
        order, others = hash_order(healthy, self.seed), hash_order(ill, self.seed)
        train, test = round(4000 * scale), round(1000 * scale)
        return order[:train], order[train : train + test], others[: min(test, 1000)]

    def _pool(self, train: list[str], tested: set[str], ill: list[str]) -> set[str]:
        """Training films whose label is not used."""
        if not self.unlabeled:
            return set()
        if self.split == "ddad":
            return ddad_unlabeled(Path(str(self.ddad_json))) - tested - set(train)
        return unlabeled_pool(train, set(ill) - tested, self.seed)

    def _listed(
        self, root: Path, train: list[str], tested: list[tuple[str, str, tuple[Box, ...]]], ill: list[str]
    ) -> list[Record]:
        pool = self._pool(train, {film for folder, film, _ in tested if folder == "train"}, ill)
        train = [film for film in train if film not in pool]
        val = held_out(train, self.val_fraction, self.seed)
        wanted: list[tuple[str, str, str, tuple[Box, ...]]] = [
            ("val" if film in val else "train", "train", film, ()) for film in train
        ]
        wanted += [("test", folder, film, found) for folder, film, found in tested]
        wanted += [("unlabeled", "train", film, ()) for film in sorted(pool)]
        names = {folder: _films(root / folder) for folder in {folder for _, folder, _, _ in wanted}}
        records, problems = [], []
        for split, folder, film, found in wanted:
            file = names[folder].get(film)
            if file is None:
                problems.append(BadFile(root / folder / f"{film}.dicom", "listed but absent", "download it again"))
            else:
                name = f"{folder}/{file.name}"
                records.append(Record(name, str(file), split, int(bool(found)), subject=film, boxes=found))
        self.report(problems)
        return records

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """The multi-task paper's."""
        height, width = self.spatial_size
        return partial(prepare_film, size=(height, width))

    @property
    def channels(self) -> int:
        """Grey."""
        return 1

    @property
    def parameters(self) -> dict[str, Any]:
        """The size."""
        return plain({"size": self.spatial_size})

    def official_counts(self) -> dict[str, int]:
        """Films of both folders, listed or not."""
        folders = {Path(record.image).parent.parent for record in self.manifest}
        base = min(folders) if folders else self.folder()
        return {f"{part} films": len(list_files(base / part, DICOM)) for part in ("train", "test")}

    def notes(self) -> list[str]:
        """Films without three readers, boxes beyond their film."""
        labels = next(self.folder().rglob("image_labels_train.csv"), None)
        return [] if labels is None else reader_notes(labels) + overhang_notes(self.manifest)


def _films(folder: Path) -> dict[str, Path]:
    kinds = (*DICOM, ".png", ".jpg")
    return {file.name.split(".")[0]: file for file in list_files(folder, kinds)}


def _table(path: Path, wanted: Iterable[str]) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; unpack the annotations of VinDr-CXR there")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: no column {missing[0]} (found {', '.join((reader.fieldnames or ())[:7])})")
        return list(reader)


def read_boxes(path: Path) -> tuple[dict[str, tuple[Box, ...]], list[BadFile]]:
    """Boxes of all films of an annotation file; films without finding have none.

    Returns:
        tuple: film -> boxes, and a problem for every row whose box is not one.
    """
    found: dict[str, list[Box]] = defaultdict(list)
    problems = []
    for number, row in enumerate(_table(path, ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")), 2):
        film = found[row["image_id"]]
        if row["class_name"] in _GLOBAL:
            continue
        corners = [_number(row[key]) for key in ("x_min", "y_min", "x_max", "y_max")]
        if any(math.isnan(value) for value in corners):
            problems.append(BadFile(f"{path}:{number}", f"{row['class_name']} without box", "give four numbers"))
        elif corners[2] <= corners[0] or corners[3] <= corners[1]:
            problems.append(
                BadFile(f"{path}:{number}", f"box {corners} has no area", "give x_min < x_max, y_min < y_max")
            )
        else:
            film.append((corners[0], corners[1], corners[2], corners[3]))
    return {film: tuple(boxes) for film, boxes in found.items()}, problems


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def healthy_films(path: Path) -> set[str]:
    """Films that every reader of ``image_labels_train.csv`` marks as having no finding."""
    votes: dict[str, list[bool]] = defaultdict(list)
    for row in _table(path, ("image_id", NO_FINDING)):
        votes[row["image_id"]].append(_number(row[NO_FINDING]) == 1)
    return {film for film, ticks in votes.items() if all(ticks)}


def reader_notes(path: Path) -> list[str]:
    """Films of ``image_labels_train.csv`` that were not read by exactly three different radiologists."""
    readers: dict[str, list[str]] = defaultdict(list)
    for row in _table(path, ("image_id", "rad_id")):
        readers[row["image_id"]].append(row["rad_id"])
    odd = sorted(film for film, found in readers.items() if len(found) != 3 or len(set(found)) != 3)
    return [f"{path}: {len(odd)} films without three different readers, first {odd[0]}"] if odd else []


def overhang_notes(records: Iterable[Record]) -> list[str]:
    """How many boxes reach more than a pixel beyond their film; they are cut at its border."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    beyond = []
    for record in records:
        if not record.boxes or kind(record.image) not in DICOM:
            continue
        try:
            header: Any = pydicom.dcmread(record.image, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        except (InvalidDicomError, EOFError, OSError):
            continue  # told where pixels are decoded
        high = (header.get("Columns", math.inf), header.get("Rows", math.inf))
        for box in record.boxes:
            if min(box[:2]) < -1 or box[2] > high[0] + 1 or box[3] > high[1] + 1:
                beyond.append(record.id)
    return [f"{len(beyond)} boxes reach beyond their film and are cut there, first {beyond[0]}"] if beyond else []


def ddad_lists(path: Path, healthy: list[str]) -> tuple[list[str], list[str], list[str]]:
    """DDAD's training, healthy test and ill test films, repaired with other healthy films.

    Args:
        path: a JSON with ``train`` and ``test``, each with lists under ``"0"`` (healthy) and, for test, ``"1"``.
        healthy: films that all readers call healthy, sorted.

    Raises:
        UserError: not that file, or too few healthy films to repair it.
    """
    try:
        lists = json.loads(path.read_text())
        train, normal, abnormal = lists["train"]["0"], lists["test"]["0"], lists["test"]["1"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no DDAD list ({error}); expected keys train/0, test/0 and test/1") from error
    train, normal, abnormal = ([Path(str(film)).stem for film in films] for films in (train, normal, abnormal))
    sound = set(healthy)
    kept, kept_test = [f for f in train if f in sound], [f for f in normal if f in sound]
    rest = sorted(sound - set(kept) - set(kept_test))
    fill, fill_test = len(train) - len(kept), len(normal) - len(kept_test)
    if fill + fill_test > len(rest):
        raise UserError(
            f"{path}: {fill + fill_test} films are not healthy by all readers, only {len(rest)} to replace them"
        )
    return kept + rest[:fill], kept_test + rest[len(rest) - fill_test :], abnormal


def ddad_unlabeled(path: Path, count: int = 4000) -> set[str]:
    """The pool of DDAD: the first films of its lists of unlabelled ones, 60 % of them ill.

    Args:
        path: a JSON with lists under ``train/unlabeled/0`` (healthy) and ``train/unlabeled/1``.
        count: films in all.

    Raises:
        UserError: the file has no such lists.
    """
    try:
        lists = json.loads(path.read_text())["train"]["unlabeled"]
        healthy, ill = lists["0"], lists["1"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no unlabelled films ({error}); expected keys train/unlabeled/0 and 1") from error
    number = round(count * UNLABELED_ILL)
    return {Path(str(film)).stem for film in [*healthy[: count - number], *ill[:number]]}


def prepare_film(record: Record, *, size: tuple[int, int]) -> Prepared:
    """One film with its boxes as mask and the body as foreground.

    Args:
        record: film and boxes.
        size: ``(H, W)``.

    Raises:
        BadFile: not decodable, constant, or a box outside the film; boxes that reach beyond it are cut.
    """
    if kind(record.image) in DICOM:
        film = read_dicom(record.image)
    else:  # copies that were exported to PNG
        film = Dicom(read_picture(record.image)[..., 0], 1.0, 0.0, None, False, None)
    if film.pixels.min() == film.pixels.max():
        raise BadFile(record.image, "all pixels are equal", "fetch the file again")
    height, width = film.pixels.shape
    for box in record.boxes:
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            found = f"box {[float(corner) for corner in box]} lies outside the film of {width} x {height}"
            raise BadFile(record.image, found, "give boxes in pixels of this film")
    image = multi_task_film(film, size)
    mask = box_mask(record.boxes, film.pixels.shape, size)
    shown = film.pixels.max() - film.pixels.astype(np.float32) if film.inverted else film.pixels
    foreground = resize_mask(body(shown[:: max(1, len(shown) // 512), :: max(1, shown.shape[1] // 512)]), size)
    spacing = () if film.spacing is None else _scaled(film.spacing, film.pixels.shape, size)
    labels = (int(mask.any()),)
    return Prepared(image.astype(np.float32)[None, None], mask[None], foreground[None], labels, None, spacing)


def _scaled(spacing: tuple[float, float], old: tuple[int, ...], new: tuple[int, int]) -> tuple[float, float]:
    return spacing[0] * old[0] / new[0], spacing[1] * old[1] / new[1]
