"""COVIDx CXR (Wang et al., Scientific Reports 2020): chest X-rays, by its list files."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from datamodules.base import AnomalyDataModule
from datamodules.cache import Prepared
from datamodules.layout import locate
from datamodules.preprocessing import body, match_channels, plain, read_picture, resize_image, resize_mask
from datamodules.reading import BadFile
from datamodules.records import Record, held_out, unlabeled_pool
from zoo.errors import UserError

SOURCES = ("rsna", "rnsa", "cohen", "sirm", "actmed", "fig1", "ricord", "bimcv", "stonybrook")
LABELS = ("normal", "negative", "pneumonia", "positive", "COVID-19", "level1", "level2")
_IMAGES = (".png", ".jpg", ".jpeg")

# training images, test images -> version
VERSIONS = {
    (16546, 210): "v1",
    (13569, 231): "2",
    (13670, 300): "3",
    (13898, 300): "4",
    (13958, 300): "5",
    (14311, 200): "6",
    (15111, 300): "7A",
    (15464, 200): "7B",
    (15599, 400): "8A",
    (15952, 400): "8B",
    (30130, 400): "9A",
    (30482, 400): "9B (CXR-3)",
    (67863, 8482): "CXR-4",
}


class Row(NamedTuple):
    """One line of a list file."""

    patient: str
    file: str
    label: str
    source: str
    line: int


def parse_list(path: Path) -> tuple[list[Row], list[BadFile]]:
    """Read ``patient file label [source]`` lines, from the right, because patient and file may contain spaces.

    Returns:
        tuple: the rows, and a problem for every line that is none.
    """
    rows, problems = [], []
    for number, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        tokens = text.split()
        if not tokens:
            continue
        where = f"{path}:{number}"
        source = tokens.pop() if tokens[-1].lower() in SOURCES else ""
        if tokens[-1].lower().endswith(_IMAGES) or len(tokens) < 3:
            problems.append(BadFile(where, f"'{text.strip()}'", "expected: patient file label [source]"))
            continue
        label = tokens.pop()
        if label not in LABELS and tokens[-1] in LABELS:
            known = ", ".join(SOURCES)
            problems.append(BadFile(where, f"unknown source '{label}'", f"known are {known}"))
            continue
        if label not in LABELS:
            problems.append(BadFile(where, f"unknown label '{label}'", f"known are {', '.join(LABELS)}"))
            continue
        start = next((i for i in range(1, len(tokens)) if " ".join(tokens[i:]).lower().endswith(_IMAGES)), None)
        if start is None:
            problems.append(
                BadFile(where, f"no file name in '{text.strip()}'", "expected: patient file label [source]")
            )
            continue
        # "COVID 1 COVID(1).png": the file name is the last token, the rest is the patient
        rows.append(Row(" ".join(tokens[:-1]), tokens[-1], label, source.lower(), number))
    return rows, problems


class CovidX(AnomalyDataModule):
    """Chest X-rays without COVID-19 against those with, by the official ``train.txt`` and ``test.txt``.

    With ``variant: all_negatives`` and the lists of version 8B this is the set of MemMC-MAE: 13,794 negatives to train,
    200 + 200 to test. Those negatives include pneumonia, and in the test list all positives come from one collection
    (RICORD) and all negatives from another (RSNA): the score measures the scanner as well. ``variant: normal_only``
    with the lists of version 8A trains on normal films and tests them against COVID-19 or, with ``anomaly:
    pneumonia``, against pneumonia of the same source. The negatives of ``val.txt`` (CXR-4) validate where it exists,
    otherwise a share of the training list does. Under ``unlabeled`` whole patients of the training list, healthy and
    ill, make up the pool (:func:`~datamodules.records.unlabeled_pool`). Grey, [0, 1].
    """

    card = {
        "title": "chest X-rays, COVID-19",
        "access": "kaggle andyczhao/covidx-cxr2",
        "licence": "that of the eight collections it is made of; lists AGPL-3.0",
        "layout": "train test *.txt",
        "steps": (
            "sign in at kaggle.com and open kaggle.com/datasets/andyczhao/covidx-cxr2",
            "kaggle datasets download -d andyczhao/covidx-cxr2 (or the button Download)",
        ),
        "official": {},
        "phantom": "covidx",
        "phantom_options": {"layout": ("8A",), "source_shift": (True,)},
        "config": "data/covidx",
        "images": "pictures",
        "channels": (1,),
        "value_range": (0.0, 1.0),
        "foreground": "above 0.03",
        "pool": "patients of the training list that are left out of it, healthy and ill",
        "subject": "patient of the list, by collection",
        "protocol": "MemMC-MAE: lists of version 8B, 13,794 negatives to train, 200 + 200 to test",
        "leaks": "8B tests positives of one collection against negatives of another: a score of scanners too",
    }

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] = 224,
        variant: Literal["all_negatives", "normal_only"] = "all_negatives",
        anomaly: Literal["covid", "pneumonia"] = "covid",
        **common: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            image_size: side or (height, width).
            variant: which images count as normal, see above.
            anomaly: what is to be found; only with ``normal_only``.
            **common: see :class:`AnomalyDataModule`.
        """
        super().__init__(image_size=image_size, **common)
        if anomaly == "pneumonia" and variant != "normal_only":
            raise UserError("data.anomaly pneumonia needs data.variant normal_only: the other variant trains on it")
        self.variant, self.anomaly = variant, anomaly

    @property
    def name(self) -> str:  # type: ignore[override]
        """``covidx`` and what departs from the papers' choice."""
        return "covidx" if self.variant == "all_negatives" else f"covidx_normal_only_{self.anomaly}"

    @property
    def phantom_key(self) -> str:
        """The kind of lists and the preset."""
        lists = "" if self.variant == "all_negatives" else "-8a"
        return f"{self.phantom_name}{lists}-{self.phantom_preset}"

    def write_phantom(self, root: Path) -> None:
        """Lists of version 8B, or of 8A for ``normal_only``."""
        from datamodules import phantoms

        layout = "official" if self.variant == "all_negatives" else "8A"
        phantoms.write(self.phantom_name, root, preset=self.phantom_preset, seed=self.seed, layout=layout)

    def label_of(self, label: str) -> int | None:
        """0 normal, 1 anomalous, None for images that this variant leaves out."""
        if self.variant == "all_negatives":
            return int(label in ("positive", "COVID-19", "level1", "level2"))
        if label == "normal":
            return 0
        wanted = ("pneumonia",) if self.anomaly == "pneumonia" else ("COVID-19",)
        return 1 if label in wanted else None

    def index(self, root: Path) -> list[Record]:
        """Records by the list files."""
        root = locate(root, "train.txt", "COVIDx")
        rows: dict[str, list[Row]] = {}
        problems: list[BadFile] = []
        for split in ("train", "val", "test"):
            if split == "val" and not (root / "val.txt").is_file():  # only the lists of CXR-4 bring one
                continue
            path = locate(root, f"{split}.txt", "COVIDx") / f"{split}.txt"
            rows[split], bad = parse_list(path)
            problems += bad + _repeated(path, rows[split])
        both = []
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            seen = {row.file for row in rows.get(first, ())}
            for row in rows.get(second, ()):
                if row.file in seen:
                    both.append((second, row))
                    where = f"{root / f'{second}.txt'}:{row.line}"
                    problems.append(BadFile(where, f"{row.file} is in {first}.txt too", "use lists of one version"))
        if self.variant == "normal_only" and not any(row.label == "normal" for row in rows["train"]):
            raise UserError(f"{root / 'train.txt'}: no label 'normal'; normal_only needs a list of version 8A or 9A")
        records: dict[str, Record] = {}
        for split, listed in rows.items():
            for row in listed:
                record = self._record(root, split, row)
                if record is not None and (split, row) not in both:
                    records.setdefault(record.id, record)
        missing = [record for record in records.values() if not Path(record.image).is_file()]
        problems += [BadFile(record.image, "listed but absent", "download it again") for record in missing]
        self.report(problems)
        absent = {record.id for record in missing}
        kept = [record for record in records.values() if record.id not in absent]
        kept = self._pool(kept) if self.unlabeled else kept
        return kept if "val" in rows else self._hold_out(kept)

    def _record(self, root: Path, split: str, row: Row) -> Record | None:
        label = self.label_of(row.label)
        if label is None or (split != "test" and label == 1 and not (self.unlabeled and split == "train")):
            return None
        subject = f"{row.source}:{row.patient}"
        name = f"{split}/{row.file}"
        return Record(name, str(root / name), split, label, subject=subject, source=row.source)

    def _pool(self, records: list[Record]) -> list[Record]:
        """Move the pool's patients out of the training list; ill images that are not in it are left out."""
        listed = [record for record in records if record.split == "train"]
        healthy = {record.subject for record in listed if record.label == 0}
        seen = healthy | {record.subject for record in records if record.split != "train"}
        pool = unlabeled_pool(healthy, {record.subject for record in listed if record.label == 1} - seen, self.seed)
        moved = [
            Record(**{**vars(record), "split": "unlabeled"})
            if record.split == "train" and record.subject in pool
            else record
            for record in records
        ]
        return [record for record in moved if record.split != "train" or record.label == 0]

    def _hold_out(self, records: list[Record]) -> list[Record]:
        tested = {record.subject for record in records if record.split == "test"}
        free = [record.subject for record in records if record.split == "train" and record.subject not in tested]
        val = held_out(free, self.val_fraction, self.seed)
        return [
            Record(**{**vars(record), "split": "val"}) if record.split == "train" and record.subject in val else record
            for record in records
        ]

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Grey, resize."""
        height, width = self.spatial_size
        return partial(prepare_xray, size=(height, width))

    @property
    def channels(self) -> int:
        """Grey."""
        return 1

    @property
    def parameters(self) -> dict[str, Any]:
        """The size."""
        return plain({"size": self.spatial_size})

    def notes(self) -> list[str]:
        """What the lists do not say: files that they do not name, lines that repeat, an unknown version."""
        base = locate(self.folder(), "train.txt", "COVIDx")
        parts = [part for part in ("train", "val", "test") if (base / f"{part}.txt").is_file()]
        rows = {part: parse_list(base / f"{part}.txt")[0] for part in parts}
        listed = {part: {row.file for row in rows[part]} for part in parts}
        unlisted = sum(1 for part in parts for file in (base / part).glob("*.*") if file.name not in listed[part])
        repeated = sum(len(rows[part]) - len(listed[part]) for part in parts)
        notes = [f"{unlisted} files are in no list"] if unlisted else []
        notes += [f"{repeated} lines name a file a second time"] if repeated else []
        if version(rows["train"], rows["test"]).startswith("unknown") and not self.phantom:
            notes.append(f"no official version has {len(rows['train'])} + {len(rows['test'])} lines")
        return notes


def _repeated(path: Path, rows: list[Row]) -> list[BadFile]:
    labels: dict[str, Row] = {}
    problems = []
    for row in rows:
        first = labels.setdefault(row.file, row)
        if first.label != row.label:
            found = f"{row.file} is {row.label}, in line {first.line} {first.label}"
            problems.append(BadFile(f"{path}:{row.line}", found, "one label an image is expected"))
    return problems


def version(train: list[Row], test: list[Row]) -> str:
    """The official version with these numbers of lines and kinds of labels, ``unknown`` if none has."""
    found = VERSIONS.get((len(train), len(test)), "unknown")
    counts = Counter(row.label for row in train)
    return f"{found} ({', '.join(f'{count} {label}' for label, count in sorted(counts.items()))} to train)"


def prepare_xray(record: Record, *, size: tuple[int, int]) -> Prepared:
    """One X-ray from any picture format, grey in [0, 1], with the body as foreground.

    Args:
        record: the file.
        size: ``(H, W)``.

    Raises:
        BadFile: not decodable.
    """
    image = match_channels(read_picture(record.image), 1)
    foreground = resize_mask(body(image[..., 0]), size)
    return Prepared(np.moveaxis(resize_image(image, size), -1, 0)[None], None, foreground[None])
