"""Frontal chest radiographs: a map of attenuation, findings added to it, and a detector.

Coordinates are fractions of the frame; image-left is the patient's right. Attenuation is in arbitrary water-equivalent
units, film values after Beer-Lambert, scatter, noise and windowing lie in [0, 1] with bone bright.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.special import expit

from datamodules.phantoms.fields import Array, Rng, field_2d

Mask = NDArray[np.bool_]


class Body(NamedTuple):
    """Proportions of one person; lengths are fractions of the frame."""

    centre: float
    top: float
    base: float
    half: float
    fat: float
    female: bool
    tilt: float
    inspiration: float
    heart: float
    aorta: float


@dataclass
class Chest:
    """One person in front of the detector; maps are (N, N) float32 unless said otherwise."""

    body: Body
    x: Array
    y: Array
    across: Array
    down: Array
    sides: dict[str, Mask]
    air: Array
    vessels: Array
    attenuation: Array
    heart: Mask
    aorta: Mask

    @property
    def lungs(self) -> Mask:
        """Both lungs."""
        return self.sides["R"] | self.sides["L"]


def polyline(size: int, points: NDArray[np.floating], reach: float) -> tuple[tuple[slice, slice], Array, Array]:
    """Distance to a curve in a window around it.

    Args:
        size: side of the frame in pixels.
        points: (n, 2) x, y in fractions of the frame.
        reach: margin of the window, fraction of the frame.

    Returns:
        Window, distance in fractions of the frame, and curve parameter in [0, 1] of the nearest point.
    """
    steps = np.hypot(*np.diff(points, axis=0).T)
    place = np.concatenate([[0.0], np.cumsum(steps)])
    count = max(8, int(2 * place[-1] * size))
    way = np.linspace(0, place[-1], count)
    fine = np.stack([np.interp(way, place, points[:, axis]) for axis in (0, 1)], 1) * size - 0.5
    low = np.floor(fine.min(0) - reach * size).astype(int)
    high = np.ceil(fine.max(0) + reach * size).astype(int) + 1
    shape = (high - low)[::-1]
    pixel = np.rint(fine).astype(int) - low
    nearest = np.zeros(shape, np.intp)
    nearest[pixel[:, 1], pixel[:, 0]] = np.arange(1, count + 1)
    rows, columns = ndimage.distance_transform_edt(nearest == 0, return_distances=False, return_indices=True)
    which = nearest[rows, columns] - 1
    grid_y, grid_x = np.mgrid[low[1] : high[1], low[0] : high[0]]
    distance = np.hypot(grid_x - fine[which, 0], grid_y - fine[which, 1]) / size
    inner = tuple(
        slice(max(0, -a), max(0, n - max(0, b - size))) for a, b, n in zip(low, high, shape[::-1], strict=True)
    )
    window = tuple(slice(max(0, a), max(0, min(size, b))) for a, b in zip(low, high, strict=True))
    crop = (inner[1], inner[0])
    return (window[1], window[0]), distance[crop].astype(np.float32), (which[crop] / (count - 1)).astype(np.float32)


def _body(rng: Rng, heart: float | None, aorta: float | None) -> Body:
    drawn = Body(
        centre=0.5 + rng.normal(0, 0.012),
        top=0.075 + rng.normal(0, 0.02),
        base=0.775 + rng.normal(0, 0.03),
        half=0.398 + rng.normal(0, 0.02),
        fat=abs(rng.normal(0, 1)),
        female=bool(rng.random() < 0.5),
        tilt=float(np.deg2rad(rng.normal(0, 1.3))),
        inspiration=rng.normal(0, 0.012),
        heart=float(np.clip(rng.normal(0.455, 0.028), 0.39, 0.50)),
        aorta=float(np.clip(rng.normal(1, 0.1), 0.75, 1.25)),
    )
    return drawn._replace(heart=heart or drawn.heart, aorta=aorta or drawn.aorta)


def _lung(rng: Rng, body: Body, side: str, size: int) -> Mask:
    """Fill the outline of one lung through fourteen jittered control points."""
    right = side == "R"
    top, base, half, heart = body.top, body.base, body.half, body.heart / 0.45
    middle = 0.052 if right else 0.050
    dome = base + (-0.012 if right else 0.012) + body.inspiration
    points = np.array(
        [
            [0.115, top + 0.012],
            [0.165, top - 0.004],
            [0.225, top + 0.05],
            [half * 0.80, top + 0.17],
            [half * 0.945, top + 0.36],
            [half, base - 0.13],
            [half * 0.985, base + 0.055],
            [half * 0.83, dome - 0.005],
            [half * 0.52, dome - 0.052],
            [middle + 0.035 + (0.02 if right else 0.075 * heart), dome - 0.03],
            [middle + (0.014 if right else 0.085 * heart), base - 0.14],
            [middle + (0.004 if right else 0.03), top + 0.33],
            [middle + 0.006, top + 0.2],
            [middle + 0.02, top + 0.08],
        ]
    )
    points += rng.normal(0, 0.0055, points.shape) + rng.normal(0, 0.004, 2)
    points[:, 0] *= -1 if right else 1
    cosine, sine = np.cos(body.tilt), np.sin(body.tilt)
    turned = np.stack(
        [
            points[:, 0] * cosine - (points[:, 1] - 0.5) * sine + body.centre,
            points[:, 0] * sine + (points[:, 1] - 0.5) * cosine + 0.5,
        ],
        1,
    )
    ring = np.vstack([turned, turned[:1]])
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(ring, axis=0).T))])
    outline = CubicSpline(way, ring, bc_type="periodic")(np.linspace(0, way[-1], 200)) * size * 2
    canvas = Image.new("L", (2 * size, 2 * size))
    ImageDraw.Draw(canvas).polygon([(float(a), float(b)) for a, b in outline], fill=1)
    return np.asarray(canvas.resize((size, size), Image.Resampling.NEAREST)) > 0


def _trunk(rng: Rng, body: Body, across: Array, down: Array, air: Array) -> tuple[Array, Array, Array]:
    """Torso, shoulders, breasts, lungs' air, gastric bubble; returns attenuation, torso profile, abdomen."""
    half, base = body.half, body.base
    width = half * 1.2 + 0.02 * body.fat + 0.03 * expit((down - 0.55) * 14)
    width = width + 0.12 * np.exp(-(((down - 0.16) / 0.11) ** 2))
    width = width - (half * 1.3 - 0.12) * expit((0.02 + 0.02 * rng.normal() - down) * 42) * 0.8
    torso = np.clip(1 - (across / np.maximum(width, 0.02)) ** 2, 0, 1)
    out = 1.55 * np.sqrt(torso) * (1 + 0.12 * body.fat)
    dome = 0.05 * np.cos(np.clip(across / half, -1, 1) * 2.2)
    abdomen = expit((down - (base - 0.03 + dome)) * 55)
    out = out - 0.74 * air * (1 + 0.07 * field_2d(rng, air.shape, 6))
    for sign in (-1, 1):
        place, level, size = half * rng.uniform(0.52, 0.62), base - rng.uniform(0.06, 0.1), rng.uniform(0.11, 0.16)
        amount = 0.16 * rng.uniform(0.5, 1.2) * body.female
        radius = np.hypot(across - sign * place, (down - level) / 1.05) / size
        out = out + amount * np.sqrt(np.clip(1 - radius**2, 0, 1)) * expit((down - level + size * 0.9) * 25)
    bubble = 0.35 * (rng.random() < 0.6)
    place, level = half * rng.uniform(0.35, 0.6), base + rng.uniform(0.02, 0.06)
    wide, high = rng.uniform(0.05, 0.08), rng.uniform(0.02, 0.035)
    out = out - bubble * np.exp(-((((across - place) / wide) ** 2 + ((down - level) / high) ** 2) ** 2))
    return out, torso, abdomen


