"""What all rank metrics share: how many negatives lie above each positive, from sorted bare keys.

Negatives may come in several sorted parts, and parts may lie in several processes: counts add, so that nothing is ever
merged.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
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
        negatives: those of this process, in parts, each ascending.
        size: number of negatives of all processes.
        processes: how counts of negatives add up.
    """

    positives: Array
    tp: Array
    fp: Array
    above: Array
    negatives: Sequence[Array]
    size: int
    processes: Processes


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


def split(scores: Array, labels: Array, inside: Array | None) -> tuple[Array, Array]:
    """:func:`divide`, and the negatives sorted.

    Raises:
        ValueError: scores that are not finite, with their number.
    """
    positives, negatives = divide(scores, labels, inside)
    negatives.sort()
    if not np.isfinite(negatives[[0, -1]] if negatives.size else negatives).all() or not np.isfinite(positives).all():
        refuse_infinite(positives, negatives)  # what is sorted has them at its ends
    return positives, negatives


def refuse_infinite(*parts: Array) -> None:
    """Raise a ValueError with the number of scores that are NaN or infinite, if there are any."""
    total = sum(part.size for part in parts)
    if bad := total - sum(int(np.isfinite(part).sum()) for part in parts):
        raise ValueError(f"{bad} of {total} scores are NaN or infinite: scores must be finite")


def rank(hits: Array, parts: Sequence[Array], processes: Processes = ALONE) -> Ranks | None:
    """Count the negatives above each positive; None where a class is missing.

    Args:
        hits: ``(p,)`` positives of all processes, ascending.
        parts: negatives of this process, each ascending, all of the dtype of ``hits``.
        processes: see :class:`Processes`.
    """
    size = int(processes.total(np.array([sum(part.size for part in parts)]))[0])
    if not size or not hits.size:
        return None
    first = np.flatnonzero(np.concatenate(([True], hits[1:] != hits[:-1])))
    values = hits[first]
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
    return Ranks(values[::-1], (hits.size - first)[::-1], fp[::-1], above[::-1], parts, size, processes)


def at_rate(ranks: Ranks, fpr: float) -> tuple[int, int, float]:
    """True and false positives at the lowest threshold that keeps the rate, and that threshold."""
    allowed = int(np.floor(fpr * ranks.size + 1e-9))
    parts, lowest = [part for part in ranks.negatives if part.size], ranks.processes.lowest
    if allowed >= ranks.size:
        bottom = lowest(min((float(part[0]) for part in parts), default=float("inf")))
        return int(ranks.tp[-1]), ranks.size, min(bottom, float(ranks.positives[-1]))
    # every score above the first forbidden negative may be called anomalous
    barrier = _first_forbidden(ranks, allowed)
    starts = [int(np.searchsorted(part, barrier, "right")) for part in parts]
    over = sum(part.size - start for part, start in zip(parts, starts, strict=True))
    limits = [float(part[start]) for part, start in zip(parts, starts, strict=True) if start < part.size]
    limit = lowest(min(limits, default=float("inf")))
    wrong = int(ranks.processes.total(np.array([over]))[0])
    accepted = int((ranks.positives > barrier).sum())
    if not accepted:
        return 0, wrong, limit
    return int(ranks.tp[accepted - 1]), wrong, min(limit, float(ranks.positives[accepted - 1]))


def _first_forbidden(ranks: Ranks, allowed: int) -> Any:
    """The largest negative but ``allowed``: bisection over all values of the dtype, for the parts are not merged."""
    dtype = ranks.positives.dtype
    if len(ranks.negatives) == 1 and ranks.processes is ALONE:
        return ranks.negatives[0][-(allowed + 1)]
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    low, high = _code(np.array(limits.min, dtype)), _code(np.array(limits.max, dtype))
    while low < high:
        middle = (low + high) // 2
        value = _value(middle, dtype)
        over = sum(part.size - int(np.searchsorted(part, value, "right")) for part in ranks.negatives)
        if int(ranks.processes.total(np.array([over]))[0]) <= allowed:
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
    return np.negative(size) if code < 0 else size


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
