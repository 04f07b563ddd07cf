"""MedMNIST: the official ``.npz`` files, with a choice of which classes are normal."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import AnomalyDataModule
from datamodules.cache import Prepared
from datamodules.folder import prepare_file
from datamodules.preprocessing import plain, resize_image
from datamodules.reading import Array, BadFile, sniff
from datamodules.records import Record, unlabeled_pool
from zoo.errors import UserError

_PARTS = ("train", "val", "test")
# Numbers of the three parts by subset (Yang et al., Scientific Data 2023, Table 2); version 3 left blank images of the
# organs out (www.medmnist.com).
_OFFICIAL = {
    "pathmnist": ((89996, 10004, 7180),),
    "chestmnist": ((78468, 11219, 22433),),
    "dermamnist": ((7007, 1003, 2005),),
    "octmnist": ((97477, 10832, 1000),),
    "pneumoniamnist": ((4708, 524, 624),),
    "retinamnist": ((1080, 120, 400),),
    "breastmnist": ((546, 78, 156),),
    "bloodmnist": ((11959, 1712, 3421),),
    "tissuemnist": ((165466, 23640, 47280),),
    "organamnist": ((34581, 6491, 17778), (34561, 6491, 17778)),
    "organcmnist": ((13000, 2392, 8268), (12975, 2392, 8216)),
    "organsmnist": ((13940, 2452, 8829), (13932, 2452, 8827)),
}


class MedMNIST(AnomalyDataModule):
    """One 2-D subset of MedMNIST v2 (Yang et al., Scientific Data 2023) in [0, 1].

    The official splits are kept; anomalous images of the training and validation parts are not used, but for those of
    the training part under ``unlabeled`` (:func:`~datamodules.records.unlabeled_pool`). ``root`` holds
    ``<subset>.npz`` or ``<subset>_<side>.npz``. Anomalies are not outlined, so batches have no mask.
    """

    card = {
        "title": "MedMNIST v2, 2-D subsets",
        "access": "medmnist.com",
        "licence": "CC BY 4.0, some subsets CC BY-NC 4.0",
        "layout": "<subset>.npz",
        "official": {},
        "phantom": "medmnist",
        "phantom_options": {"layout": ("*",)},
        "config": "data/medmnist",
        "images": "pictures",
        "channels": (1, 3),
        "value_range": (0.0, 1.0),
        "foreground": "all",
        "pool": "of the training part, healthy and ill",
        "subject": "unknown",
        "protocol": "official splits; which classes are normal has to be said",
    }

    def __init__(
        self,
        *,
        root: str | None = None,
        subset: str = "pneumoniamnist",
        normal_classes: tuple[int, ...] = (0,),
        image_size: int | tuple[int, ...] | None = None,
        **common: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            root: folder of the ``.npz`` files, or one such file; None generates a phantom.
            subset: name of the file without extension, for example ``pneumoniamnist`` or ``bloodmnist_64``.
            normal_classes: labels that count as normal; where an image has several labels (``chestmnist``), all 0 is.
            image_size: side or (height, width) to resize to; None keeps the file's.
            **common: see :class:`AnomalyDataModule`.
        """
        super().__init__(root=None if root is None else str(_split_root(root)[0]), image_size=image_size, **common)
        named = None if root is None else _split_root(root)[1]
        self.subset = named or subset.removesuffix(".npz")
        if not normal_classes:
            raise UserError("data.normal_classes is empty; name at least one class, for example [0]")
        self.normal_classes = tuple(int(one) for one in normal_classes)
        self._shape: tuple[int, ...] | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """The subset."""
        return self.subset

    def write_phantom(self, root: Path) -> None:
        """Lungs with and without a spot, 28 x 28, two classes."""
        from datamodules import phantoms

        phantoms.write(self.phantom_name, root, preset=self.phantom_preset, seed=self.seed, layout=self.subset)

    @classmethod
    def open_for_check(cls, root: Path, **options: Any) -> "MedMNIST":
        """The first subset in the folder.

        Raises:
            UserError: there is none.
        """
        files = sorted(root.glob("*.npz"))
        if not files:
            raise UserError(f"{root}: no .npz file of MedMNIST there")
        return cls(root=str(root), **{"subset": files[0].stem, **options})

    @property
    def phantom_key(self) -> str:
        """The subset and the preset: all subsets get the same pictures."""
        return self.subset if self.phantom_preset == "smoke" else f"{self.subset}-{self.phantom_preset}"

    def file(self) -> Path:
        """The ``.npz`` that is read.

        Raises:
            UserError: not there.
        """
        folder = self.folder()
        path = folder / f"{self.subset}.npz"
        if not path.is_file():
            others = sorted(one.name for one in folder.glob("*.npz"))
            found = f"found {', '.join(others[:5])}" if others else "no .npz there"
            raise UserError(
                f"{path}: no such file ({found}); set data.subset, or download the subset from medmnist.com"
            )
        return path

    def index(self, root: Path) -> list[Record]:
        """One record per normal training and validation image and per test image."""
        path = self.file()
        arrays = _arrays(str(path), _stamp(path))
        records = []
        for part in _PARTS:
            labels = arrays[f"{part}_labels"].reshape(len(arrays[f"{part}_images"]), -1)
            several = labels.shape[1] > 1
            if several and not np.isin(labels, (0, 1)).all():
                raise UserError(f"{path}: {labels.shape[1]} labels an image, not all 0 or 1; give an official file")
            anomalous = np.asarray(labels.any(1) if several else ~np.isin(labels[:, 0], self.normal_classes))
            if part == "train" and anomalous.all():
                classes = ", ".join(map(str, np.unique(labels).tolist()))
                raise UserError(f"{path}: no image of data.normal_classes {self.normal_classes}; classes are {classes}")
            names = [f"{path.stem}/{part}/{i:06d}" for i in range(len(labels))]
            pool: set[str] = set()
            if part == "train" and self.unlabeled:
                healthy, ill = ([names[i] for i in np.flatnonzero(anomalous == state)] for state in (False, True))
                pool = unlabeled_pool(healthy, ill, self.seed)
            for i, name in enumerate(names):
                split = "unlabeled" if name in pool else part
                if split in ("unlabeled", "test") or not anomalous[i]:
                    records.append(Record(name, str(path), split, int(anomalous[i]), index=i))
        return records

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Pick, scale by 255, resize; other files to predict are read as by :class:`~datamodules.folder.Folder`."""
        return partial(prepare_item, size=self.spatial_size, channels=self.channels)

    @property
    def channels(self) -> int:
        """1 or 3, as the file has."""
        return self._file_shape()[-1]

    @property
    def spatial_size(self) -> tuple[int, ...]:
        """As set, or the file's."""
        return self._file_shape()[:2] if self.image_size is None else super().spatial_size

    def take_known(self, known: Mapping[str, Any]) -> None:
        """Size and channels of the file that the method was trained on."""
        size, channels = known.get("image_size"), known.get("channels")
        if self._shape is None and size is not None and channels is not None:
            self._shape = (*(int(side) for side in size), int(channels))

    def notes(self) -> list[str]:
        """Where the numbers of images are not the official ones."""
        official = _OFFICIAL.get(re.sub(r"_\d+$", "", self.subset), ())
        arrays = _arrays(str(self.file()), _stamp(self.file()))
        found = tuple(len(arrays[f"{part}_images"]) for part in _PARTS)
        if self.phantom or not official or found in official:
            return []
        spelled = " or ".join("/".join(f"{count:,}" for count in counts) for counts in official)
        return [
            f"{self.subset}: {'/'.join(f'{count:,}' for count in found)} images to train, validate and test, "
            f"officially {spelled}; figures are not comparable"
        ]

    def _file_shape(self) -> tuple[int, ...]:
        if self._shape is None:
            path = self.file()
            shape = _arrays(str(path), _stamp(path))["train_images"].shape[1:]
            self._shape = tuple(shape) if len(shape) == 3 else (*shape, 1)
        return self._shape

    @property
    def parameters(self) -> dict[str, Any]:
        """The size."""
        return plain({"size": self.spatial_size})


