"""Colonoscopy frames: a folded tube lit from the camera, with polyps as domes on its wall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from datamodules.phantoms.fields import Array, Rng, Streams, field_2d


@dataclass
class Mucosa:
    """The wall of the colon as the camera sees it; all maps are (H, W) float32."""

    x: Array
    y: Array
    lumen: tuple[float, float]
    radius: Array
    depth: Array
    height: Array
    albedo: Array
    vessels: Array
    stool: Array


@dataclass
class Polyps:
    """Changes that polyps make: height, colour, texture, contact shadow, and their mask."""

    weight: Array
    height: Array
    texture: Array
    shadow: Array
    colour: float
    mask: NDArray[np.bool_]


def _ridges(rng: Rng, shape: tuple[int, int], knots: float, width: float) -> Array:
    """Thin lines where a smooth field crosses zero: a vessel network."""
    values = field_2d(rng, shape, knots)
    down, right = np.gradient(values)
    lines: Array = np.exp(-((np.abs(values) / (np.hypot(down, right) + 1e-4) / width) ** 2))
    return lines


def _folds(rng: Rng, shape: tuple[int, int], radius: Array, depth: Array, angle: Array) -> Array:
    """Haustral folds: rings at regular log-depth, broken around the circumference."""
    phase = np.log(depth + 0.25) * rng.uniform(4.2, 6.5) + 0.40 * field_2d(rng, shape, 5) + rng.uniform(0, 6.28)
    ring = np.exp(2.6 * (np.cos(phase) - 1))
    size = rng.uniform(0.07, 0.17) * (1 - 0.55 * np.exp(-((radius / 0.15) ** 2)))
    broken = 0.75 + 0.6 * np.cos(2 * angle + rng.uniform(0, 6.28)) + 0.4 * field_2d(rng, shape, 5)
    folds: Array = size * ring * np.clip(broken, 0, 1.3)
    return folds


def mucosa(rng: Rng, shape: tuple[int, int], dirty: bool) -> Mucosa:
    """Sample a healthy stretch of colon for a frame of `shape` pixels."""
    height, width = shape
    short = min(shape)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (columns - width / 2) / short * 2, (rows - height / 2) / short * 2
    ahead, near, far, turn = rng.random(), abs(rng.normal(0, 0.28)), rng.uniform(0.7, 1.3), rng.uniform(0, 2 * np.pi)
    away = near if ahead < 0.65 else far
    lumen = (float(away * np.cos(turn)), float(away * np.sin(turn)))
    dx = x - lumen[0] + 0.07 * field_2d(rng, shape, 5)
    dy = y - lumen[1] + 0.07 * field_2d(rng, shape, 5)
    angle, stretch, tilt = np.arctan2(dy, dx), np.exp(rng.normal(0, 0.15)), rng.uniform(0, np.pi)
    along = (dx * np.cos(tilt) + dy * np.sin(tilt)) * stretch
    across = (dy * np.cos(tilt) - dx * np.sin(tilt)) / stretch
    three_bands = 1 + 0.10 * np.cos(3 * angle + rng.uniform(0, 6.28)) + 0.05 * field_2d(rng, shape, 6)
    radius = (np.hypot(along, across) + 1e-3) * three_bands
    depth = 0.42 / (np.maximum(radius, 0) + 0.06)
    relief = _folds(rng, shape, radius, depth, angle)
    for knots, size in ((7, 0.045), (22, 0.0055), (80, 0.0011), (160, 0.0004)):
        relief = relief + size * field_2d(rng, shape, knots)
    base = np.array([0.90, 0.47, 0.34]) + np.array([0, 0.03, 0.04]) * rng.normal(0, 1)
    albedo = np.broadcast_to((base * np.exp(rng.normal(0, 0.05))).astype(np.float32), (height, width, 3))
    wide, narrow = field_2d(rng, shape, 6)[..., None], field_2d(rng, shape, 22)[..., None]
    albedo = (
        albedo
        * (1 + wide * np.array([0.04, 0.09, 0.10], np.float32))
        * (1 + narrow * np.array([0.02, 0.045, 0.05], np.float32))
    )
    widths = ((0.55, 7, 10, 0.0050), (0.45, 14, 20, 0.0030), (0.25, 26, 36, 0.0022))
    lines = [share * _ridges(rng, shape, rng.uniform(low, high), short * w) for share, low, high, w in widths]
    vessels = np.clip(np.sum(lines, axis=0), 0, 1) * np.clip(0.5 + 0.7 * field_2d(rng, shape, 6), 0, 1)
    vessels = vessels * rng.uniform(0.5, 1.5)
    film = field_2d(rng, shape, rng.uniform(8, 16)) + 0.4 * field_2d(rng, shape, 40)
    stool = expit((film - rng.uniform(0.9, 1.6)) * 9) * (0.9 if dirty else 0.0)
    return Mucosa(x, y, lumen, radius, depth, relief, albedo, vessels, stool)


def polyps(rng: Rng, wall: Mucosa, contrast: float) -> Polyps:
    """Grow one polyp (two in a tenth of the frames), sessile or flat, redder or paler than the wall."""
    shape = wall.x.shape
    empty = np.zeros(shape, np.float32)
    out = Polyps(empty, empty.copy(), empty.copy(), empty.copy(), 0.0, np.zeros(shape, bool))
    for _ in range(1 if rng.random() < 0.9 else 2):
        # most polyps that were segmented in Hyper-Kvasir fill more than a tenth of the frame's width
        size = np.exp(rng.uniform(np.log(0.13), np.log(0.60)))
        for _ in range(50):
            px, py = rng.uniform(-0.62, 0.62, 2)
            if np.hypot(px - wall.lumen[0], py - wall.lumen[1]) > 0.22 + size * 0.4:
                break
        turn, aspect = rng.uniform(0, np.pi), np.exp(rng.normal(0, 0.2))
        u = (wall.x - px) * np.cos(turn) + (wall.y - py) * np.sin(turn)
        v = (wall.y - py) * np.cos(turn) - (wall.x - px) * np.sin(turn)
        edge = np.hypot(u * aspect, v / aspect) / size
        edge = edge + 0.10 * field_2d(rng, shape, 10) + 0.02 * field_2d(rng, shape, 24)
        flat = rng.uniform(0.4, 1.0) * (1 if rng.random() < 0.75 else 0.4) * min(contrast, 1.2)
        slope = np.clip((1.27 - edge) / 0.54, 0, 1)
        inside = slope * slope * (3 - 2 * slope)
        # a dome that leaves the wall at a finite angle: a half-sphere would have a black rim under a frontal lamp
        bulge = np.clip(1 - edge * edge, 0, 1)
        dome = ndimage.gaussian_filter(bulge * (1.25 - 0.25 * bulge), 0.008 * min(shape), truncate=3)
        out.height = out.height + flat * size * 0.55 * dome
        out.texture = out.texture + inside * field_2d(rng, shape, rng.uniform(50, 90))
        rim = np.where(edge < 1.35, np.exp(-(((edge - 1.05) / 0.13) ** 2)), 0)
        out.shadow = np.maximum(out.shadow, rim * flat)
        out.weight = np.maximum(out.weight, inside)
        out.mask |= edge < 1.0
    out.colour = float(rng.choice([1, -0.6], p=[0.7, 0.3]) * rng.uniform(0.25, 1.0) * contrast)
    out.texture = out.texture * (0.08 * rng.uniform(0.3, 1) * contrast)
    return out


def field_of_view(rng: Rng, wall: Mucosa) -> NDArray[np.bool_]:
    """Draw the endoscope's octagonal window, True where tissue shows."""
    corner, margin = rng.uniform(0.20, 0.36), rng.uniform(0.02, 0.06)
    across, down = np.abs(wall.x) / wall.x[0, -1], np.abs(wall.y) / wall.y[-1, 0]
    shown: NDArray[np.bool_] = (across < 1 - margin) & (down < 1 - margin) & (across + down < 2 - 2 * margin - corner)
    return shown


