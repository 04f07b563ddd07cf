"""Images of another kind as sources of blends."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.listing import RASTER, VOLUMES, kind, list_files
from datamodules.reading import read_array_file, read_picture_file, read_volume_file
from zoo.errors import UserError


class ImagesOfSplit:
    """Images of a data set as sources of blends, read one at a time when a task asks for them.

    Args:
        images: a data set whose ``__getitems__`` makes batches.
        take: what to take from a batch: ``(1, C, *S)`` images or ``(1, *S)`` foregrounds.

    Attributes:
        shape: ``(N, C, *S)`` or ``(N, *S)``, as of an array.
    """

    def __init__(self, images: Any, take: Callable[[Any], Any]) -> None:
        self.images, self.take = images, take
        self._last: tuple[int, NDArray[Any]] | None = None
        self.shape = (len(images), *self[0].shape)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, ...]) -> Any:
        number, *place = index if isinstance(index, tuple) else (index,)
        if self._last is None or self._last[0] != number:
            self._last = int(number), np.asarray(self.take(self.images.__getitems__([int(number)]))[0])
        return self._last[1][tuple(place)] if place else self._last[1]


class SameSlices:
    """Finds the same slice of another volume among the images of a data set.

    Args:
        images: with ``slices`` ``(N,)``, the number of each image's slice, negative for none, and ``volumes``, the name
            of its volume; without ``slices``, or None, nothing is found.
    """

    def __init__(self, images: Any) -> None:
        slices = getattr(images, "slices", np.empty(0, int))
        self.images = images
        self.of_slice = {int(one): np.flatnonzero(slices == one) for one in np.unique(slices[slices >= 0])}

    def draw(self, slices: Sequence[int], volumes: Sequence[str], rng: np.random.Generator) -> Any:
        """A random image for each slice of each volume, ``(B, C, H, W)``; of the volume itself if no other has it.

        Args:
            slices: numbers.
            volumes: names.
            rng: source of randomness.
        """
        chosen = []
        for number, volume in zip(slices, volumes, strict=True):
            candidates = self.of_slice[number]
            others = candidates[np.array([self.images.volumes[position] != volume for position in candidates])]
            chosen.append(int(rng.choice(others if len(others) else candidates)))
        return self.images.__getitems__(chosen)["image"]


def read_sources(
    folder: str | Path, size: tuple[int, ...], channels: int, most: int = 5000, seed: int = 0, share: float = 1.0
) -> NDArray[np.float32]:
    """Read a random part of the images below a folder (Baugh et al.: ImageNet); see :func:`natural_source`.

    Args:
        folder: searched with its sub-folders; ``.npy`` arrays ``(H, W)`` or ``(H, W, 3)`` are read too.
        size: ``(H, W)`` that every image is resized to.
        channels: every image is made grey and repeated.
        most: number of images kept in memory.
        seed: of the choice.
        share: of the images that may be used at all.

    Returns:
        array: float32 ``(N, C, H, W)``.

    Raises:
        UserError: nothing to read, or a file that cannot be read.
    """
    chosen = _choose(Path(folder), (*RASTER, ".npy"), most, seed, share)
    return np.stack([np.repeat(_picture(file, size)[None], channels, 0) for file in chosen])


def read_volumes(
    folder: Path, channels: int, most: int = 275, seed: int = 0, share: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read a random part of the volumes below a folder (Baugh et al.: MOOD); see :func:`abdomen_source`.

    Args:
        folder: searched with its sub-folders for NIfTI files; all must have one size.
        channels: every volume is repeated.
        most: number of volumes kept in memory (MOOD at full size: 8 MiB each, and 2 MiB of foreground).
        seed: of the choice.
        share: of the volumes that may be used at all.

    Returns:
        tuple: float32 ``(N, C, D, H, W)`` and the foreground, bool ``(N, D, H, W)``; axes z, y, x.

    Raises:
        UserError: nothing to read, a file that cannot be read, or sizes that differ.
    """
    read = [_volume(file) for file in _choose(folder, VOLUMES, most, seed, share)]
    if len({volume.shape for volume, _ in read}) > 1:
        raise UserError(f"model.other_images {folder}: volumes of different sizes; give those of one data set")
    volumes, inside = (np.stack(part) for part in zip(*read, strict=True))
    return np.repeat(volumes[:, None], channels, 1), inside


def _choose(folder: Path, suffixes: tuple[str, ...], most: int, seed: int, share: float) -> list[Path]:
    files = list_files(folder, suffixes) if folder.is_dir() else []
    if not files:
        raise UserError(f"model.other_images {folder}: no image below it; readable are {', '.join(suffixes)}")
    count = min(most, max(1, round(share * len(files))))
    return [files[number] for number in np.sort(np.random.default_rng(seed).permutation(len(files))[:count])]


def natural_source(picture: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float64]:
    """A photograph as source of blends, as in the multi-task paper: equalised at twice the size, then halved.

    Args:
        picture: ``(H, W, 3)`` or ``(H, W)`` of any range.
        size: ``(H, W)`` of the result; 256 x 256 in the paper.

    Returns:
        array: grey, squeezed to the size, in [-1, 1].
    """
    from skimage.transform import resize

    height, width = size
    return np.asarray(resize(equalised_grey(picture, (2 * height, 2 * width)), size, order=1, anti_aliasing=True))


def equalised_grey(picture: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float64]:
    """Grey, squeezed to the size, histogram equalised and scaled to [-1, 1]; see :func:`natural_source`."""
    from PIL import Image
    from skimage.exposure import equalize_hist

    weights = np.array([0.2989, 0.587, 0.114], np.float32)
    grey = picture.astype(np.float32) / 255
    plane = Image.fromarray(grey @ weights if picture.ndim == 3 else grey)
    squeezed = np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR))
    return np.asarray(2 * equalize_hist(squeezed) - 1)


def abdomen_source(volume: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """An abdominal CT of MOOD as source of blends, as in the multi-task paper.

    Args:
        volume: ``(z, y, x)`` in [0, 1].

    Returns:
        tuple: every fourth voxel, z-scored over the body, and the body: all but the region of values 0 to 0.03 at the
        first voxel.
    """
    low = volume[::4, ::4, ::4].astype(np.float32)
    dark, _ = ndimage.label((low >= 0) & (low <= 0.03))
    inside = dark != dark[0, 0, 0] if dark[0, 0, 0] else np.ones(low.shape, bool)
    if inside.any():
        low[inside] = (low[inside] - low[inside].mean()) / (low[inside].std() + 1e-8)
    return low, inside


def _picture(file: Path, size: tuple[int, ...]) -> NDArray[np.float32]:
    decoded = read_array_file(file) if kind(file) == ".npy" else read_picture_file(file)
    pixels = decoded.values[..., 0] if decoded.values.shape[-1] == 1 else decoded.values
    return natural_source(pixels, size).astype(np.float32)


def _volume(file: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return abdomen_source(read_volume_file(file, canonical=True).values.T)
