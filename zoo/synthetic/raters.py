"""Probabilistic Poisson image interpolation (P-PII): many raters' blends, averaged where they happen."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.synthetic.blending import blend_change

Array = NDArray[Any]


class RaterLaw(NamedTuple):
    """What is drawn; the defaults are those of the authors' generator.

    Attributes:
        anomalies: lowest and highest number of anomalies in an image.
        raters: lowest and highest number of raters of an anomaly.
        gain: lowest and highest factor of the source's gradients.
        patch: lowest and highest side of a patch as a share of the width, per axis.
        core: central share of the image in which patches lie (inferred: PII's default).
    """

    anomalies: tuple[int, int] = (10, 19)
    raters: tuple[int, int] = (1, 9)
    gain: tuple[int, int] = (10, 19)
    patch: tuple[float, float] = (0.05, 0.20)
    core: float = 0.8


class RatedImage(NamedTuple):
    """What all raters together say, ``(C, H, W)`` each.

    Attributes:
        image: mean of the raters' blends.
        spread: their standard deviation.
    """

    image: Array
    spread: Array


class _Anomaly(NamedTuple):
    source: int
    box: tuple[int, int, int, int]  # top, left, height, width in the target
    origin: tuple[int, int]  # top, left in the source
    masks: Array  # (R, h, w), a disc of each rater
    gains: Array  # (R,)


def rate(image: Array, sources: Array, rng: np.random.Generator, law: RaterLaw = RaterLaw()) -> RatedImage:  # noqa: B008
    """Average over all raters of all anomalies the mixed Poisson blends of discs of other images at other places.

    Each rater's blend differs from the image in one box only, and Poisson blending is linear in the change; so the sums
    of changes and of their squares are kept in the boxes, never a full image for a rater.

    Args:
        image: ``(C, H, W)`` float32.
        sources: ``(N, C, H, W)``.
        rng: source of randomness.
        law: of all draws.

    Returns:
        RatedImage: see there.
    """
    anomalies = _draw(rng, image.shape[1:], len(sources), law)
    total, squares = np.zeros_like(image), np.zeros_like(image)
    for anomaly in anomalies:
        top, left, h, w = anomaly.box
        y, x = anomaly.origin
        box = (slice(None), slice(top, top + h), slice(left, left + w))
        patch = sources[anomaly.source][:, y : y + h, x : x + w]
        gained = patch[:, None] * anomaly.gains.astype(image.dtype)[:, None, None]
        change = blend_change(np.broadcast_to(image[box][:, None], gained.shape), gained, anomaly.masks, 2)
        total[box] += change.sum(1)
        squares[box] += np.einsum("crhw,crhw->chw", change, change)
    count = sum(len(anomaly.gains) for anomaly in anomalies)
    mean = total / count
    return RatedImage(image + mean, np.sqrt(np.maximum(squares / count - mean**2, 0)))


def _draw(rng: np.random.Generator, size: tuple[int, ...], sources: int, law: RaterLaw) -> list[_Anomaly]:
    margin = [int((1 - law.core) / 2 * side) for side in size]
    anomalies = []
    for _ in range(int(rng.integers(law.anomalies[0], law.anomalies[1] + 1))):
        low, high = (max(4, round(share * size[1])) for share in law.patch)
        sides = [min(int(rng.integers(low, max(high, low + 1))), s - 2 * m) for s, m in zip(size, margin, strict=True)]
        ends = [s - m - n for s, m, n in zip(size, margin, sides, strict=True)]
        (top, left), (y, x) = (
            [int(rng.integers(m, max(end, m) + 1)) for m, end in zip(margin, ends, strict=True)] for _ in range(2)
        )
        number = int(rng.integers(sources))
        raters = int(rng.integers(law.raters[0], law.raters[1] + 1))
        masks = _discs(rng, raters, sides)
        gains = rng.integers(law.gain[0], law.gain[1] + 1, raters)
        anomalies.append(_Anomaly(number, (top, left, sides[0], sides[1]), (y, x), masks, gains))
    return anomalies


def _discs(rng: np.random.Generator, count: int, sides: list[int]) -> Array:
    """Centres N(p/2, p/12) per axis, radii half the smaller of two N(p/2, 1)."""
    patch = np.array(sides)
    centre = rng.normal(patch / 2, patch / 12, (count, 2))
    radius = np.maximum(0.5 * rng.normal(patch / 2, 1.0, (count, 2)).min(1), 1.0)
    rows, columns = (np.arange(side) - centre[:, axis, None] for axis, side in enumerate(sides))
    inside: Array = (rows * rows)[:, :, None] + (columns * columns)[:, None] <= (radius * radius)[:, None, None]
    return inside
