"""Patches of another image as the content of an anomaly: rotated, scaled, resampled."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zoo.synthetic.shapes import rotation

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
    corners = np.array(list(itertools.product(*[(0, b) for b in box]))) @ matrix.T
    low = np.floor(corners.min(0)).astype(int)
    return Footprint(matrix, low, np.ceil(corners.max(0)).astype(int) - low)


def take(source: Array, region: Footprint, corner: Sequence[int] | Array, box: Sequence[int]) -> Array:
    """Resample the region at ``corner`` into a box with cubic splines, clipped to the source's range per channel.

    Args:
        source: ``(C, *S)``.
        region: of :func:`footprint`.
        corner: ``(D,)`` where the region starts.
        box: ``(D,)`` sides of the result.

    Returns:
        array: ``(C, *box)``.
    """
    cut = tuple(slice(int(c), int(c) + int(n)) for c, n in zip(corner, region.size, strict=True))
    patches = [
        np.clip(
            ndimage.affine_transform(channel[cut], region.matrix, -region.low, tuple(box)), channel.min(), channel.max()
        )
        for channel in source
    ]
    return np.stack(patches)


def draw_patch(
    rng: np.random.Generator, source: Array, box: Sequence[int], foreground: Array | None = None, tries: int = 100
) -> Array:
    """A random patch: angles U(-pi/4, pi/4), scale ``(1 + Exp(0.1))`` or its inverse, its middle in the foreground.

    Args:
        rng: source of randomness.
        source: ``(C, *S)``.
        box: ``(D,)``.
        foreground: ``(*S)`` bool of the source; None accepts any position.
        tries: attempts to hit the foreground; after the last one the position is accepted.

    Returns:
        array: ``(C, *box)``.
    """
    dims = len(box)
    angles = rng.uniform(-np.pi / 4, np.pi / 4, dims * (dims - 1) // 2)
    scale = (1 + rng.exponential(0.1)) ** rng.choice([-1, 1])
    region = footprint(box, list(angles), float(scale), source.shape[1:])
    room = np.asarray(source.shape[1:]) - region.size
    for _ in range(tries):
        corner = rng.integers(0, np.maximum(room, 0) + 1)
        if foreground is None or foreground[tuple(corner + region.size // 2)]:
            break
    return take(source, region, corner, box)
