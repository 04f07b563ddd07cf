"""Lists in ``meta.json``: Uni-Medical (Zhang et al., ADer, 2024), one model for several classes of images."""

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.cache import Prepared
from datamodules.collection import Collection, first_group
from datamodules.good_folders import prepare_picture
from datamodules.listing import shown
from datamodules.reading import BadFile
from datamodules.records import Record, held_out
from zoo.errors import UserError

_FILE = "meta.json"
_FORM = '{"train": {CLASS: [{"img_path", "mask_path", "anomaly", ...}]}, "test": {...}}'


class MetaJson(Collection):
    """Images of all classes that ``meta.json`` lists, or of some; a class is a group, told by itself after a test.

    Paths are relative to the folder of ``meta.json``. A share of each class's training list validates. Values are in
    [0, 1], as those of :class:`~datamodules.folder.Folder`.
    """

    card = {
        "title": "Uni-Medical, or any set with ADer's meta.json: one model for all classes",
        "access": "github.com/zhangzjn/ADer",
        "licence": "CC BY-NC-SA 4.0 (BMAD, which it is made from)",
        "layout": "meta.json and the folders that it names",
        "phantom": "meta_json",
        "config": "data/meta_json",
        "images": "pictures",
        "channels": (1, 3),
        "value_range": (0.0, 1.0),
        "foreground": "all",
        "subject": "of brain, liver and retinal the number before the last underscore; else unknown",
        "protocol": "ADer: all classes together, 256 x 256, 100 epochs; figures are means over classes",
        "leaks": "BMAD's: brains are pseudo-coloured and scaled slice by slice; normal and ill livers are of two sets",
    }
    marker = _FILE
    official_sets = {"medical": {"training images": 13339, "test normal": 2514, "test anomalous": 4499}}

    def __init__(
        self, *, root: str | None = None, subset: str | None = None, classes: tuple[str, ...] = (), **options: Any
    ) -> None:
        """Remember the arguments.

        Args:
            root: folder that holds ``meta.json``, or the folder above several such sets.
            subset: folder of one of them.
            classes: those to read; none: all.
            **options: see :class:`~datamodules.folder.Folder`, but for the table.
        """
        super().__init__(root=root, subset=subset, **options)
        self.classes = tuple(classes)

    def index(self, root: Path) -> list[Record]:
        """Records by the lists."""
        folder = self.set_folder()
        lists = read_meta(folder / _FILE)
        known = list(dict.fromkeys([*lists["train"], *lists["test"]]))
        wrong = [name for name in self.classes if name not in known]
        if wrong:
            raise UserError(f"data.classes: {folder / _FILE} has no class {wrong[0]}; it has {', '.join(known)}")
        chosen = self.classes or tuple(known)
        records: list[Record] = []
        problems: list[BadFile] = []
        for name in chosen:
            train = [self._record(root, folder, name, "train", one, problems) for one in lists["train"].get(name, [])]
            healthy = [one for one in train if one is not None]
            val = held_out([one.subject or one.id for one in healthy], self.val_fraction, self.seed)
            records += [
                Record(**{**vars(one), "split": "val" if (one.subject or one.id) in val else "train"})
                for one in healthy
            ]
            tested = [self._record(root, folder, name, "test", one, problems) for one in lists["test"].get(name, [])]
            records += [one for one in tested if one is not None]
        first = {record.image: record.split for record in reversed(records)}
        double = [image for image, count in Counter(one.image for one in records).items() if count > 1]
        problems += [BadFile(one, f"listed twice, first in {first[one]}", "correct the lists") for one in double]
        self.report(problems)
        return [record for record in records if record.image not in double]

    def _record(
        self, root: Path, folder: Path, name: str, split: str, one: dict[str, Any], problems: list[BadFile]
    ) -> Record | None:
        image, mask, label = _inside(one["img_path"]), _inside(one.get("mask_path") or ""), int(bool(one["anomaly"]))
        if image is None or mask is None:
            remedy = f"paths are relative to {folder}"
            problems.append(BadFile(folder / _FILE, f"{one['img_path']} leads outside of the folder", remedy))
        elif not (folder / image).is_file():
            problems.append(BadFile(folder / image, "listed but absent", "unpack the archive again"))
        elif label and split == "train":
            problems.append(BadFile(folder / image, "an anomalous image in train", "training takes healthy ones"))
        elif label and mask and not (folder / mask).is_file():
            problems.append(BadFile(folder / mask, f"no such file, the mask of {image}", "unpack the archive again"))
        else:
            inside = shown((folder / image).relative_to(root).as_posix())
            found = self.case_of(inside) or first_group(r"([^/]+)_\d+\.png$", inside)
            # of two parts: BMAD's normal and ill livers are of two sets that count from 0
            subject = f"{name}-{split}-{found}" if found else ""
            place = str(folder / mask) if mask and label else None
            return Record(inside, str(folder / image), split, label, subject, place, source=name)
        return None

    def group_of(self, record: Record) -> str:
        """The class, unless the user groups otherwise."""
        return super().group_of(record) or record.source

    def _training_files(self) -> list[Path]:
        folder = self.set_folder()
        lists = read_meta(folder / _FILE)["train"]
        paths = [_inside(one["img_path"]) for name, group in lists.items() if self._wanted(name) for one in group]
        return [folder / path for path in paths if path is not None and (folder / path).is_file()]

    def _wanted(self, name: str) -> bool:
        return not self.classes or name in self.classes

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Read, scale, resize; empty masks are kept."""
        scale: dict[str, Any] = {"bounds": self.intensity_range, "otherwise": self.grey_scale()}
        return partial(prepare_picture, size=self._target(), channels=self.channels, **scale)


def _inside(path: str) -> str | None:
    """A relative path with slashes; None if it leads elsewhere."""
    plain = path.replace("\\", "/")
    return None if plain.startswith("/") or ":" in plain[:2] or ".." in PurePosixPath(plain).parts else plain


def read_meta(path: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Entries by part (``train``, ``test``) and class.

    Raises:
        UserError: no JSON of that form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lists = {part: dict(content[part]) for part in ("train", "test")}
        for groups in lists.values():
            for group in groups.values():
                for one in group:
                    if not isinstance(one["img_path"], str) or not isinstance(one.get("mask_path") or "", str):
                        raise TypeError("img_path and mask_path are texts")
                    int(bool(one["anomaly"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: no lists ({error}); expected {_FORM}") from error
    return lists
