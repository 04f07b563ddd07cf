"""Smooth changes of intensity (Baugh et al., MICCAI 2023)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def shift_intensity(patch: Array, mask: Array, ramp: float, amount: Array, low: Array, high: Array) -> Array:
    """Add ``amount`` inside the mask, rising linearly from its edge.

    Args:
        patch: ``(C, *b)``.
        mask: ``(*b)`` bool; the box's faces are no edge. A mask without any edge changes evenly.
        ramp: pixels from the edge to the full change, at most the mask's depth.
        amount: ``(C,)`` signed change.
        low: ``(C,)`` range of the whole image, to which the result is clipped.
        high: see low.

    Returns:
        array: new ``(C, *b)``.
    """
    depth = capped_depth(mask, ramp).astype(patch.dtype)
    weight = depth / max(depth.max(), np.finfo(patch.dtype).tiny)
    shape = (-1, *[1] * mask.ndim)
    change = weight * amount.astype(patch.dtype).reshape(shape)
    altered: Array = np.clip(patch + change, low.reshape(shape), high.reshape(shape))
    return altered


def capped_depth(mask: Array, cap: float) -> Array:
    """Euclidean distance of each pixel of the mask to the nearest one outside, at most ``cap``.

    Since nothing above the cap matters, each axis needs few offsets of the lower envelope of parabolas, in integers.

    Args:
        mask: ``(*b)`` bool.
        cap: in pixels.

    Returns:
        array: float64 ``(*b)``, 0 outside the mask.
    """
    reach = int(np.ceil(cap))
    far = reach * reach + 1
    squares = mask * np.min_scalar_type(far + reach * reach).type(far)
    for axis in range(mask.ndim):
        lines = np.ascontiguousarray(squares.swapaxes(0, axis))
        count, steps = len(lines), min(reach, mask.shape[axis] - 1)
        wide = np.full((count + 2 * steps, *lines.shape[1:]), far, lines.dtype)
        wide[steps : steps + count] = lines
        nearest = np.empty_like(lines)
        for step in range(1, steps + 1):
            np.minimum(wide[steps - step :][:count], wide[steps + step :][:count], out=nearest)
            nearest += lines.dtype.type(step * step)
            np.minimum(lines, nearest, out=lines)
        squares = lines.swapaxes(0, axis)
    depth: Array = np.minimum(np.sqrt(np.arange(far + 1)), cap).take(squares)
    return depth
