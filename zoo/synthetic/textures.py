"""Alterations of textures, after the ten that DRAEM draws three of for every texture (Zavrtanik et al. 2021)."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from zoo.synthetic.sources import read_sources

Array = NDArray[Any]
COUNT = 3


@lru_cache(maxsize=1)
def read_textures(folder: str | None, size: tuple[int, ...], channels: int) -> Array | None:
    """Images of a folder, ``(N, C, H, W)`` in [0, 1]; None without one. The last folder's stay in memory.

    Args:
        folder: see :func:`~zoo.synthetic.sources.read_sources`.
        size: ``(H, W)``.
        channels: C.

    Raises:
        UserError: nothing to read, or a file that cannot be read.
    """
    return None if folder is None else read_sources(folder, size, channels) / 2 + 0.5


def alter_texture(texture: Array, rng: np.random.Generator) -> Array:
    """Apply three different alterations, one after the other.

    Args:
        texture: ``(C, H, W)`` in [0, 1].
        rng: source of randomness.

    Returns:
        array: ``(C, H, W)`` in [0, 1].
    """
    for number in rng.choice(len(ALTERATIONS), COUNT, replace=False):
        texture = np.clip(ALTERATIONS[number](texture, rng), 0, 1)
    return texture


def _gamma(texture: Array, rng: np.random.Generator) -> Array:
    curved: Array = texture ** rng.uniform(0.5, 2, (len(texture), 1, 1))
    return curved


def _brightness(texture: Array, rng: np.random.Generator) -> Array:
    return texture * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30) / 255


def _sharpness(texture: Array, rng: np.random.Generator) -> Array:
    """Between 0, smoothed as Pillow does, 1, unchanged, and 3."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = ndimage.convolve(texture, kernel[None], mode="nearest")
    sharp: Array = smooth + rng.uniform(0, 3) * (texture - smooth)
    return sharp


def _hue_and_saturation(texture: Array, rng: np.random.Generator) -> Array:
    """Shifted by up to 50 of 255 each; greys have neither."""
    hue, saturation = rng.uniform(-50, 50, 2) / 255
    if len(texture) != 3:
        return texture
    from skimage.color import hsv2rgb, rgb2hsv

    found = rgb2hsv(texture, channel_axis=0)
    found[0], found[1] = (found[0] + hue) % 1, np.clip(found[1] + saturation, 0, 1)
    shifted: Array = hsv2rgb(found, channel_axis=0)
    return shifted


def _solarise(texture: Array, rng: np.random.Generator) -> Array:
    """Half of the time inverted above a level of 32 to 128 of 255."""
    chosen, level = rng.random() < 0.5, rng.uniform(32, 128) / 255
    return np.where(chosen & (texture >= level), 1 - texture, texture)


def _posterise(texture: Array, rng: np.random.Generator) -> Array:
    """Only the leading 1 to 8 of 8 bits."""
    step = 2 ** (8 - int(rng.integers(1, 9)))
    coarse: Array = np.floor(texture * 255 / step) * step / 255
    return coarse


def _invert(texture: Array, rng: np.random.Generator) -> Array:
    return 1 - texture


def _stretch(texture: Array, rng: np.random.Generator) -> Array:
    """Each channel from black to white, but for up to 20 % of its pixels at both ends."""
    cut = rng.uniform(0, 20)
    low, high = np.percentile(texture, [cut, 100 - cut], axis=(1, 2), keepdims=True)
    return np.where(high > low, (texture - low) / np.maximum(high - low, 1e-6), texture)


def _equalise(texture: Array, rng: np.random.Generator) -> Array:
    """Each channel's values become their cumulative shares, in 256 levels."""
    levels = np.rint(texture * 255).astype(np.int64)
    shares = [np.bincount(one.ravel(), minlength=256).cumsum()[one] / one.size for one in levels]
    return np.stack(shares).astype(texture.dtype)


def _turn(texture: Array, rng: np.random.Generator) -> Array:
    """By up to 45 degrees, black outside."""
    return np.asarray(ndimage.rotate(texture, rng.uniform(-45, 45), axes=(1, 2), reshape=False, order=1))


ALTERATIONS: tuple[Callable[[Array, np.random.Generator], Array], ...] = (
    _gamma,
    _brightness,
    _sharpness,
    _hue_and_saturation,
    _solarise,
    _posterise,
    _invert,
    _stretch,
    _equalise,
    _turn,
)


def turned(image: Tensor, rng: np.random.Generator, share: float) -> Tensor:
    """Training images ``(B, C, H, W)``, a share of them turned by up to 90 degrees, 0 outside."""
    if share == 0:
        return image
    chosen = rng.random(len(image)) < share
    angles = torch.from_numpy(np.where(chosen, rng.uniform(-np.pi / 2, np.pi / 2, len(image)), 0)).to(image)
    height, width = image.shape[2:]
    sine, cosine, nothing = angles.sin(), angles.cos(), torch.zeros_like(angles)
    rows = [cosine, -sine * height / width, nothing, sine * width / height, cosine, nothing]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(image.shape), align_corners=False)
    moved = F.grid_sample(image, grid, align_corners=False)
    return torch.where(torch.from_numpy(chosen).to(image.device).view(-1, 1, 1, 1), moved, image)
