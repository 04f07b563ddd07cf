"""Files of a phantom data set: images, volumes, and the hidden truth beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRUTH = "_phantom_truth"


class Settings(NamedTuple):
    """What determines the content of a phantom data set."""

    name: str
    preset: str
    seed: int
    difficulty: float
    source_shift: bool
    layout: str
    jpeg2000: bool = False


class Truth(NamedTuple):
    """One row of `_phantom_truth/truth.csv`; paths are relative to the root, empty where there is nothing."""

    path: str
    anomalous: int
    healthy: str = ""
    mask: str = ""


class Result(NamedTuple):
    """What rendering one job hands to the layout's `finish`: truth rows and the layout's own record."""

    truth: list[Truth]
    record: dict[str, Any]


def healthy_path(path: str) -> str:
    """Return where the healthy twin of an official file lies."""
    return f"{TRUTH}/healthy/{path}"


def mask_path(path: str, suffix: str) -> str:
    """Return where the exact mask of an official file lies."""
    stem = path.removesuffix(".gz").rsplit(".", 1)[0]
    return f"{TRUTH}/masks/{stem}{suffix}"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with line feeds, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ",") -> None:
    """Write a table with line feeds as line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_image(path: Path, pixels: NDArray[np.uint8], quality: int = 90) -> None:
    """Write (H, W) or (H, W, 3) uint8 pixels as PNG or JPEG by the extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if path.suffix.lower() == ".png":
        image.save(path, format="PNG", compress_level=3)
    else:
        image.save(path, format="JPEG", quality=quality)


class Grid(NamedTuple):
    """An axis-aligned voxel grid as its files store it."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def coarser(self, divisor: int) -> Grid:
        """Return the grid of the same field of view with `divisor` times the spacing."""
        shape = tuple(-(-count // divisor) for count in self.shape)
        affine = self.affine.copy()
        affine[:3, :3] *= divisor
        affine[:3, 3] += self.affine[:3, :3] @ np.full(3, (divisor - 1) / 2)
        return Grid((shape[0], shape[1], shape[2]), affine)

    def canonical(self) -> Grid:
        """Return the same grid in right-anterior-superior order."""
        turn = nib.orientations.io_orientation(self.affine)
        shape = [0, 0, 0]
        for source, (target, _) in enumerate(turn):
            shape[int(target)] = self.shape[source]
        affine = self.affine @ nib.orientations.inv_ornt_aff(turn, self.shape)
        return Grid((shape[0], shape[1], shape[2]), affine)

    def stored(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Reorder a right-anterior-superior volume to the order of this grid."""
        own = nib.orientations.io_orientation(self.affine)
        plain = np.array([[0, 1], [1, 1], [2, 1]])
        turned: NDArray[Any] = nib.orientations.apply_orientation(volume, nib.orientations.ornt_transform(plain, own))
        return turned


def write_volume(path: Path, volume: NDArray[Any], grid: Grid) -> None:
    """Write a right-anterior-superior volume as NIfTI in the order and with the header of `grid`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.ascontiguousarray(grid.stored(volume)), grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(grid.affine, code=1)
    image.set_sform(grid.affine, code=1)
    nib.save(image, path)
