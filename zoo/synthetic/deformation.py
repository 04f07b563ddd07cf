"""Sink and source deformations (Baugh et al., equations 1 and 2) with the push distance of BEND."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zoo.synthetic.shapes import Shape, exit_distance

Array = NDArray[Any]


def sink_map(shape: Shape, centre: Sequence[int], factor: float) -> Array:
    """Sampling positions that pull the image towards ``centre``: ``r' = R - (R - r)^f / R^(f - 1)``.

    ``r`` is a pixel's distance from the centre and ``R`` that of the shape's surface in the same direction.

    Args:
        shape: star-shaped around the centre, as ellipsoids and boxes are.
        centre: ``(D,)`` index of a pixel of the mask, in the box.
        factor: ``f`` > 1; 1 is the identity.

    Returns:
        array: float64 ``(D, *b)``, positions in the box; pixels outside the mask and on the box's faces stay.
    """
    return _radial_map(shape, centre, lambda r, reach: reach - (reach - r) ** factor / reach ** (factor - 1))


def source_map(shape: Shape, centre: Sequence[int], factor: float) -> Array:
    """Sampling positions that push the image away from ``centre``: ``r' = r^f / R^(f - 1)``; see :func:`sink_map`."""
    return _radial_map(shape, centre, lambda r, reach: r**factor / reach ** (factor - 1))


def _radial_map(shape: Shape, centre: Sequence[int], curve: Any) -> Array:
    mask = shape.mask
    mapping = np.stack(np.meshgrid(*[np.arange(b) for b in mask.shape], indexing="ij")).astype(np.float64)
    moved = np.zeros_like(mask)
    inner = (slice(1, -1),) * mask.ndim
    moved[inner] = mask[inner]
    moved[tuple(centre)] = False
    offset = mapping[:, moved].T - np.asarray(centre)
    radius = np.sqrt((offset**2).sum(1))
    direction = offset / radius[:, None]
    reach = exit_distance(shape, np.asarray(centre) - (np.array(mask.shape) - 1) / 2, direction)
    radius = np.minimum(radius, reach)  # rounding can put a pixel just outside
    mapping[:, moved] = (np.asarray(centre) + curve(radius, reach)[:, None] * direction).T
    return mapping


def push_bounds(mask: Array, centre: Sequence[int], smallest: float, largest: float) -> tuple[float, float, float]:
    """Range of push distances that the mask allows, and the mean distance of its edge from the centre.

    Args:
        mask: ``(*b)`` bool.
        centre: ``(D,)`` index in the box.
        smallest: wanted bounds in pixels.
        largest: wanted bounds in pixels.

    Returns:
        tuple: lower bound, upper bound, mean edge distance.
    """
    edge = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    distance = float(np.sqrt(((edge - np.asarray(centre)) ** 2).sum(1)).mean())
    low, high = 0.1 * distance / np.sqrt(2), 0.9 * distance / np.sqrt(2)
    if smallest >= high:
        return high, high, distance
    if largest <= low:
        return low, low, distance
    return max(low, smallest), min(high, largest), distance


def push_factor(push: float, distance: float) -> float:
    """Exponent whose curve leaves the identity by ``push`` pixels at mid radius; the same for sink and source."""
    if distance == 0:
        return 1.0
    w = push / (distance * np.sqrt(2))
    return float(np.log(0.5 - w) / np.log(0.5 + w))


def deform(patch: Array, mapping: Array) -> Array:
    """Resample ``(C, *b)`` at ``(D, *b)`` positions with cubic splines, edges repeated."""
    return np.stack([ndimage.map_coordinates(channel, mapping, order=3, mode="nearest") for channel in patch])
