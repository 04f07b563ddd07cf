"""Detection of whole lesions: FROC and sensitivity by size."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zoo.metrics.clinical import exact_interval
from zoo.metrics.statistics import Interval

Array = NDArray[Any]
Match = Literal["overlap", "iou", "centre"]
RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)  # false positives a case of the usual FROC table
BINS = {2: (25.0, 100.0, 400.0), 3: (100.0, 1000.0, 10_000.0)}  # mm², mm³
IOU = 0.1


class Candidates(NamedTuple):
    """Candidates and lesions of one image.

    Attributes:
        scores: ``k`` largest map values of the candidates.
        hits: ``k`` lesion that a candidate matches, -1 for none.
        sizes: ``n`` sizes of the lesions.
    """

    scores: list[float]
    hits: list[int]
    sizes: list[float]


def candidates(
    anomaly_map: Array,
    mask: Array,
    threshold: float,
    *,
    match: Match = "overlap",
    spacing: Sequence[float] | None = None,
) -> Candidates:
    """Fully connected components of a map above a threshold, matched with the lesions of the ground truth.

    Args:
        anomaly_map: ``(*S)``.
        mask: ``(*S)`` bool.
        threshold: of the candidates, low enough for the whole curve.
        match: ``overlap``: any common pixel; ``iou``: at least 0.1, one to one, the best pairs first (PI-CAI);
            ``centre``: the candidate's centre of mass lies in the lesion. A candidate matches the lesion that it shares
            most pixels with.
        spacing: mm along each axis of S; sizes are then mm² or mm³, else pixels.
    """
    footprint = np.ones((3,) * mask.ndim, bool)
    lesions, lesion_count = ndimage.label(mask, footprint)
    found, count = ndimage.label(anomaly_map > threshold, footprint)
    numbers = np.arange(1, count + 1)
    unit = 1.0 if spacing is None else float(np.prod(spacing))
    sizes = np.bincount(lesions.ravel(), minlength=lesion_count + 1)
    scores = np.asarray(ndimage.maximum(anomaly_map, found, numbers)).reshape(-1) if count else np.zeros(0)
    shared = np.zeros((count + 1, lesion_count + 1), np.int64)
    np.add.at(shared, (found.ravel(), lesions.ravel()), 1)
    inner = shared[1:, 1:]
    hits = np.full(count, -1)
    if lesion_count and count and match == "overlap":
        hits = np.where(inner.any(1), inner.argmax(1), -1)
    elif lesion_count and count and match == "centre":
        centres = np.rint(ndimage.center_of_mass(np.ones(mask.shape), found, numbers)).astype(int)
        hits = lesions[tuple(np.asarray(centres).reshape(count, -1).T)] - 1
    elif lesion_count and count:
        union = shared[1:].sum(1)[:, None] + sizes[None, 1:] - inner
        iou = inner / union
        while iou.max(initial=0.0) >= IOU:
            row, column = np.unravel_index(int(iou.argmax()), iou.shape)
            hits[row] = column
            iou[row], iou[:, column] = 0, 0
    return Candidates(scores.tolist(), hits.tolist(), (sizes[1:] * unit).tolist())


class Froc(NamedTuple):
    """Sensitivity against false positives a case.

    Attributes:
        rates: false positives a case.
        sensitivity: largest share of lesions found at no more of them; nan without a lesion.
        healthy: the same at so many false positives a *healthy* case; nan without healthy cases.
        lesions: number of them.
    """

    rates: tuple[float, ...]
    sensitivity: list[float]
    healthy: list[float]
    lesions: int


def froc(images: Sequence[Candidates], cases: Sequence[str], rates: Sequence[float] = RATES) -> Froc:
    """The curve at the usual rates.

    A lesion's score is the highest of the candidates that match it; a candidate that matches none is a false positive,
    and one more on a lesion that is found counts neither way.

    Args:
        images: see :func:`candidates`.
        cases: of each image; a case without any lesion is healthy.
        rates: false positives a case.
    """
    ill = {case for case, one in zip(cases, images, strict=True) if one.sizes}
    lesion_scores, wrong, wrong_healthy = [], [], []
    for case, one in zip(cases, images, strict=True):
        best, false = _lesion_scores(one)
        lesion_scores += best
        wrong += false
        wrong_healthy += false if case not in ill else []
    count = len(set(cases))
    return Froc(
        tuple(rates),
        _curve(lesion_scores, wrong, count, rates),
        _curve(lesion_scores, wrong_healthy, count - len(ill), rates),
        len(lesion_scores),
    )


def froc_intervals(
    images: Sequence[Candidates],
    cases: Sequence[str],
    rates: Sequence[float] = RATES,
    *,
    level: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> list[Interval]:
    """The curve with percentile bootstraps: whole cases are drawn, as many with and without a lesion as there are.

    Args:
        images: see :func:`candidates`.
        cases: of each image.
        rates: false positives a case.
        level: of the intervals.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        list: one interval a rate; nan without a lesion.
    """
    values = froc(images, cases, rates).sensitivity
    if np.isnan(values).any():
        return [Interval(value, value, value) for value in values]
    names, owner = np.unique(np.asarray(cases, str), return_inverse=True)
    lesion_scores, lesion_case, wrong, wrong_case = [], [], [], []
    for case, one in zip(owner.tolist(), images, strict=True):
        best, false = _lesion_scores(one)
        lesion_scores += best
        wrong += false
        lesion_case += [case] * len(best)
        wrong_case += [case] * len(false)
    order = np.argsort(-np.asarray(wrong), kind="stable")
    falling, wrong_owner = np.asarray(wrong)[order], np.asarray(wrong_case, int)[order]
    lesions, lesion_owner = np.asarray(lesion_scores), np.asarray(lesion_case, int)
    ill = np.isin(np.arange(len(names)), lesion_owner)
    rng = np.random.default_rng(seed)
    allowed = np.floor(np.asarray(rates) * len(names) + 1e-9)
    drawn = np.empty((resamples, len(rates)))
    for row in drawn:
        units = [rng.choice(part, len(part)) for part in (np.flatnonzero(ill), np.flatnonzero(~ill)) if len(part)]
        times = np.bincount(np.concatenate(units), minlength=len(names))
        place = np.searchsorted(np.cumsum(times[wrong_owner]), allowed, side="right")
        cuts = np.append(falling, -np.inf)[place]
        weights = times[lesion_owner]
        row[:] = (weights[:, None] * (lesions[:, None] > cuts)).sum(0) / weights.sum()
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return [Interval(*map(float, bounds)) for bounds in zip(values, low, high, strict=True)]


def _lesion_scores(one: Candidates) -> tuple[list[float], list[float]]:
    """The highest candidate of each lesion, -inf where none is; and the candidates that match none."""
    best = [-np.inf] * len(one.sizes)
    wrong = []
    for score, hit in zip(one.scores, one.hits, strict=True):
        if hit >= 0:
            best[hit] = max(best[hit], score)
        else:
            wrong.append(score)
    return best, wrong


def _curve(lesion_scores: list[float], wrong: list[float], cases: int, rates: Sequence[float]) -> list[float]:
    if not lesion_scores or not cases:
        return [float("nan")] * len(rates)
    lesions, ordered = np.asarray(lesion_scores), np.sort(np.asarray(wrong))[::-1]
    shares = []
    for rate in rates:
        allowed = int(np.floor(rate * cases + 1e-9))
        # one false positive more is at ordered[allowed]: only scores above it are free
        cut = ordered[allowed] if allowed < len(ordered) else -np.inf
        shares.append(float((lesions > cut).mean()))
    return shares


class BySize(NamedTuple):
    """Lesions between two sizes: their number, and the share found with its exact interval."""

    low: float
    high: float
    lesions: int
    sensitivity: Interval


def by_size(images: Sequence[Candidates], bins: Sequence[float], threshold: float = -np.inf) -> list[BySize]:
    """Sensitivity in fixed bins of size.

    Args:
        images: see :func:`candidates`.
        bins: inner bounds, ascending, in the unit of the sizes; :data:`BINS` has them in mm.
        threshold: candidates count above it.
    """
    sizes, found = [], []
    for one in images:
        hit = {lesion for score, lesion in zip(one.scores, one.hits, strict=True) if score > threshold}
        sizes += one.sizes
        found += [number in hit for number in range(len(one.sizes))]
    place = np.searchsorted(bins, sizes, side="right")
    edges = [0.0, *bins, float("inf")]
    hits = np.asarray(found, bool)
    return [
        BySize(
            edges[k],
            edges[k + 1],
            int((place == k).sum()),
            exact_interval(int(hits[place == k].sum()), int((place == k).sum())),
        )
        for k in range(len(edges) - 1)
    ]
