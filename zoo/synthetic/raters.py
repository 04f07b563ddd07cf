"""Probabilistic Poisson image interpolation (P-PII): many raters' blends, averaged where they happen."""

from typing import Any, NamedTuple

import numpy as np
import torch
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


class _Disc(NamedTuple):
    source: int
    box: tuple[int, int, int, int]  # top, left, height, width in the target
    origin: tuple[int, int]  # top, left in the source
    mask: Array
    gain: float


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
    discs = _draw(rng, image.shape[1:], len(sources), law)
    total, squares = np.zeros_like(image), np.zeros_like(image)
    for disc in discs:
        top, left, h, w = disc.box
        box = (slice(None), slice(top, top + h), slice(left, left + w))
        origin = (slice(None), slice(disc.origin[0], disc.origin[0] + h), slice(disc.origin[1], disc.origin[1] + w))
        target = torch.from_numpy(image[box])
        source = torch.from_numpy(np.ascontiguousarray(sources[disc.source][origin])) * disc.gain
        change = blend_change(target, source, torch.from_numpy(disc.mask).expand(len(image), -1, -1)).numpy()
        total[box] += change
        squares[box] += change**2
    mean = total / len(discs)
    return RatedImage(image + mean, np.sqrt(np.maximum(squares / len(discs) - mean**2, 0)))


def _draw(rng: np.random.Generator, size: tuple[int, ...], sources: int, law: RaterLaw) -> list[_Disc]:
    margin = [int((1 - law.core) / 2 * side) for side in size]
    discs = []
    for _ in range(int(rng.integers(law.anomalies[0], law.anomalies[1] + 1))):
        low, high = (max(4, round(share * size[1])) for share in law.patch)
        sides = [min(int(rng.integers(low, max(high, low + 1))), s - 2 * m) for s, m in zip(size, margin, strict=True)]
        ends = [s - m - n for s, m, n in zip(size, margin, sides, strict=True)]
        (top, left), (y, x) = (
            [int(rng.integers(m, max(end, m) + 1)) for m, end in zip(margin, ends, strict=True)] for _ in range(2)
        )
        number = int(rng.integers(sources))
        for _ in range(int(rng.integers(law.raters[0], law.raters[1] + 1))):
            mask = _disc(rng, sides)
            gain = float(rng.integers(law.gain[0], law.gain[1] + 1))
            discs.append(_Disc(number, (top, left, *sides), (y, x), mask, gain))  # type: ignore[arg-type]
    return discs


def _disc(rng: np.random.Generator, sides: list[int]) -> Array:
    """Centre N(p/2, p/12) per axis, radius half the smaller of two N(p/2, 1)."""
    patch = np.array(sides)
    centre, radius = rng.normal(patch / 2, patch / 12), 0.5 * rng.normal(patch / 2, 1.0).min()
    rows, columns = np.ogrid[: sides[0], : sides[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= max(radius, 1.0) ** 2
