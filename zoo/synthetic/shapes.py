"""Shapes of anomalies and where they go (Baugh et al., MICCAI 2023): sheared, rotated ellipsoids and boxes."""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

Array = NDArray[Any]
Kind = Literal["ellipse", "rect"]


class Shape(NamedTuple):
    """An ellipsoid or box in its bounding box.

    Attributes:
        kind: ``ellipse`` or ``rect``.
        size: ``(D,)`` side lengths before the transformation, in pixels.
        matrix: ``(D, D)`` shear, rotation and scale.
        mask: ``(*b)`` bool, the shape in its box of odd sides.
    """

    kind: Kind
    size: Array
    matrix: Array
    mask: Array


def rotation(angles: Sequence[float], dims: int) -> Array:
    """Product of plane rotations, one angle per axis pair in the order (0,1), (0,2), (1,2); radians."""
    matrix: Any = None
    for angle, (i, j) in zip(angles, itertools.combinations(range(dims), 2), strict=True):
        plane = np.eye(dims)
        plane[i, i] = plane[j, j] = np.cos(angle)
        plane[j, i] = np.sin(angle)
        plane[i, j] = -plane[j, i]
        matrix = plane if matrix is None else plane @ matrix
    return np.eye(dims) if matrix is None else np.asarray(matrix)


def make_shape(
    kind: Kind, size: Array, columns: Sequence[int], shears: Sequence[float], angles: Sequence[float], largest: Array
) -> Shape:
    """The shape of explicit parameters.

    Args:
        kind: ``ellipse`` or ``rect``.
        size: ``(D,)`` side lengths.
        columns: per row of the shear matrix, the column of its off-diagonal entry.
        shears: these entries.
        angles: one per axis pair.
        largest: ``(D,)`` sides that the bounding box may have; a larger one shrinks isotropically. Rounding can leave a
            side one pixel above it, as published.
    """
    dims = len(size)
    matrix = np.eye(dims)
    for row, column, shear in zip(matrix, columns, shears, strict=True):
        row[column] = shear
    matrix = rotation(angles, dims) @ matrix
    box = _box(matrix, size)
    if (box > largest).any():
        matrix = matrix / (box / largest).max()
        box = _box(matrix, size)
    return Shape(kind, np.asarray(size), matrix, _inside(kind, size, matrix, box))


def _box(matrix: Array, size: Array) -> Array:
    corners = _signs(len(size)) * ((size - 1) / 2) @ matrix.T
    sides: Array = (np.ceil(corners.max(0)) - np.floor(corners.min(0)) + 1).astype(int)
    return sides


@lru_cache(maxsize=4)
def _signs(dims: int) -> Array:
    return np.array(list(itertools.product((-1.0, 1.0), repeat=dims)))


def _inside(kind: Kind, size: Array, matrix: Array, box: Array) -> Array:
    inverse = np.linalg.inv(matrix) / (np.asarray(size) / 2)[:, None]
    lines = [np.arange(b) - (b - 1) / 2 for b in box]
    total: Any = None
    for row in inverse:
        local: Any = row[-1] * lines[-1]
        for weight, line in zip(row[-2::-1], lines[-2::-1], strict=True):
            local = (weight * line).reshape(-1, *[1] * local.ndim) + local
        if kind == "rect":
            np.abs(local, out=local)
            total = local if total is None else np.maximum(total, local, out=total)
        else:
            local *= local
            total = local if total is None else np.add(total, local, out=total)
    return np.asarray(total <= 1)


def inner_edge(mask: Array) -> Array:
    """Pixels of the mask with a neighbour outside (cross connectivity); the faces of the box count as outside."""
    eroded = np.zeros_like(mask)
    inner = (slice(1, -1),) * mask.ndim
    kept = mask[inner].copy()
    for axis in range(mask.ndim):
        for part in (slice(2, None), slice(None, -2)):
            kept &= mask[tuple(part if other == axis else slice(1, -1) for other in range(mask.ndim))]
    eroded[inner] = kept
    return mask & ~eroded


