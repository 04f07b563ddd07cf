"""Random streams and smooth random fields: the raw material of every phantom."""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.floating[Any]]
Rng = np.random.Generator


class Streams(NamedTuple):
    """Independent generators of one image: using one never shifts another, so a lesion leaves the anatomy alone."""

    anatomy: Rng
    acquisition: Rng
    lesion: Rng
    annotation: Rng


def streams(seed: int, dataset: str, index: int) -> Streams:
    """Return fresh streams of image `index`; the same arguments always give the same numbers."""
    root = np.random.SeedSequence([seed, zlib.crc32(dataset.encode()), index])
    return Streams(*(np.random.default_rng(child) for child in root.spawn(4)))


@functools.lru_cache(maxsize=256)
def _unit_basis(samples: int, knots: int) -> Array:
    return spline_basis(np.linspace(0, knots - 1, samples), knots)


def spline_basis(positions: NDArray[np.floating], knots: int) -> Array:
    """Return the (n, knots) float32 weights of a natural cubic spline at `positions` in knot units."""
    clipped = np.clip(positions, 0, knots - 1)
    basis = CubicSpline(np.arange(knots), np.eye(knots), bc_type="natural")(clipped)
    return np.asarray(basis, np.float32)


def field_2d(rng: Rng, shape: tuple[int, int], knots: float, sd: float = 1.0) -> Array:
    """Draw a smooth field of about N(0, sd^2) with `knots` random values along each side.

    The draw depends on `knots` only, so the same stream gives the same picture at any resolution.
    """
    count = max(4, int(knots))
    lattice = rng.standard_normal((count, count), dtype=np.float32) * np.float32(sd)
    return _unit_basis(shape[0], count) @ lattice @ _unit_basis(shape[1], count).T


#: Half extent in mm of the box around the brain centre on which three-dimensional fields live.
BOX = (100.0, 120.0, 105.0)


def field_3d(rng: Rng, axes: tuple[Array, Array, Array], spacing: float, sd: float = 1.0) -> Array:
    """Draw a smooth field of about N(0, sd^2) on a grid of millimetre coordinates.

    Args:
        axes: coordinates of the grid in mm from the brain centre, one vector per axis.
        spacing: distance of the random values in mm; the draw does not depend on `axes`.
    """
    counts = [int(np.ceil(2 * half / spacing)) + 1 for half in BOX]
    lattice = rng.standard_normal(counts, dtype=np.float32) * np.float32(sd)
    for axis, half, count in zip(axes, BOX, counts, strict=True):
        basis = spline_basis((np.asarray(axis) + half) / spacing, count)
        lattice = np.tensordot(lattice, basis, (0, 1))
    return np.ascontiguousarray(lattice)
