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
    return np.clip(patch + change, low.reshape(shape), high.reshape(shape))


def capped_depth(mask: Array, cap: float) -> Array:
    """Euclidean distance of each pixel of the mask to the nearest one outside, at most ``cap``.

    Since nothing above the cap matters, each axis needs few offsets of the lower envelope of parabolas.

    Args:
        mask: ``(*b)`` bool.
        cap: in pixels.

    Returns:
        array: float64 ``(*b)``, 0 outside the mask.
    """
    reach = int(np.ceil(cap))
    squares = np.where(mask, np.float32(reach * reach + 1), np.float32(0))
    for axis in range(mask.ndim):
        before, ahead = squares.copy(), (slice(None),) * axis
        for step in range(1, min(reach, mask.shape[axis] - 1) + 1):
            late, early = (*ahead, slice(step, None)), (*ahead, slice(None, -step))
            raised = before + np.float32(step * step)
            np.minimum(squares[late], raised[early], out=squares[late])
            np.minimum(squares[early], raised[late], out=squares[early])
    return np.minimum(np.sqrt(squares.astype(np.float64)), cap)