def exit_distance(shape: Shape, origin: Array, directions: Array) -> Array:
    """Distance from a point inside the (uncut) shape to its surface.

    Args:
        shape: the shape.
        origin: ``(D,)`` point relative to the centre of the box.
        directions: ``(n, D)`` unit vectors.

    Returns:
        array: ``(n,)`` in pixels.
    """
    half = shape.size / 2
    inverse = np.linalg.inv(shape.matrix) / half[:, None]
    start = inverse @ origin
    step = inverse @ directions.T
    if shape.kind == "rect":
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = (np.sign(step) - start[:, None]) / step
        return np.asarray((reach if step.all() else np.where(step == 0, np.inf, reach)).min(0))
    a, b, c = (step**2).sum(0), start @ step, start @ start - 1
    root: Array = (-b + np.sqrt(np.maximum(b**2 - a * c, 0))) / a
    return root


def draw_shape(
    rng: np.random.Generator, image_size: Sequence[int], smallest: float = 0.06, largest: float = 0.8
) -> Shape:
    """A random shape: sides ``(0.03 + Gamma(2, 0.1)) n``, shear N(0, 0.2²), rotation U(-pi/2, pi/2).

    Args:
        rng: source of randomness.
        image_size: ``(D,)`` sides of the image.
        smallest: smallest side as a share of the image's.
        largest: largest side of shape and bounding box.
    """
    dims, (n, low, high) = len(image_size), _limits(tuple(image_size), smallest, largest)
    kind: Kind = "ellipse" if rng.random() < 0.5 else "rect"
    size = np.minimum(np.maximum((0.03 + rng.gamma(2, 0.1, dims)) * n, low), high).astype(int)
    others = [int(rng.integers(dims - 1)) for _ in range(dims)]
    columns = [other + (other >= row) for row, other in enumerate(others)]
    shears = rng.normal(0, 0.2, dims)
    angles = rng.uniform(-np.pi / 2, np.pi / 2, dims * (dims - 1) // 2)
    shape = make_shape(kind, size, columns, shears.tolist(), angles.tolist(), high)
    return shape if shape.mask.any() else draw_shape(rng, image_size, smallest, largest)


@lru_cache(maxsize=64)
def _limits(image_size: tuple[int, ...], smallest: float, largest: float) -> tuple[Array, Array, Array]:
    n = np.asarray(image_size)
    low, high = (np.maximum(np.rint(share * n), 3) for share in (smallest, largest))
    return n, low, high


def place(
    rng: np.random.Generator, mask: Array, image_size: Sequence[int], foreground: Array | None, tries: int = 100
) -> Array | None:
    """Low corner of a box whose mask lies at least half in the foreground.

    Args:
        rng: source of randomness.
        mask: ``(*b)`` bool.
        image_size: ``(D,)``.
        foreground: ``(*S)`` bool; None accepts any position.
        tries: attempts, so that an impossible placement ends (the original code would not).

    Returns:
        array: ``(D,)``, or None if the box does not fit or no attempt succeeded.
    """
    room = np.asarray(image_size) - mask.shape
    if (room < 0).any():
        return None
    for _ in range(tries):
        corner = rng.integers(0, room + 1)
        if foreground is None or foreground[box_of(corner, mask.shape)][mask].mean() >= 0.5:
            return corner
    return None


def soft_weight(rng: np.random.Generator, mask: Array, edge: int) -> Array:
    """The shape, in a third of the draws cut by smooth noise, with edges averaged over ``edge`` pixels.

    Args:
        rng: source of randomness.
        mask: ``(*b)`` bool.
        edge: side of the averaging window, odd; 1 keeps the edges sharp.

    Returns:
        array: float32 in [0, 1], larger than the mask by ``edge // 2`` on every side while that fits.
    """
    if rng.random() < 1 / 3:
        cut = mask & (gaussian_filter(rng.standard_normal(mask.shape), min(mask.shape) / 8) > 0)
        mask = cut if cut.any() else mask
    padded = np.pad(mask.astype(np.float32), edge // 2 if edge > 1 else 0)
    return uniform_filter(padded, edge, mode="constant") if edge > 1 else padded


def pixels_of(mask: Array) -> Array:
    """Indices ``(D, n)`` of the pixels of a mask, in memory order."""
    rest = np.flatnonzero(mask)
    pixels = np.empty((mask.ndim, len(rest)), rest.dtype)
    for axis in range(mask.ndim - 1, 0, -1):
        ahead = rest // mask.shape[axis]
        np.subtract(rest, ahead * mask.shape[axis], out=pixels[axis])
        rest = ahead
    pixels[0] = rest
    return pixels


def box_of(corner: Sequence[int] | Array, sides: Sequence[int] | Array) -> tuple[slice, ...]:
    """Slices of a box."""
    return tuple(slice(int(c), int(c) + s) for c, s in zip(corner, sides, strict=True))
