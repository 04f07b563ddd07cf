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
PIXEL_STATISTICS = {  # of the image as the method sees it
    "mean": "brightness",
    "deviation": "contrast",
    "filled": "share of the picture that is filled",
    "otsu": "share above Otsu's threshold",
    "border": "brightness of the border",
    "sharpness": "sharpness",
    "noise": "noise",
    "height": "height of the body's centre",
    "side": "sideways place of the body's centre",
}
FILE_STATISTICS = {
    "aspect": "shape of the file",
    "bytes": "size of the file",
    "compression": "bytes a pixel of the file",
}
STATISTICS = {**PIXEL_STATISTICS, **FILE_STATISTICS, "neighbour": "distance to the nearest training image"}
PIXEL_SHORTCUTS = {  # maps that need no learning
    "centre": "nearness to the picture's centre (sees no image)",
    "bright": "brightness of the pixel",
    "dark": "darkness of the pixel",
    "z_score": "absolute z-score of the pixel over the training images",
}
_FILLED = 0.1  # of the way from the darkest to the brightest pixel: JPEG's noise stays below
_EPSILON = 1e-8


class Shortcut(NamedTuple):
    """One statistic on one test set.

    Attributes:
        name: of the statistic, a key of :data:`STATISTICS`.
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
        foreground: ``(B, 1, *S)`` bool, or None. One that holds every pixel of an image says nothing: the body is then
            what lies above a tenth of the way from the image's smallest value to its largest.

    Returns:
        dict: arrays ``(B,)`` by the names of :data:`PIXEL_STATISTICS`.
    """
    grey = image.astype(np.float64).mean(1)
    flat = grey.reshape(len(grey), -1)
    low, high = flat.min(1, keepdims=True), flat.max(1, keepdims=True)
    body = flat > low + _FILLED * (high - low)
    if foreground is not None:
        given = foreground.reshape(len(image), -1).astype(bool)
        body = np.where(given.all(1, keepdims=True), body, given)
    every = image.reshape(len(image), -1).astype(np.float64)
    columns = [every.mean(1), every.std(1), body.mean(1), _above_otsu(flat, low, high), _border(grey)]
    return dict(zip(PIXEL_STATISTICS, [*columns, *_fineness(grey), *_place(body.reshape(grey.shape))], strict=True))


def _above_otsu(flat: Array, low: Array, high: Array, bins: int = 64) -> Array:
    """Share of pixels above the threshold that parts an image best in two (Otsu 1979), of a histogram: ``(B,)``."""
    level = np.minimum(((flat - low) / np.maximum(high - low, _EPSILON) * bins).astype(np.int64), bins - 1)
    rows = np.arange(len(flat))[:, None] * bins
    counts = np.bincount((level + rows).ravel(), minlength=len(flat) * bins).reshape(-1, bins) / flat.shape[1]
    below = counts.cumsum(1)[:, :-1]
    mass = (counts * np.arange(bins)).cumsum(1)
    between = (mass[:, -1:] * below - mass[:, :-1]) ** 2 / np.maximum(below * (1 - below), _EPSILON)
    best = between.argmax(1)
    return np.asarray(1 - below[np.arange(len(flat)), best])


def _border(grey: Array) -> Array:
    """Mean of the outermost pixels of ``(B, *S)``, in the plane of the last two axes: ``(B,)``."""
    edges = [grey[..., 0, :], grey[..., -1, :], grey[..., :, 0], grey[..., :, -1]]
    return np.asarray(np.concatenate([edge.reshape(len(grey), -1) for edge in edges], 1).mean(1))


def _fineness(grey: Array) -> tuple[Array, Array]:
    """Sharpness and noise of ``(B, *S)``, both ``(B,)``, from differences of neighbours along the last two axes.

    Sharpness is the root mean square step over the deviation (the mean step does not fall by blurring). Noise is the
    median size of the mixed second difference (Immerkaer 1996), which lines and slopes leave at 0, as a standard
    deviation of Gaussian noise.
    """
    down, right = np.diff(grey, axis=-2), np.diff(grey, axis=-1)
    size = np.sqrt(sum((step**2).reshape(len(grey), -1).mean(1) for step in (down, right)))
    mixed = np.diff(np.diff(np.diff(np.diff(grey, axis=-2), axis=-2), axis=-1), axis=-1)
    wide = np.abs(mixed).reshape(len(grey), -1)
    noise = np.median(wide, 1) / (6 * 0.6745) if wide.size else np.zeros(len(grey))
    return size / np.maximum(grey.reshape(len(grey), -1).std(1), _EPSILON), noise


