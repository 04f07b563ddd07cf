"""Exact metrics from one sort of bare score keys per class; any score range, ties as in scikit-learn.

Larger scores mean more anomalous. One class only gives nan; NaN, infinities and labels other than 0 and 1 raise.
"""

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


class _Sorted(NamedTuple):
    positives: Array  # distinct, descending
    tp: Array  # positives at or above each of them
    fp: Array  # negatives at or above
    above: Array  # negatives strictly above
    negatives: Array  # all, ascending


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


def _sort(scores: Array, labels: Array) -> _Sorted | None:
    negatives, hits = np.sort(scores[~labels]), np.sort(scores[labels])
    if not negatives.size or not hits.size:
        return None
    first = np.flatnonzero(np.concatenate(([True], hits[1:] != hits[:-1])))
    values = hits[first]
    fp = negatives.size - np.searchsorted(negatives, values, "left")
    above = negatives.size - np.searchsorted(negatives, values, "right")
    return _Sorted(values[::-1], (hits.size - first)[::-1], fp[::-1], above[::-1], negatives)


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
    flat, truth = _checked(scores, labels, foreground)
    ranks = _sort(flat, truth)
    if ranks is None:
        return BinarySummary(*(float("nan"),) * 8)
    total, n = int(ranks.tp[-1]), ranks.negatives.size
    gained = np.diff(ranks.tp, prepend=0)
    area = float((gained * (2.0 * n - ranks.fp - ranks.above)).sum()) / (2.0 * total * n)
    precision = float((gained * (ranks.tp / (ranks.tp + ranks.fp))).sum()) / total
    dice = 2.0 * ranks.tp / (ranks.tp + ranks.fp + total)
    best = int(dice.argmax())
    allowed = int(np.floor(fpr * n + 1e-9))
    if allowed >= n:
        limit, hit, wrong = float(flat.min()), total, n
    else:
        # every score above the first forbidden negative may be called anomalous
        barrier = ranks.negatives[n - 1 - allowed]
        wrong = n - int(np.searchsorted(ranks.negatives, barrier, "right"))
        accepted = ranks.positives > barrier
        hit = int(ranks.tp[accepted][-1]) if accepted.any() else 0
        over = ranks.negatives[n - wrong] if wrong else np.inf
        limit = float(min(over, ranks.positives[accepted][-1] if hit else np.inf))
    fixed = 2.0 * hit / (hit + wrong + total)
    top = float(dice[best])
    return BinarySummary(
        area, precision, fixed, fixed / (2 - fixed), limit, top, top / (2 - top), float(ranks.positives[best])
    )


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


def aupro(maps: Any, masks: Any, fpr_limit: float = 0.3, foreground: Any = None) -> float:
    """Per-region overlap against the false-positive rate, integrated up to ``fpr_limit`` and divided by it; exact.

    Args:
        maps: ``(B, *S)`` or ``(B, 1, *S)``, finite.
        masks: same shape; regions are the fully connected components within each image.
        fpr_limit: in (0, 1].
        foreground: same shape, bool; elements outside are ignored.
    """
    maps, masks = _numpy(maps), _numpy(masks)
    truth = masks.astype(bool) if foreground is None else masks.astype(bool) & _numpy(foreground).astype(bool)
    structure = np.zeros((3,) * truth.ndim, dtype=bool)
    structure[1] = True  # no links between images
    regions, count = ndimage.label(truth, structure)
    scores, labels = _checked(maps, masks, foreground)
    negatives, hits = np.sort(scores[~labels]), scores[labels]
    if not count or not negatives.size:
        return float("nan")
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    weights = 1.0 / (count * sizes[regions[truth]])
    order = np.argsort(-hits, kind="stable")
    hits, overlap = hits[order], np.cumsum(weights[order])
    last = np.flatnonzero(np.concatenate((hits[1:] != hits[:-1], [True])))
    n = negatives.size
    after = (n - np.searchsorted(negatives, hits[last], "left")) / n
    before = (n - np.searchsorted(negatives, hits[last], "right")) / n
    rates = np.concatenate(([0.0], np.stack((before, after), 1).ravel(), [1.0]))
    overlaps = np.concatenate(([0.0], overlap[last]))
    heights = np.concatenate(([0.0], np.stack((overlaps[:-1], overlaps[1:]), 1).ravel(), [1.0]))
    cut = int(np.searchsorted(rates, fpr_limit, "right"))
    if cut < rates.size:
        share = (fpr_limit - rates[cut - 1]) / (rates[cut] - rates[cut - 1])
        edge = heights[cut - 1] + share * (heights[cut] - heights[cut - 1])
        rates, heights = np.append(rates[:cut], fpr_limit), np.append(heights[:cut], edge)
    return float((np.diff(rates) * (heights[1:] + heights[:-1])).sum() / 2 / fpr_limit)
