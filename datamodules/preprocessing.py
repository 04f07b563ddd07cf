"""The preprocessing of each paper as one named function, and the steps that they share."""

from typing import Any

import numpy as np

from datamodules.reading import DICOM, NIFTI, NUMPY, Array, BadFile, Dicom, read_array, read_dicom, read_raster, suffix


def resize_image(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of ``(H, W, C)``, low-pass filtered where it shrinks; float32, range kept."""
    from PIL import Image

    if image.shape[:2] == tuple(size):
        return image.astype(np.float32)
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(image, -1, 0)]
    target = (size[1], size[0])
    return np.stack([np.asarray(plane.resize(target, Image.Resampling.BILINEAR)) for plane in planes], -1)


def resize_mask(mask: Array, size: tuple[int, int]) -> Array:
    """Resize ``(H, W)`` bool: a pixel belongs to the mask when at least half of it is covered."""
    if mask.shape == tuple(size):
        return mask
    return resize_image(mask[..., None].astype(np.float32), size)[..., 0] >= 0.5


def to_unit(values: Array, bounds: tuple[float, float] | None = None) -> Array:
    """Scale to [0, 1] float32.

    Args:
        values: any shape.
        bounds: values that become 0 and 1; None: 0 and the type's maximum for 8- and 16-bit integers, the array's own
            minimum and maximum otherwise.
    """
    if bounds is not None:
        low, high = bounds
    elif values.dtype in (np.uint8, np.uint16):
        low, high = 0.0, float(np.iinfo(values.dtype).max)
    else:
        low, high = float(values.min()), float(values.max())
    scaled = (values.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-12))
    return np.clip(scaled, 0, 1)


def film_values(film: Dicom) -> Array:
    """Modality values of a DICOM film, cut to its window; large = bright. ``(H, W)`` float32."""
    values = film.pixels.astype(np.float32) * np.float32(film.slope) + np.float32(film.intercept)
    if film.window is not None:
        centre, width = film.window
        values = np.clip(values, centre - width / 2, centre + width / 2)
    return values.max() + values.min() - values if film.inverted else values


def read_picture(path: str, bounds: tuple[float, float] | None = None) -> Array:
    """One picture from any readable 2-D file, in [0, 1]: ``(H, W, C)`` float32.

    8- and 16-bit pictures are scaled by the range of their type, DICOM films by their window, float arrays by their own
    range; ``bounds`` overrides all of these.

    Raises:
        BadFile: not decodable.
    """
    kind = suffix(path)
    if kind in DICOM:
        film = film_values(read_dicom(path))
        return to_unit(film[..., None], bounds)
    if kind in NUMPY:
        return to_unit(read_array(path), bounds)
    if kind in NIFTI:
        raise BadFile(path, "a volume", "this data set reads single images")
    return to_unit(read_raster(path), bounds)


def match_channels(image: Array, channels: int) -> Array:
    """Grey to RGB by repetition, RGB to grey by ITU-R 601 luma; ``(H, W, C)``."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return image @ np.array([[0.299], [0.587], [0.114]], np.float32)


def read_mask(path: str) -> Array:
    """Ground truth from an image file: ``(H, W)`` bool.

    Files that hold only 0 and small labels count every non-zero value; others (JPEG masks are not binary) are cut at
    half of the type's range.

    Raises:
        BadFile: not decodable.
    """
    kind = suffix(path)
    values = (read_array(path) if kind in NUMPY else read_raster(path))[..., 0]
    if values.dtype == np.uint8 and suffix(path) in (".jpg", ".jpeg"):
        return values > 127
    high = float(values.max(initial=0))
    return values > (0 if high < 128 or values.dtype != np.uint8 else 127)


def check_mask(image_path: str, image: Array, mask_path: str, mask: Array) -> None:
    """Refuse a mask of another size or without any marked pixel.

    Raises:
        BadFile: see above.
    """
    if mask.shape != image.shape[:2]:
        sizes = ["x".join(map(str, array.shape[:2])) for array in (mask, image)]
        raise BadFile(mask_path, f"a mask of {sizes[0]}, its image {image_path} is {sizes[1]}", "give matching files")
    if not mask.any():
        raise BadFile(mask_path, "an empty mask", "remove it with its image, or move the image to the normal ones")


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON stores them, for cache keys."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
