"""Cubic B-spline interpolation of small boxes at few points.

The coefficients are products with small cached matrices, one per axis, which hold the recursive filters and the
boundary rules of ``scipy.ndimage``; so the same matrices serve the exact path and batches on any device.
"""

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zoo.synthetic.separable import along_axes

Array = NDArray[Any]
Edge = Literal["nearest", "mirror"]
MARGIN = 12  # pixels by which scipy repeats the edges before it filters
NEGLIGIBLE = 1e-30  # a coefficient's share of a sample far away, of which products of float32 would be slow


@lru_cache(maxsize=512)
def spline_matrix(n: int, edge: Edge, dtype: Any = np.float64) -> Array:
    """Coefficients of a signal of ``n`` samples, as a matrix.

    Args:
        n: samples.
        edge: ``nearest`` repeats the ends, ``mirror`` reflects about them.
        dtype: of the matrix.

    Returns:
        array: ``(n + 2 MARGIN, n)`` for ``nearest``, whose first row is at position ``-MARGIN``; ``(n, n)`` for
        ``mirror``. Do not write to it.
    """
    signal = np.eye(n)
    if edge == "nearest":
        signal = np.pad(signal, ((MARGIN, MARGIN), (0, 0)), "edge")
    matrix = ndimage.spline_filter1d(signal, 3, axis=0, mode=edge) if len(signal) > 1 else signal
    matrix = np.where(np.abs(matrix) < NEGLIGIBLE, 0, matrix).astype(dtype)
    matrix.flags.writeable = False
    return matrix


def sample_edges_repeated(values: Array, positions: Array) -> Array:
    """Values of ``(C, *b)`` at ``(D, n)`` positions, edges repeated; as ``map_coordinates(mode="nearest")``.

    Returns:
        array: ``(C, n)`` of the input's dtype.
    """
    return _sample(values, positions, "nearest", MARGIN, "nearest")


def sample_zero_outside(values: Array, positions: Array) -> Array:
    """Values of ``(C, *b)`` at ``(D, n)`` positions, zero outside; as ``map_coordinates(mode="constant")``.

    Returns:
        array: ``(C, n)`` of the input's dtype.
    """
    return _sample(values, positions, "mirror", 0, "constant")


def _sample(values: Array, positions: Array, edge: Edge, margin: int, mode: str) -> Array:
    """Coefficients of the part that the positions need, and from them the values."""
    sampled = np.empty((len(values), positions.shape[1]), values.dtype)
    if not positions.size:
        return sampled
    exact = values.astype(np.float64) if values.ndim == 3 else values  # double precision costs little in planes
    low = np.maximum(np.floor(positions.min(1)).astype(int) - 1, -margin)
    high = np.minimum(np.floor(positions.max(1)).astype(int) + 3, np.array(values.shape[1:]) + margin)
    matrices = [
        spline_matrix(n, edge, exact.dtype)[a + margin : b + margin]
        for n, a, b in zip(values.shape[1:], low, high, strict=True)
    ]
    there = positions - low[:, None]
    for own, channel in zip(sampled, along_axes(exact, matrices), strict=True):
        ndimage.map_coordinates(channel, there, output=own, order=3, mode=mode, prefilter=False)
    return sampled
