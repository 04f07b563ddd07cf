"""What a user wants to know of a data set first: sizes, channels, grey values, spacing, subjects, and how it looks."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datamodules.listing import DICOM, NUMPY, RASTER, VOLUMES, kind
from datamodules.reading import Array, BadFile, Form, array_form, film_form, picture_form, volume_form
from zoo.files import whole

if TYPE_CHECKING:
    from datamodules.base import AnomalyDataModule

_SIDE = 96
A_ROW = 12


def facts(data: "AnomalyDataModule") -> dict[str, str]:
    """Lines of ``zoo data check``, by what they are about.

    Args:
        data: after ``setup``.
    """
    assert data.store is not None
    store = data.store
    found: dict[str, str] = {}
    found |= facts_of_files({record.image for record in data.manifest if record.index is None})
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


def facts_of_files(files: Iterable[str]) -> dict[str, str]:
    """Sizes and depths as the headers tell them; how many files of each depth where there are several."""
    sizes: set[tuple[int, ...]] = set()
    stored: Counter[str] = Counter()
    for file in sorted(files):
        read = next((read for kinds, read in _FORMS if kind(file) in kinds), None)
        with contextlib.suppress(BadFile):  # told when it is read
            if read is not None:
                size, how = read(file)
                sizes.add(size)
                stored[how] += 1
    found: dict[str, str] = {}
    if sizes:
        spelled = sorted("x".join(map(str, size)) for size in sizes)
        several = f"{len(spelled)} sizes, {'x'.join(map(str, min(sizes)))} to {'x'.join(map(str, max(sizes)))}"
        found["sizes of the files"] = spelled[0] if len(spelled) == 1 else several
        counted = [f"{how} ({count})" for how, count in stored.most_common()]
        found["stored as"] = next(iter(stored)) if len(stored) == 1 else ", ".join(counted)
    return found


_FORMS: tuple[tuple[tuple[str, ...], Callable[[str], Form]], ...] = (
    (RASTER, picture_form),
    (DICOM, film_form),
    (VOLUMES, volume_form),
    (NUMPY, array_form),
)


def write_sheet(data: "AnomalyDataModule", path: Path) -> None:
    """A picture with up to twelve images of each part, masks outlined in red: training, healthy and ill test images.

    Args:
        data: after ``setup``; of volumes the middle slice is shown.
        path: new picture file.
    """
    assert data.store is not None
    train, test = data.dataset("train"), data.dataset("test")
    parts = [(train, np.arange(len(train))), *((test, np.flatnonzero(test.labels == label)) for label in (0, 1))]
    rows = []
    for images, positions in parts:
        chosen = positions[np.linspace(0, len(positions) - 1, min(A_ROW, len(positions))).astype(int)]
        where = [images.indices[[position]] for position in chosen]
        rows.append([Tile(data.store.image(i)[0], data.store.mask(i)[0, 0], data.value_range) for i in where])
    write_tiles([row for row in rows if row], path)


class Tile(NamedTuple):
    """A picture of a sheet.

    Attributes:
        image: ``(C, *S)``; of volumes the middle slice is shown.
        mask: ``S`` bool.
        bounds: what is black and what is white.
    """

    image: Array
    mask: Array
    bounds: tuple[float, float]


def write_tiles(rows: Sequence[Sequence[Tile]], path: Path) -> None:
    """A picture file with a row of at most twelve tiles a part, their masks outlined in red."""
    from PIL import Image

    sheet = np.full((len(rows) * (_SIDE + 2), A_ROW * (_SIDE + 2), 3), 255, np.uint8)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles[:A_ROW]):
            top, left = row * (_SIDE + 2), column * (_SIDE + 2)
            sheet[top : top + _SIDE, left : left + _SIDE] = _drawn(*tile)
    with whole(path) as partial:
        Image.fromarray(sheet).save(partial)


def _drawn(image: Array, mask: Array, value_range: tuple[float, float]) -> Array:
    from PIL import Image
    from scipy.ndimage import binary_erosion

    if image.ndim == 4:
        middle = image.shape[1] // 2
        image, mask = image[:, middle], mask[middle]
    low, high = value_range
    grey = np.clip((np.moveaxis(image, 0, -1) - low) / (high - low), 0, 1)
    colours = np.repeat(grey, 3, -1) if grey.shape[-1] == 1 else grey[..., :3]
    shown = np.asarray(Image.fromarray(np.uint8(colours * 255)).resize((_SIDE, _SIDE))).copy()
    inside = np.asarray(Image.fromarray(mask).resize((_SIDE, _SIDE)))
    shown[inside & ~binary_erosion(inside)] = (255, 0, 0)
    return shown
