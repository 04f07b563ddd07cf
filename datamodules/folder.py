"""The user's own images in folders, or in a table."""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import READABLE, AnomalyDataModule
from datamodules.cache import Prepared, content_digests
from datamodules.checks import nearly_empty_range
from datamodules.dicom_series import with_series
from datamodules.folder_layout import match_masks, missing_group
from datamodules.listing import RASTER, VOLUMES, Listing, companions, kind, list_files, shown, walk
from datamodules.preprocessing import (
    check_mask,
    decode_picture,
    match_channels,
    plain,
    read_mask,
    read_volume_mask,
    resize_image,
    resize_mask,
    scaling,
    unit_picture,
)
from datamodules.reading import Array, BadFile, Bounds, Decoded, Volume, picture_size, read_volume_file
from datamodules.records import Record, held_out
from datamodules.table import read_table
from zoo.errors import UserError
from zoo.files import write_text

_MAY_STATE_NOTHING = (".tif", ".tiff", ".npy", ".npz", *VOLUMES)


class Folder(AnomalyDataModule):
    """``train/normal``, and to test ``test/normal`` and ``test/anomalous`` with or without ``masks``, below one root.

    Reads what :data:`datamodules.listing.SUFFIXES` lists and DICOM files of any name; volumes slice by slice along the
    third axis as stored; the DICOM slices of a series are a volume, and files of one patient (PatientID) a case.
    A mask has the name of its image, up to ``_mask``, ``_seg`` or ``_gt``
    (``test/anomalous/a/x.png`` and ``masks/a/x.png``); any type, a volume for volumes. With ``unlabeled``,
    ``train/unlabeled`` holds images of unknown health. A ``table`` says all this instead of folders.

    Values are in [0, 1] on one grey scale: ``intensity_range``; else what each header states; else, for files that
    state nothing (floats, volumes), the lowest and highest value of all such training files.
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
        "pool": "train/unlabeled",
        "subject": "unknown",
        "protocol": "",
        "leaks": "`zoo data check folder` lists copies and near-copies between the splits",
    }

    def __init__(
        self,
        *,
        root: str | None = None,
        table: str | None = None,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        intensity_range: tuple[float, float] | None = None,
        case_pattern: str | None = None,
        group_pattern: str | None = None,
        group_column: str | None = None,
        **common: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            root: folder of the images; None: the table's folder, or without a table a phantom.
            table: CSV file with the column path and, as far as known, label, mask, subject, split and further columns;
                see :func:`~datamodules.table.read_table`. None: the folders decide.
            image_size: side or (height, width); None keeps the files' size, which must then be one and the same.
            in_channels: 1 or 3; None: 3 if the first training file is in colour.
            intensity_range: values that become 0 and 1, for example (0, 4095) for 12-bit films; None: see above.
            case_pattern: regular expression with one group that finds the patient in a file's path below the root, for
                example ``([^/]+)/[^/]+$`` for a folder a patient; all files of a patient are then in one split and
                count as one case. None: every file is a case.
            group_pattern: the same for scanner, site, ...: a group is calibrated by its own healthy cases where these
                suffice, and told by itself after a test.
            group_column: column of the table that holds the group.
            **common: see :class:`AnomalyDataModule`.
        """
        self.table = None if table is None else Path(table).expanduser()
        if root is None and self.table is not None:
            root = str(self.table.parent)
        super().__init__(root=root, image_size=image_size, **common)
        self.case_pattern = _pattern("data.case_pattern", case_pattern)
        self.group_pattern = _pattern("data.group_pattern", group_pattern)
        self.group_column = group_column
        if group_column is not None and self.table is None:
            raise UserError(f"data.group_column {group_column}: needs data.table; data.group_pattern works on paths")
        if in_channels not in (None, 1, 3):
            raise UserError(f"data.in_channels must be 1 or 3, found {in_channels}")
        if intensity_range is not None and not intensity_range[0] < intensity_range[1]:
            low, high = intensity_range
            raise UserError(f"data.intensity_range [{low:g}, {high:g}]: black comes first, then a larger value, white")
        self.in_channels, self.intensity_range = in_channels, intensity_range
        self._channels = in_channels
        self._grey_scale: Bounds | None = None
        self._original: tuple[str, Array] | None = None
        self._series: dict[str, list[str]] = {}
        self._listings: dict[str, Listing] = {}

    def index(self, root: Path) -> list[Record]:
        """Records by folder, or by the table."""
        if self.table is not None:
            options: dict[str, Any] = {"val_fraction": self.val_fraction, "seed": self.seed}
            records = read_table(self.table, root, case_of=self.case_of, report=self.report, **options)
            return self._joined([record for record in records if self.unlabeled or record.split != "unlabeled"])
        files = [_record(root, file, "train") for file in self._group("train/normal")]
        train = self._joined([self._with_case(record) for record in files])
        val = held_out([record.subject or record.id for record in train], self.val_fraction, self.seed)
        train = [replace(one, split="val") if (one.subject or one.id) in val else one for one in train]
        records = [_record(root, file, "test") for file in self._group("test/normal", needed=False)]
        anomalous = self._group("test/anomalous", needed=False)
        masks, problems = match_masks(root, anomalous)
        self.report(problems)
        records += [_record(root, file, "test", 1, masks[file]) for file in anomalous if file in masks]
        if self.unlabeled:
            records += [_record(root, file, "unlabeled") for file in self._group("train/unlabeled")]
        return train + self._joined([self._with_case(record) for record in records])

    def _joined(self, records: list[Record]) -> list[Record]:
        """Series of DICOM slices as volumes."""
        joined = with_series(records)
        self._series |= {one.image: [one.image, *one.companions] for one in joined if _is_series(one)}
        return joined

    def predict_records(self, places: Sequence[Path]) -> list[Record]:
        """As everywhere, with series of DICOM slices as volumes."""
        return self._joined(super().predict_records(places))

    def members(self, source: str) -> list[str]:
        """All files of the series whose first one is ``source``, in the order of their slices."""
        return self._series.get(source, [source])

    def recipe(self) -> dict[str, Any]:
        """As of all data sets, with the grey scale of files that state none."""
        found = super().recipe()
        scale = self.grey_scale()
        found["known"] |= {"grey_scale": None if scale is None else list(scale)}
        return found

    def take_known(self, known: Mapping[str, Any]) -> None:
        """As of all data sets, with channels and grey scale."""
        super().take_known(known)
        if self._channels is None and known.get("channels") is not None:
            self._channels = int(known["channels"])
        if self._grey_scale is None and known.get("grey_scale") is not None:
            low, high = known["grey_scale"]
            self._grey_scale = (float(low), float(high))

    def _group(self, name: str, *, needed: bool = True) -> list[Path]:
        root = self.folder()
        if not (root / name).is_dir():
            if needed or (root / "test").is_dir():
                message = missing_group(root, name)
                if needed or "rename" in message:
                    raise UserError(message)
            return []
        if name not in self._listings:
            self._listings[name] = walk(root / name)
        listing = self._listings[name]
        note = listing.note()
        if not listing.files and needed:
            raise UserError(f"{root / name}: no image in it; {note or READABLE}")
        return listing.files

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

    def group_of(self, record: Record) -> str:
        """The cell of ``group_column``, else what ``group_pattern`` finds."""
        found = None if self.group_pattern is None else self.group_pattern.search(record.id)
        cell = dict(record.columns).get(self.group_column, "") if self.group_column is not None else ""
        return cell or ("" if found is None else found[1] or "")

    def original(self, source: str, number: int) -> Array | None:
        """The whole file as it is read, before resizing."""
        if source in self._series and number >= 0:
            source, number = self._series[source][number], -1
        if self._original is None or self._original[0] != source:
            decoded = _decoded(source, self.intensity_range is None)
            image = unit_picture(source, decoded, self.intensity_range, self.grey_scale())
            self._original = source, image
        image = self._original[1]
        return image[..., number] if number >= 0 else image

    def test_dataloader(self) -> Any:
        """The test set.

        Raises:
            UserError: there are no healthy or no anomalous images to test.
        """
        labels = self.dataset("test").labels
        for label, name in enumerate(("normal", "anomalous")):
            if not (labels == label).any():
                where = f"{self.table}: no line" if self.table else f"{self.folder() / 'test' / name}: no image"
                raise UserError(f"{where} to test that is {name}; training does without, the test needs both kinds")
        return super().test_dataloader()

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Read, scale, resize."""
        scale: dict[str, Any] = {"bounds": self.intensity_range, "otherwise": self.grey_scale()}
        return partial(prepare_file, size=self._target(), channels=self.channels, **scale)

    def _target(self) -> tuple[int, ...] | None:
        unknown = self.image_size is None and self.store is None
        return None if unknown else self.spatial_size

    def _training_files(self) -> list[Path]:
        if self.table is None:
            return self._group("train/normal")
        return [Path(record.image) for record in self.index(self.folder()) if record.split in ("train", "val")]

    @property
    def channels(self) -> int:
        """As set, or as the first training file has (the first readable one if reading is lenient)."""
        if self._channels is None:
            self._channels = next(filter(None, map(self._channels_of, self._training_files())), 1)
        return self._channels

    def _channels_of(self, file: Path) -> int | None:
        if kind(file) in VOLUMES:
            return 1
        try:
            return int(decode_picture(str(file)).values.shape[-1])
        except BadFile:
            if self.bad_files == "strict":
                raise
            return None

    def grey_scale(self) -> Bounds | None:
        """Values that become 0 and 1 in files that state none: lowest and highest of all such training files.

        Floats that lie in [0, 1] keep it. Where all training files state a scale, that of the first. None if the user
        states one.
        """
        elsewhere = self.predict_input is not None and self.root is not None and not self.root.is_dir()
        if self.intensity_range is None and self._grey_scale is None and not elsewhere:
            files = self._training_files()
            asked = [str(file) for file in files if kind(file) in _MAY_STATE_NOTHING]
            self._grey_scale = self._measured_scale(asked) if asked else None
            self._grey_scale = self._grey_scale or next(filter(None, map(_stated, map(str, files))), (0.0, 1.0))
        return self._grey_scale

    @classmethod
    def open_for_check(cls, root: Path, **options: Any) -> "Folder":
        """Pictures of several sizes are brought to one for the comparisons."""
        sizes = set()
        for file in list_files(root):
            if kind(file) in RASTER:
                with contextlib.suppress(BadFile):  # told when it is read
                    sizes.add(picture_size(file))
            else:
                sizes.add((0, 0))
        return cls(root=str(root), **{"image_size": 128 if len(sizes) > 1 else None, **options})

    def check_notes(self) -> list[str]:
        """Files that are not read, and a grey scale that the images hardly use."""
        notes = [f"{name}: {listing.note()}" for name, listing in self._listings.items() if listing.note()]
        assert self.store is not None
        used = nearly_empty_range(self.store)
        if used is not None:
            scale = self.intensity_range or _stated(self.manifest[0].image) or self.grey_scale() or (0.0, 1.0)
            low, high = (scale[0] + share * (scale[1] - scale[0]) for share in used)
            if scale[0] == 0 and scale[1] in (65535.0, 255.0):  # counts: a whole number of bits
                low, high = 0.0, float(2 ** int(np.ceil(np.log2(max(high, 1) + 1))) - 1)
            notes.append(
                f"all images lie in [{used[0]:.2g}, {used[1]:.2g}] of the grey scale {scale[0]:g} to {scale[1]:g}; "
                f"set --data.intensity_range [{low:g}, {high:g}]"
            )
        return notes + super().check_notes()

    def _measured_scale(self, files: list[str]) -> Bounds | None:
        """Kept beside the cache under the digest of the files: reading them takes a while."""
        digests = content_digests(files, self.cache_dir)
        key = hashlib.sha256("".join(digests[file] for file in files).encode()).hexdigest()[:24]
        memo = self.cache_dir / "scales" / f"{key}.json"
        if not memo.is_file():
            found = [bounds for bounds in map(_measured, files) if bounds is not None]
            low, high = (min(one[0] for one in found), max(one[1] for one in found)) if found else (0.0, 0.0)
            write_text(memo, json.dumps([low, high] if found else None), shared=True)
        low, high = json.loads(memo.read_text()) or (0.0, 0.0)
        if low >= high:
            return None
        return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)

    @property
    def parameters(self) -> dict[str, Any]:
        """Size, channels and scaling."""
        scale = {"intensity_range": self.intensity_range, "grey_scale": self.grey_scale()}
        return plain({"size": self._target(), "channels": self.channels, **scale})


def _pattern(name: str, text: str | None) -> re.Pattern[str] | None:
    """A regular expression with one group."""
    try:
        found = None if text is None else re.compile(text)
    except re.error as error:
        raise UserError(f"{name} {text}: no regular expression ({error})") from error
    if found is not None and found.groups != 1:
        raise UserError(f"{name} {text}: one group is expected, found {found.groups}")
    return found


def _decoded(path: str, shown_as_stated: bool) -> Decoded | Volume:
    if kind(path) in VOLUMES:
        return read_volume_file(path, canonical=False)
    return decode_picture(path, shown_as_stated=shown_as_stated)


def _stated(path: str) -> Bounds | None:
    try:
        return _decoded(path, True).stated
    except BadFile:  # told when it is read
        return None


def _measured(path: str) -> Bounds | None:
    """Lowest and highest value of a file that states no scale."""
    try:
        decoded = _decoded(path, True)
    except BadFile:
        return None
    return None if decoded.stated else (float(decoded.values.min()), float(decoded.values.max()))


def _record(root: Path, file: Path, split: str, label: int = 0, mask: Path | None = None) -> Record:
    parts = tuple(map(str, companions(file)))
    name = shown(file.relative_to(root).as_posix())
    return Record(name, str(file), split, label, mask=None if mask is None else str(mask), companions=parts)


def prepare_file(
    record: Record,
    *,
    size: tuple[int, ...] | None,
    channels: int,
    bounds: Bounds | None = None,
    otherwise: Bounds | None = None,
) -> Prepared:
    """Read one picture, or a volume by slices, in [0, 1].

    Args:
        record: the file and its mask.
        size: ``(H, W)``, None keeps the file's.
        channels: 1 or 3.
        bounds: values that become 0 and 1, as the user states them.
        otherwise: values that become 0 and 1 in files that state none.

    Raises:
        BadFile: not decodable, or a mask that does not fit.
    """
    if _is_series(record):
        return _prepare_series(record, size, channels, bounds, otherwise)
    decoded = _decoded(record.image, bounds is None)
    image = unit_picture(record.image, decoded, bounds, otherwise)
    target = image.shape[:2] if size is None else (size[0], size[1])
    if isinstance(decoded, Volume):
        return _prepare_volume(record, decoded, image, target, channels)
    mask = None if record.mask is None else read_mask(record.mask)
    if mask is not None and record.mask is not None:
        check_mask(record.image, image, record.mask, mask)
    image = np.moveaxis(resize_image(match_channels(image, channels), target), -1, 0)
    return Prepared(image[None], None if mask is None else resize_mask(mask, target)[None])


def _is_series(record: Record) -> bool:
    return bool(record.companions) and kind(record.image) == ".dcm"


def _prepare_series(
    record: Record, size: tuple[int, ...] | None, channels: int, bounds: Bounds | None, otherwise: Bounds | None
) -> Prepared:
    planes = []
    for file in (record.image, *record.companions):
        image = unit_picture(file, _decoded(file, bounds is None), bounds, otherwise)
        target = image.shape[:2] if size is None else (size[0], size[1])
        planes.append(np.moveaxis(resize_image(match_channels(image, channels), target), -1, 0))
    return Prepared(np.stack(planes), None, None, None, tuple(range(len(planes))))


def _prepare_volume(record: Record, volume: Volume, unit: Array, target: tuple[int, ...], channels: int) -> Prepared:
    height, width, depth = unit.shape
    planes = resize_image(unit, (target[0], target[1]))  # slices are resized like channels
    image = np.repeat(np.moveaxis(planes, -1, 0)[:, None], channels, axis=1)
    mask = None
    if record.mask is not None:
        truth = read_volume_mask(record.mask, unit.shape, volume.affine, volume.oriented)
        mask = np.stack([resize_mask(truth[..., k], (target[0], target[1])) for k in range(depth)])
    labels = None if mask is None else tuple(int(one.any()) for one in mask)
    zoom = np.linalg.norm(volume.affine[:3, :2], axis=0) * np.array([height, width]) / np.array(target)
    to_file = scaling((height, width, depth), (*target, depth))[:, [2, 0, 1, 3]]  # slices come first
    return Prepared(image, mask, None, labels, tuple(range(depth)), (float(zoom[0]), float(zoom[1])), to_file)
