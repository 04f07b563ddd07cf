"""The multi-task paper's sampling written plainly, as the reference that the library's speed is compared with.

Each step is the standard routine, applied to what the published description applies it to: shapes are tested on a grid
of coordinates, source patches and deformations resample the whole box, blends come from ``pie-torch``, and differences,
components and the Gaussian of the label are computed on the whole image. The draws are those of the library, so that
both sides make the same samples.
"""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zoo.synthetic.deformation import push_factor
from zoo.synthetic.patches import draw_patch
from zoo.synthetic.shapes import Shape, box_of, exit_distance, place, rotation

Array = NDArray[Any]


def plain_sample(image: Array, name: str, rng: np.random.Generator, sources: Array) -> tuple[Array, Array, Array]:
    """One altered image with mask and label.

    Args:
        image: ``(C, *S)``.
        name: ``intra blend``, ``inter blend``, ``sink``, ``source`` or ``intensity``.
        rng: source of randomness.
        sources: ``(N, C, *S)``.

    Returns:
        tuple: ``(C, *S)``, ``(*S)`` bool and ``(*S)``.
    """
    altered, union = image.copy(), np.zeros(image.shape[1:], bool)
    for _ in range(4):
        shape = _shape(rng, image.shape[1:])
        corner = place(rng, shape.mask, image.shape[1:], None)
        assert corner is not None
        box = box_of(corner, shape.mask.shape)
        if name.endswith("blend"):
            altered, mask = _blend(altered, shape, corner, rng, sources)
        elif name == "intensity":
            altered, mask = _intensity(altered, shape, corner, rng)
        else:
            altered, mask = _deform(altered, shape, corner, rng, name)
        union[box] |= mask
        if rng.random() > 0.5:
            break
    return altered, union, plain_label(altered, image, union)


