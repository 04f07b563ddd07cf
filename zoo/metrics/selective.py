"""Is an uncertainty worth anything: does the error fall when the most uncertain pixels are left out?"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class RiskCoverage(NamedTuple):
    """Mean error of what is kept, against the share that is kept (Geifman and El-Yaniv, NeurIPS 2017).

    Attributes:
        coverage: ``(n,)`` shares, falling from 1.
        risk: ``(n,)`` mean error of the share with the lowest uncertainty; equal uncertainties count with their mean.
        oracle: ``(n,)`` the same with the error itself as the uncertainty: the lowest possible curve.
        gain: how much of the way from leaving out at random (0) to the oracle (1) the area under ``risk`` goes;
            negative: the pixels left out are the better ones; nan where all errors are equal.
    """

    coverage: Array
    risk: Array
    oracle: Array
    gain: float


def risk_coverage(errors: Any, uncertainties: Any, points: int = 100) -> RiskCoverage:
    """The curve at ``points`` evenly spaced shares from 1 down to ``1 / points``.

    Args:
        errors: any shape, finite.
        uncertainties: same shape, finite; larger is less certain.
        points: of the curve.

    Raises:
        ValueError: nothing given, shapes differ, or values that are not finite.
    """
    error, doubt = np.asarray(errors, np.float64).ravel(), np.asarray(uncertainties, np.float64).ravel()
    if error.shape != doubt.shape or not error.size:
        raise ValueError(
            f"errors have {error.size} values, uncertainties {doubt.size}: they must agree and not be empty"
        )
    if not (np.isfinite(error).all() and np.isfinite(doubt).all()):
        raise ValueError("errors and uncertainties must be finite")
    coverage = np.linspace(1, 1 / points, points)
    kept = np.maximum(np.rint(coverage * error.size).astype(int), 1)
    _, group, sizes = np.unique(doubt, return_inverse=True, return_counts=True)
    shared = (np.bincount(group, error) / sizes)[group]  # the order within ties must not matter
    risk = np.cumsum(shared[np.argsort(doubt, kind="stable")])[kept - 1] / kept
    oracle = np.cumsum(np.sort(error))[kept - 1] / kept
    chance = error.mean()
    room = chance - oracle.mean()
    return RiskCoverage(coverage, risk, oracle, float((chance - risk.mean()) / room) if room > 0 else float("nan"))