def _mediastinum(rng: Rng, body: Body, across: Array, down: Array, below: Array) -> tuple[Array, Array, Array]:
    """Heart, great vessels, trachea, spine; `below` is the abdomen's attenuation that the heart merges with.

    Returns:
        Attenuation, radius of the heart (1 on its contour), radius of the aortic knob.
    """
    top, base, heart = body.top, body.base, body.heart
    out = 0.34 * np.exp(-((across / (0.062 + 0.01 * rng.uniform(-1, 1))) ** 2)) * expit((down - top + 0.02) * 30)
    shift, width, level = 0.052 + 0.10 * (heart - 0.45), heart * body.half, base - 0.115
    turn = np.deg2rad(-32 + rng.normal(0, 5))
    u = (across - shift) * np.cos(turn) - (down - level) * np.sin(turn)
    v = (across - shift) * np.sin(turn) + (down - level) * np.cos(turn)
    wobble = field_2d(rng, across.shape, 5, 0.03)
    radius = np.hypot(u / (width * 1.02), v / (width * 0.78)) + wobble
    atrium = np.hypot((across + 0.004) / (width * 0.56), (down - level + 0.03) / (width * 0.92)) + 0.6 * wobble
    outflow = np.hypot((across - 0.038) / (width * 0.40), (down - level + 0.15) / 0.13) + 0.5 * wobble
    radius = np.minimum(np.minimum(radius, atrium), outflow)
    muscle = expit((1 - radius) * 30) * (0.20 + 0.24 * np.sqrt(np.clip(1 - radius**2, 0, 1)))
    out = out + np.cbrt(muscle**3 + below**3 + 1e-9)
    aorta, arch = body.aorta, top + 0.185
    knob = np.hypot((across - 0.045 * aorta**0.5) / (0.036 * aorta), (down - arch) / (0.043 * aorta))
    out = out + 0.24 * expit((1 - knob) * 12)
    descending = expit((1 - np.abs(across - 0.035) / 0.022) * 6)
    out = out + 0.14 * descending * expit((down - arch) * 60) * expit((level - down) * 30)
    out = out - 0.26 * np.exp(-(((across - 0.006) / 0.018) ** 2)) * expit((top + 0.21 - down) * 40)
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * (down - 0.02) / (0.052 + 0.012 * down))
    out = out + (0.10 + 0.09 * discs) * expit((0.036 - np.abs(across)) * 150)
    return out, radius, knob