def _place(body: Array) -> tuple[Array, Array]:
    """Centre of the body ``(B, *S)`` along the last two axes, 0 to 1, each ``(B,)``; 0.5 of an empty one."""
    found = []
    for axis in (body.ndim - 2, body.ndim - 1):
        others = tuple(k for k in range(1, body.ndim) if k != axis)
        weight = body.sum(others).astype(np.float64)
        place = (np.arange(body.shape[axis]) + 0.5) / body.shape[axis]
        total = weight.sum(1)
        found.append(np.where(total > 0, weight @ place / np.maximum(total, 1), 0.5))
    return found[0], found[1]


@lru_cache(maxsize=4096)
def file_statistics(path: str) -> tuple[float, float, float]:
    """Of an image file, by the names of :data:`FILE_STATISTICS`, from its header; nan if unreadable.

    Width over height (second over first axis of a volume), size in bytes, and bytes a pixel.
    """
    try:
        sides, size = _sides(path), float(Path(path).stat().st_size)
    except Exception:  # whatever a reader makes of a damaged header: the audit goes on without it
        return (float("nan"),) * 3
    return sides[1] / sides[0], size, size / float(np.prod(sides))


def _sides(path: str) -> tuple[int, ...]:
    name = path.lower()
    if name.endswith((".nii", ".nii.gz")):
        import nibabel

        return tuple(nibabel.load(path).shape)  # type: ignore[attr-defined]
    if name.endswith(".npy"):
        shape: tuple[int, ...] = np.load(path, mmap_mode="r").shape
        return shape
    if name.endswith((".dcm", ".dicom")) or not Path(path).suffix:
        import pydicom

        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(header.Rows), int(header.Columns)
    from PIL import Image

    with Image.open(path) as image:
        return image.height, image.width


def pixel_shortcuts(image: Array, moments: tuple[Array, Array] | None) -> dict[str, Array]:
    """Anomaly maps that need no learning: what a learnt map should beat.

    Args:
        image: ``(B, C, *S)``.
        moments: mean and standard deviation ``(C, *S)`` of training images, or None where they are unknown.

    Returns:
        dict: float32 ``(B, 1, *S)`` by the names of :data:`PIXEL_SHORTCUTS`, ``z_score`` only with ``moments``.
    """
    grey = image.astype(np.float32).mean(1, keepdims=True)
    axes = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in grey.shape[2:]), indexing="ij")
    centre = -np.sqrt(np.sum(np.square(axes), 0))
    maps = {"centre": np.broadcast_to(centre, grey.shape), "bright": grey, "dark": -grey}
    if moments is not None:
        spread = np.maximum(moments[1], 0.01 * float(moments[1].max()) + _EPSILON)  # a constant background is no 0 / 0
        maps["z_score"] = np.abs((image - moments[0]) / spread).mean(1, keepdims=True).astype(np.float32)
    return maps


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
    distance: Array = np.sqrt(np.maximum(squares.min(1), 0))
    return distance


def pooled(images: Array, side: int = 16) -> Array:
    """Images ``(B, C, *S)`` averaged down to a side of 16 to 31 (for 16) and z-normalised: ``(B, P)`` float64."""
    small = images.astype(np.float64)
    for axis in range(2, images.ndim):
        step = max(1, images.shape[axis] // side)
        kept = np.moveaxis(small, axis, -1)[..., : small.shape[axis] // step * step]
        small = np.moveaxis(kept.reshape(*kept.shape[:-1], -1, step).mean(-1), -1, axis)
    flat = small.reshape(len(small), -1)
    standardised: Array = (flat - flat.mean(1, keepdims=True)) / (flat.std(1, keepdims=True) + 1e-8)
    return standardised


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
