"""Perlin noise (Perlin 1985), the masks of DRAEM."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
