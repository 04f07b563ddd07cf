"""What all rank metrics share: how many negatives lie above each positive, by a sort of bare keys or without one.

Which of the two is faster here is found out once (:mod:`zoo.metrics.counting`); the counts are the same. Negatives may
come in several parts, and parts may lie in several processes: counts add, so that nothing is ever merged.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from zoo.metrics.counting import Array, locator_for

_CHUNK = 1 << 16  # elements: the temporary masks stay in the cache


class BinarySummary(NamedTuple):
    """All threshold-free and best-threshold metrics of one sort."""

    auroc: float
    average_precision: float
    dice_at_fpr: float
    iou_at_fpr: float
    threshold_at_fpr: float
    best_dice: float
    best_iou: float
    best_threshold: float


class Processes(NamedTuple):
    """How figures of several processes are put together; the default is that of a single one.

    Attributes:
        total: sum over the processes of an int64 array.
        lowest: smallest of a float over the processes.
    """

    total: Callable[[Array], Array] = lambda values: values
    lowest: Callable[[float], float] = lambda value: value


ALONE = Processes()


class Ranks(NamedTuple):
    """Positives among negatives.

    Attributes:
        positives: distinct scores, descending.
        tp: positives at or above each of them.
        fp: negatives at or above.
        above: negatives strictly above.
        size: number of negatives of all processes.
        within: the negatives of this process strictly between two scores (None: no bound), in parts, each ascending.
        processes: how counts of negatives add up.
    """

    positives: Array
    tp: Array
    fp: Array
    above: Array
    size: int
    within: Callable[[Any, Any], list[Array]]
    processes: Processes


class Evaluated(NamedTuple):
    """Scores and labels of one level, from which every metric of the level is computed.

    Attributes:
        binary: the figures of one count.
        ranks: positives among negatives; None where a class is missing or the scores went through a histogram.
        aupro: per-region overlap of pixels; nan of anything else.
        units: number of pixels, images, slices, ...
        anomalous: number of the anomalous ones.
    """

    binary: BinarySummary
    ranks: Ranks | None
    aupro: float
    units: int
    anomalous: int

    @property
    def one_class(self) -> bool:
        """True if all units are healthy or all are anomalous."""
        return self.anomalous in (0, self.units)


def divide(scores: Array, labels: Array, inside: Array | None) -> tuple[Array, Array]:
    """Positives and negatives in memory order; no more memory than these take.

    Args:
        scores: ``(n,)``.
        labels: ``(n,)`` bool.
        inside: ``(n,)`` bool: elements that count, or None for all.
    """
    count = labels.size - int(np.count_nonzero(labels))
    if inside is not None:
        count = int(np.count_nonzero(inside)) - int(np.count_nonzero(inside & labels))
    negatives, hits, filled = np.empty(count, scores.dtype), [scores[:0]], 0
    for start in range(0, labels.size, _CHUNK):
        part = scores[start : start + _CHUNK]
        right = labels[start : start + _CHUNK]
        wrong = ~right
        if inside is not None:
            right, wrong = right & inside[start : start + _CHUNK], wrong & inside[start : start + _CHUNK]
        hits.append(part[right])
        found = part[wrong]
        negatives[filled : filled + found.size] = found
        filled += found.size
    return np.concatenate(hits), negatives


def refuse_infinite(*parts: Array) -> None:
    """Raise a ValueError with the number of scores that are NaN or infinite, if there are any."""
    total = sum(part.size for part in parts)
    if bad := total - sum(int(np.isfinite(part).sum()) for part in parts):
        raise ValueError(f"{bad} of {total} scores are NaN or infinite: scores must be finite")


def rank_pixels(scores: Array, labels: Array, inside: Array | None) -> tuple[Array, Ranks | None]:
    """The positives in memory order, and their ranks; None where a class is missing.

    Args:
        scores: ``(n,)``, contiguous; not changed.
        labels: ``(n,)`` bool.
        inside: ``(n,)`` bool: elements that count, or None for all.

    Raises:
        ValueError: scores that are not finite, with their number.
    """
    hits = scores[labels if inside is None else labels & inside]
    ascending = np.sort(hits)
    total = scores.size if inside is None else int(np.count_nonzero(inside))
    if hits.size and hits.size < total and np.isfinite(ascending[[0, -1]]).all():
        values, below = _distinct(ascending)
        if locator := locator_for(values, total):
            if not locator.add(scores, inside):
                refuse_infinite(scores if inside is None else scores[inside])
            between, tied = locator.finish()
            tied -= np.diff(below, append=hits.size)  # the positives themselves

            def within(low: Any, high: Any) -> list[Array]:
                return [_between(scores, low, high, labels, inside)]

            return hits, _by_counts(values, hits.size - below, between, tied, within, ALONE)
    _, negatives = divide(scores, labels, inside)
    negatives.sort()
    if not np.isfinite(negatives[[0, -1]] if negatives.size else negatives).all() or not np.isfinite(hits).all():
        refuse_infinite(hits, negatives)  # what is sorted has them at its ends
    return hits, _by_sort(ascending, [negatives], negatives.size, ALONE)


def rank(hits: Array, parts: Sequence[Array], processes: Processes = ALONE) -> Ranks | None:
    """Count the negatives above each positive; None where a class is missing.

    Args:
        hits: ``(p,)`` positives of all processes, ascending.
        parts: negatives of this process in any order, finite, of the dtype of ``hits``; sorted in place where a sort
            is the faster way.
        processes: see :class:`Processes`.
    """
    local = sum(part.size for part in parts)
    size = int(processes.total(np.array([local]))[0])
    if not size or not hits.size:
        return None
    values, below = _distinct(hits)
    locator = locator_for(values, local)
    if locator is None:
        for part in parts:
            part.sort()
        return _by_sort(hits, parts, size, processes)
    for part in parts:
        locator.add(part)
    between, tied = (processes.total(counts) for counts in locator.finish())

    def within(low: Any, high: Any) -> list[Array]:
        return [_between(part, low, high) for part in parts]

    return _by_counts(values, hits.size - below, between, tied, within, processes)


def _distinct(hits: Array) -> tuple[Array, Array]:
    """Distinct values of ascending scores, no negative zero, and how many scores lie below each."""
    first = np.flatnonzero(np.concatenate(([True], hits[1:] != hits[:-1])))
    return hits[first] + hits.dtype.type(0), first


def _by_sort(hits: Array, parts: Sequence[Array], size: int, processes: Processes) -> Ranks | None:
    if not size or not hits.size:
        return None
    values, below = _distinct(hits)
    fp, above = np.zeros(values.size, np.int64), np.zeros(values.size, np.int64)
    for part in parts:
        if part.size:
            left = np.searchsorted(part, values, "left")
            fp += part.size - left
            # a second search is needed for ties alone
            tied = np.flatnonzero(part[np.minimum(left, part.size - 1)] == values)
            left[tied] = np.searchsorted(part, values[tied], "right")
            above += part.size - left
    fp, above = processes.total(fp), processes.total(above)

    def within(low: Any, high: Any) -> list[Array]:
        starts = [0 if low is None else int(np.searchsorted(part, low, "right")) for part in parts]
        ends = [part.size if high is None else int(np.searchsorted(part, high, "left")) for part in parts]
        return [part[start:end] for part, start, end in zip(parts, starts, ends, strict=True)]

    return Ranks(values[::-1], (hits.size - below)[::-1], fp[::-1], above[::-1], size, within, processes)


def _by_counts(
    values: Array,
    tp: Array,
    between: Array,
    tied: Array,
    within: Callable[[Any, Any], list[Array]],
    processes: Processes,
) -> Ranks:
    above = np.cumsum(between[:0:-1] + np.concatenate(([0], tied[:0:-1])))
    size = int(between.sum() + tied.sum())
    return Ranks(values[::-1], tp[::-1], above + tied[::-1], above, size, within, processes)


def _between(scores: Array, low: Any, high: Any, labels: Array | None = None, inside: Array | None = None) -> Array:
    """Negatives strictly between two scores (None: no bound), ascending."""
    kept = [scores[:0]]
    for start in range(0, scores.size, _CHUNK):
        part = scores[start : start + _CHUNK]
        chosen = np.ones(part.size, bool) if low is None else part > low
        if high is not None:
            chosen &= part < high
        if labels is not None:
            chosen &= ~labels[start : start + _CHUNK]
        if inside is not None:
            chosen &= inside[start : start + _CHUNK]
        kept.append(part[chosen])
    found = np.concatenate(kept)
    found.sort()
    return found


def at_rate(ranks: Ranks, fpr: float) -> tuple[int, int, float]:
    """True and false positives at the lowest threshold that keeps the rate, and that threshold."""
    allowed = int(np.floor(fpr * ranks.size + 1e-9))
    kept = int(np.searchsorted(ranks.fp, allowed, "right"))  # distinct positives that may be called
    hit, wrong = (int(ranks.tp[kept - 1]), int(ranks.fp[kept - 1])) if kept else (0, 0)
    threshold = float(ranks.positives[kept - 1]) if kept else float("inf")
    ends = kept == ranks.positives.size
    gap = (ranks.size if ends else int(ranks.above[kept])) - wrong  # negatives down to the first positive not called
    room = allowed - wrong
    if not gap or not room:
        return hit, wrong, threshold
    low, high = None if ends else ranks.positives[kept], ranks.positives[kept - 1] if kept else None
    parts = ranks.within(low, high)
    if room < gap:  # every score above the first forbidden negative may be called
        barrier = _first_forbidden(parts, room, ranks.positives.dtype, ranks.processes)
        parts = [part[int(np.searchsorted(part, barrier, "right")) :] for part in parts]
    wrong += int(ranks.processes.total(np.array([sum(part.size for part in parts)]))[0])
    lowest = ranks.processes.lowest(min((float(part[0]) for part in parts if part.size), default=float("inf")))
    return hit, wrong, min(lowest, threshold)


def _first_forbidden(parts: Sequence[Array], allowed: int, dtype: Any, processes: Processes) -> Any:
    """The largest value but ``allowed``: bisection over all values of the dtype, for the parts are not merged."""
    if len(parts) == 1 and processes is ALONE:
        return parts[0][-(allowed + 1)]
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    low, high = _code(np.array(limits.min, dtype)), _code(np.array(limits.max, dtype))
    while low < high:
        middle = (low + high) // 2
        value = _value(middle, dtype)
        over = sum(part.size - int(np.searchsorted(part, value, "right")) for part in parts)
        if int(processes.total(np.array([over]))[0]) <= allowed:
            high = middle
        else:
            low = middle + 1
    return _value(high, dtype)


def _code(value: Array) -> int:
    """An integer that orders like the value: the pattern of a float, its sign applied."""
    if value.dtype.kind != "f":
        return int(value)
    size = int(np.abs(value).view(f"i{value.dtype.itemsize}"))
    return -size if value < 0 else size


def _value(code: int, dtype: Any) -> Array:
    if dtype.kind != "f":
        return np.array(code, dtype)
    size = np.array(abs(code), f"i{dtype.itemsize}").view(dtype)
    value: Array = np.negative(size) if code < 0 else size
    return value


def area_under(ranks: Ranks) -> float:
    """AUROC, ties counting half."""
    n = ranks.size
    gained = np.diff(ranks.tp, prepend=0)
    return float((gained * (2.0 * n - ranks.fp - ranks.above)).sum()) / (2.0 * int(ranks.tp[-1]) * n)


def mean_precision(ranks: Ranks) -> float:
    """Average precision, step-wise."""
    gained = np.diff(ranks.tp, prepend=0)
    return float((gained * (ranks.tp / (ranks.tp + ranks.fp))).sum()) / int(ranks.tp[-1])


def summary(ranks: Ranks | None, fpr: float) -> BinarySummary:
    """All figures of :class:`BinarySummary`, nan where a class is missing."""
    if ranks is None:
        return BinarySummary(*(float("nan"),) * 8)
    area, precision = area_under(ranks), mean_precision(ranks)
    total = int(ranks.tp[-1])
    dice = 2.0 * ranks.tp / (ranks.tp + ranks.fp + total)
    best = int(dice.argmax())
    hit, wrong, limit = at_rate(ranks, fpr)
    fixed = 2.0 * hit / (hit + wrong + total)
    top = float(dice[best])
    threshold = float(ranks.positives[best])
    return BinarySummary(area, precision, fixed, fixed / (2 - fixed), limit, top, top / (2 - top), threshold)


def area_to(ranks: Ranks, weights: Array, limit: float) -> float:
    """Mean height, up to a false-positive rate, of the ROC curve of weighted positives.

    Args:
        ranks: of the positives.
        weights: ``(p,)`` of the positives from the highest score down; they sum to 1. Overwritten.
        limit: in (0, 1].
    """
    reach = limit * ranks.size
    kept = int(np.searchsorted(ranks.above, reach, "right"))
    np.cumsum(weights, out=weights)
    before = np.concatenate(([0.0], weights[ranks.tp[:kept] - 1]))
    above, fp = ranks.above[:kept], ranks.fp[:kept]
    # level from one positive to the next, then sloped over the negatives that tie with it
    level = float((before[:-1] * (above - np.concatenate(([0], fp))[:-1])).sum())
    width = (fp - above).astype(float)
    cut = np.minimum(width, reach - above)
    gain = np.diff(before) * cut**2 / (2 * np.maximum(width, 1))
    sloped = float((before[:-1] * cut + gain).sum())
    rest = float(before[-1]) * max(reach - float(fp[-1]) if kept else 0.0, 0.0)
    return (level + sloped + rest) / reach