class Branches(NamedTuple):
    """One generation of vessels; all arrays have one entry per branch."""

    start: NDArray[np.float64]
    angle: NDArray[np.float64]
    radius: NDArray[np.float64]
    length: NDArray[np.float64]
    depth: NDArray[np.int64]


def _draw_branches(now: Branches, bend: NDArray[np.float64], radii: Array) -> tuple[NDArray[np.float64], ...]:
    """Draw bent lines into the map of radii; returns their middle and end points."""
    size = len(radii)
    way = np.linspace(0, 1, max(12, int(now.length.max() * size * 1.5)))
    turn = now.angle[:, None] + bend[:, None] * way
    steps = now.length[:, None, None] / len(way) * np.stack([np.cos(turn), np.sin(turn)], 2)
    points = now.start[:, None] + np.cumsum(steps, axis=1)
    pixel = np.clip((points * size).astype(int), 0, size - 1)
    values = now.radius[:, None] * np.linspace(1, 0.78, len(way))
    np.maximum.at(radii, (pixel[..., 1], pixel[..., 0]), values.astype(radii.dtype))
    return points[:, len(way) // 2], points[:, -1]


def _vessel_tree(rng: Rng, body: Body, size: int) -> Array:
    """Branch from both hila; returns the (size, size) map of vessel radii along the centre lines."""
    radii = np.zeros((size, size), np.float32)
    angles = np.deg2rad([-68, -35, -5, 22, 48, 72])[None] + rng.normal(0, 0.12, (2, 6))
    angles[0] = np.pi - angles[0]
    hila = np.array([[body.centre - 0.075, body.top + 0.293], [body.centre + 0.075, body.top + 0.273]])
    radius, length = 0.0098 * rng.uniform(0.8, 1.15, 12), 0.075 * rng.uniform(0.8, 1.25, 12)
    now = Branches(np.repeat(hila, 6, axis=0), angles.ravel(), radius, length, np.zeros(12, np.int64))
    while len(now.radius):
        count = len(now.radius)
        bend = rng.normal(0, 0.25, count)
        middle, end = _draw_branches(now, bend, radii)
        aside = rng.uniform(0.25, 0.6, (2, count)) * np.array([[-1], [1]])
        thin, short = rng.uniform(0.62, 0.8, (2, count)), rng.uniform(0.66, 0.92, (2, count))
        twig = rng.choice([-1.0, 1.0], count) * rng.uniform(0.4, 0.9, count)
        sprouts = rng.random(count) < 0.35
        grown = Branches(
            np.concatenate([end, end, middle]),
            now.angle[None].repeat(3, 0).ravel() + np.concatenate([bend + aside[0], bend + aside[1], twig]),
            np.concatenate([now.radius * thin[0], now.radius * thin[1], now.radius * 0.55]),
            np.concatenate([now.length * short[0], now.length * short[1], now.length * 0.6]),
            np.concatenate([now.depth + 1, now.depth + 1, now.depth + 2]),
        )
        alive = (grown.depth <= 6) & (grown.radius >= 0.0011)
        alive[2 * count :] &= sprouts
        now = Branches(*(values[alive] for values in grown))  # type: ignore[arg-type]
    return radii


def _vessels(rng: Rng, body: Body, size: int) -> Array:
    """Blur the tree by its radii."""
    radii = _vessel_tree(rng, body, size)
    out = np.zeros((size, size), np.float32)
    limits = (1.0, 0.0095, 0.006, 0.0038, 0.0024, 0.0)
    for high, low, width in zip(limits[:-1], limits[1:], (0.0095, 0.006, 0.0038, 0.0024, 0.0015), strict=True):
        lines = ((radii > low) & (radii <= high)).astype(np.float32)
        if lines.any():
            blurred = ndimage.gaussian_filter(lines, max(width * size * 0.75, 0.7))
            out += blurred / (blurred.max() + 1e-6) * (width / 0.0095) ** 0.8
    return np.clip(out, 0, 1.6)


def _bones(rng: Rng, body: Body, across: Array, down: Array) -> Array:
    """Posterior and anterior ribs with bright cortex, clavicles, scapulae."""
    size = len(across)
    out = np.zeros((size, size), np.float32)
    half, top, amount = body.half, body.top, rng.uniform(0.17, 0.25)

    def stroke(points: NDArray[np.floating], width: float, fill: float, rim: float, fade: float) -> None:
        window, distance, way = polyline(size, points, 2.2 * width)
        edge = distance / width
        profile = fill * expit((1 - edge) * 8) + rim * np.exp(-(((edge - 0.9) / 0.22) ** 2))
        out[window] += profile * (1 - fade * way)

    way = np.linspace(0, 1, 120)
    for rib in range(10):
        start = top - 0.005 + rib * (0.072 + 0.0012 * rng.normal()) + 0.004 * rng.normal()
        span, width = half * (1.04 - 0.5 * np.exp(-rib / 1.5)) * 1.01, 0.0145 + 0.002 * np.cos(rib)
        x = 0.03 + (span - 0.03) * np.sin(way * np.pi * 0.56) / np.sin(np.pi * 0.56)
        arch = 0.026 * np.sin(np.pi * np.clip(way * 1.25, 0, 1))
        y = start - arch + (0.055 + 0.014 * rib) * way**1.7
        front = np.stack([span * (1 - 0.62 * way), y[-1] + 0.004 + (0.085 - 0.004 * rib) * way**1.25], 1)
        for sign in (-1, 1):
            stroke(np.stack([body.centre + sign * x, y], 1), width, amount * 0.62, amount * 0.55, 0.35)
            if rib < 7:
                side = front * [sign, 1] + [body.centre, 0]
                stroke(side, width * 1.1, amount * 0.25, amount * 0.21, 0.0)
    for sign in (-1, 1):
        x = 0.032 + way * half * 0.98
        y = top + 0.075 - 0.055 * way + 0.014 * np.sin(2 * np.pi * way) + rng.normal(0, 0.006)
        stroke(np.stack([body.centre + sign * x, y], 1), 0.0145, 0.20, 0.12, 0.0)
        blade = sign * (half * 1.03 + rng.uniform(0, 0.03)) + sign * 0.3 * (down - top - 0.15) ** 2
        out += 0.16 * expit((1 - np.hypot((across - blade) / 0.05, (down - top - 0.17) / 0.14)) * 10)
    return out


def chest(rng: Rng, size: int, heart: float | None = None, aorta: float | None = None) -> Chest:
    """Sample one healthy person on a (size, size) grid.

    Args:
        heart: cardiothoracic ratio to use in place of the drawn one; everything else stays the same person.
        aorta: width of the aortic knob relative to normal, likewise.
    """
    body = _body(rng, heart, aorta)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    x, y = (columns + 0.5) / size, (rows + 0.5) / size
    across = (x - body.centre) * np.cos(body.tilt) + (y - 0.5) * np.sin(body.tilt)
    down = (y - 0.5) * np.cos(body.tilt) - (x - body.centre) * np.sin(body.tilt) + 0.5
    sides = {side: _lung(rng, body, side, size) for side in "RL"}
    air = np.zeros((size, size), np.float32)
    for lung in sides.values():
        air += 1 - np.exp(-ndimage.distance_transform_edt(lung).astype(np.float32) / size / 0.038)
    out, torso, abdomen = _trunk(rng, body, across, down, air)
    middle, radius, knob = _mediastinum(rng, body, across, down, 0.58 * abdomen * np.sqrt(torso))
    out = out + middle
    for sign in (-1, 1):
        points = np.stack(
            [body.centre + sign * np.linspace(0.005, 0.07, 40), body.top + np.linspace(0.205, 0.26, 40)], 1
        )
        window, distance, _ = polyline(size, points, 0.03)
        out[window] -= 0.12 * np.exp(-((distance / 0.011) ** 2))
        hilum = ((across - sign * 0.075) / 0.034) ** 2 + ((down - body.top - 0.285) / 0.055) ** 2
        out = out + 0.22 * np.exp(-hilum)
    vessels = _vessels(rng, body, size)
    inside = ndimage.gaussian_filter((air > 0).astype(np.float32), 0.004 * size)
    texture = 0.022 * field_2d(rng, x.shape, 60) + 0.012 * field_2d(rng, x.shape, 110)
    out = out + 0.44 * vessels * inside + texture * air
    out = out + _bones(rng, body, across, down) * np.clip(torso * 6, 0, 1)
    return Chest(
        body, x, y, across, down, sides, air, vessels, out, (radius < 1) & (down < body.base + 0.02), knob < 1.1
    )


class Detector(NamedTuple):
    """Acquisition profile of a source: tube, scatter fraction, quanta, blur."""

    hardness: float
    scatter: tuple[float, float]
    quanta: tuple[float, float]
    blur: float


DETECTORS = {
    "flat_panel": Detector(1.55, (0.03, 0.07), (2500, 9000), 0.0009),
    "rsna": Detector(1.45, (0.04, 0.10), (1200, 5000), 0.0014),
    "cohen": Detector(1.45, (0.04, 0.12), (1500, 6000), 0.0020),
    "ricord": Detector(1.35, (0.07, 0.16), (900, 3000), 0.0018),
}


def expose(rng: Rng, attenuation: Array, healthy: Chest, detector: Detector) -> Array:
    """Take the film and return values in [0, 1].

    Scatter and the display window come from the healthy person, so that a finding changes the film only where it is.
    """
    shape = attenuation.shape
    size = len(attenuation)
    uneven = 1 + 0.04 * field_2d(rng, shape, 4)
    scatter, quanta = rng.uniform(*detector.scatter), rng.uniform(*detector.quanta)
    noise = rng.standard_normal(shape, dtype=np.float32)
    below, above, gamma = rng.uniform(0.05, 0.2), rng.uniform(-0.1, 0.25), rng.uniform(0.85, 1.2)
    plain = np.exp(-detector.hardness * np.maximum(healthy.attenuation, 0) * uneven)
    veil = scatter * ndimage.gaussian_filter(plain, 0.06 * size, truncate=3)

    def film(values: Array) -> Array:
        rays = (1 - scatter) * np.exp(-detector.hardness * np.maximum(values, 0) * uneven) + veil
        rays = ndimage.gaussian_filter(rays, detector.blur * size)
        # a detector of fixed dose: fewer, larger pixels count more quanta each
        rays = rays + np.sqrt(np.maximum(rays, 1e-4) / quanta * size / 512) * noise
        density: Array = -np.log(np.maximum(rays, 1e-3)) / detector.hardness
        return density

    reference = film(healthy.attenuation)
    low = np.percentile(reference[healthy.lungs], 1) - below
    high = np.percentile(reference, 99.2) + above
    values = reference if attenuation is healthy.attenuation else film(attenuation)
    return (np.clip((values - low) / (high - low), 0, 1) ** gamma).astype(np.float32)
