"""Lists in ``data.json`` beside ``images``: four sets of MedIAnomaly (Cai et al., Medical Image Analysis 2025)."""

import json
from pathlib import Path

from datamodules.collection import Collection
from datamodules.listing import list_files, shown
from datamodules.reading import BadFile
from datamodules.records import Record, held_out
from zoo.errors import UserError

_FILE = "data.json"


class DataJson(Collection):
    """``images`` with the lists ``{"train": {"0": [...]}, "test": {"0": [...], "1": [...]}}``; 1 is anomalous.

    The official lists are not divided anew; a share of the training list validates. Further training lists
    (``unlabeled`` of older copies) are read under ``unlabeled`` alone. Values are in [0, 1], as those of
    :class:`~datamodules.folder.Folder`.
    """

    card = {
        "title": "chest films, brain slices or fundi of MedIAnomaly, by their lists",
        "access": "zenodo.org 12677223",
        "licence": "CC BY 4.0 of the record; the parts keep their own terms",
        "layout": "images data.json",
        "official": {},
        "phantom": "data_json",
        "config": "data/data_json",
        "images": "pictures",
        "channels": (1, 3),
        "value_range": (0.0, 1.0),
        "foreground": "all",
        "pool": "train/unlabeled of the lists",
        "subject": "the image; patients are not known",
        "protocol": "MedIAnomaly: 64 x 64, grey, 250 epochs (BrainTumor 600), five seeds",
        "leaks": "BrainTumor: normal and ill slices come from different collections",
    }

    marker = _FILE
    official_sets = {
        "rsna": {"training images": 3851, "test normal": 1000, "test anomalous": 1000},
        "vincxr": {"training images": 4000, "test normal": 1000, "test anomalous": 1000},
        "braintumor": {"training images": 1000, "test normal": 600, "test anomalous": 600},
        "lag": {"training images": 1500, "test normal": 811, "test anomalous": 811},
    }

    def index(self, root: Path) -> list[Record]:
        """Records by the lists."""
        folder = self.set_folder()
        lists = read_lists(folder / _FILE)
        files = {path.relative_to(folder / "images").as_posix(): path for path in list_files(folder / "images")}
        val = held_out(lists["train", 0], self.val_fraction, self.seed)
        problems: list[BadFile] = []
        records: dict[str, Record] = {}
        for (split, label), names in lists.items():
            if split == "unlabeled" and not self.unlabeled:
                continue
            for name in names:
                file = files.get(name)
                if name in records:
                    first = records[name].split
                    problems.append(
                        BadFile(folder / _FILE, f"{name} is in {first} and in {split}", "correct the lists")
                    )
                elif file is None:
                    problems.append(BadFile(folder / "images" / name, "listed but absent", "unpack the archive again"))
                else:
                    part = "val" if split == "train" and name in val else split
                    records[name] = Record(shown(file.relative_to(root).as_posix()), str(file), part, label)
        self.report(problems)
        return list(records.values())

    def notes(self) -> list[str]:
        """Images that no list names."""
        folder = self.set_folder()
        listed = {name for names in read_lists(folder / _FILE).values() for name in names}
        images = folder / "images"
        unlisted = [path for path in list_files(images) if path.relative_to(images).as_posix() not in listed]
        return [f"{len(unlisted)} images are in no list, first {unlisted[0].name}"] if unlisted else []

    def _training_files(self) -> list[Path]:
        folder = self.set_folder()
        found = [folder / "images" / name for name in read_lists(folder / _FILE)["train", 0]]
        return [path for path in found if path.is_file()]


def read_lists(path: Path) -> dict[tuple[str, int], list[str]]:
    """Names by split (``train``, ``test``, ``unlabeled``) and label.

    Raises:
        UserError: no JSON of that form; the message names the missing key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        train, test = content["train"], content["test"]
        wanted = {("train", 0): train["0"], ("test", 0): test["0"], ("test", 1): test["1"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        expected = '{"train": {"0": [...]}, "test": {"0": [...], "1": [...]}}'
        raise UserError(f"{path}: no lists ({error}); expected {expected}") from error
    pool = train.get("unlabeled", {})
    for label in (0, 1):
        wanted["unlabeled", label] = pool.get(str(label), []) if isinstance(pool, dict) else []
    for (split, label), names in wanted.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: {split}/{label} is no list of names; fetch the file again")
    return wanted
