"""Exact metrics from one sort of bare score keys per class; any score range, ties as in scikit-learn.

Larger scores mean more anomalous. One class only gives nan; NaN, infinities and labels other than 0 and 1 raise.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]


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


class PixelSummary(NamedTuple):
    """Pixel metrics of one sort, and the per-region overlap."""

    binary: BinarySummary
    aupro: float


class _Sorted(NamedTuple):
    positives: Array  # distinct, descending
    tp: Array  # positives at or above each of them
    fp: Array  # negatives at or above
    above: Array  # negatives strictly above
    negatives: Sequence[Array]  # parts, each ascending
    size: int  # of all parts


def _numpy(values: Any) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _checked(scores: Any, labels: Any, foreground: Any) -> tuple[Array, Array]:
    scores, labels = _numpy(scores), _numpy(labels)
    if scores.shape != labels.shape:
        raise ValueError(f"scores have shape {scores.shape}, labels {labels.shape}: they must agree")
    if foreground is not None:
        inside = _numpy(foreground).astype(bool)
        scores, labels = scores[inside], labels[inside]
    scores, labels = scores.ravel(), labels.ravel()
    if scores.dtype.kind == "f" and (bad := scores.size - int(np.isfinite(scores).sum())):
        raise ValueError(f"{bad} of {scores.size} scores are NaN or infinite: scores must be finite")
    if labels.dtype != bool:
        if bad := int(((labels != 0) & (labels != 1)).sum()):
            raise ValueError(f"{bad} of {labels.size} labels are neither 0 nor 1")
        labels = labels.astype(bool)
    return scores, labels


def _split(scores: Array, labels: Array) -> tuple[Array, Array]:
    """Positives and negatives, sorted; in place, for the memory's sake."""
    hits, negatives = scores[labels], scores[~labels]
    hits.sort()
    negatives.sort()
    return hits, negatives


def _rank(hits: Array, parts: Sequence[Array]) -> _Sorted | None:
    size = sum(part.size for part in parts)
    if not size or not hits.size:
        return None
    first = np.flatnonzero(np.concatenate(([True], hits[1:] != hits[:-1])))
    values = hits[first]
    fp, above = _false_positives(parts, values)
    return _Sorted(values[::-1], (hits.size - first)[::-1], fp[::-1], above[::-1], parts, size)


def _false_positives(parts: Sequence[Array], values: Array) -> tuple[Array, Array]:
    """Negatives at or above each value, and strictly above; counts add over parts."""
    fp, above = np.zeros(values.size, np.int64), np.zeros(values.size, np.int64)
    for part in parts:
        fp += part.size - np.searchsorted(part, values, "left")
        above += part.size - np.searchsorted(part, values, "right")
    return fp, above


def _at_rate(ranks: _Sorted, fpr: float) -> tuple[int, int, float]:
    """True and false positives at the lowest threshold that keeps the rate, and that threshold."""
    allowed = int(np.floor(fpr * ranks.size + 1e-9))
    if allowed >= ranks.size:
        lowest = min(float(part[0]) for part in ranks.negatives if part.size)
        return int(ranks.tp[-1]), ranks.size, min(lowest, float(ranks.positives[-1]))
    # every score above the first forbidden negative may be called anomalous
    top = np.concatenate([part[-(allowed + 1) :] for part in ranks.negatives])
    top.partition(top.size - 1 - allowed)
    barrier = top[top.size - 1 - allowed]
    over = top[top > barrier]
    accepted = int((ranks.positives > barrier).sum())
    hit = int(ranks.tp[accepted - 1]) if accepted else 0
    limits = [float(over.min())] if over.size else []
    limits += [float(ranks.positives[accepted - 1])] if accepted else []
    return hit, int(over.size), min(limits, default=float("inf"))


def _summary(ranks: _Sorted | None, fpr: float) -> BinarySummary:
    if ranks is None:
        return BinarySummary(*(float("nan"),) * 8)
    total, n = int(ranks.tp[-1]), ranks.size
    gained = np.diff(ranks.tp, prepend=0)
    area = float((gained * (2.0 * n - ranks.fp - ranks.above)).sum()) / (2.0 * total * n)
    precision = float((gained * (ranks.tp / (ranks.tp + ranks.fp))).sum()) / total
    dice = 2.0 * ranks.tp / (ranks.tp + ranks.fp + total)
    best = int(dice.argmax())
    hit, wrong, limit = _at_rate(ranks, fpr)
    fixed = 2.0 * hit / (hit + wrong + total)
    top = float(dice[best])
    return BinarySummary(
        area, precision, fixed, fixed / (2 - fixed), limit, top, top / (2 - top), float(ranks.positives[best])
    )


