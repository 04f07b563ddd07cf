"""How sure a figure or a difference is: bootstrap intervals, paired tests, corrections, ranks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from zoo.metrics.functional import auroc

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]


class Interval(NamedTuple):
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float


class PairedTest(NamedTuple):
    """Two figures on the same cases, and the two-sided p value of their difference."""

    first: float
    second: float
    p_value: float


def bootstrap_interval(
    scores: Array,
    labels: Array,
    metric: Metric = auroc,
    *,
    groups: Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap, stratified: each resample has as many healthy and anomalous units as the data.

    Args:
        scores: ``(n,)``.
        labels: ``(n,)``, 0 or 1.
        metric: of (scores, labels).
        groups: ``(n,)`` patients; whole patients are then drawn, one with any anomalous case being anomalous.
        level: of the interval.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        Interval: nan where the metric is nan.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    value = metric(scores, labels)
    if np.isnan(value):
        return Interval(value, value, value)
    return _percentiles(value, _redrawn(scores, labels, metric, _draws(labels, groups, resamples, seed)), level)


def bootstrap_difference(
    first: Array,
    second: Array,
    labels: Array,
    metric: Metric = auroc,
    *,
    groups: Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval of ``metric(first) - metric(second)`` on the same cases: both are evaluated on every resample.

    Two methods differ where the interval leaves 0 out; whether their own intervals overlap says less, for both see the
    same easy and hard cases.

    Args:
        first: ``(n,)`` scores of one method.
        second: ``(n,)`` scores of the other.
        labels: ``(n,)``, 0 or 1.
        metric: of (scores, labels).
        groups: as in :func:`bootstrap_interval`, like all that follow.
        level: of the interval.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        Interval: nan where a metric is nan.
    """
    first, second, labels = np.asarray(first), np.asarray(second), np.asarray(labels)
    value = metric(first, labels) - metric(second, labels)
    if np.isnan(value):
        return Interval(value, value, value)
    draws = list(_draws(labels, groups, resamples, seed))
    return _percentiles(value, _redrawn(first, labels, metric, draws) - _redrawn(second, labels, metric, draws), level)


def _redrawn(scores: Array, labels: Array, metric: Metric, draws: Iterable[Array]) -> Array:
    """The metric of every resample; the AUROC of all at once, from how often each case was drawn."""
    if metric is not auroc:
        return np.array([metric(scores[cases], labels[cases]) for cases in draws])
    order = np.argsort(scores, kind="stable")
    truth, starts = labels[order].astype(bool), np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
    areas = []
    for cases in draws:
        counts = np.bincount(cases, minlength=len(scores))[order]
        hits, wrong = (np.add.reduceat(np.where(kind, counts, 0), starts) for kind in (truth, ~truth))
        total = float(hits.sum()) * float(wrong.sum())
        above = np.cumsum(wrong) - wrong / 2  # healthy cases below each score, ties counted half
        areas.append(float(hits @ above) / total if total else np.nan)
    return np.array(areas)


def _draws(labels: Array, groups: Sequence[Any] | None, resamples: int, seed: int) -> Iterator[Array]:
    names = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    members = [np.flatnonzero(names == name) for name in range(int(names.max()) + 1)] if groups is not None else None
    anomalous = np.zeros(int(names.max()) + 1, bool)
    np.logical_or.at(anomalous, names, labels.astype(bool))
    strata = [np.flatnonzero(anomalous == kind) for kind in (False, True)]
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        units = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata if len(stratum)])
        yield units if members is None else np.concatenate([members[unit] for unit in units])