def _specular(rng: Rng, slopes: tuple[Array, Array], rays: tuple[Array, Array], light: Array) -> Array:
    """Wet highlights where the wall faces the lamp."""
    shape = light.shape
    facing = np.exp(-((slopes[0] - rays[0]) ** 2 + (slopes[1] - rays[1]) ** 2) / rng.uniform(0.02, 0.06))
    facing = facing * (1 + 0.30 * field_2d(rng, shape, 34) + 0.2 * field_2d(rng, shape, 80))
    spots = expit((facing - rng.uniform(1.02, 1.2)) * 24) * (0.4 + 0.6 * light)
    halo = ndimage.gaussian_filter(spots, min(shape) * 0.006, truncate=2)
    bright: Array = np.clip(spots + 0.6 * halo, 0, 1)
    return bright[..., None]


def photograph(rng: Rng, wall: Mucosa, growth: Polyps | None) -> Array:
    """Light the wall from the camera and return the (H, W, 3) float frame in [0, 1] without its black border."""
    shape = wall.x.shape
    relief, albedo, vessels = wall.height, wall.albedo, wall.vessels
    shadow: Array | float = 0.0
    if growth is not None:
        relief = relief * (1 - 0.7 * growth.weight) + growth.height
        vessels = vessels * (1 - 0.8 * growth.weight)
        tint = np.array([0.05 * abs(growth.colour), -0.17 * growth.colour, -0.15 * growth.colour], np.float32)
        albedo = albedo * (1 + growth.weight[..., None] * tint)
        albedo = albedo * (1 + growth.texture[..., None] * np.array([0.4, 1, 1], np.float32))
        shadow = growth.shadow
    slope_y, slope_x = np.gradient(ndimage.gaussian_filter(relief, 0.8), 2 / min(shape))
    ray_x, ray_y = -wall.x * 0.35, -wall.y * 0.35
    cosine = (1 - slope_x * ray_x - slope_y * ray_y) / np.sqrt(1 + slope_x**2 + slope_y**2)
    cosine = np.clip(cosine / np.sqrt(1 + ray_x**2 + ray_y**2), 0, 1.4)
    falloff = 1 / (1 + 0.42 * wall.depth**2)
    lamp_x, lamp_y = rng.normal(0, 0.25, 2)
    lamp = 1.05 - 0.22 * ((wall.x - lamp_x) ** 2 + (wall.y - lamp_y) ** 2)
    light = cosine * (0.20 + 0.95 * falloff) * (0.35 + 0.65 * np.clip(wall.radius * 1.15, 0, 1)) * lamp
    light = light * (1 - 0.25 * shadow)
    frame = albedo * (1 - vessels[..., None] * np.array([0.16, 0.34, 0.32], np.float32)) * light[..., None] * 1.25
    film, speckle = wall.stool[..., None], 1 + 0.15 * field_2d(rng, shape, 70)[..., None]
    frame = (
        frame * (1 - film)
        + film * np.array([0.62, 0.46, 0.16], np.float32) * (0.55 + 0.45 * light[..., None]) * speckle
    )
    shine = _specular(rng, (slope_x, slope_y), (ray_x, ray_y), falloff)
    frame = frame * (1 - shine) + shine * np.array([1.05, 1.03, 1.0], np.float32)
    blur = rng.uniform(0.5, 1.3) * min(shape) / 512
    frame = ndimage.gaussian_filter(frame, (blur, blur, 0), truncate=3)
    frame = (1 - np.exp(-1.35 * np.clip(frame, 0, None))) ** (1 / 1.12)
    noise = rng.standard_normal((*shape, 4), dtype=np.float32)
    noisy: Array = frame + 0.010 * noise[..., :1] + 0.007 * noise[..., 1:]
    return noisy


