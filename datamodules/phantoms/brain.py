"""Brain MRI of synthetic subjects: warped tissue maps, sequence contrast, a scanner, tumours and strokes.

A subject is a function of millimetre coordinates from the brain centre (right, anterior, superior), so the same subject
can be scanned on any grid. Tissue maps come from the MNI152 template that nilearn ships; without nilearn nested
ellipsoids with a folded cortex stand in (`anatomy_source` says which).
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.phantoms.fields import Array, Rng, field_3d

Axes = tuple[Array, Array, Array]
LesionKind = Literal["hgg", "lgg", "stroke"]
#: Centre of the brain in template voxels.
CENTRE = np.array([98.0, 116.0, 80.0])
SHAPE = (197, 233, 189)
#: Signal of white matter, grey matter, fluid.
CONTRAST = {
    "t1": (1.00, 0.68, 0.28),
    "t1ce": (1.00, 0.70, 0.28),
    "t2": (0.42, 0.62, 1.05),
    "flair": (0.58, 0.70, 0.20),
    "dwi": (0.50, 0.62, 0.25),
    "adc": (0.38, 0.44, 1.20),
    "pd": (0.78, 0.95, 1.00),
}


class Domain(NamedTuple):
    """Population and scanner of a data set: what makes young volunteers look unlike patients."""

    blur: tuple[float, float, float]
    noise: float
    bias: float
    ventricles: tuple[float, float]
    atrophy: tuple[float, float]
    hyperintensities: float
    jitter: float
    stripping: float
    gain: float


YOUNG = Domain((0.35, 0.35, 0.35), 0.018, 0.04, (-0.5, 0.8), (-0.3, 0.2), 0.0, 0.04, 0.15, 0.15)
AGEING = Domain((0.5, 0.5, 0.5), 0.025, 0.08, (-0.5, 2.5), (-0.2, 0.9), 0.4, 0.05, 0.25, 0.5)
TUMOURS = Domain((0.5, 0.5, 1.3), 0.035, 0.13, (0.0, 3.0), (0.0, 1.0), 1.0, 0.06, 0.4, 0.5)
STROKES = Domain((0.5, 0.5, 1.8), 0.040, 0.14, (0.3, 3.5), (0.1, 1.2), 1.3, 0.06, 0.4, 0.5)


def anatomy_source() -> str:
    """Return `mni152` (template inside nilearn) or `analytic` (nilearn is not installed)."""
    return "mni152" if importlib.util.find_spec("nilearn") is not None else "analytic"


@functools.cache
def tissue_maps() -> Array:
    """Return the (3, 197, 233, 189) float32 maps of grey matter, white matter and brain mask at 1 mm."""
    if anatomy_source() == "analytic":
        return _ellipsoids()
    spec = importlib.util.find_spec("nilearn")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "datasets/data"
    maps = []
    for name in ("gm", "wm", "t1"):
        image = nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        maps.append(np.asarray(image.dataobj, np.float32) / 255)  # type: ignore[attr-defined]
    maps[2] = (maps[2] > 0).astype(np.float32)
    return np.stack(maps)


def _ellipsoids() -> Array:
    """A brain without a template: folded cortical ribbon, white core, ventricles, thalami."""
    grid = np.meshgrid(*(np.arange(n, dtype=np.float32) - c for n, c in zip(SHAPE, CENTRE, strict=True)), indexing="ij")
    x, y, z = (axis for axis in grid)
    rng = np.random.default_rng(152)
    axes = tuple(np.arange(n, dtype=np.float32) - c for n, c in zip(SHAPE, CENTRE, strict=True))
    folds = np.abs(field_3d(rng, (axes[0], axes[1], axes[2]), 9.0))
    radius = np.sqrt((x / 70) ** 2 + (y / 87) ** 2 + (z / 72) ** 2)
    brain = (radius < 1) & (np.abs(x) > 1.0 - (radius < 0.8))
    white = (radius < 0.90 - 0.16 * np.exp(-(folds / 0.25))) & brain
    fluid = (np.hypot((np.abs(x) - 11) / 7, (z - 16) / 9) < 1 - 0.5 * (y / 34) ** 2) & (np.abs(y) < 36)
    deep = np.sqrt(((np.abs(x) - 20) / 10) ** 2 + ((y + 2) / 24) ** 2 + ((z - 4) / 12) ** 2) < 1
    white &= ~fluid & ~deep
    sulci = brain & (radius > 0.86) & (folds < 0.08)
    grey = brain & ~white & ~fluid & ~sulci
    maps = np.stack([grey, white, brain]).astype(np.float32)
    return np.stack([ndimage.gaussian_filter(one, 0.7) for one in maps])


@dataclass
class Lesion:
    """A tumour or stroke in the subject's head; maps are on the scan's grid."""

    kind: LesionKind
    distance: Array
    core: Array
    wobble: Array
    size: float
    oedema: float
    necrosis: float
    solid: bool
    strength: float
    push: tuple[Array, Array, Array] | None


@dataclass
class Tissue:
    """Tissue fractions of a subject on a grid of millimetre coordinates."""

    axes: Axes
    spacing: Array
    grey: Array
    white: Array
    fluid: Array
    brain: NDArray[np.bool_]
    spots: Array
    texture: tuple[Array, Array]
    labels: NDArray[np.uint8]


def _pose(rng: Rng) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Head size, rotation and offset as a map from subject mm to template voxels."""
    size = 0.93 * np.exp(rng.normal(0, 0.035, 3))
    angles = np.deg2rad(rng.normal(0, [2.5, 1.5, 1.5]))
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    pitch = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    roll = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    yaw = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return pitch @ roll @ yaw / size, CENTRE + rng.normal(0, 1.0, 3)


