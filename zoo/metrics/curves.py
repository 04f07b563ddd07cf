"""Curves of scores and labels over a grid, for charts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def roc_curve(scores: Array, labels: Array, grid: Array) -> Array:
    """Sensitivity at false-positive rates, linear between thresholds.

    Args:
        scores: ``(n,)``, larger = more anomalous.
        labels: ``(n,)``, 0 or 1.
        grid: ``(m,)`` false-positive rates in [0, 1].

    Returns:
        array: ``(m,)``; nan where a class is missing.
    """
    steps = _steps(scores, labels)
    if steps is None:
        return np.full_like(grid, np.nan)
    hits, wrong = steps
    sensitivity: Array = np.interp(grid, np.append(0, wrong / wrong[-1]), np.append(0, hits / hits[-1]))
    return sensitivity


def precision_curve(scores: Array, labels: Array, grid: Array) -> Array:
    """Precision at the lowest number of calls that reaches each recall of a grid; arguments as in :func:`roc_curve`."""
    steps = _steps(scores, labels)
    if steps is None:
        return np.full_like(grid, np.nan)
    hits, wrong = steps
    precision, recall = hits / (hits + wrong), hits / hits[-1]
    reached: Array = precision[np.minimum(np.searchsorted(recall, grid), len(recall) - 1)]
    return reached


def _steps(scores: Array, labels: Array) -> tuple[Array, Array] | None:
    """Hits and false calls at each distinct score, from the highest down; None where a class is missing."""
    truth = np.asarray(labels).astype(bool)
    if truth.all() or not truth.any():
        return None
    order = np.argsort(-np.asarray(scores), kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
