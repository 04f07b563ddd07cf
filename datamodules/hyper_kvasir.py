"""Hyper-Kvasir (Borgli et al., Scientific Data 2020): colonoscopy, healthy bowel against polyps."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.base import AnomalyDataModule
from datamodules.cache import Prepared
from datamodules.layout import locate
from datamodules.listing import list_files
from datamodules.preprocessing import (
    ccd_crop,
    check_mask,
    crop_to_view,
    field_of_view,
    imagenet_normalise,
    match_channels,
    plain,
    read_mask,
    read_picture,
    resize_image,
    resize_mask,
)
from datamodules.reading import BadFile
from datamodules.records import Record, hash_order, held_out

Crop = Literal["view", "ccd", "none"]

# folder names of the official release, followed by those of older ones
_HEALTHY = (("cecum", "normal-cecum"), ("ileum",), ("bbps-2-3",))
_TRAIN, _TEST = 1600, 500


class HyperKvasir(AnomalyDataModule):
    """Healthy colonoscopy frames against polyps with their outlines, RGB.

    Layouts: the papers' ``Colon_AD_public`` (``train_set``, ``test_set/normal_test``, ``test_set/abnormal_test``;
    without outlines) if it is there, otherwise the official ``labeled-images`` and ``segmented-images``: cecum, ileum
    and clean mucosa (bbps-2-3; 1,009 + 9 + 1,148 frames) are divided 1,600 : 500 by hash, the 66 beyond are left out,
    and all 1,000 segmented polyps are tested. The papers' own list was never published: the counts can be met, the
    frames cannot. Official frames carry no patient: near-copies of one examination can be on both sides (``zoo data
    check`` lists them).
    """

    card = {
        "title": "colonoscopy, polyps outlined",
        "access": "datasets.simula.no/hyper-kvasir",
        "licence": "CC BY 4.0",
        "layout": "labeled-images segmented-images",
        "official": {"healthy": 2166, "anomalous": 1000},
        "phantom": "hyper_kvasir",
        "phantom_options": {"layout": ("igd",)},
        "config": "data/hyper_kvasir",
        "images": "pictures",
        "channels": (3,),
        "value_range": (0.0, 1.0),
        "foreground": "above 0.07",
        "subject": "unknown: the release names no patients",
        "protocol": "papers: Colon_AD_public, 1,600 + 500 + 1,000 frames, a list that was never published",
        "leaks": "normal and polyp frames show other parts of the bowel; frames of one examination are near-copies",
    }

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] = 256,
        crop: Crop = "view",
        normalise: Literal["unit", "imagenet"] = "unit",
        **common: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            image_size: side or (height, width).
            crop: ``view`` cuts to the estimated field of view, ``ccd`` to the fixed frame of CCD, ``none`` keeps all.
            normalise: ``unit`` gives [0, 1], ``imagenet`` subtracts ImageNet's mean and divides by its deviation.
            **common: see :class:`AnomalyDataModule`.
        """
        super().__init__(image_size=image_size, **common)
        self.crop, self.normalise = crop, normalise
        if normalise == "imagenet":
            self.value_range, self.stored_range, self.foreground_rule = (-2.2, 2.7), None, "all"

    def index(self, root: Path) -> list[Record]:
        """Records of whichever layout is found."""
        for level in (root, root / "Colon_AD_public"):
            if (level / "train_set").is_dir():
                return self._index_papers(level)
        return self._index_official(locate(root, "labeled-images", "Hyper-Kvasir", ("", "hyper-kvasir")))

    def _index_papers(self, root: Path) -> list[Record]:
        train = [file.relative_to(root).as_posix() for file in list_files(root / "train_set")]
        val = held_out(train, self.val_fraction, self.seed)
        records = [Record(name, str(root / name), "val" if name in val else "train") for name in train]
        for folder, label in (("normal_test", 0), ("abnormal_test", 1)):
            files = list_files(root / "test_set" / folder)
            records += [Record(file.relative_to(root).as_posix(), str(file), "test", label) for file in files]
        return records

    def _index_official(self, root: Path) -> list[Record]:
        segmented = locate(root, "segmented-images", "Hyper-Kvasir") / "segmented-images"
        lower = root / "labeled-images" / "lower-gi-tract"
        folders = [path for path in lower.glob("*/*") if any(path.name in names for names in _HEALTHY)]
        healthy = [file.relative_to(root).as_posix() for folder in folders for file in list_files(folder)]
        tested = min(_TEST, round(len(healthy) * _TEST / (_TRAIN + _TEST)))
        order = hash_order(healthy, self.seed)
        test, train = order[:tested], order[tested : tested + _TRAIN]
        val = held_out(train, self.val_fraction, self.seed)
        records = [Record(name, str(root / name), "val" if name in val else "train") for name in sorted(train)]
        records += [Record(name, str(root / name), "test") for name in sorted(test)]
        masks = {file.stem: file for file in list_files(segmented / "masks")}
        problems = []
        for file in list_files(segmented / "images"):
            mask = masks.pop(file.stem, None)
            if mask is None:
                expected = segmented / "masks" / f"{file.stem}.jpg"
                problems.append(BadFile(file, f"no mask {expected}", "unpack segmented-images again"))
            else:
                name = file.relative_to(root).as_posix()
                records.append(Record(name, str(file), "test", 1, mask=str(mask)))
        remedy = "unpack segmented-images again"
        problems += [
            BadFile(mask, f"no image {mask.name} in {segmented / 'images'}", remedy) for mask in masks.values()
        ]
        self.report(problems)
        return records

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Crop, resize, normalise."""
        height, width = self.spatial_size
        return partial(prepare_frame, size=(height, width), crop=self.crop, imagenet=self.normalise == "imagenet")

    @property
    def channels(self) -> int:
        """RGB."""
        return 3

    @property
    def parameters(self) -> dict[str, Any]:
        """Size, crop and normalisation."""
        return plain({"size": self.spatial_size, "crop": self.crop, "normalise": self.normalise})

    def official_counts(self) -> dict[str, int]:
        """Healthy frames and segmented polyps."""
        ill = sum(record.label for record in self.manifest)
        return {"healthy": len(self.manifest) - ill, "anomalous": ill}

    def notes(self) -> list[str]:
        """Boxes and segmented images that do not belong together."""
        return box_notes(self.folder()) if any(record.mask for record in self.manifest) else []


def box_notes(root: Path) -> list[str]:
    """Segmented images that ``bounding-boxes.json`` does not name, and names without image; nothing if it is absent."""
    segmented = locate(root, "segmented-images", "Hyper-Kvasir", ("", "hyper-kvasir")) / "segmented-images"
    path = segmented / "bounding-boxes.json"
    if not path.is_file():
        return []
    try:
        named = set(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        return [f"{path}: unreadable ({error})"]
    images = {file.stem for file in list_files(segmented / "images")}
    notes = []
    for what, odd in (("images are not in it", images - named), ("entries have no image", named - images)):
        notes += [f"{path}: {len(odd)} {what}, first {min(odd)}"] if odd else []
    return notes


def prepare_frame(record: Record, *, size: tuple[int, int], crop: Crop, imagenet: bool) -> Prepared:
    """One frame with its field of view.

    Args:
        record: frame and mask.
        size: ``(H, W)``.
        crop: see :class:`HyperKvasir`.
        imagenet: normalise with ImageNet's mean and deviation.

    Raises:
        BadFile: not decodable, or a mask of another shape. A mask of another size but equal aspect ratio is resized.
    """
    frame = match_channels(read_picture(record.image), 3)
    mask = None if record.mask is None else read_mask(record.mask)
    if mask is not None and record.mask is not None:
        ratios = [shape[0] / shape[1] for shape in (mask.shape, frame.shape)]
        if mask.shape != frame.shape[:2] and abs(ratios[0] / ratios[1] - 1) < 0.01:
            mask = resize_mask(mask, frame.shape[:2])
        check_mask(record.image, frame, record.mask, mask)
    view = field_of_view(frame)
    if crop == "ccd":
        image = ccd_crop(frame, size)
        planes = [
            ccd_crop(one[..., None].astype(np.float32), size)[..., 0] >= 0.5 for one in (mask, view) if one is not None
        ]
    else:
        box = crop_to_view(frame, view) if crop == "view" else (slice(None), slice(None))
        image = resize_image(frame[box], size)
        planes = [resize_mask(one[box], size) for one in (mask, view) if one is not None]
    image = np.moveaxis(image, -1, 0)
    image = imagenet_normalise(image) if imagenet else image
    return Prepared(image[None], None if mask is None else planes[0][None], planes[-1][None])
