"""Trees of ``good`` folders: the layouts of MVTec AD (Bergmann et al., CVPR 2019) and BMAD (Bao et al., CVPRW 2024)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cache import Prepared
from datamodules.collection import Collection, first_group
from datamodules.folder import prepare_file
from datamodules.folder_layout import MASK_ENDINGS, plain_ending
from datamodules.listing import list_files, shown, stem
from datamodules.preprocessing import read_mask
from datamodules.reading import BadFile
from datamodules.records import Record, held_out

# the patient or volume in the names of BMAD's sets; Histopathology's are running numbers
_PATIENTS = {
    "brain": r"([^/]+)_\d+\.png$",
    "liver": r"([^/]+)_\d+\.png$",
    "retina_resc": r"([^/]+)_\d+\.png$",
    "retina_oct2017": r"[A-Z]+-(\d+)-\d+\.jpe?g$",
}
_MASKS_BESIDE = ("label", "anomaly_mask")


class GoodFolders(Collection):
    """``train/good`` to train on, ``test/good`` and any other folders of ``test`` to find anomalies in.

    Masks are in ``ground_truth/FOLDER/NAME_mask.png`` (MVTec) or beside ``img`` in ``test/Ungood/label`` or
    ``anomaly_mask`` (BMAD). Healthy images of ``valid`` validate where it exists, otherwise a share of the training
    images does. The ill images of ``valid`` are never used: BMAD's own protocol selects on them. A mask may be empty
    (some of BMAD's ill slices show no tumour); the folder decides the label.

    Values are in [0, 1], as those of :class:`~datamodules.folder.Folder`.
    """

    card = {
        "title": "any set in the layout of MVTec AD or BMAD",
        "access": "mvtec.com; github.com/DorisBao/BMAD",
        "licence": "CC BY-NC-SA 4.0 (MVTec AD, BMAD)",
        "layout": "train/good test/good test/* [ground_truth/*] [valid/good]",
        "official": {},
        "phantom": "good_folders",
        "phantom_options": {"layout": ("bmad",)},
        "config": "data/good_folders",
        "images": "pictures",
        "channels": (1, 3),
        "value_range": (0.0, 1.0),
        "foreground": "all",
        "subject": "of BMAD's sets the patient or volume in the name; else unknown (case_pattern)",
        "protocol": "BMAD: 224 x 224, selected on ill validation images, which is not done here",
        "leaks": "BMAD: brains are pseudo-coloured and scaled slice by slice; normal and ill livers come from two sets",
    }

    marker = "train/good"
    official_sets = {
        "brain": {"training images": 7500, "validation normal": 39, "test normal": 640, "test anomalous": 3075},
        "liver": {"training images": 1542, "validation normal": 93, "test normal": 833, "test anomalous": 660},
        "retina_resc": {"training images": 4297, "validation normal": 45, "test normal": 1041, "test anomalous": 764},
        "retina_oct2017": {"training images": 26315, "validation normal": 8, "test normal": 242, "test anomalous": 726},
        "chest": {"training images": 8000, "validation normal": 70, "test normal": 781, "test anomalous": 16413},
        "retinal": {"training images": 4297, "test normal": 1041, "test anomalous": 764},  # of Uni-Medical
        "histopathology": {"training images": 5088},
        "camelyon16": {"training images": 5088, "test normal": 1120, "test anomalous": 1113},
    }

    def index(self, root: Path) -> list[Record]:
        """Records by folder."""
        tree = self.set_folder()
        train, valid = _images(tree / "train" / "good"), _images(tree / "valid" / "good")
        ids = {file: shown(file.relative_to(root).as_posix()) for file in [*train, *valid]}
        val = set() if valid else held_out([self._owner(ids[file]) for file in train], self.val_fraction, self.seed)
        records = [Record(ids[f], str(f), "val" if self._owner(ids[f]) in val else "train") for f in train]
        records += [Record(ids[file], str(file), "val") for file in valid]
        problems: list[BadFile] = []
        for folder in sorted(path for path in (tree / "test").glob("*") if path.is_dir()):
            masks = _masks(tree, folder)
            for file in _images(folder):
                name = shown(file.relative_to(root).as_posix())
                if folder.name == "good":
                    records.append(Record(name, str(file), "test"))
                    continue
                own = plain_ending(stem(file.name))
                mask = next((masks[own + end] for end in MASK_ENDINGS if own + end in masks), None)
                if masks and mask is None:
                    problems.append(BadFile(file, "no mask of its name", f"add it beside {next(iter(masks.values()))}"))
                else:
                    records.append(Record(name, str(file), "test", 1, mask=None if mask is None else str(mask)))
        self.report(problems)
        return [replace(record, subject=self._patient(record.id)) for record in records]

    @property
    def set_name(self) -> str:
        """Of BMAD's two names of a set the one that MedIAnomaly's copy, without ``valid``, does not have."""
        name = super().set_name
        return "histopathology" if name == "camelyon16" and (self.set_folder() / "valid").is_dir() else name

    def _patient(self, name: str) -> str:
        if self.case_pattern is not None:
            return self.case_of(name)
        found = first_group(_PATIENTS.get(self.set_name, "()$"), name)
        source = ("BTCV-" if "train/good/" in name else "LiTS-") if self.set_name == "liver" else ""
        return source + found if found else ""

    def official_counts(self) -> dict[str, int]:
        """Images by part; those of ``valid`` apart."""
        valid = self.set_folder() / "valid" / "good"
        apart = len(_images(valid))
        healthy = sum(one.split in ("train", "val") for one in self.manifest)
        test = [one.label for one in self.manifest if one.split == "test"]
        counts = {"training images": healthy - apart, **({"validation normal": apart} if apart else {})}
        return {**counts, "test normal": test.count(0), "test anomalous": test.count(1)}

    def _owner(self, name: str) -> str:
        return self._patient(name) or name

    def _training_files(self) -> list[Path]:
        return _images(self.set_folder() / "train" / "good")

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Read, scale, resize; empty masks are kept."""
        scale: dict[str, Any] = {"bounds": self.intensity_range, "otherwise": self.grey_scale()}
        return partial(prepare_picture, size=self._target(), channels=self.channels, **scale)

    def notes(self) -> list[str]:
        """How many ill images have an empty mask."""
        assert self.store is not None
        positions = np.flatnonzero(self.store.has_mask)
        ill = positions[self.labels(positions) == 1]
        empty = int((~self.store.mask(ill).reshape(len(ill), -1).any(1)).sum()) if len(ill) else 0
        return [f"{empty} ill images have an empty mask"] if empty else []


def _images(folder: Path) -> list[Path]:
    """Images of a folder, or of its ``img`` where there is one."""
    place = folder / "img" if (folder / "img").is_dir() else folder
    files = list_files(place) if place.is_dir() else []
    return [file for file in files if file.relative_to(place).parts[0] not in _MASKS_BESIDE]


def _masks(tree: Path, folder: Path) -> dict[str, Path]:
    """Masks of one folder of ``test`` by the stem of their names."""
    for place in (*(folder / name for name in _MASKS_BESIDE), tree / "ground_truth" / folder.name):
        if place.is_dir():
            return {plain_ending(stem(file.name)): file for file in list_files(place)}
    return {}


def prepare_picture(record: Record, **options: Any) -> Prepared:
    """One picture as :func:`~datamodules.folder.prepare_file` reads it; an empty mask is no mistake here.

    Raises:
        BadFile: not decodable, or a mask that does not fit.
    """
    if record.mask is not None and not read_mask(record.mask).any():
        prepared = prepare_file(replace(record, mask=None), **options)
        return prepared._replace(mask=np.zeros((1, *prepared.image.shape[2:]), bool))
    return prepare_file(record, **options)
