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
    low = np.maximum(np.floor(positions.min(1)).astype(int) - 1, -MARGIN)
    high = np.minimum(np.floor(positions.max(1)).astype(int) + 3, np.array(values.shape[1:]) + MARGIN)
    exact = _exact(values)
    matrices = [
        spline_matrix(n, "nearest", exact.dtype)[a + MARGIN : b + MARGIN]
        for n, a, b in zip(values.shape[1:], low, high, strict=True)
    ]
    return _evaluate(along_axes(exact, matrices), positions - low[:, None], "nearest", values.dtype)


def sample_zero_outside(values: Array, positions: Array) -> Array:
    """Values of ``(C, *b)`` at ``(D, n)`` positions, zero outside; as ``map_coordinates(mode="constant")``.

    Returns:
        array: ``(C, n)`` of the input's dtype.
    """
    exact = _exact(values)
    matrices = [spline_matrix(n, "mirror", exact.dtype) for n in values.shape[1:]]
    return _evaluate(along_axes(exact, matrices), positions, "constant", values.dtype)


def _exact(values: Array) -> Array:
    """Planes in double precision, which costs little there."""
    return values.astype(np.float64) if values.ndim == 3 else values


def _evaluate(coefficients: Array, positions: Array, mode: str, dtype: Any) -> Array:
    sampled = np.empty((len(coefficients), positions.shape[1]), dtype)
    for own, channel in zip(sampled, coefficients, strict=True):
        ndimage.map_coordinates(channel, positions, output=own, order=3, mode=mode, prefilter=False)
    return sampled
