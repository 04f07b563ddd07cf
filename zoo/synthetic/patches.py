"""Patches of another image as the content of an anomaly: rotated, scaled, resampled."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.synthetic.shapes import rotation
from zoo.synthetic.splines import sample_zero_outside

Array = NDArray[Any]


class Footprint(NamedTuple):
    """The region of the source that a box of the target is taken from.

    Attributes:
        matrix: ``(D, D)`` target to source coordinates.
        low: ``(D,)`` floor of the region's lowest corner relative to the box's origin.
        size: ``(D,)`` sides of the region.
    """

    matrix: Array
    low: Array
    size: Array


def footprint(box: Sequence[int], angles: Sequence[float], scale: float, source_size: Sequence[int]) -> Footprint:
    """Region for a box of sides ``box`` turned by ``angles`` and scaled, at most 0.8 of the source's sides.

    Args:
        box: ``(D,)``.
        angles: one per axis pair, radians.
        scale: above 1 takes a larger region, which is shrunk into the box.
        source_size: ``(D,)``.
    """
    turn = rotation(angles, len(box))
    scale = min(scale, float((0.8 * np.asarray(source_size) / _region(turn, box).size).min()))
    return _region(scale * turn, box)


def _region(matrix: Array, box: Sequence[int]) -> Footprint:
    corners = _unit_corners(len(box)) * box @ matrix.T
    low = np.floor(corners.min(0)).astype(int)
    return Footprint(matrix, low, np.ceil(corners.max(0)).astype(int) - low)


@lru_cache(maxsize=4)
def _unit_corners(dims: int) -> Array:
    return np.array(list(itertools.product((0.0, 1.0), repeat=dims)))


def take(
    source: Array, region: Footprint, corner: Sequence[int] | Array, box: Sequence[int], wanted: Array | None = None
) -> Array:
    """Resample the region at ``corner`` into a box with cubic splines, clipped to the source's range per channel.

    Args:
        source: ``(C, *S)``.
        region: of :func:`footprint`.
        corner: ``(D,)`` where the region starts.
        box: ``(D,)`` sides of the result.
        wanted: ``(*box)`` bool, the only pixels that are computed; the others are 0. None: all.

    Returns:
        array: ``(C, *box)``.
    """
    cut = tuple(slice(int(c), int(c) + int(n)) for c, n in zip(corner, region.size, strict=True))
    places = np.arange(math.prod(box)) if wanted is None else np.flatnonzero(wanted)
    positions = np.empty((len(box), len(places)))
    for own, row, low in zip(positions, region.matrix, region.low, strict=True):
        everywhere: Any = 0.0
        for weight, side in zip(row, box, strict=True):
            everywhere = np.add(everywhere, weight * np.arange(side))[..., None]
        np.subtract(everywhere.reshape(-1).take(places), low, out=own)
    values = sample_zero_outside(source[(slice(None), *cut)], positions)
    flat = source.reshape(len(source), -1)
    patch = np.zeros((len(source), *box), source.dtype)
    patch.reshape(len(source), -1)[:, places] = np.clip(values, flat.min(1)[:, None], flat.max(1)[:, None])
    return patch


def needed_by_blend(mask: Array) -> Array:
    """Pixels of the source whose gradients a blend with this mask may use: the mask and the next ones along each axis.

    Args:
        mask: ``(*b)`` bool.
    """
    inner = (slice(1, -1),) * mask.ndim
    needed = np.zeros_like(mask)
    needed[inner] = mask[inner]
    for axis in range(mask.ndim):
        needed[tuple(slice(2, None) if other == axis else slice(1, -1) for other in range(mask.ndim))] |= mask[inner]
    return needed


class Patch(NamedTuple):
    """Where the content of a box is taken from.

    Attributes:
        source: number of the source image.
        region: turned and scaled box.
        corner: ``(D,)`` where the region starts in the source.
    """

    source: int
    region: Footprint
    corner: Array


def draw_patch(
    rng: np.random.Generator,
    sources: int,
    size: Sequence[int],
    box: Sequence[int],
    foreground: Array | None = None,
    tries: int = 100,
) -> Patch:
    """A random patch: angles U(-pi/4, pi/4), scale ``(1 + Exp(0.1))`` or its inverse, its middle in the foreground.

    Args:
        rng: source of randomness.
        sources: number of images to choose from.
        size: ``(D,)`` their sides.
        box: ``(D,)`` sides of the patch.
        foreground: ``(N, *S)`` bool of the sources; None accepts any position.
        tries: attempts to hit the foreground; after the last one the position is accepted.
    """
    dims = len(box)
    number = int(rng.integers(sources))
    angles = rng.uniform(-np.pi / 4, np.pi / 4, dims * (dims - 1) // 2)
    scale = (1 + rng.exponential(0.1)) ** (-1, 1)[int(rng.integers(2))]
    region = footprint(box, list(angles), float(scale), size)
    room = np.maximum(np.asarray(size) - region.size, 0)
    for _ in range(tries):
        corner = rng.integers(0, room + 1)
        if foreground is None or foreground[(number, *(corner + region.size // 2))]:
            break
    return Patch(number, region, corner)
