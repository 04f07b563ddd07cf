"""Sink and source deformations (Baugh et al., equations 1 and 2) with the push distance of BEND."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.synthetic.shapes import Shape, exit_distance, inner_edge, pixels_of
from zoo.synthetic.splines import sample_edges_repeated

Array = NDArray[Any]


def sink_map(shape: Shape, centre: Sequence[int] | Array, factor: float) -> Array:
    """Sampling positions that pull the image towards ``centre``: ``r' = R - (R - r)^f / R^(f - 1)``.

    ``r`` is a pixel's distance from the centre and ``R`` that of the shape's surface in the same direction.

    Args:
        shape: star-shaped around the centre, as ellipsoids and boxes are.
        centre: ``(D,)`` index of a pixel of the mask, in the box.
        factor: ``f`` > 1; 1 is the identity.

    Returns:
        array: float64 ``(D, *b)``, positions in the box; pixels outside the mask and on the box's faces stay.
    """
    return _whole_map(shape, *moved_pixels(shape, centre, factor, inward=True))


def source_map(shape: Shape, centre: Sequence[int] | Array, factor: float) -> Array:
    """Sampling positions that push the image away from ``centre``: ``r' = r^f / R^(f - 1)``; see :func:`sink_map`."""
    return _whole_map(shape, *moved_pixels(shape, centre, factor, inward=False))


def _whole_map(shape: Shape, pixels: Array, positions: Array) -> Array:
    mapping = np.indices(shape.mask.shape, dtype=np.float64)
    mapping[(slice(None), *pixels)] = positions
    return mapping


def moved_pixels(shape: Shape, centre: Sequence[int] | Array, factor: float, inward: bool) -> tuple[Array, Array]:
    """The pixels that a deformation changes, and where each takes its value from.

    Args:
        shape: see :func:`sink_map`.
        centre: see :func:`sink_map`.
        factor: see :func:`sink_map`.
        inward: True for a sink, False for a source.

    Returns:
        tuple: indices and float64 positions, both ``(D, n)``, in the box.
    """
    moved = np.zeros_like(shape.mask)
    inner = (slice(1, -1),) * moved.ndim
    moved[inner] = shape.mask[inner]
    moved[tuple(centre)] = False
    pixels = pixels_of(moved)
    middle = np.asarray(centre, np.float64)[:, None]
    offset = pixels - middle
    radius = np.sqrt((offset**2).sum(0))
    direction = offset / radius
    reach = exit_distance(shape, middle[:, 0] - (np.array(moved.shape) - 1) / 2, direction.T)
    share = np.minimum(radius / reach, 1.0)  # rounding can put a pixel just outside
    curve = 1 - (1 - share) ** factor if inward else share**factor
    return pixels, middle + reach * curve * direction


def push_bounds(
    mask: Array, centre: Sequence[int] | Array, smallest: float, largest: float
) -> tuple[float, float, float]:
    """Range of push distances that the mask allows, and the mean distance of its edge from the centre.

    Args:
        mask: ``(*b)`` bool.
        centre: ``(D,)`` index in the box.
        smallest: wanted bounds in pixels.
        largest: wanted bounds in pixels.

    Returns:
        tuple: lower bound, upper bound, mean edge distance.
    """
    edge = pixels_of(inner_edge(mask))
    distance = float(np.sqrt(((edge - np.asarray(centre)[:, None]) ** 2).sum(0)).mean())
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


def warp(patch: Array, pixels: Array, positions: Array) -> Array:
    """Give some pixels the values at other positions, by cubic splines with repeated edges.

    Args:
        patch: ``(C, *b)`` floating.
        pixels: ``(D, n)`` indices, see :func:`moved_pixels`.
        positions: ``(D, n)``.

    Returns:
        array: new ``(C, *b)``.
    """
    warped = patch.copy()
    warped[(slice(None), *pixels)] = sample_edges_repeated(patch, positions)
    return warped