def _split_root(root: str) -> tuple[Path, str | None]:
    path = Path(root).expanduser()
    return (path.parent, path.stem) if path.suffix == ".npz" else (path, None)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=2)
def _arrays(path: str, stamp: tuple[int, int]) -> dict[str, Array]:
    sniff(path)
    wanted = [f"{part}_{kind}" for part in _PARTS for kind in ("images", "labels")]
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in wanted if key not in file.files]
            if missing:
                found = ", ".join(file.files[:6]) or "none"
                raise BadFile(path, f"no array {missing[0]} (found {found})", "give an official MedMNIST .npz")
            arrays = {key: file[key] for key in wanted}
    except BadFile:
        raise
    except Exception as error:  # zip, zlib and header errors
        raise BadFile(path, f"unreadable ({str(error)[:80]})", "fetch the file again") from error
    for part in _PARTS:
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
            raise BadFile(path, f"{part}_images is {images.dtype} {images.shape}", "a 2-D subset of uint8 is expected")
        if len(labels) != len(images):
            raise BadFile(path, f"{len(images)} {part} images and {len(labels)} labels", "fetch the file again")
    return arrays


def prepare_item(record: Record, *, size: tuple[int, ...], channels: int) -> Prepared:
    """One image of the file in [0, 1].

    Args:
        record: file and index; without index any image file.
        size: ``(H, W)``.
        channels: of such a file.
    """
    if record.index is None:
        return prepare_file(record, size=size, channels=channels, bounds=None)
    part = record.id.split("/")[-2]
    image = _arrays(record.image, _stamp(Path(record.image)))[f"{part}_images"][record.index]
    image = (image if image.ndim == 3 else image[..., None]).astype(np.float32) / 255
    return Prepared(np.moveaxis(resize_image(image, (size[0], size[1])), -1, 0)[None])
