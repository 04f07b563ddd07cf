"""Smooth changes of intensity (Baugh et al., MICCAI 2023)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]


def shift_intensity(patch: Array, mask: Array, ramp: float, amount: Array, low: Array, high: Array) -> Array:
    """Add ``amount`` inside the mask, rising linearly from its edge.

    Args:
        patch: ``(C, *b)``.
        mask: ``(*b)`` bool; the box's faces are no edge.
        ramp: pixels from the edge to the full change, at most the mask's depth.
        amount: ``(C,)`` signed change.
        low: ``(C,)`` range of the whole image, to which the result is clipped.
        high: see low.

    Returns:
        array: new ``(C, *b)``.
    """
    depth = ndimage.distance_transform_edt(mask)
    weight = np.minimum(depth / min(ramp, float(depth.max())), 1.0)
    shape = (-1, *[1] * mask.ndim)
    return np.clip(patch + weight * amount.reshape(shape), low.reshape(shape), high.reshape(shape))
