"""Exact metrics from one count of the negatives around each positive score; any score range, ties as in scikit-learn.

Larger scores mean more anomalous. One class only gives nan; NaN, infinities and labels other than 0 and 1 raise.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from zoo.metrics.counting import Array
from zoo.metrics.ranking import (
    ALONE,
    BinarySummary,
    Evaluated,
    Processes,
    Ranks,
    area_to,
    area_under,
    at_rate,
    mean_precision,
    rank,
    rank_pixels,
    summary,
)


class PixelSummary(NamedTuple):
    """Pixel metrics of one count, and the per-region overlap."""

    binary: BinarySummary
    aupro: float


def _numpy(values: Any) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _checked(scores: Any, labels: Any, foreground: Any) -> tuple[Array, Array, Array | None]:
    """Flat scores, labels and foreground; views wherever the input allows it."""
    scores, labels = _numpy(scores), _numpy(labels)
    inside = None if foreground is None else _numpy(foreground)
    for name, array in (("labels", labels), ("foreground", inside)):
        if array is not None and array.shape != scores.shape:
            raise ValueError(f"scores have shape {scores.shape}, {name} {array.shape}: they must agree")
    inside = None if inside is None else inside.astype(bool, copy=False).ravel()
    return scores.ravel(), _binary(labels).ravel(), inside


def _binary(labels: Array) -> Array:
    if labels.dtype == bool:
        return labels
    if bad := labels.size - int((labels == 0).sum()) - int((labels == 1).sum()):
        raise ValueError(f"{bad} of {labels.size} labels are neither 0 nor 1")
    return labels.view(bool) if labels.dtype.itemsize == 1 else labels.astype(bool)


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
    return summary(_ranks(scores, labels, foreground), fpr)


def evaluate(scores: Any, labels: Any, foreground: Any = None, fpr: float = 0.05) -> Evaluated:
    """What all metrics of a level are computed from; arguments as in :func:`binary_summary`."""
    values, truth, inside = _checked(scores, labels, foreground)
    hits, ranks = rank_pixels(values, truth, inside)
    return Evaluated(summary(ranks, fpr), ranks, float("nan"), _count(values, inside), hits.size)


def _ranks(scores: Any, labels: Any, foreground: Any) -> Ranks | None:
    return rank_pixels(*_checked(scores, labels, foreground))[1]


def auroc(scores: Any, labels: Any, foreground: Any = None) -> float:
    """Area under the ROC curve; arguments as in :func:`binary_summary`."""
    ranks = _ranks(scores, labels, foreground)
    return float("nan") if ranks is None else area_under(ranks)


def average_precision(scores: Any, labels: Any, foreground: Any = None) -> float:
    """Average precision (step-wise, not interpolated); arguments as in :func:`binary_summary`."""
    ranks = _ranks(scores, labels, foreground)
    return float("nan") if ranks is None else mean_precision(ranks)


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
    ranks = _ranks(scores, labels, foreground)
    if ranks is None:
        return float("nan")
    total = int(ranks.tp[-1])
    area = max_fpr * area_to(ranks, np.full(total, 1 / total), max_fpr)
    chance = max_fpr**2 / 2
    return 0.5 * (1 + (area - chance) / (max_fpr - chance))


def sensitivity_at_specificity(
    scores: Any, labels: Any, specificity: float = 0.95, foreground: Any = None
) -> tuple[float, float]:
    """Largest sensitivity at a specificity of at least ``specificity``, and its threshold (score >= threshold)."""
    ranks = _ranks(scores, labels, foreground)
    if ranks is None:
        return float("nan"), float("nan")
    hit, _, threshold = at_rate(ranks, 1 - specificity)
    return hit / int(ranks.tp[-1]), threshold


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
    values, truth, inside = _checked(probabilities, labels, foreground)
    if inside is not None:
        values, truth = values[inside], truth[inside]
    if bad := values.size - int(((values >= 0) & (values <= 1)).sum()):
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
    """:func:`binary_summary` and :func:`aupro` from one count; arguments as there."""
    maps, masks = _numpy(maps), _binary(_numpy(masks))
    scores, labels, inside = _checked(maps, masks, foreground)
    hits, ranks = rank_pixels(scores, labels, inside)
    if foreground is not None:
        masks = masks & _numpy(foreground).astype(bool, copy=False)
    sizes, regions = region_sizes(masks)
    healthy = _count(scores, inside) - hits.size
    found = _with_regions(ranks, sizes[np.argsort(hits)[::-1]], regions, fpr, fpr_limit, healthy)
    return PixelSummary(found.binary, found.aupro)


def _count(scores: Array, inside: Array | None) -> int:
    return scores.size if inside is None else int(np.count_nonzero(inside))


def _with_regions(
    ranks: Ranks | None, sizes: Array, regions: int, fpr: float, fpr_limit: float, healthy: int
) -> Evaluated:
    """All figures; ``sizes`` of the positives' regions from the highest score down."""
    area = float("nan") if ranks is None else area_to(ranks, 1.0 / (sizes * float(regions)), fpr_limit)
    return Evaluated(summary(ranks, fpr), ranks, area, healthy + sizes.size, sizes.size)


def region_sizes(masks: Array) -> tuple[Array, int]:
    """Size of its region for each true pixel (int32, in memory order), and the number of regions.

    ``masks`` is ``(B, *S)`` bool; regions are fully connected and do not cross images.
    """
    structure = np.zeros((3,) * masks.ndim, dtype=bool)
    structure[1] = True  # no links between images
    step = max(1, (1 << 22) // max(masks[0].size, 1)) if len(masks) else 1  # bounds the memory of the labels
    sizes, regions = [np.zeros(0, np.int32)], 0
    for start in range(0, len(masks), step):
        part = masks[start : start + step]
        part = part[part.reshape(len(part), -1).any(1)]
        labelled, count = ndimage.label(part, structure)
        numbers = labelled[part]
        sizes.append(np.bincount(numbers, minlength=count + 1)[numbers].astype(np.int32))
        regions += count
    return np.concatenate(sizes), regions


def summary_of_parts(
    hits: Array,
    sizes: Array,
    regions: int,
    negatives: Sequence[Array],
    fpr: float = 0.05,
    fpr_limit: float = 0.3,
    processes: Processes = ALONE,
) -> PixelSummary:
    """Metrics from what is left of pixels that came in parts; arguments as in :func:`evaluate_parts`."""
    found = evaluate_parts(hits, sizes, regions, negatives, fpr, fpr_limit, processes)
    return PixelSummary(found.binary, found.aupro)


def evaluate_parts(
    hits: Array,
    sizes: Array,
    regions: int,
    negatives: Sequence[Array],
    fpr: float = 0.05,
    fpr_limit: float = 0.3,
    processes: Processes = ALONE,
) -> Evaluated:
    """What all pixel metrics are computed from, of pixels that came in parts.

    Args:
        hits: ``(p,)`` scores of the positives of all processes.
        sizes: ``(p,)``, size of the pixel's region.
        regions: number of regions.
        negatives: scores of the negatives of this process, finite, in any order; parts may be sorted in place.
        fpr: as in :func:`binary_summary`.
        fpr_limit: as in :func:`aupro`.
        processes: how counts of negatives add up.
    """
    order = np.argsort(hits)
    hits, sizes = hits[order], sizes[order[::-1]]
    del order  # memory
    healthy = int(processes.total(np.array([sum(part.size for part in negatives)]))[0])
    ranks = rank(hits, negatives, processes)
    return _with_regions(ranks, sizes, regions, fpr, fpr_limit, healthy)