def _inset(rng: Rng, frame: Array) -> None:
    """Draw a position-guide panel over the lower left corner."""
    height, width = frame.shape[:2]
    tall, wide, thick = int(0.26 * height), int(0.26 * width), max(1, height // 200)
    frame[height - tall - 2 : height - 2, 2 : 2 + wide] = (0.05, 0.45, 0.25)
    frame[height - tall + 2 : height - 6, 6 : wide - 2] = (0.02, 0.12, 0.10)
    way = np.linspace(0, 1, 400)
    columns = (8 + (wide - 16) * (0.5 + 0.3 * np.sin(5 * way + rng.uniform(0, 6)) * way)).astype(int)
    rows = (height - tall + 4 + (tall - 12) * way).astype(int)
    for down in range(-thick, thick + 1):
        for right in range(-thick, thick + 1):
            frame[rows + down, columns + right] = (0.75, 0.75, 0.35)


def expose(rng: Rng, frame: Array, view: NDArray[np.bool_], inset: bool) -> NDArray[np.uint8]:
    """Apply border and inset, and quantise to (H, W, 3) uint8."""
    out = frame * ndimage.gaussian_filter(view.astype(np.float32), 0.8)[..., None]
    if inset:
        _inset(rng, out)
    pixels: NDArray[np.uint8] = (np.clip(out, 0, 1) * 255).astype(np.uint8)
    return pixels


def frames(
    draw: tuple[Streams, Streams], shape: tuple[int, int], *, polyp: bool, dirty: bool, inset: bool, contrast: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, NDArray[np.bool_], NDArray[np.bool_]]:
    """Render one frame and, with a polyp, its healthy twin.

    Args:
        draw: the same streams twice (the twin replays the acquisition).

    Returns:
        Frame (H, W, 3) uint8, twin or None, polyp mask (H, W), field of view (H, W) without the inset.
    """
    wall = mucosa(draw[0].anatomy, shape, dirty)
    view = field_of_view(draw[0].anatomy, wall)
    inset_seed = int(draw[0].annotation.integers(2**31))
    growth = polyps(draw[0].lesion, wall, contrast) if polyp else None
    frame = expose(np.random.default_rng(inset_seed), photograph(draw[0].acquisition, wall, growth), view, inset)
    visible = view.copy()
    if inset:
        visible[shape[0] - int(0.26 * shape[0]) - 2 :, : 2 + int(0.26 * shape[1])] = False
    if growth is None:
        return frame, None, np.zeros(shape, bool), visible
    twin = expose(np.random.default_rng(inset_seed), photograph(draw[1].acquisition, wall, None), view, inset)
    return frame, twin, growth.mask & visible, visible
