"""Shortcut audit: how far statistics that need no learning get on a test set, and how much of a score they explain."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from zoo.metrics.functional import auroc
from zoo.metrics.statistics import Interval, bootstrap_difference

Array = NDArray[Any]
PIXEL_STATISTICS = ("mean", "deviation", "filled")
STATISTICS = (*PIXEL_STATISTICS, "aspect", "neighbour")


class Shortcut(NamedTuple):
    """One statistic on one test set.

    Attributes:
        name: of the statistic.
        auroc: of the statistic as a score, in the direction that favours it (0.5 to 1).
        correlation: Spearman's, of a method's score with it; nan without a score.
        stratified_auroc: the method's AUROC within quantile bins of the statistic; nan without a score.
    """

    name: str
    auroc: float
    correlation: float
    stratified_auroc: float


def image_statistics(image: Array, foreground: Array | None = None) -> dict[str, Array]:
    """Statistics of a batch that need no learning.

    Args:
        image: ``(B, C, *S)``.
        foreground: ``(B, 1, *S)`` bool, or None.

    Returns:
        dict: arrays ``(B,)``: ``mean``, ``deviation`` (contrast), ``filled`` (share of foreground pixels, or of pixels
        above the smallest value).
    """
    flat = image.reshape(len(image), -1).astype(np.float64)
    filled = flat > flat.min(1, keepdims=True) if foreground is None else foreground.reshape(len(image), -1)
    return dict(zip(PIXEL_STATISTICS, (flat.mean(1), flat.std(1), filled.mean(1)), strict=True))


@lru_cache(maxsize=4096)
def aspect_ratio(path: str) -> float:
    """Width over height of an image file (second over first axis of a volume), from its header; nan if unreadable."""
    try:
        first, second = _sides(path)
    except Exception:  # whatever a reader makes of a damaged header: the audit goes on without it
        return float("nan")
    return second / first


def _sides(path: str) -> tuple[int, int]:
    name = path.lower()
    if name.endswith((".nii", ".nii.gz")):
        import nibabel

        return nibabel.load(path).shape[:2]  # type: ignore[attr-defined, no-any-return]
    if name.endswith(".npy"):
        return np.load(path, mmap_mode="r").shape[:2]
    if name.endswith((".dcm", ".dicom")) or not Path(path).suffix:
        import pydicom

        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(header.Rows), int(header.Columns)
    from PIL import Image

    with Image.open(path) as image:
        return image.height, image.width


def nearest_neighbour_distance(test: Array, train: Array, side: int = 16) -> Array:
    """Distance of each test image to the nearest training image, on pooled and z-normalised pixels.

    Args:
        test: ``(B, C, *S)``.
        train: ``(N, C, *S)``, or ``(N, P)`` from :func:`pooled`.
        side: images are averaged down to at most this side.

    Returns:
        array: ``(B,)``.
    """
    a, b = pooled(test, side), train if train.ndim == 2 else pooled(train, side)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares.min(1), 0))


def pooled(images: Array, side: int = 16) -> Array:
    """Images ``(B, C, *S)`` averaged down to a side of 16 to 31 (for 16) and z-normalised: ``(B, P)`` float64."""
    small = images.astype(np.float64)
    for axis in range(2, images.ndim):
        step = max(1, images.shape[axis] // side)
        kept = np.moveaxis(small, axis, -1)[..., : small.shape[axis] // step * step]
        small = np.moveaxis(kept.reshape(*kept.shape[:-1], -1, step).mean(-1), -1, axis)
    flat = small.reshape(len(small), -1)
    return (flat - flat.mean(1, keepdims=True)) / (flat.std(1, keepdims=True) + 1e-8)


def stratified_auroc(scores: Array, labels: Array, nuisance: Array, bins: int = 5) -> float:
    """AUROC over pairs of cases from the same quantile bin of a nuisance, weighted by the number of pairs.

    Args:
        scores: ``(n,)``.
        labels: ``(n,)``, 0 or 1.
        nuisance: ``(n,)``.
        bins: number of quantile bins.

    Returns:
        float: nan if no bin holds both classes.
    """
    edges = np.quantile(nuisance, np.linspace(0, 1, bins + 1)[1:-1])
    where = np.searchsorted(edges, nuisance, side="right")
    total = weight = 0.0
    for number in range(bins):
        inside = where == number
        pairs = float(labels[inside].sum()) * float((1 - labels[inside]).sum())
        if pairs:
            total += pairs * auroc(scores[inside], labels[inside])
            weight += pairs
    return total / weight if weight else float("nan")


def audit(statistics: dict[str, Array], labels: Array, scores: Array | None = None, bins: int = 5) -> list[Shortcut]:
    """Audit a test set, and a method's scores on it.

    Args:
        statistics: ``(n,)`` values by name; one that is not known for all cases is left out.
        labels: ``(n,)``, 0 or 1.
        scores: ``(n,)`` of a method, or None.
        bins: of :func:`stratified_auroc`.

    Returns:
        list: the strongest shortcut first.
    """
    labels = np.asarray(labels).astype(int)
    rows = []
    for name, values in statistics.items():
        if not np.isfinite(values).all():
            continue
        area = auroc(values, labels)
        correlation = stratified = float("nan")
        if scores is not None:
            constant = np.ptp(values) == 0 or np.ptp(scores) == 0
            correlation = float("nan") if constant else float(stats.spearmanr(scores, values).statistic)
            stratified = stratified_auroc(np.asarray(scores), labels, values, bins)
        rows.append(Shortcut(name, max(area, 1 - area), correlation, stratified))
    return sorted(rows, key=lambda row: -row.auroc)


def advantage(
    scores: Array,
    statistics: dict[str, Array],
    labels: Array,
    *,
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """AUROC of a method less that of the strongest shortcut, with a paired bootstrap interval.

    The shortcut and its direction are chosen on the same test set, in the shortcut's favour: an interval above 0 says
    that the method sees more than any one of the statistics.

    Args:
        scores: ``(n,)`` of the method.
        statistics: as in :func:`audit`; at least one known for all cases.
        labels: ``(n,)``, 0 or 1.
        groups: ``(n,)`` patients, drawn as a whole.
        resamples: number of draws.
        seed: of the draws.
    """
    labels = np.asarray(labels).astype(int)
    strongest = np.asarray(statistics[audit(statistics, labels)[0].name], float)
    sign = 1 if auroc(strongest, labels) >= 0.5 else -1
    return bootstrap_difference(scores, sign * strongest, labels, groups=groups, resamples=resamples, seed=seed)
