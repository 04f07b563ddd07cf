"""The evaluation of the feature autoencoder's authors (Meissen et al. 2022), with its peculiarities.

The common metrics (:mod:`zoo.metrics.functional`) differ: their thresholds are exact and call what is at or above them.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from zoo.metrics.counting import Array
from zoo.metrics.functional import auroc, average_precision


class FaeFigures(NamedTuple):
    """Figures over all slices that are not validation.

    Attributes:
        slice_ap: AP of slice scores.
        slice_auroc: AUROC of slice scores.
        pixel_ap: over the pixels of all slices, background included.
        pixel_auroc: over the same.
        iou_at_5fpr: of the pixels strictly above the last threshold of the ROC curve with at most 5 % false positives.
        dice_at_5fpr: of the same.
        best_iou: largest over 100 evenly spaced thresholds.
        best_dice: the same.
        pro: see :func:`fae_pro`.
    """

    slice_ap: float
    slice_auroc: float
    pixel_ap: float
    pixel_auroc: float
    iou_at_5fpr: float
    dice_at_5fpr: float
    best_iou: float
    best_dice: float
    pro: float


def fae_protocol(maps: Array, masks: Array, scores: Array, validation: float = 0.1) -> FaeFigures:
    """Evaluate slices as the authors do.

    A slice is anomalous if its mask has any pixel. The first slices, in the order of the files, are validation and do
    not count; slices of one patient may lie on both sides.

    Args:
        maps: ``(N, H, W)``.
        masks: ``(N, H, W)`` bool.
        scores: ``(N,)`` of the slices.
        validation: share of the slices.
    """
    first = int(validation * len(maps))
    maps, masks, scores = maps[first:], masks[first:].astype(bool, copy=False), scores[first:]
    labels = masks.any((1, 2))
    dice = fae_dice_at_fpr(maps, masks)
    best, _ = fae_best_dice(maps, masks)
    return FaeFigures(
        average_precision(scores, labels),
        auroc(scores, labels),
        average_precision(maps, masks),
        auroc(maps, masks),
        dice / (2 - dice),
        dice,
        best / (2 - best),
        best,
        fae_pro(maps, masks),
    )


def fae_dice_at_fpr(maps: Array, masks: Array, fpr: float = 0.05) -> float:
    """Dice of the pixels strictly above the last kept threshold of the ROC curve at the rate.

    The curve counts pixels at or above its thresholds and leaves out points that lie on a line with their neighbours,
    so that the realised rate is lower.

    Args:
        maps: ``(N, H, W)``.
        masks: ``(N, H, W)`` bool.
        fpr: false-positive rate.

    Returns:
        float: nan where a class is missing.
    """
    hits, negatives = np.sort(maps[masks]), np.sort(maps[~masks])
    if not hits.size or not negatives.size:
        return float("nan")
    allowed = int(np.floor(fpr * negatives.size + 1e-9))
    lowest = negatives[-(allowed + 1)] if allowed < negatives.size else min(negatives[0], hits[0])
    tried = np.unique(np.concatenate([part[np.searchsorted(part, lowest) :] for part in (hits, negatives)]))[::-1]
    tp, fp = (part.size - np.searchsorted(part, tried) for part in (hits, negatives))
    kept = np.ones(len(tried), bool)
    kept[1:-1] = (np.diff(tp, 2) != 0) | (np.diff(fp, 2) != 0)
    within = np.flatnonzero(kept & (fp <= allowed))
    if not len(within):
        return 0.0
    return float(_dice_above(hits, negatives, tried[within[-1]]))


def fae_best_dice(maps: Array, masks: Array, steps: int = 100) -> tuple[float, float]:
    """Largest Dice of the pixels strictly above evenly spaced thresholds, and that threshold; arguments as above."""
    hits, negatives = np.sort(maps[masks]), np.sort(maps[~masks])
    tried = np.linspace(maps.max(), maps.min(), steps)
    dice = _dice_above(hits, negatives, tried.astype(maps.dtype))
    best = int(np.argmax(dice))
    return float(dice[best]), float(tried[best])


def _dice_above(hits: Array, negatives: Array, threshold: Array) -> Array:
    right = hits.size - np.searchsorted(hits, threshold, "right")
    wrong = negatives.size - np.searchsorted(negatives, threshold, "right")
    dice: Array = 2 * right / (right + wrong + hits.size)
    return dice


def fae_pro(maps: Array, masks: Array, fpr_limit: float = 0.3, steps: int = 100) -> float:
    """The authors' per-region overlap: an approximation, and of another quantity than :func:`~.functional.aupro`.

    The holes of a region count as found but not in its area, so that an overlap may exceed 1. Overlaps are averaged
    over the regions of a slice, then over slices. The false-positive rates up to the limit are stretched to [0, 1].

    Args:
        maps: ``(N, H, W)``.
        masks: ``(N, H, W)`` bool.
        fpr_limit: of pixels of the whole set.
        steps: number of evenly spaced thresholds.
    """
    tried = np.linspace(maps.max(), maps.min(), steps).astype(maps.dtype)
    negatives = np.sort(maps[~masks])
    rates = (negatives.size - np.searchsorted(negatives, tried, "right")) / max(negatives.size, 1)
    kept = rates <= fpr_limit
    overlaps = [_overlaps(one, mask, tried[kept]) for one, mask in zip(maps, masks, strict=True) if mask.any()]
    if not overlaps or not negatives.size:
        return float("nan")
    rates, heights = rates[kept], np.mean(overlaps, 0)
    width = np.ptp(rates)
    return float((np.diff(rates) * (heights[1:] + heights[:-1])).sum() / (2 * width)) if width else float("nan")


def _overlaps(one: Array, mask: Array, thresholds: Array) -> Array:
    labelled, count = ndimage.label(mask, np.ones((3, 3)))
    found = np.zeros(len(thresholds))
    for number, box in enumerate(ndimage.find_objects(labelled), 1):
        region = labelled[box] == number
        inside = np.sort(one[box][ndimage.binary_fill_holes(region)])
        found += (inside.size - np.searchsorted(inside, thresholds, "right")) / region.sum()
    overlaps: Array = found / count
    return overlaps