def binary_summary(scores: Any, labels: Any, fpr: float = 0.05, foreground: Any = None) -> BinarySummary:
    """AUROC, AP, Dice and IoU at a false-positive rate and at their best threshold.

    ``*_at_fpr`` uses the lowest threshold (score >= threshold) whose false-positive rate is at most ``fpr``;
    ``best_*`` uses the labels to choose: an upper bound.

    Args:
        scores: any shape, finite, any range.
        labels: same shape, 0/1 or bool.
        fpr: false-positive rate in [0, 1].
        foreground: same shape, bool; elements outside are ignored.

    Raises:
        ValueError: shapes differ, scores not finite, labels not binary.
    """
    hits, negatives = _split(*_checked(scores, labels, foreground))
    return _summary(_rank(hits, [negatives]), fpr)


def auroc(scores: Any, labels: Any, foreground: Any = None) -> float:
    """Area under the ROC curve; arguments as in :func:`binary_summary`."""
    return binary_summary(scores, labels, foreground=foreground).auroc


def average_precision(scores: Any, labels: Any, foreground: Any = None) -> float:
    """Average precision (step-wise, not interpolated); arguments as in :func:`binary_summary`."""
    return binary_summary(scores, labels, foreground=foreground).average_precision


def dice_at_fpr(scores: Any, labels: Any, fpr: float = 0.05, foreground: Any = None) -> float:
    """Dice at the lowest threshold whose false-positive rate is at most ``fpr``."""
    return binary_summary(scores, labels, fpr, foreground).dice_at_fpr


def iou_at_fpr(scores: Any, labels: Any, fpr: float = 0.05, foreground: Any = None) -> float:
    """Intersection over union at the lowest threshold whose false-positive rate is at most ``fpr``."""
    return binary_summary(scores, labels, fpr, foreground).iou_at_fpr


def best_dice(scores: Any, labels: Any, foreground: Any = None) -> float:
    """Largest Dice over all thresholds (chosen with the labels: an upper bound)."""
    return binary_summary(scores, labels, foreground=foreground).best_dice


def best_iou(scores: Any, labels: Any, foreground: Any = None) -> float:
    """Largest intersection over union over all thresholds (chosen with the labels: an upper bound)."""
    return binary_summary(scores, labels, foreground=foreground).best_iou


def partial_auroc(scores: Any, labels: Any, max_fpr: float, foreground: Any = None) -> float:
    """Area under the ROC curve up to ``max_fpr``, standardised to 0.5 for chance and 1 for perfect (McClish 1989).

    ``max_fpr`` in (0, 1]; the other arguments as in :func:`binary_summary`.
    """
    hits, negatives = _split(*_checked(scores, labels, foreground))
    if not hits.size or not negatives.size:
        return float("nan")
    area = max_fpr * _area_to(hits[::-1], np.full(hits.size, 1 / hits.size), [negatives], max_fpr)
    chance = max_fpr**2 / 2
    return 0.5 * (1 + (area - chance) / (max_fpr - chance))


def sensitivity_at_specificity(
    scores: Any, labels: Any, specificity: float = 0.95, foreground: Any = None
) -> tuple[float, float]:
    """Largest sensitivity at a specificity of at least ``specificity``, and its threshold (score >= threshold)."""
    hits, negatives = _split(*_checked(scores, labels, foreground))
    ranks = _rank(hits, [negatives])
    if ranks is None:
        return float("nan"), float("nan")
    hit, _, threshold = _at_rate(ranks, 1 - specificity)
    return hit / hits.size, threshold


def expected_calibration_error(probabilities: Any, labels: Any, bins: int = 15, foreground: Any = None) -> float:
    """Mean gap between predicted probability and observed share, over equal-width bins, weighted by their counts.

    Args:
        probabilities: any shape, in [0, 1].
        labels: same shape, 0/1 or bool.
        bins: number of bins of [0, 1].
        foreground: same shape, bool; elements outside are ignored.

    Raises:
        ValueError: also for values outside [0, 1], with their number: anomaly scores are no probabilities.
    """
    values, truth = _checked(probabilities, labels, foreground)
    if bad := int(((values < 0) | (values > 1)).sum()):
        raise ValueError(f"{bad} of {values.size} values are outside [0, 1]: calibration needs probabilities")
    if not values.size:
        return float("nan")
    where = np.minimum((values * bins).astype(np.int64), bins - 1)
    expected = np.bincount(where, values, bins)
    return float(np.abs(expected - np.bincount(where, truth, bins)).sum() / values.size)