def _percentiles(value: float, drawn: Array, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def delong_test(first: Array, second: Array, labels: Array, *, groups: Sequence[Any] | None = None) -> PairedTest:
    """DeLong's test of two AUROCs on the same cases (DeLong et al. 1988; by mid-ranks, Sun and Xu 2014).

    Without ``groups`` cases count as independent, which makes p too small where a patient has several. With them the
    patients do (Obuchowski 1997), as in a grouped :func:`bootstrap_interval`.

    Args:
        first: ``(n,)`` scores of one method.
        second: ``(n,)`` scores of the other.
        labels: ``(n,)``, 0 or 1.
        groups: ``(n,)`` patients.

    Returns:
        PairedTest: p is 1 where both order the cases alike, nan where a class is missing.
    """
    truth = np.asarray(labels).astype(bool)
    m, n = int(truth.sum()), int((~truth).sum())
    if not m or not n:
        return PairedTest(float("nan"), float("nan"), float("nan"))
    areas, placed = [], []
    for scores in (np.asarray(first), np.asarray(second)):
        ranks = stats.rankdata(scores)
        place = np.empty(len(ranks))
        place[truth] = (ranks[truth] - stats.rankdata(scores[truth])) / n
        place[~truth] = 1 - (ranks[~truth] - stats.rankdata(scores[~truth])) / m
        areas.append(float(place[truth].mean()))
        placed.append(place)
    gap = placed[0] - placed[1] - (areas[0] - areas[1])
    names = np.arange(len(gap)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(names.max()) + 1
    sums = [np.bincount(names[kind], gap[kind], count) for kind in (truth, ~truth)]
    units = [len(np.unique(names[kind])) for kind in (truth, ~truth)]
    spread = [
        number / (number - 1) * float((one**2).sum()) / size**2 if number > 1 else 0.0
        for one, number, size in zip(sums, units, (m, n), strict=True)
    ]
    shared = count / max(count - 1, 1) * float((sums[0] * sums[1]).sum()) / (m * n)
    variance = sum(spread) + 2 * shared
    if variance <= 1e-18:
        return PairedTest(areas[0], areas[1], 1.0 if areas[0] == areas[1] else 0.0)
    z = (areas[0] - areas[1]) / np.sqrt(variance)
    return PairedTest(areas[0], areas[1], float(2 * stats.norm.sf(abs(z))))


def permutation_test(
    first: Array, second: Array, labels: Array, metric: Metric = auroc, *, permutations: int = 1000, seed: int = 0
) -> PairedTest:
    """Paired permutation test: per case, the ranks that both methods give it are swapped at random.

    Ranks make scores of different ranges exchangeable; the metric should depend on ranks only.

    Args:
        first: ``(n,)`` scores of one method.
        second: ``(n,)`` scores of the other.
        labels: ``(n,)``, 0 or 1.
        metric: of (scores, labels).
        permutations: number of swaps; the smallest p value is ``1 / (permutations + 1)``.
        seed: of the swaps.
    """
    a, b = stats.rankdata(first), stats.rankdata(second)
    labels = np.asarray(labels)
    values = metric(a, labels), metric(b, labels)
    observed = abs(values[0] - values[1])
    rng = np.random.default_rng(seed)
    extreme = 0
    for _ in range(permutations):
        swap = rng.random(len(a)) < 0.5
        difference = metric(np.where(swap, b, a), labels) - metric(np.where(swap, a, b), labels)
        extreme += abs(difference) >= observed - 1e-12
    return PairedTest(*values, (extreme + 1) / (permutations + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order of the input; nan stays nan and does not count."""
    p = np.asarray(p_values, float)
    valid = np.flatnonzero(~np.isnan(p))
    adjusted = np.full(len(p), np.nan)
    running = 0.0
    for step, position in enumerate(valid[np.argsort(p[valid], kind="stable")]):
        running = max(running, min(1.0, (len(valid) - step) * p[position]))
        adjusted[position] = running
    return [float(value) for value in adjusted]


def average_ranks(table: Array) -> Array:
    """Average rank of each method, 1 = best.

    Args:
        table: ``(blocks, methods)`` figures, larger = better; blocks with a nan are left out.

    Returns:
        array: ``(methods,)``.
    """
    rows = np.asarray(table, float)
    rows = rows[~np.isnan(rows).any(1)]
    return stats.rankdata(-rows, axis=1).mean(0) if len(rows) else np.full(np.shape(table)[1], np.nan)


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of average ranks (Demšar 2006); nan below two methods or blocks."""
    if methods < 2 or blocks < 2:
        return float("nan")
    quantile = stats.studentized_range.ppf(1 - alpha, methods, 1e6) / np.sqrt(2)
    return float(quantile * np.sqrt(methods * (methods + 1) / (6 * blocks)))
