"""Conformal p-values of scores against healthy calibration cases, their thresholds, and whether they still fit.

All functions take one score a case; larger = more anomalous.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import gammaln

from zoo.errors import UserError
from zoo.metrics.statistics import holm

Array = NDArray[Any]
_ROUNDING = 1e-9  # level * (n + 1) is meant as a whole number where it misses one by the representation of the level
DRIFT_MINIMUM = 20  # cases, below which a drift test says nothing
DRIFT_LEVEL = 0.01


def p_values(calibration: ArrayLike, scores: ArrayLike) -> Array:
    """Share of healthy cases, the new one included, that score at least as high.

    ``p = (1 + #{calibration >= s}) / (n + 1)``: for a healthy case exchangeable with the calibration's, P(p <= a) <= a
    (Vovk et al. 2005). Ties count against the new case: a constant score gives 1.

    Args:
        calibration: ``(n,)`` scores of healthy cases that neither trained nor selected the model.
        scores: ``(m,)``.

    Returns:
        Array: ``(m,)`` float64 in [1 / (n + 1), 1].

    Raises:
        UserError: no calibration case, or a score that is not finite.
    """
    ordered, new = _checked(calibration, scores)
    return (1 + len(ordered) - np.searchsorted(ordered, new, "left")) / (len(ordered) + 1)


def percentiles(calibration: ArrayLike, scores: ArrayLike) -> Array:
    """``100 * #{calibration < s} / n``: more unusual than so many per cent of the healthy cases; ``(m,)`` float64."""
    ordered, new = _checked(calibration, scores)
    return 100 * np.searchsorted(ordered, new, "left") / len(ordered)


def _checked(calibration: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    ordered, new = np.sort(np.asarray(calibration, np.float64)), np.asarray(scores, np.float64)
    if not len(ordered):
        raise UserError("no calibration case: a p-value needs at least one healthy score")
    for name, values in (("calibration", ordered), ("new", new)):
        if not np.isfinite(values).all():
            found = int((~np.isfinite(values)).sum())
            raise UserError(f"{found} {name} scores are NaN or infinite; nothing is decided")
    return ordered, new


def conditional_p_values(calibration: ArrayLike, scores: ArrayLike, delta: float = 0.1) -> Array:
    """P-values that hold at all levels at once for all but a share ``delta`` of calibration sets.

    Simes' variant with k = n / 2 of Bates, Candès, Lei, Romano, Sesia (Annals of Statistics 2023, section 3.3); about
    4.6 times the marginal ones where these are small.

    Args:
        calibration: ``(n,)``.
        scores: ``(m,)``.
        delta: share of calibration sets that may fail.

    Returns:
        Array: ``(m,)`` float64, never below :func:`p_values`.
    """
    marginal = p_values(calibration, scores)
    n = np.size(calibration)
    k = max(n // 2, 1)
    i = np.arange(n, k - 1, -1)  # b_j of the paper for j = n + 1 - i; it is 1 for all i < k
    product = gammaln(i + 1) - gammaln(i - k + 1) - gammaln(n + 1) + gammaln(n - k + 1)
    bounds = np.ones(n + 1)
    bounds[: len(i)] = -np.expm1((math.log(delta) + product) / k)
    corrected: Array = np.maximum(bounds[np.rint(marginal * (n + 1)).astype(int) - 1], marginal)
    return corrected


# ---- thresholds -----------------------------------------------------------------------------------------------------


def rank(n: int, level: float, confidence: float | None = None) -> int:
    """The r for which "above the r-th largest of n calibration scores" flags healthy cases at ``level``; 0: none.

    Without ``confidence`` the rule is ``p <= level``: on average over calibration sets at most ``level`` of healthy
    cases are flagged. With it, this calibration set flags at most ``level`` of them with that confidence: the largest r
    with ``Beta(r, n - r + 1).cdf(level) >= confidence`` (Wilks 1941), exact for one level fixed beforehand.

    Args:
        n: calibration cases.
        level: largest false-positive rate.
        confidence: of the bound, or None.
    """
    if confidence is None:
        return min(math.floor(level * (n + 1) + _ROUNDING), n)
    ranks = np.arange(1, n + 1)
    return int((stats.beta.cdf(level, ranks, n - ranks + 1) >= confidence).sum())  # falls with r


def needed(level: float, confidence: float | None = None) -> int:
    """Fewest calibration cases that allow a decision at ``level``: 19 at 5 %, 59 if bounded at 95 % confidence."""
    if confidence is None:
        return math.ceil(1 / level - 1 - _ROUNDING)
    return math.ceil(math.log(1 - confidence) / math.log(1 - level) - _ROUNDING)


def lowest_bound(n: int, confidence: float) -> float:
    """Smallest false-positive rate that ``n`` calibration cases can bound: ``1 - (1 - confidence)^(1 / n)``."""
    return -math.expm1(math.log(1 - confidence) / n)


def threshold(calibration: ArrayLike, r: int) -> float:
    """The ``r``-th largest calibration score; a case is flagged when it scores above it."""
    return float(np.sort(np.asarray(calibration, np.float64))[-r])


def realised_rate(n: int, r: int, coverage: float = 0.9) -> tuple[float, float, float]:
    """Mean and central range of the false-positive rate that one calibration set realises.

    It is Beta(r, n + 1 - r) for continuous scores.

    Args:
        n: calibration cases.
        r: see :func:`rank`.
        coverage: of the range.
    """
    if r < 1:
        return 0.0, 0.0, 0.0
    spread = stats.beta(r, n + 1 - r)
    return r / (n + 1), float(spread.ppf((1 - coverage) / 2)), float(spread.ppf((1 + coverage) / 2))


def flagged_range(healthy: int, n: int, r: int, coverage: float = 0.99) -> tuple[int, int]:
    """Range of the number flagged among new healthy cases that share one calibration: beta-binomial, not binomial.

    Args:
        healthy: number of new healthy cases.
        n: calibration cases.
        r: see :func:`rank`.
        coverage: of the range, at least.
    """
    if r < 1:
        return 0, 0
    spread = stats.betabinom(healthy, r, n + 1 - r)
    return int(spread.ppf((1 - coverage) / 2)), int(spread.ppf((1 + coverage) / 2))


# ---- worklists ------------------------------------------------------------------------------------------------------


def q_values(p: ArrayLike) -> Array:
    """Benjamini-Hochberg adjusted p-values of a closed list: flagging q <= a keeps the false discovery rate below a.

    Valid for conformal p-values that share a calibration (Bates et al. 2023, theorem 2).

    Args:
        p: ``(m,)``, of one list.
    """
    p = np.asarray(p, np.float64)
    return stats.false_discovery_control(p) if p.size else p


def worklist_floor(cases: int, n: int, q: float) -> int:
    """How many cases of a list must reach the smallest p-value before any can be flagged at false discovery rate q."""
    return max(1, math.ceil(cases / (q * (n + 1)) - _ROUNDING))


# ---- does the calibration still fit ---------------------------------------------------------------------------------


class Drift(NamedTuple):
    """Two-sample Kolmogorov-Smirnov tests of new cases against the calibration's.

    Attributes:
        tested: False below :data:`DRIFT_MINIMUM` cases.
        all_scores: p of all scores.
        lower_scores: p of those below the calibration's 80th percentile, where anomalies hardly count.
        statistics: p of each image statistic, adjusted by Holm.
    """

    tested: bool
    all_scores: float = float("nan")
    lower_scores: float = float("nan")
    statistics: dict[str, float] = {}

    @property
    def fits(self) -> bool:
        """False when even the lower scores differ: the calibration is of another population or scanner."""
        return not self.tested or not self.lower_scores < DRIFT_LEVEL

    @property
    def more_high_scores(self) -> bool:
        """True when only the high scores differ: anomalies, or another population."""
        return self.tested and self.fits and self.all_scores < DRIFT_LEVEL

    @property
    def changed_statistics(self) -> dict[str, float]:
        """The image statistics that differ, with their p."""
        return {name: p for name, p in self.statistics.items() if p < DRIFT_LEVEL}


def drift(
    calibration: ArrayLike,
    scores: ArrayLike,
    calibration_statistics: dict[str, list[float]] | None = None,
    statistics: dict[str, list[float]] | None = None,
) -> Drift:
    """Compare new cases, healthy or not, with the calibration's.

    P-values are never tested against the uniform distribution: they share one calibration, so that such a test rejects
    far too often.

    Args:
        calibration: ``(n,)`` scores.
        scores: ``(m,)`` scores.
        calibration_statistics: ``(n,)`` values by name of an image statistic.
        statistics: ``(m,)`` values by the same names; others are left out.
    """
    known, new = _checked(calibration, scores)
    if min(len(new), len(known)) < DRIFT_MINIMUM:
        return Drift(False)
    cut = np.quantile(known, 0.8)
    lower = new[new <= cut]
    # no new case below the cut is the strongest sign of all: the whole list scores higher
    lower_p = float(stats.ks_2samp(known[known <= cut], lower).pvalue) if len(lower) else 0.0
    named = {
        name: float(stats.ks_2samp(values, (statistics or {})[name]).pvalue)
        for name, values in (calibration_statistics or {}).items()
        if name in (statistics or {}) and np.isfinite((statistics or {})[name]).all()
    }
    adjusted = dict(zip(named, holm(list(named.values())), strict=True))
    return Drift(True, float(stats.ks_2samp(known, new).pvalue), lower_p, adjusted)


# ---- few images -----------------------------------------------------------------------------------------------------


def cross_p_values(fold_scores: Sequence[ArrayLike], new_scores: Sequence[ArrayLike]) -> Array:
    """Cross-conformal p-values: each fold's model scores its held-out cases and every new case; the ranks add up.

    Vovk, Annals of Mathematics and Artificial Intelligence 2015, equation 5. Guaranteed at twice the level, near the
    level in practice.

    Args:
        fold_scores: per fold the scores of its held-out healthy cases, by the model that did not train on them.
        new_scores: per fold ``(m,)`` scores of the new cases by the same model.

    Returns:
        Array: ``(m,)`` float64.
    """
    below, total = _below(fold_scores, new_scores)
    return (1 + total - below) / (total + 1)


def cross_percentiles(fold_scores: Sequence[ArrayLike], new_scores: Sequence[ArrayLike]) -> Array:
    """The share of healthy cases that score lower than the new case by the model of their fold, in per cent; ``(m,)``.

    Args:
        fold_scores: see :func:`cross_p_values`.
        new_scores: see :func:`cross_p_values`.
    """
    below, total = _below(fold_scores, new_scores)
    return 100 * below / total


def dealt(new_scores: Sequence[ArrayLike]) -> Array:
    """Each new case's score by one of the folds' models, in turn: comparable with the held-out scores of all folds."""
    scores = np.asarray(new_scores, np.float64)
    return scores[np.arange(scores.shape[1]) % len(scores), np.arange(scores.shape[1])]


def _below(fold_scores: Sequence[ArrayLike], new_scores: Sequence[ArrayLike]) -> tuple[Array, int]:
    counts, total = np.zeros(np.size(new_scores[0])), 0
    for held, new in zip(fold_scores, new_scores, strict=True):
        if not np.size(held):  # none of the group in this fold
            continue
        ordered, checked = _checked(held, new)
        counts += np.searchsorted(ordered, checked, "left")
        total += len(ordered)
    return counts, total


def group_calibration(groups: list[str], group: str, level: float) -> tuple[Array, str]:
    """Which calibration cases judge a case of ``group``: its own group's where they suffice, else all.

    Args:
        groups: ``(n,)`` group of each calibration case.
        group: of the new case.
        level: of the decision; a group needs :func:`needed` cases.

    Returns:
        tuple: ``(n,)`` bool, and a note that is empty where the group's own were used.
    """
    own = np.array([name == group for name in groups], bool)
    if own.sum() >= needed(level):
        return own, ""
    name = group or "unknown"
    return np.ones(len(groups), bool), f"group {name}: {int(own.sum())} calibration cases, all groups used"
