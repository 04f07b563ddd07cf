"""Findings on chest radiographs: what they add to the attenuation, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.special import expit

from datamodules.phantoms.chest_xray import Chest, Mask, chest, polyline
from datamodules.phantoms.fields import Array, Rng, field_2d


class Finding(NamedTuple):
    """One labelled region; `mask` is (N, N) bool."""

    name: str
    mask: Mask

    def box(self) -> tuple[float, float, float, float]:
        """Return x_min, y_min, x_max, y_max in fractions of the frame."""
        rows, columns = np.nonzero(self.mask)
        size = len(self.mask)
        return columns.min() / size, rows.min() / size, (columns.max() + 1) / size, (rows.max() + 1) / size


#: VinDr-CXR findings at difficulty 1, from the baselines of `benchmarks/phantom_difficulty.py`.
CALIBRATED = 1.4

Change = tuple[Array, list[Mask]]
Painter = Callable[[Rng, Chest, float], Change]


def _place(rng: Rng, person: Chest, peripheral: bool = False) -> tuple[float, float]:
    """Draw a point well inside the lungs, for COVID-19 in the outer lower parts."""
    size = len(person.x)
    inside = ndimage.binary_erosion(person.lungs, iterations=max(1, size // 32))
    wanted = inside & (person.y > 0.42) & (np.abs(person.across) > 0.16) if peripheral else inside
    rows, columns = np.nonzero(wanted if wanted.any() else inside)
    # a fraction of the list, so that the draw means the same place at any resolution
    which = int(rng.random() * len(rows))
    return columns[which] / size, rows[which] / size


def _nodules(rng: Rng, person: Chest, contrast: float) -> Change:
    total, masks = np.zeros_like(person.x), []
    for _ in range(1 + (rng.random() < 0.3)):
        px, py = _place(rng, person)
        size = np.exp(rng.uniform(np.log(0.014), np.log(0.05)))
        edge = np.hypot(person.x - px, (person.y - py) * rng.uniform(0.85, 1.15)) / size
        edge = edge + field_2d(rng, edge.shape, 22, 0.10)
        total += 0.30 * contrast * expit((1 - edge) * 9) * (edge < 2) * (1 - 0.25 * np.clip(edge, 0, 1))
        masks.append(edge < 1.05)
    return total, masks


def _calcification(rng: Rng, person: Chest, contrast: float) -> Change:
    total, mask = np.zeros_like(person.x), np.zeros(person.x.shape, bool)
    px, py = _place(rng, person)
    for _ in range(int(rng.integers(1, 5))):
        dx, dy = rng.normal(0, 0.012, 2)
        edge = np.hypot(person.x - px - dx, person.y - py - dy) / rng.uniform(0.004, 0.008)
        total += 0.4 * contrast * expit((1 - edge) * 6) * (edge < 3)
        mask |= edge < 1.3
    return total, [mask]


def _cloud(amount: float, sharpness: float, peripheral: bool = False) -> Painter:
    """Return a painter of ill-defined opacities; `peripheral` ones come in groups, in the outer lower lungs."""

    def paint(rng: Rng, person: Chest, contrast: float) -> Change:
        total, mask = np.zeros_like(person.x), np.zeros(person.x.shape, bool)
        for _ in range(int(rng.integers(3, 7)) if peripheral else 1):
            px, py = _place(rng, person, peripheral)
            size = rng.uniform(0.04, 0.10) * (0.8 if peripheral else 1)
            edge = np.hypot((person.x - px) / rng.uniform(0.8, 1.2), (person.y - py) / rng.uniform(0.8, 1.3)) / size
            edge = edge + field_2d(rng, edge.shape, 14, 0.22) + field_2d(rng, edge.shape, 40, 0.08)
            body = expit((1 - edge) * sharpness) * np.clip(2.4 - edge, 0, 1) * np.clip(person.air, 0, 1)
            total += amount * contrast * body * np.clip(1 + 0.35 * field_2d(rng, edge.shape, 55), 0.2, 2)
            mask |= (edge < 1.05) & person.lungs
        return total, [mask]

    return paint


def _effusion(rng: Rng, person: Chest, contrast: float) -> Change:
    sign = rng.choice([-1, 1])
    lung = person.sides["R" if sign < 0 else "L"]
    level = person.body.base - rng.uniform(0.02, 0.2)
    rim = np.clip((person.across * sign - 0.1) / (person.body.half - 0.1), 0, 1)
    surface = level + 0.10 * (1 - rim**2)
    fluid = expit((person.down - surface) * 60) * (person.down > surface - 0.06)
    return 0.85 * min(contrast, 1) * fluid * person.air * lung, [lung & (person.down > surface)]


def _thickening(rng: Rng, person: Chest, contrast: float) -> Change:
    sign = rng.choice([-1, 1])
    lung = person.sides["R" if sign < 0 else "L"]
    wall = ndimage.distance_transform_edt(lung) / len(lung)
    centre, length = rng.uniform(person.body.top + 0.05, person.body.base - 0.1), rng.uniform(0.05, 0.12)
    band = lung & (wall < 0.016) & (np.abs(person.down - centre) < length) & (person.across * sign > 0.1)
    return 0.4 * contrast * ndimage.gaussian_filter(band.astype(np.float32), 0.002 * len(lung)), [band]


def _pneumothorax(rng: Rng, person: Chest, contrast: float) -> Change:
    sign = rng.choice([-1, 1])
    lung = person.sides["R" if sign < 0 else "L"]
    wall = ndimage.distance_transform_edt(lung) / len(lung)
    depth = rng.uniform(0.03, 0.07) * expit((person.body.base - 0.12 - person.down) * 14)
    lateral = np.abs(person.across) > 0.09
    gap = lung & (wall < depth) & lateral
    line = np.exp(-(((wall - depth) / 0.0022) ** 2)) * lung * lateral * (depth > 0.02)
    return 0.16 * contrast * line - gap * (0.34 * min(contrast, 1) * person.vessels + 0.12 * contrast), [gap]


def _network(lower: bool) -> Painter:
    """Return a painter of reticular shadows, everywhere or in the lower lungs."""

    def paint(rng: Rng, person: Chest, contrast: float) -> Change:
        shape = person.x.shape
        border = rng.uniform(0.42, 0.6)
        mesh = np.exp(-((field_2d(rng, shape, 70) / 0.22) ** 2)) - 0.3
        chosen = person.lungs & (field_2d(rng, shape, 5) > (0.2 if lower else -0.1))
        weight = ndimage.gaussian_filter(chosen.astype(np.float32), 0.01 * len(person.x))
        weight = weight * expit((person.down - border) * 18) if lower else weight
        weight = np.where(weight > 0.02, weight, 0)
        return 0.20 * contrast * mesh * weight, [weight > 0.4]

    return paint


def _atelectasis(rng: Rng, person: Chest, contrast: float) -> Change:
    (px, py), angle, length = _place(rng, person, True), rng.normal(0, 0.35), rng.uniform(0.05, 0.12)
    way = np.linspace(-length, length, 60)
    width = rng.uniform(0.005, 0.010)
    points = np.stack([px + way * np.cos(angle), py + way * np.sin(angle)], 1)
    band = np.zeros_like(person.x)
    window, distance, _ = polyline(len(band), points, 4 * width)
    band[window] = np.exp(-((distance / width) ** 2)) * person.lungs[window]
    return 0.42 * contrast * band, [band > 0.3]


PAINTERS: dict[str, Painter] = {
    "Nodule/Mass": _nodules,
    "Calcification": _calcification,
    "Lung Opacity": _cloud(0.28, 4.5),
    "Consolidation": _cloud(0.40, 7.0),
    "Infiltration": _cloud(0.22, 3.5),
    "COVID-19": _cloud(0.24, 3.5, peripheral=True),
    "Pleural effusion": _effusion,
    "Pleural thickening": _thickening,
    "Pneumothorax": _pneumothorax,
    "ILD": _network(lower=False),
    "Pulmonary fibrosis": _network(lower=True),
    "Atelectasis": _atelectasis,
}
#: Findings that are a different size of an organ.
RESHAPING = ("Cardiomegaly", "Aortic enlargement")


def add_findings(
    rng: Rng, healthy: Chest, anatomy: Callable[[], Rng], names: tuple[str, ...], contrast: float
) -> tuple[Array, list[Finding]]:
    """Give a healthy person findings.

    Args:
        anatomy: returns a fresh anatomy stream of the same person, for findings that reshape an organ.
        names: of `PAINTERS` and `RESHAPING`.
        contrast: 1 is calibrated; smaller is fainter.

    Returns:
        Attenuation with the findings, and their masks of at least twelve pixels each.
    """
    heart, aorta = rng.uniform(0.54, 0.66), rng.uniform(1.6, 2.2)
    strength = min(contrast, 1.5)
    sick = healthy
    if set(names) & set(RESHAPING):
        body = healthy.body
        sick = chest(
            anatomy(),
            len(healthy.x),
            body.heart + strength * (heart - body.heart) if "Cardiomegaly" in names else None,
            body.aorta + strength * (aorta - body.aorta) if "Aortic enlargement" in names else None,
        )
    out = sick.attenuation.copy()
    found = [Finding("Cardiomegaly", sick.heart)] if "Cardiomegaly" in names else []
    found += [Finding("Aortic enlargement", sick.aorta)] if "Aortic enlargement" in names else []
    for name in names:
        if name in PAINTERS:
            change, masks = PAINTERS[name](rng, healthy, contrast * rng.uniform(0.6, 1.2))
            kept = [Finding(name, mask) for mask in masks if mask.sum() >= 12]
            # what nobody could mark is not painted either
            out = out + change if kept else out
            found += kept
    return out, found