def _warp(rng: Rng, axes: Axes, ventricles: tuple[float, float]) -> list[Array]:
    """Individual shape: smooth displacement and wider or narrower lateral ventricles."""
    shift: list[Array] = [field_3d(rng, axes, 55, 2.4) + field_3d(rng, axes, 22, 1.1) for _ in range(3)]
    growth = rng.uniform(*ventricles)
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    for side in (-11.0, 11.0):
        away = (x - side, y + 2, z - 16)
        pull = np.exp(-((away[0] / 12) ** 2 + (away[1] / 34) ** 2 + (away[2] / 16) ** 2)) * growth * 0.11
        for axis in range(3):
            shift[axis] = shift[axis] - pull * away[axis]
    return shift


def _sample(axes: Axes, shift: list[Array], matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> list[Array]:
    """Grey, white and brain maps at the displaced coordinates."""
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    moved = [(grid[axis] + shift[axis]).astype(np.float32) for axis in range(3)]
    voxel = np.stack(
        [sum(np.float32(matrix[i, j]) * moved[j] for j in range(3)) + np.float32(offset[i]) for i in range(3)]
    )
    return [ndimage.map_coordinates(one, voxel, order=1, mode="constant", prefilter=False) for one in tissue_maps()]


def _segment(rng: Rng, axes: Axes, maps: list[Array], atrophy: float) -> tuple[Array, Array, Array]:
    """Individual folding: noise on log tissue maps, then a sharp softmax."""
    grey, white, brain = maps
    fluid = np.clip(brain - grey - white, 0, 1)
    logits = np.stack(
        [
            np.log(grey + 0.02) + field_3d(rng, axes, 7, 0.55) * (1 - np.abs(2 * grey - 1) * 0.4),
            np.log(white + 0.02) + field_3d(rng, axes, 9, 0.35),
            np.log(fluid + 0.02) + field_3d(rng, axes, 6, 0.75) + np.float32(atrophy * 0.9 - 0.15),
        ]
    )
    weights = np.exp(2.2 * (logits - logits.max(0)))
    weights /= weights.sum(0)
    return weights[0], weights[1], weights[2]


def _white_spots(rng: Rng, axes: Axes, spacing: Array, white: Array, fluid: Array, amount: float) -> Array:
    """Age-related white-matter hyperintensities: periventricular caps and points, unlabelled as in real data."""
    load = rng.gamma(1.2, 0.5) * amount
    points = np.clip(field_3d(rng, axes, 5, 1.0) - (3.1 - 0.35 * min(load, 2)), 0, 1) * white * 2
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    central = (fluid > 0.5) & (np.abs(x) < 35) & (np.abs(y) < 55) & (z > -10) & (z < 32)
    away = ndimage.distance_transform_edt(~central, sampling=spacing)
    caps = np.exp(-((away / (1.5 + 2.0 * load)) ** 2)) * white
    spots = np.clip(0.75 * min(load, 1.3) * caps + points, 0, 1) * min(amount * 10, 1)
    return np.asarray(spots)


def anatomy(rng: Rng, axes: Axes, domain: Domain, lesion: Lesion | None = None) -> Tissue:
    """Return the subject that `rng` describes, sampled at `axes`; with a lesion the same subject, displaced."""
    spacing = np.array([axis[1] - axis[0] for axis in axes])
    matrix, offset = _pose(rng)
    shift = _warp(rng, axes, domain.ventricles)
    atrophy = rng.uniform(*domain.atrophy)
    folding, state = np.random.default_rng(rng.integers(2**63)), rng.integers(2**63)
    maps = _sample(axes, shift, matrix, offset)
    rest = np.random.default_rng(state)
    stripping = field_3d(rest, axes, 25, domain.stripping)
    texture = (field_3d(rest, axes, 10, 0.018), field_3d(rest, axes, 10, 0.018))
    again = np.random.default_rng(folding.integers(2**63))
    frozen = again.bit_generator.state
    grey, white, fluid = _segment(again, axes, maps, atrophy)
    spots = _white_spots(rest, axes, spacing, white, fluid, domain.hyperintensities)
    labels = np.zeros(grey.shape, np.uint8)
    if lesion is not None and lesion.push is not None:
        maps = _sample(axes, [s - p for s, p in zip(shift, lesion.push, strict=True)], matrix, offset)
        again.bit_generator.state = frozen
        grey, white, fluid = _segment(again, axes, maps, atrophy)
    brain = ndimage.gaussian_filter(maps[2], 1.2 / spacing) > 0.5 + 0.25 * stripping
    tissue = Tissue(axes, spacing, grey, white, fluid, brain, spots, texture, labels)
    if lesion is not None:
        tissue.labels = np.where(brain, _label(lesion, tissue), 0).astype(np.uint8)
    return tissue


def _centre(rng: Rng, kind: LesionKind) -> NDArray[np.float64]:
    """Draw a lesion's centre in mm, mostly in white matter, for strokes also in the cortex."""
    maps = tissue_maps()
    place = np.zeros(3)
    for _ in range(200):
        place = rng.uniform([-58, -78, -30], [58, 62, 52])
        voxel = np.rint(place / 0.93 + CENTRE).astype(int)
        if rng.random() < maps[1][tuple(voxel)] * 0.9 + maps[0][tuple(voxel)] * (0.6 if kind == "stroke" else 0.25):
            break
    return place


def grow_lesion(rng: Rng, axes: Axes, kind: LesionKind) -> Lesion:
    """Draw a glioma with mass effect, or a subacute stroke (cortical wedge or lacune)."""
    place = _centre(rng, kind)
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    away = [grid[axis] - np.float32(place[axis]) for axis in range(3)]
    stretch = np.exp(rng.normal(0, 0.18, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    radius = np.sqrt(sum((away[axis] / stretch[axis]) ** 2 for axis in range(3)))
    wobble = np.clip(field_3d(rng, axes, 16, 0.6) + field_3d(rng, axes, 8, 0.4), -2, 2)
    if kind == "stroke":
        return _stroke(rng, place, away, radius, wobble)
    size = np.exp(rng.uniform(np.log(9), np.log(24)))
    oedema = size * (rng.uniform(1.15, 1.9) if kind == "hgg" else rng.uniform(1.0, 1.35))
    necrosis = size * 0.5 * rng.uniform(0.5, 1.1) * (kind == "hgg")
    amount, reach = rng.uniform(0.10, 0.38) * size, 2.6 * size
    # compact support: far tissue stays exactly where it was
    force = amount * np.clip(1 - (radius / reach) ** 2, 0, 1) ** 2 * np.minimum(radius / (0.5 * size), 1)
    unit = force / np.maximum(radius, 1e-3)
    push = (unit * away[0], unit * away[1], unit * away[2])
    solid = bool(kind == "lgg" and rng.random() < 0.8)
    core = radius + wobble * size * 0.22
    return Lesion(kind, radius, core, wobble, size, oedema, necrosis, solid, rng.uniform(0.55, 1.1), push)


def _stroke(rng: Rng, place: NDArray[np.float64], away: list[Array], radius: Array, wobble: Array) -> Lesion:
    lacune = rng.random() < 0.3
    small, large = np.exp(rng.uniform(np.log(4), np.log(9))), np.exp(rng.uniform(np.log(11), np.log(38)))
    size = small if lacune else large
    core = radius + wobble * size * 0.3
    if not lacune:
        axis = place - [np.sign(place[0]) * 8.0, 0.0, 10.0]
        axis /= np.linalg.norm(axis) + 1e-6
        along = sum(away[i] * np.float32(axis[i]) for i in range(3))
        aside = np.sqrt(np.maximum(radius**2 - along**2, 0)) + wobble * size * 0.25
        width = np.clip(0.55 * size + 0.35 * along, 1, None)
        core = size * np.maximum(aside / width, np.abs(along) / (size * (1 + 0.2 * wobble)))
    return Lesion("stroke", radius, core, wobble, size, 0.0, 0.0, False, rng.uniform(0.4, 1.15), None)


def _label(lesion: Lesion, tissue: Tissue) -> NDArray[np.uint8]:
    """BraTS labels (1 necrosis or solid core, 2 oedema, 4 enhancing); 1 for a stroke."""
    if lesion.kind == "stroke":
        return ((lesion.core < lesion.size) & (tissue.fluid < 0.55)).astype(np.uint8)
    labels = np.zeros(tissue.grey.shape, np.uint8)
    reach = lesion.oedema * (0.45 + 0.75 * np.clip(tissue.white, 0, 1) + 0.12 * tissue.grey)
    labels[(lesion.distance + lesion.wobble * lesion.oedema * 0.30 < reach) & (tissue.fluid < 0.6)] = 2
    labels[lesion.core < lesion.size * 0.78] = 1 if lesion.solid else 4
    labels[lesion.core < lesion.necrosis] = 1
    return labels


#: Change of signal in core or necrosis (1), oedema (2), enhancing rim (4), from `benchmarks/phantom_difficulty.py`.
TUMOUR = {
    "t1": {1: -0.24, 2: -0.08, 4: -0.11},
    "t1ce": {1: -0.40, 2: -0.14, 4: 0.42},
    "t2": {1: 0.29, 2: 0.20, 4: 0.14},
    "flair": {1: 0.05, 2: 0.22, 4: 0.18},
}
STROKE = {"t1": -0.13, "t2": 0.17, "flair": 0.26, "dwi": 0.55, "adc": -0.18}
SPOTS = {"t1": -0.10, "t1ce": -0.10, "t2": 0.22, "flair": 0.45, "dwi": 0.05, "adc": 0.12, "pd": 0.1}


def _paint(
    rng: Rng, signal: Array, tissue: Tissue, lesion: Lesion, sequence: str, means: NDArray[np.float64], contrast: float
) -> Array:
    """Lay the lesion's signal over the healthy one."""
    texture = field_3d(rng, tissue.axes, 6, 1.0)
    if lesion.kind == "stroke":
        weight = ndimage.gaussian_filter((tissue.labels == 1).astype(np.float32), 1.2 / tissue.spacing)
        stroke: Array = signal + weight * STROKE[sequence] * lesion.strength * contrast * (1 + 0.25 * texture)
        return stroke
    for label in (2, 4, 1):
        mask = tissue.labels == label
        if mask.any():
            weight = ndimage.gaussian_filter(mask.astype(np.float32), (1.6 if label == 2 else 0.8) / tissue.spacing)
            change = 0.22 if (sequence, label, lesion.solid) == ("flair", 1, True) else TUMOUR[sequence][label]
            base = means[1] * 0.9 + 0.1 * means[0] if label == 2 else means[1]
            target = (base + change * lesion.strength * contrast) * (1 + 0.10 * texture)
            cover = 0.85 * min(contrast, 1.0) * weight
            signal = signal * (1 - cover) + cover * target
    return signal


def _skull(rng: Rng, tissue: Tissue, sequence: str) -> Array:
    """Signal around the brain for scans that are not stripped: fluid, dark bone, bright scalp."""
    away = ndimage.distance_transform_edt(~tissue.brain, sampling=tissue.spacing)
    bone, scalp = rng.uniform(5, 8), rng.uniform(5, 9)
    fluid, fat = CONTRAST[sequence][2], 0.9 if sequence != "flair" else 0.6
    out = np.where(away <= 3, fluid, np.where(away <= 3 + bone, 0.06, np.where(away <= 3 + bone + scalp, fat, 0.0)))
    return np.asarray(np.where(tissue.axes[2][None, None] > -62, out, 0.0))


def scan(
    rng: Rng,
    tissue: Tissue,
    domain: Domain,
    sequences: tuple[str, ...],
    lesion: Lesion | None = None,
    paint: Rng | None = None,
    contrast: float = 1.0,
    skull: bool = False,
) -> dict[str, Array]:
    """Acquire `sequences`; returns float volumes, brain about 700 times a subject's gain, background 0.

    Args:
        rng: acquisition stream; replayed for the healthy twin it gives the same noise and bias field.
        paint: lesion stream, needed with a lesion.
    """
    out = {}
    for sequence in sequences:
        means = np.array(CONTRAST[sequence]) * np.exp(rng.normal(0, domain.jitter, 3))
        signal = means[0] * tissue.white * (1 + tissue.texture[0]) + means[1] * tissue.grey * (1 + tissue.texture[1])
        signal = signal + means[2] * tissue.fluid + tissue.spots * SPOTS[sequence]
        if lesion is not None and paint is not None:
            signal = _paint(paint, signal, tissue, lesion, sequence, means, contrast)
        if skull:
            signal = np.where(tissue.brain, signal, _skull(rng, tissue, sequence))
        signal = ndimage.gaussian_filter(
            signal.astype(np.float32), np.array(domain.blur) / tissue.spacing, truncate=2.5
        )
        signal = signal * np.exp(field_3d(rng, tissue.axes, 75, domain.bias))
        level = domain.noise * rng.uniform(0.7, 1.4)
        real, imaginary = (level * rng.standard_normal(signal.shape, dtype=np.float32) for _ in range(2))
        gain = np.exp(rng.normal(np.log(700), domain.gain))
        magnitude = np.hypot(signal + real, imaginary) * gain
        out[sequence] = magnitude if skull else np.where(tissue.brain, np.maximum(magnitude, 1), 0)
    return out
