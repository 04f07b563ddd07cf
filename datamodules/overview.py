"""What a user wants to know of a data set first: sizes, channels, grey values, spacing, subjects, and how it looks."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.listing import RASTER, VOLUMES, kind
from datamodules.reading import Array, BadFile, picture_size, volume_geometry
from zoo.files import whole

if TYPE_CHECKING:
    from datamodules.base import AnomalyDataModule

_TILE = 96
_A_ROW = 12


def facts(data: "AnomalyDataModule") -> dict[str, str]:
    """Lines of ``zoo data check``, by what they are about.

    Args:
        data: after ``setup``.
    """
    assert data.store is not None
    store = data.store
    found: dict[str, str] = {}
    sizes = _sizes({record.image for record in data.manifest if record.index is None})
    if sizes:
        spelled = sorted("x".join(map(str, size)) for size in sizes)
        several = f"{len(spelled)} sizes, {'x'.join(map(str, min(sizes)))} to {'x'.join(map(str, max(sizes)))}"
        found["sizes of the files"] = spelled[0] if len(spelled) == 1 else several
    found["as served"] = f"{'x'.join(map(str, store.shape[1:]))}, {store.shape[0]} channel(s)"
    chosen = np.unique(np.linspace(0, len(store) - 1, min(len(store), 64)).astype(int))
    images = store.image(chosen)
    low, high = np.percentile(images, (1, 99))
    found["grey values, 1 to 99 %"] = f"{low:.3g} to {high:.3g} of {list(data.value_range)}"
    if not np.isnan(store.spacing).all():
        found["spacing"] = " x ".join(f"{value:.3g}" for value in np.nanmedian(store.spacing, 0)) + " mm (median)"
    subjects = {record.subject for record in data.manifest} - {""}
    found["subjects"] = str(len(subjects)) if subjects else "unknown"
    slices = int((store.slices >= 0).sum())
    if slices:
        found["slices"] = f"{slices} of {len(np.unique(store.record[store.slices >= 0]))} volumes"
    return found


def _sizes(files: set[str]) -> set[tuple[int, ...]]:
    found: set[tuple[int, ...]] = set()
    for file in sorted(files):
        how = kind(file)
        with contextlib.suppress(BadFile):  # told when it is read
            if how in RASTER:
                found.add(picture_size(file))
            elif how in VOLUMES:
                found.add(volume_geometry(file)[0])
    return found


def write_sheet(data: "AnomalyDataModule", path: Path) -> None:
    """A picture with up to twelve images of each part, masks outlined in red: training, healthy and ill test images.

    Args:
        data: after ``setup``; of volumes the middle slice is shown.
        path: new picture file.
    """
    from PIL import Image

    train, test = data.dataset("train"), data.dataset("test")
    parts = [(train, np.arange(len(train))), *((test, np.flatnonzero(test.labels == label)) for label in (0, 1))]
    rows = [_row(data, images, positions) for images, positions in parts if len(positions)]
    with whole(path) as partial:
        Image.fromarray(np.concatenate(rows)).save(partial)


def _row(data: "AnomalyDataModule", images: Any, positions: Array) -> Array:
    assert data.store is not None
    chosen = positions[np.linspace(0, len(positions) - 1, min(_A_ROW, len(positions))).astype(int)]
    row = np.full((_TILE + 2, _A_ROW * (_TILE + 2), 3), 255, np.uint8)
    for column, position in enumerate(chosen):
        where = images.indices[[position]]
        tile = _tile(data.store.image(where)[0], data.store.mask(where)[0, 0], data.value_range)
        left = column * (_TILE + 2)
        row[:_TILE, left : left + _TILE] = tile
    return row


def _tile(image: Array, mask: Array, value_range: tuple[float, float]) -> Array:
    from PIL import Image
    from scipy.ndimage import binary_erosion

    if image.ndim == 4:
        middle = image.shape[1] // 2
        image, mask = image[:, middle], mask[middle]
    low, high = value_range
    grey = np.clip((np.moveaxis(image, 0, -1) - low) / (high - low), 0, 1)
    colours = np.repeat(grey, 3, -1) if grey.shape[-1] == 1 else grey[..., :3]
    shown = np.asarray(Image.fromarray(np.uint8(colours * 255)).resize((_TILE, _TILE))).copy()
    inside = np.asarray(Image.fromarray(mask).resize((_TILE, _TILE)))
    shown[inside & ~binary_erosion(inside)] = (255, 0, 0)
    return shown
