"""Perlin noise (Perlin 1985), the masks of DRAEM."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.synthetic.textures import alter_texture

Array = NDArray[Any]


def perlin_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> Array:
    """Gradient noise.

    Args:
        rng: source of randomness.
        size: ``(H, W)``.
        cells: lattice cells along each axis.

    Returns:
        array: float64 ``(H, W)``, about in [-1, 1].
    """
    angles = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
    gradients = np.stack([np.cos(angles), np.sin(angles)])
    places = [np.arange(n) * c / n for n, c in zip(size, cells, strict=True)]
    rows, columns = (place.astype(int) for place in places)
    y, x = places[0] - rows, places[1] - columns

    def corner(down: int, right: int) -> Array:
        chosen = gradients[:, rows + down][:, :, columns + right]
        slope: Array = chosen[0] * (y - down)[:, None] + chosen[1] * (x - right)[None]
        return slope

    fade_y, fade_x = ((6 * t**5 - 15 * t**4 + 10 * t**3) for t in (y, x))
    top = corner(0, 0) + fade_x[None] * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade_x[None] * (corner(1, 1) - corner(1, 0))
    noise: Array = np.sqrt(2) * (top + fade_y[:, None] * (bottom - top))
    return noise


def fractal_noise(count: int, size: tuple[int, int], period: float, octaves: int, persistence: float) -> Tensor:
    """Sum of octaves of gradient noise, each of half the period and ``persistence`` times the height of the one before.

    Drawn from torch's global generator, all images at once.

    Args:
        count: of images.
        size: ``(H, W)``.
        period: of the first octave, in pixels.
        octaves: how many.
        persistence: see above.

    Returns:
        float32 ``(count, 1, H, W)``; the first octave is about in [-1, 1].
    """
    noise = torch.zeros(count, *size)
    for octave in range(octaves):
        places = [torch.arange(side) * 2.0**octave / period for side in size]
        rows, columns = (place.long() for place in places)
        y, x = places[0] - rows, places[1] - columns
        angles = 2 * torch.pi * torch.rand(count, int(rows[-1]) + 2, int(columns[-1]) + 2)
        down, right = angles.sin(), angles.cos()

        def corner(below: int, beside: int, rows: Tensor = rows, columns: Tensor = columns) -> Tensor:
            at = (slice(None), (rows + below)[:, None], columns + beside)
            return right[at] * (x - beside) + down[at] * (y - below)[:, None]  # noqa: B023  # called at once

        fade_y, fade_x = ((6 * t**5 - 15 * t**4 + 10 * t**3) for t in (y[:, None], x))
        top, bottom = (corner(below, 0).lerp(corner(below, 1), fade_x) for below in (0, 1))
        noise += persistence**octave * 2**0.5 * top.lerp(bottom, fade_y)
    return noise[:, None]


def perlin_mask(rng: np.random.Generator, size: tuple[int, int], threshold: float = 0.5) -> Array:
    """DRAEM's mask: noise of ``2 ** U{0..5}`` cells per axis, turned by up to 90 degrees, thresholded.

    Args:
        rng: source of randomness.
        size: ``(H, W)``.
        threshold: of the noise.

    Returns:
        array: bool ``(H, W)``; may be empty.
    """
    from scipy.ndimage import rotate

    most = max(int(np.log2(min(size))) - 1, 1)
    cells = (int(2 ** rng.integers(0, min(6, most))), int(2 ** rng.integers(0, min(6, most))))
    noise = perlin_noise(rng, size, cells)
    return np.asarray(rotate(noise, rng.uniform(-90, 90), reshape=False, order=1, mode="reflect") > threshold)


def paste_textures(
    images: Array, rng: np.random.Generator, textures: Array | None = None, alter: bool = False
) -> tuple[Array, Array]:
    """DRAEM's task: a texture shines through noise-shaped holes of half of the images.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        rng: source of randomness.
        textures: ``(N, C, H, W)`` in [0, 1]; None: noise over the moved next image of the batch.
        alter: every texture by three of ten operations (:mod:`zoo.synthetic.textures`).

    Returns:
        tuple: altered images, and masks ``(B, 1, H, W)`` bool of what changed.
    """
    altered, masks = images.copy(), np.zeros(images[:, :1].shape, bool)
    for number, one in enumerate(rng.spawn(len(images))):
        if one.random() < 0.5:
            continue
        mask, opacity = perlin_mask(one, images.shape[2:]), one.uniform(0, 0.8)
        if textures is None:
            texture = _noisy(images[(number + 1) % len(images)], one)
        else:
            texture = textures[one.integers(len(textures))]
        if alter:
            texture = alter_texture(texture, one)
        altered[number] = np.where(mask, opacity * images[number] + (1 - opacity) * texture, images[number])
        masks[number, 0] = (altered[number] != images[number]).any(0)
    return altered, masks


def _noisy(other: Array, rng: np.random.Generator) -> Array:
    noise = perlin_noise(rng, other.shape[1:], (8, 8)) / 2 + 0.5
    moved = np.roll(other, rng.integers(0, other.shape[1], 2), (1, 2))
    return np.clip(0.5 * moved + rng.uniform(0, 1) * noise, 0, 1)
