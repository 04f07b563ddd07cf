"""Images of another kind as sources of blends."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy")


def read_sources(
    folder: Path, size: tuple[int, ...], channels: int, most: int = 5000, seed: int = 0
) -> NDArray[np.float32]:
    """Read a random part of the images below a folder, equalised and scaled to [-1, 1].

    Args:
        folder: searched with its sub-folders; ``.npy`` arrays ``(D, H, W)`` for volumes.
        size: ``(*S)`` that every image is resized to.
        channels: every image is made grey and repeated.
        most: number of images kept in memory.
        seed: of the choice.

    Returns:
        array: float32 ``(N, C, *S)``.

    Raises:
        UserError: nothing to read, or a file that cannot be read.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES) if folder.is_dir() else []
    if not files:
        raise UserError(f"model.other_images {folder}: no image below it; readable are {', '.join(_SUFFIXES)}")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(files))[:most])
    return np.stack([np.repeat(_read(files[number], size)[None], channels, 0) for number in chosen])


def _read(file: Path, size: tuple[int, ...]) -> Any:
    from PIL import Image
    from skimage.exposure import equalize_hist
    from skimage.transform import resize

    try:
        if file.suffix == ".npy":
            pixels = np.load(file, allow_pickle=False).astype(np.float64)
        else:
            with Image.open(file) as opened:
                pixels = np.asarray(opened.convert("L"), np.float64)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as an image ({error}); remove it or fetch it again") from error
    if pixels.ndim != len(size):
        raise UserError(f"{file}: {pixels.ndim} dimensions, the data have {len(size)}")
    return (2 * resize(equalize_hist(pixels), size, order=1, anti_aliasing=True) - 1).astype(np.float32)
