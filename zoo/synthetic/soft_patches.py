"""Soft patches within a region of the image, and the lungs of a chest film as such a region (Sato et al. 2023)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIDE = 256  # of the original's images: its lengths are in their pixels
_SHRINK, _BLUR = 10, 15
_SMALLEST_LUNG = 400  # pixels
_TRIES = 100


def lungs(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Dark parts of a chest film, away from the border.

    Args:
        image: ``(H, W)`` in [0, 1].

    Returns:
        bool ``(H, W)``; all True where nothing is found.
    """
    from skimage.exposure import equalize_adapthist
    from skimage.filters import threshold_otsu
    from skimage.measure import label, regionprops
    from skimage.morphology import dilation, footprint_rectangle, opening
    from skimage.segmentation import clear_border

    image = np.clip(image, 0.0, 1.0)
    if image.max() - image.min() < 1e-6:
        return np.ones(image.shape, bool)
    equal, square = equalize_adapthist(image, clip_limit=0.01), footprint_rectangle((3, 3))
    dark = dilation(clear_border(~opening(equal > threshold_otsu(equal), square)), square)
    found = np.zeros(image.shape, bool)
    smallest = _SMALLEST_LUNG * image.size / _SIDE**2
    for part in regionprops(label(dark)):
        if part.area_bbox >= smallest:
            found[tuple(part.coords.T)] = True
    return found if found.any() else np.ones(image.shape, bool)


def paste_softly(image: NDArray[Any], region: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[Any]:
    """Paste a patch of an image elsewhere in it: blurred outline, partly transparent, only within a region.

    Args:
        image: ``(C, H, W)`` in [0, 1].
        region: ``(H, W)``, the patch's middle lies in it.
        rng: source of randomness.

    Returns:
        A new image.
    """
    from scipy.ndimage import gaussian_filter

    height, width = image.shape[1:]
    scale = min(height, width) / _SIDE
    shrink = _SHRINK * scale
    for _ in range(_TRIES):  # small patches have nothing left inside the margin: drawn again
        area, aspect = rng.uniform(0.02, 0.15) * height * width, np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
        h, w = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
        if 2 * shrink + 1 < h < height and 2 * shrink + 1 < w < width:
            break
    else:
        h, w = height // 2, width // 2
    top, left = rng.integers(0, (height - h + 1, width - w + 1))
    patch = image[:, top : top + h, left : left + w] * rng.uniform(0.9, 1.1) + rng.uniform(-0.1, 0.1)
    rows, columns = np.ogrid[:h, :w]
    down, across = (np.abs(rows - (h - 1) / 2) / (h / 2 - shrink), np.abs(columns - (w - 1) / 2) / (w / 2 - shrink))
    shape = (down**2 + across**2 <= 1) if rng.random() < 0.5 else (np.maximum(down, across) <= 1)
    opacity = gaussian_filter(shape * rng.integers(150, 255) / 255.0, rng.integers(0, _BLUR) * scale)
    middle = rng.choice(np.flatnonzero(region))
    y, x = middle // width - h // 2, middle % width - w // 2
    ys, xs = slice(max(y, 0), min(y + h, height)), slice(max(x, 0), min(x + w, width))
    inner = (slice(ys.start - y, ys.stop - y), slice(xs.start - x, xs.stop - x))
    weight = opacity[inner] * region[ys, xs]
    pasted = image.copy()
    pasted[:, ys, xs] += weight * (np.clip(patch, 0, 1)[:, inner[0], inner[1]] - pasted[:, ys, xs])
    return pasted