def aupro(maps: Any, masks: Any, fpr_limit: float = 0.3, foreground: Any = None) -> float:
    """Per-region overlap against the false-positive rate, integrated up to ``fpr_limit`` and divided by it; exact.

    Args:
        maps: ``(B, *S)`` or ``(B, 1, *S)``, finite.
        masks: same shape; regions are the fully connected components within each image.
        fpr_limit: in (0, 1].
        foreground: same shape, bool; elements outside are ignored.
    """
    return pixel_summary(maps, masks, fpr_limit=fpr_limit, foreground=foreground).aupro


def pixel_summary(
    maps: Any, masks: Any, fpr: float = 0.05, fpr_limit: float = 0.3, foreground: Any = None
) -> PixelSummary:
    """:func:`binary_summary` and :func:`aupro` from one sort; arguments as there."""
    maps, masks = _numpy(maps), _numpy(masks)
    scores, labels = _checked(maps, masks, foreground)
    truth = masks.astype(bool, copy=False)
    if foreground is not None:
        truth = truth & _numpy(foreground).astype(bool)
    weights, regions = region_weights(truth)
    return summary_of_parts(scores[labels], weights / max(regions, 1), [_split(scores, labels)[1]], fpr, fpr_limit)


def region_weights(truth: Array) -> tuple[Array, int]:
    """One over the size of its region for each true pixel (in memory order), and the number of regions.

    ``truth`` is ``(B, *S)`` bool; regions are fully connected and do not cross images.
    """
    structure = np.zeros((3,) * truth.ndim, dtype=bool)
    structure[1] = True  # no links between images
    step = max(1, (1 << 22) // max(truth[0].size, 1)) if len(truth) else 1  # bounds the memory of the labels
    weights, regions = [np.zeros(0)], 0
    for start in range(0, len(truth), step):
        part = truth[start : start + step]
        labelled, count = ndimage.label(part, structure)
        numbers = labelled[part]
        weights.append(1.0 / np.bincount(numbers, minlength=count + 1)[numbers])
        regions += count
    return np.concatenate(weights), regions


def summary_of_parts(
    positives: Array, weights: Array, negatives: Sequence[Array], fpr: float = 0.05, fpr_limit: float = 0.3
) -> PixelSummary:
    """Metrics from what is left of pixels that came in parts.

    Args:
        positives: ``(p,)`` scores.
        weights: ``(p,)``, one over (regions times size of the pixel's region).
        negatives: scores, each part sorted.
        fpr: as in :func:`binary_summary`.
        fpr_limit: as in :func:`aupro`.
    """
    order = np.argsort(positives, kind="stable")
    hits = positives[order]
    ranks = _rank(hits, negatives)
    area = float("nan") if ranks is None else _area_to(hits[::-1], weights[order][::-1], negatives, fpr_limit)
    return PixelSummary(_summary(ranks, fpr), area)


def _area_to(hits: Array, weights: Array, negatives: Sequence[Array], limit: float) -> float:
    """Mean height, up to a false-positive rate, of the ROC curve of weighted positives (descending)."""
    overlap = np.cumsum(weights)
    last = np.flatnonzero(np.concatenate((hits[1:] != hits[:-1], [True])))
    n = sum(part.size for part in negatives)
    fp, above = _false_positives(negatives, hits[last][::-1])
    rates = np.concatenate(([0.0], np.stack((above[::-1] / n, fp[::-1] / n), 1).ravel(), [1.0]))
    overlaps = np.concatenate(([0.0], overlap[last]))
    heights = np.concatenate(([0.0], np.stack((overlaps[:-1], overlaps[1:]), 1).ravel(), [1.0]))
    cut = int(np.searchsorted(rates, limit, "right"))
    if cut < rates.size:
        share = (limit - rates[cut - 1]) / (rates[cut] - rates[cut - 1])
        edge = heights[cut - 1] + share * (heights[cut] - heights[cut - 1])
        rates, heights = np.append(rates[:cut], limit), np.append(heights[:cut], edge)
    return float((np.diff(rates) * (heights[1:] + heights[:-1])).sum() / 2 / limit)
