"""The user's own images in folders."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import AnomalyDataModule
from datamodules.cache import Prepared
from datamodules.preprocessing import (
    check_mask,
    match_channels,
    plain,
    read_mask,
    read_picture,
    resize_image,
    resize_mask,
    to_unit,
)
from datamodules.reading import NIFTI, BadFile, list_files, read_nifti, suffix
from datamodules.records import Record, held_out
from zoo.errors import UserError

LAYOUT = "train/normal, test/normal, test/anomalous and optionally masks and train/unlabeled"


class Folder(AnomalyDataModule):
    """``train/normal``, ``test/normal``, ``test/anomalous`` and optionally ``masks`` below one root.

    Reads png, jpg, tif, bmp, npy, dcm and nii/nii.gz, the last ones slice by slice along the third axis as stored. A
    mask has the stem of its image (``test/anomalous/a/x.png`` and ``masks/a/x.png``); any type, NIfTI for volumes.
    With ``unlabeled``, ``train/unlabeled`` holds images of unknown health.
    Values are in [0, 1]: see :func:`~datamodules.preprocessing.read_picture`.
    """

    card = {
        "title": "your own images",
        "access": "-",
        "licence": "yours",
        "layout": "train/normal test/normal test/anomalous [masks]",
        "official": {},
        "phantom": "folder",
        "config": "data/folder",
        "images": "pictures",
        "channels": (1, 3),
        "value_range": (0.0, 1.0),
        "foreground": "all",
        "subject": "unknown",
        "protocol": "",
        "leaks": "`zoo data check folder` lists copies and near-copies between the splits",
    }
    slices_as_stored = True

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        intensity_range: tuple[float, float] | None = None,
        case_pattern: str | None = None,
        **common: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            image_size: side or (height, width); None keeps the files' size, which must then be one and the same.
            in_channels: 1 or 3; None: 3 if the first training file is in colour.
            intensity_range: values that become 0 and 1, for example (0, 4095) for 12-bit films; None: see above.
            case_pattern: regular expression with one group that finds the patient in a file's path below the root, for
                example ``([^/]+)/[^/]+$`` for a folder a patient; all files of a patient are then in one split and
                count as one case. None: every file is a case.
            **common: see :class:`AnomalyDataModule`.
        """
        super().__init__(image_size=image_size, **common)
        try:
            self.case_pattern = None if case_pattern is None else re.compile(case_pattern)
        except re.error as error:
            raise UserError(f"data.case_pattern {case_pattern}: no regular expression ({error})") from error
        if self.case_pattern is not None and self.case_pattern.groups != 1:
            found = self.case_pattern.groups
            raise UserError(f"data.case_pattern {case_pattern}: one group is expected, found {found}")
        if in_channels not in (None, 1, 3):
            raise UserError(f"data.in_channels must be 1 or 3, found {in_channels}")
        self.in_channels, self.intensity_range = in_channels, intensity_range
        self._channels = in_channels

    def index(self, root: Path) -> list[Record]:
        """Records by folder."""
        groups = {name: _group(root, name) for name in ("train/normal", "test/normal", "test/anomalous")}
        masks = root / "masks"
        found = (
            {p.relative_to(masks).with_suffix("").as_posix(): p for p in list_files(masks)} if masks.is_dir() else {}
        )
        train = [file.relative_to(root).as_posix() for file in groups["train/normal"]]
        val = held_out([self.case_of(name) or name for name in train], self.val_fraction, self.seed)
        records = [
            _record(root, root / name, "val" if (self.case_of(name) or name) in val else "train") for name in train
        ]
        records += [_record(root, file, "test") for file in groups["test/normal"]]
        anomalous = root / "test" / "anomalous"
        used = set()
        problems: list[BadFile] = []
        for file in groups["test/anomalous"]:
            stem = _stem(file, anomalous)
            mask = found.get(stem, found.get(stem + "_mask"))
            if found and mask is None:
                problems.append(BadFile(file, f"no mask {masks / stem}.*", f"add it, or remove the folder {masks}"))
            used.add(mask)
            if mask is not None or not found:
                records.append(_record(root, file, "test", label=1, mask=mask))
        orphans = sorted(str(mask) for mask in found.values() if mask not in used)
        problems += [BadFile(mask, f"no image of that name in {anomalous}", "rename or remove it") for mask in orphans]
        self.report(problems)
        if self.unlabeled:
            records += [_record(root, file, "unlabeled") for file in _group(root, "train/unlabeled")]
        return [self._with_case(record) for record in records]

    def _with_case(self, record: Record) -> Record:
        case = self.case_of(record.id)
        if self.case_pattern is not None and not case:
            raise UserError(
                f"{record.image}: data.case_pattern {self.case_pattern.pattern} finds no patient in {record.id}"
            )
        return replace(record, subject=case)

    def case_of(self, name: str) -> str:
        """What ``case_pattern`` finds in the name; empty without a pattern or where it finds nothing."""
        found = None if self.case_pattern is None else self.case_pattern.search(name)
        return "" if found is None else found[1] or ""

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Read, scale, resize."""
        return partial(prepare_file, size=self._target(), channels=self.channels, bounds=self.intensity_range)

    def _target(self) -> tuple[int, ...] | None:
        unknown = self.image_size is None and self.store is None
        return None if unknown else self.spatial_size

    @property
    def channels(self) -> int:
        """As set, or as the first training file has (the first readable one if reading is lenient)."""
        if self._channels is None:
            files = _group(self.folder(), "train/normal")
            self._channels = next(filter(None, map(self._channels_of, files)), 1)
        return self._channels

    def _channels_of(self, file: Path) -> int | None:
        if suffix(file) in NIFTI:
            return 1
        try:
            return int(read_picture(str(file)).shape[-1])
        except BadFile:
            if self.bad_files == "strict":
                raise
            return None

    @property
    def parameters(self) -> dict[str, Any]:
        """Size, channels and scaling."""
        return plain({"size": self._target(), "channels": self.channels, "intensity_range": self.intensity_range})


def _group(root: Path, name: str) -> list[Path]:
    folder = root / name
    if not folder.is_dir():
        deeper = sorted(str(inner.parents[len(Path(name).parts) - 1]) for inner in root.glob(f"*/{name}"))
        hint = f"pass {deeper[0]} instead" if deeper else f"the folders {LAYOUT} are expected"
        found = ", ".join(sorted(entry.name for entry in root.iterdir())[:6]) or "nothing"
        raise UserError(f"{root}: no folder {name} (found {found}); {hint}")
    files = list_files(folder)
    if not files:
        raise UserError(f"{folder}: no image in it; readable are png, jpg, tif, bmp, npy, dcm, nii and nii.gz")
    return files


def _stem(file: Path, folder: Path) -> str:
    name = file.relative_to(folder).as_posix()
    return name[: -len(suffix(file))]


def _record(root: Path, file: Path, split: str, label: int = 0, mask: Path | None = None) -> Record:
    name = file.relative_to(root).as_posix()
    return Record(name, str(file), split, label, mask=None if mask is None else str(mask))


def prepare_file(
    record: Record, *, size: tuple[int, ...] | None, channels: int, bounds: tuple[float, float] | None
) -> Prepared:
    """Read one picture, or a volume by slices, in [0, 1].

    Args:
        record: the file and its mask.
        size: ``(H, W)``, None keeps the file's.
        channels: 1 or 3.
        bounds: values that become 0 and 1.

    Raises:
        BadFile: not decodable, or a mask that does not fit.
    """
    if suffix(record.image) in NIFTI:
        return _prepare_volume(record, size, channels, bounds)
    image = read_picture(record.image, bounds)
    mask = None if record.mask is None else read_mask(record.mask)
    if mask is not None and record.mask is not None:
        check_mask(record.image, image, record.mask, mask)
    target = image.shape[:2] if size is None else (size[0], size[1])
    image = np.moveaxis(resize_image(match_channels(image, channels), target), -1, 0)
    return Prepared(image[None], None if mask is None else resize_mask(mask, target)[None])


def _prepare_volume(
    record: Record, size: tuple[int, ...] | None, channels: int, bounds: tuple[float, float] | None
) -> Prepared:
    volume, affine = read_nifti(record.image, canonical=False)
    target = volume.shape[:2] if size is None else (size[0], size[1])
    planes = resize_image(to_unit(volume, bounds), target)  # slices are resized like channels
    image = np.repeat(np.moveaxis(planes, -1, 0)[:, None], channels, axis=1)
    mask = None
    if record.mask is not None:
        truth = read_nifti(record.mask, canonical=False)[0] > 0
        if truth.shape != volume.shape:
            raise BadFile(record.mask, f"shape {truth.shape}, its image has {volume.shape}", "give matching files")
        mask = np.stack([resize_mask(truth[..., k], target) for k in range(truth.shape[-1])])
    labels = None if mask is None else tuple(int(one.any()) for one in mask)
    zoom = np.linalg.norm(affine[:3, :2], axis=0) * np.array(volume.shape[:2]) / np.array(target)
    spacing = (float(zoom[0]), float(zoom[1]))
    return Prepared(image, mask, None, labels, tuple(range(volume.shape[-1])), spacing)