def _shape(rng: np.random.Generator, size: tuple[int, ...]) -> Shape:
    dims, n = len(size), np.asarray(size)
    low, high = np.rint(0.06 * n), np.rint(0.8 * n)
    kind: Any = "ellipse" if rng.random() < 0.5 else "rect"
    sides = np.clip((0.03 + rng.gamma(2, 0.1, dims)) * n, low, high).astype(int)
    matrix = np.eye(dims)
    for row in range(dims):
        matrix[row, rng.choice([c for c in range(dims) if c != row])] = 1
    matrix[matrix.astype(bool) & ~np.eye(dims, dtype=bool)] = rng.normal(0, 0.2, dims)
    matrix = rotation(list(rng.uniform(-np.pi / 2, np.pi / 2, dims * (dims - 1) // 2)), dims) @ matrix
    box = _box(matrix, sides)
    if (box > high).any():
        matrix = matrix / (box / high).max()
        box = _box(matrix, sides)
    grid = np.stack(np.meshgrid(*[np.arange(b) - (b - 1) / 2 for b in box], indexing="ij"))
    local = np.tensordot(np.linalg.inv(matrix), grid, 1) / (sides / 2).reshape(-1, *[1] * dims)
    mask = (np.abs(local) <= 1).all(0) if kind == "rect" else (local**2).sum(0) <= 1
    return Shape(kind, sides, matrix, mask)


def _box(matrix: Array, sides: Array) -> Array:
    corners = np.array(list(itertools.product(*[(-(s - 1) / 2, (s - 1) / 2) for s in sides]))) @ matrix.T
    box: Array = (np.ceil(corners.max(0)) - np.floor(corners.min(0)) + 1).astype(int)
    return box


def _bounds(image: Array) -> tuple[Array, Array]:
    axes = tuple(range(1, image.ndim))
    return image.min(axes, keepdims=True), image.max(axes, keepdims=True)


def _blend(image: Array, shape: Shape, corner: Array, rng: np.random.Generator, sources: Array) -> tuple[Array, Array]:
    from pietorch import blend_dst_numpy

    box = box_of(corner, shape.mask.shape)
    drawn = draw_patch(rng, len(sources), image.shape[1:], shape.mask.shape)
    cut = box_of(drawn.corner, drawn.region.size)
    patch = np.stack(
        [
            np.clip(
                ndimage.affine_transform(channel[cut], drawn.region.matrix, -drawn.region.low, shape.mask.shape),
                channel.min(),
                channel.max(),
            )
            for channel in sources[drawn.source]
        ]
    )
    mask = shape.mask.copy()
    changed = np.clip(blend_dst_numpy(image, patch, mask, corner, True, channels_dim=0), *_bounds(image))
    return changed, mask | (np.abs(changed - image).mean(0)[box] > 0.001)


def _deform(image: Array, shape: Shape, corner: Array, rng: np.random.Generator, name: str) -> tuple[Array, Array]:
    inside = np.argwhere(shape.mask)
    centre = inside[rng.integers(len(inside))]
    edge = np.argwhere(shape.mask & ~ndimage.binary_erosion(shape.mask))
    distance = float(np.sqrt(((edge - centre) ** 2).sum(1)).mean())
    low, high = 0.1 * distance / np.sqrt(2), 0.9 * distance / np.sqrt(2)
    factor = push_factor(float(rng.uniform(np.clip(0.5, low, high), np.clip(10.0, low, high))), distance)
    mapping = _mapping(shape, centre, factor, name)
    changed, box = image.copy(), (slice(None), *box_of(corner, shape.mask.shape))
    changed[box] = [ndimage.map_coordinates(channel, mapping, order=3, mode="nearest") for channel in image[box]]
    return changed, shape.mask


def _mapping(shape: Shape, centre: Array, factor: float, name: str) -> Array:
    mask = shape.mask
    mapping = np.stack(np.meshgrid(*[np.arange(b) for b in mask.shape], indexing="ij")).astype(np.float64)
    moved = np.zeros_like(mask)
    moved[(slice(1, -1),) * mask.ndim] = mask[(slice(1, -1),) * mask.ndim]
    moved[tuple(centre)] = False
    offset = mapping[:, moved].T - centre
    radius = np.sqrt((offset**2).sum(1))
    direction = offset / radius[:, None]
    reach = exit_distance(shape, centre - (np.array(mask.shape) - 1) / 2, direction)
    radius = np.minimum(radius, reach)
    new = reach - (reach - radius) ** factor / reach ** (factor - 1)
    new = new if name == "sink" else radius**factor / reach ** (factor - 1)
    mapping[:, moved] = (centre + new[:, None] * direction).T
    return mapping


def _intensity(image: Array, shape: Shape, corner: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    ramp = min(image.shape[1:]) * (0.02 + rng.gamma(3, 0.01))
    amount = (0.1 + rng.gamma(3, 0.2)) * rng.choice([-1.0, 1.0], (len(image), *[1] * shape.mask.ndim))
    depth = ndimage.distance_transform_edt(shape.mask)
    weight = np.minimum(depth / min(ramp, float(depth.max())), 1.0)
    changed, box = image.copy(), (slice(None), *box_of(corner, shape.mask.shape))
    changed[box] = np.clip(image[box] + weight * amount, *_bounds(image))
    return changed, shape.mask


def plain_label(altered: Array, original: Array, mask: Array, sigma: float = 0.2) -> Array:
    """The label of ``zoo.synthetic.anomaly_label`` by whole images and scikit-image's reconstruction.

    Args:
        altered: ``(C, *S)``.
        original: ``(C, *S)``.
        mask: ``(*S)`` bool.
        sigma: change that gives 0.39.
    """
    from skimage.morphology import reconstruction

    change = np.mean(mask * np.abs(altered - original), 0)
    label = 1 - np.exp(-(change**2) / (2 * sigma**2))
    footprint = ndimage.generate_binary_structure(mask.ndim, 2)
    components, _ = ndimage.label(mask)
    for box in ndimage.find_objects(components):
        closed = ndimage.grey_closing(label[box], footprint=footprint)
        seed = closed.copy()
        seed[tuple([slice(1, -1)] * mask.ndim)] = closed.max()
        label[box] = reconstruction(seed, closed, method="erosion", footprint=footprint)
    return np.asarray(label)
