"""What of an anomaly map is a finding: connected components that are larger than those of healthy cases.

Pixels are never thresholded one by one: at "5 % of healthy pixels" every healthy image is marked somewhere. A component
counts when its mass (the sum of what exceeds the primary threshold) is rare among the largest components of healthy
cases, so that a stated share of healthy *cases* has any mark.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zoo.decision.conformal import p_values, rank, threshold

Array = NDArray[Any]
MaskRule = Literal["components", "max", "none"]
PRIMARY = 0.99  # healthy pixels below the primary threshold, fixed beforehand
POINTS = 1025  # of the table of healthy pixel quantiles
_SAMPLE = 1 << 22  # pixels that the table is made from


class Component(NamedTuple):
    """A connected component of a map above the primary threshold.

    Attributes:
        number: its value in the label map, 1, 2, ...
        p_value: of its mass among the largest components of healthy cases.
        mass: sum of what exceeds the primary threshold, in map units times pixels.
        pixels: number of pixels or voxels of the map.
        peak: largest value of the map.
        centre: centre of mass, in indices of the map.
    """

    number: int
    p_value: float
    mass: float
    pixels: int
    peak: float
    centre: tuple[float, ...]


class MapReference(NamedTuple):
    """What healthy cases' maps are compared with.

    Attributes:
        primary: the primary threshold.
        maxima: ``n`` largest values of the cases' maps.
        largest: ``n`` masses of the cases' largest components, 0 where none.
        quantiles: :data:`POINTS` values of the pooled healthy pixels, from the smallest to the largest.
    """

    primary: float
    maxima: list[float]
    largest: list[float]
    quantiles: list[float]


def components(anomaly_map: Array, primary: float) -> tuple[Array, Array, Array]:
    """Label the fully connected parts of a map above a threshold.

    Args:
        anomaly_map: ``(*S)``; -inf outside of the foreground.
        primary: pixels above it belong to a component.

    Returns:
        tuple: labels ``(*S)`` int32, and mass and number of pixels of each component, from label 1.
    """
    footprint = np.ones((3,) * anomaly_map.ndim, bool)
    labels, count = ndimage.label(anomaly_map > primary, footprint)
    flat = labels.ravel()
    marked = np.flatnonzero(flat)
    excess = anomaly_map.ravel()[marked].astype(np.float64) - primary
    mass = np.bincount(flat[marked], excess, count + 1)[1:]
    return labels, mass, np.bincount(flat[marked], minlength=count + 1)[1:]


def reference(maps: Sequence[Sequence[Array]], primary: float | None = None) -> MapReference:
    """Learn from the maps of healthy cases.

    Args:
        maps: per case its maps ``(*S)``, -inf outside of the foreground.
        primary: threshold of components; None: the :data:`PRIMARY` quantile of the pooled pixels.
    """
    total = sum(one.size for case in maps for one in case)
    step = max(1, -(-total // _SAMPLE))
    step += step % 2 == 0  # an odd step does not stay in the same columns of images with even sides
    sample = np.concatenate([one[np.isfinite(one)][::step] for case in maps for one in case])
    extremes = [(float(one[np.isfinite(one)].min()), float(one.max())) for case in maps for one in case if one.size]
    quantiles = np.quantile(sample.astype(np.float64), np.linspace(0, 1, POINTS))
    quantiles[0], quantiles[-1] = min(low for low, _ in extremes), max(high for _, high in extremes)
    level = float(np.quantile(sample.astype(np.float64), PRIMARY)) if primary is None else primary
    largest = [max(float(components(one, level)[1].max(initial=0.0)) for one in case) for case in maps]
    return MapReference(level, [max(float(one.max()) for one in case) for case in maps], largest, quantiles.tolist())


def find(
    anomaly_map: Array, healthy: MapReference, *, level: float, rule: MaskRule = "components"
) -> tuple[Array, list[Component]]:
    """Findings of one map.

    Args:
        anomaly_map: ``(*S)``, -inf outside of the foreground.
        healthy: see :func:`reference`.
        level: share of healthy cases that may have any finding.
        rule: ``components``: those with p <= level; ``max``: components above the r-th largest healthy maximum.

    Returns:
        tuple: label map ``(*S)`` int32 with 0 outside of findings, and the findings, the largest mass first, which are
        numbered in that order.
    """
    if rule == "none":
        return np.zeros(anomaly_map.shape, np.int32), []
    primary = healthy.primary
    if rule == "max":
        r = rank(len(healthy.maxima), level)
        primary = threshold(healthy.maxima, r) if r else np.inf
    labels, mass, pixels = components(anomaly_map, primary)
    if not len(mass):
        return np.zeros(anomaly_map.shape, np.int32), []
    peaks = np.asarray(ndimage.maximum(anomaly_map, labels, np.arange(1, len(mass) + 1)))
    p = p_values(healthy.largest, mass) if rule == "components" else p_values(healthy.maxima, peaks)
    order = [number for number in np.argsort(-mass, kind="stable") if p[number] <= level + 1e-12]
    new = np.zeros(len(mass) + 1, np.int32)
    new[[number + 1 for number in order]] = np.arange(1, len(order) + 1)
    weights = np.where(labels > 0, anomaly_map - primary, 0.0)
    found = []
    for place, number in enumerate(order, 1):
        centre = ndimage.center_of_mass(weights, labels, int(number) + 1)
        found.append(
            Component(
                place,
                float(p[number]),
                float(mass[number]),
                int(pixels[number]),
                float(peaks[number]),
                tuple(float(axis) for axis in centre),
            )
        )
    return new[labels], found


# ---- the scale that maps are shown on -------------------------------------------------------------------------------

ANCHORS = (90.0, 99.0, 99.9, 100.0)  # healthy percentiles: where colour begins, its thirds, and its end


def pixel_percentiles(anomaly_map: Array, quantiles: Sequence[float]) -> Array:
    """Percentile of each pixel among pooled healthy pixels, float32 in [0, 100]; -inf gives 0."""
    table = np.asarray(quantiles, np.float64)
    grid = np.linspace(0, 100, len(table))
    last = np.append(np.diff(table) > 0, True)  # of equal values the highest percentile
    percentile: Array = np.interp(anomaly_map, table[last], grid[last], left=0.0).astype(np.float32)
    return percentile


def display_level(anomaly_map: Array, quantiles: Sequence[float]) -> Array:
    """Map values on the common scale: 0 at the healthy 90th percentile, 1/3 at 99, 2/3 at 99.9, 1 at the maximum.

    The same value has the same level in every image of a model; float32, ``(*S)``.
    """
    table = np.asarray(quantiles, np.float64)
    anchors = np.interp(ANCHORS, np.linspace(0, 100, len(table)), table)
    levels = np.array([0, 1 / 3, 2 / 3, 1])
    distinct = np.append(np.diff(anchors) > 0, True)
    level: Array = np.interp(anomaly_map, anchors[distinct], levels[distinct], left=0.0).astype(np.float32)
    return level
