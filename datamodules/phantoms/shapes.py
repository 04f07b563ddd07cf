"""Pictures for layouts without a theme of their own: lungs in a body, textured; anomalies are smooth spots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from datamodules.phantoms.fields import Array


def picture(
    seed: int, number: int, side: int, anomalous: bool, contrast: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One picture and the outline of its anomaly.

    Args:
        seed: of the whole phantom.
        number: of the picture; the anomaly has a random stream of its own, so that the healthy twin is exact.
        side: pixels.
        anomalous: add a spot.
        contrast: of the spot, 1 is the default.

    Returns:
        tuple: ``(side, side)`` uint8 and bool.
    """
    anatomy, lesion = (np.random.Generator(np.random.PCG64([seed, number, stream])) for stream in (0, 1))
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    image = 0.15 + 0.05 * _texture(anatomy, side, side / 14)
    for x in (-0.2, 0.2):  # two dark lungs in a bright body
        body = (columns / 0.46) ** 2 + (rows / 0.48) ** 2 < 1
        image = np.where(body, np.maximum(image, 0.62), image)
        x, y = x + anatomy.uniform(-0.02, 0.02), anatomy.uniform(-0.03, 0.03)
        width, height = anatomy.uniform(0.12, 0.16), anatomy.uniform(0.26, 0.34)
        lung = ((columns - x) / width) ** 2 + ((rows - y) / height) ** 2 < 1
        image = np.where(lung, 0.33 + anatomy.uniform(-0.03, 0.03), image)
    image = gaussian_filter(image, side / 64) + 0.04 * _texture(anatomy, side, side / 40)
    image += 0.015 * anatomy.standard_normal((side, side))
    mask = np.zeros((side, side), bool)
    if anomalous:
        x, y = lesion.choice([-0.2, 0.2]) + lesion.uniform(-0.06, 0.06), lesion.uniform(-0.18, 0.18)
        radius = lesion.uniform(0.05, 0.1)
        mask = ((columns - x) / radius) ** 2 + ((rows - y) / (radius * lesion.uniform(0.7, 1.4))) ** 2 < 1
        image = image + gaussian_filter(mask.astype(float), side / 50) * lesion.uniform(0.12, 0.3) * contrast
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), mask


def _texture(generator: np.random.Generator, side: int, sigma: float) -> Array:
    field = gaussian_filter(generator.standard_normal((side, side)), sigma, mode="wrap")
    texture: Array = field / (field.std() + 1e-12)
    return texture


def head(
    seed: int, number: int, side: int, anomalous: bool, contrast: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One picture as :func:`picture` draws it, cut to an ellipse on black as a brain without skull is.

    Args:
        seed: of the whole phantom.
        number: of the picture.
        side: pixels.
        anomalous: add a spot.
        contrast: of the spot, 1 is the default.

    Returns:
        tuple: ``(side, side)`` uint8, 0 outside of the ellipse, and bool.
    """
    image, mask = picture(seed, number, side, anomalous, contrast)
    shape = np.random.Generator(np.random.PCG64([seed, number, 2])).uniform(0.36, 0.42, 2)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    inside = (columns / shape[0]) ** 2 + (rows / shape[1]) ** 2 < 1
    return np.where(inside, np.maximum(image, 1), 0).astype(np.uint8), mask & inside
