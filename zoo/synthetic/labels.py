"""Labels: how anomalous a changed pixel is, in [0, 1]."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]


def anomaly_label(altered: Any, original: Any, mask: Any, sigma: float = 0.2) -> Any:
    """Flipped Gaussian of the change, closed and with holes filled (Baugh et al., section 2.3).

    ``1 - exp(-d² / (2 sigma²))`` with ``d`` the mean absolute change over channels, then per connected component of the
    mask a grey closing and a grey-scale hole filling, both inside the component's bounding box only.

    Args:
        altered: ``(C, *S)`` or ``(B, C, *S)``, floating; numpy, or torch on any device.
        original: the same.
        mask: bool ``(*S)``, for a batch ``(B, 1, *S)``.
        sigma: change that gives 0.39.

    Returns:
        ``(*S)``, for a batch ``(B, 1, *S)``, in [0, 1), of the images' type and device; 0 away from the mask.

    Raises:
        ValueError: shapes that differ, or values that are not finite.
    """
    batched = mask.ndim == altered.ndim
    expected = (altered.shape[0], 1, *altered.shape[2:]) if batched else altered.shape[1:]
    if altered.shape != original.shape or tuple(mask.shape) != tuple(expected):
        raise ValueError(
            f"shapes differ: altered {tuple(altered.shape)}, original {tuple(original.shape)}, "
            f"mask {tuple(mask.shape)}, which must be (*S), or (B, 1, *S) for images (B, C, *S)"
        )
    if not isinstance(altered, np.ndarray):
        from zoo.synthetic.batched import label_batch

        if batched:
            return label_batch(altered, original, mask, sigma)
        return label_batch(altered[None], original[None], mask[None, None], sigma)[0, 0]
    if batched:
        one_by_one = zip(altered, original, mask[:, 0], strict=True)
        return np.stack([_label(*one, sigma)[None] for one in one_by_one])
    return _label(altered, original, mask, sigma)


def _label(altered: Array, original: Array, mask: Array, sigma: float) -> Array:
    label = np.zeros(mask.shape, altered.dtype)
    for island in islands(mask):
        components, _ = ndimage.label(mask[island])
        own = label[island]
        changed = mask[island]
        change = altered[(slice(None), *island)][:, changed] - original[(slice(None), *island)][:, changed]
        values = -np.expm1(-(np.abs(change).mean(0) ** 2) / (2 * sigma**2))
        if not np.isfinite(values).all():
            raise ValueError("the altered image is not finite inside the mask")
        own[changed] = values
        for box in ndimage.find_objects(components):  # in order: boxes may overlap, later ones see earlier results
            if max(part.stop - part.start for part in box) > 1:
                own[box] = fill_holes(close(own[box]))
    return label


def islands(mask: Array) -> Iterator[tuple[slice, ...]]:
    """Boxes that hold all of the mask and are separated by empty lines or planes.

    Looking for components in them costs little where the mask is a small part of a volume.

    Args:
        mask: ``(*S)`` bool.
    """
    waiting = [(tuple(slice(0, n) for n in mask.shape), 0, 0)]
    while waiting:
        box, axis, settled = waiting.pop()
        part = mask[box]
        held = np.flatnonzero(part.any(tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(held):
            continue
        breaks = np.flatnonzero(np.diff(held) > 1)
        starts, ends = held[np.r_[0, breaks + 1]], held[np.r_[breaks, -1]] + 1
        whole = len(starts) == 1 and ends[0] - starts[0] == part.shape[axis]
        settled = settled + 1 if whole else 1
        for start, end in zip(starts[::-1], ends[::-1], strict=True):
            offset = box[axis].start
            cut = (*box[:axis], slice(offset + int(start), offset + int(end)), *box[axis + 1 :])
            if settled >= mask.ndim:
                yield cut
            else:
                waiting.append((cut, (axis + 1) % mask.ndim, settled))


def close(values: Array) -> Array:
    """Grey closing with the neighbourhood of connectivity 2: a square, or in 3-D three crossing squares."""
    return _extreme(_extreme(values, np.maximum), np.minimum)


def _extreme(values: Array, larger: Any) -> Array:
    """Largest (or smallest) value of the neighbourhood; pixels outside do not count."""
    lines = [_along(values, axis, larger) for axis in range(min(values.ndim, 2))]
    if values.ndim == 1:
        return lines[0]
    square = _along(lines[0], 1, larger)
    if values.ndim == 2:
        return square
    larger(square, _along(lines[0], 2, larger), out=square)
    return larger(square, _along(lines[1], 2, larger), out=square)


def _along(values: Array, axis: int, larger: Any) -> Array:
    result = values.copy()
    after, before = np.moveaxis(result, axis, 0), np.moveaxis(values, axis, 0)
    larger(after[1:], before[:-1], out=after[1:])
    larger(after[:-1], before[1:], out=after[:-1])
    return result


def fill_holes(values: Array) -> Array:
    """Raise grey-scale holes that do not touch the border, with the neighbourhood of connectivity 2.

    A pixel gets the lowest level at which it is connected to the border. Straight lines to the border bound that level
    from above, and meet it for most pixels; the others are lowered until nothing changes.

    Args:
        values: ``(*b)``.

    Returns:
        array: new ``(*b)``, never lower than the input.
    """
    level = _level_along_lines(values)
    flat, lowest = level.reshape(-1), values.reshape(-1)
    open_ = np.flatnonzero(flat > lowest)
    floor = lowest[open_]
    around = open_ + _steps(values.shape)[:, None]
    while len(open_):
        lowered = np.maximum(floor, flat.take(around).min(0))
        changed = lowered < flat[open_]
        if not changed.any():
            break
        flat[open_] = lowered
        kept = np.flatnonzero(lowered > floor)
        if len(kept) < 0.8 * len(open_):
            open_, floor, around = open_[kept], floor[kept], around[:, kept]
    return level


def _level_along_lines(values: Array) -> Array:
    level = np.maximum.accumulate(values, 0)
    for axis in range(values.ndim):
        for part in (values, np.flip(values, axis)) if axis else (np.flip(values, axis),):
            reached = np.maximum.accumulate(part, axis)
            np.minimum(level, reached if part is values else np.flip(reached, axis), out=level)
    return level


@lru_cache(maxsize=1024)
def _steps(shape: tuple[int, ...]) -> Array:
    """Flat offsets of the neighbours."""
    near = np.argwhere(ndimage.generate_binary_structure(len(shape), 2)) - 1
    near = near[np.abs(near).any(1)]
    return near @ np.array([int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))])


def logistic_label(altered: Any, original: Any, mask: Any, scale: float, shift: float) -> Any:
    """Logistic of the change (NSA, Schlüter et al., ECCV 2022): ``1 / (1 + exp(-scale (d - shift)))`` inside the mask.

    Args:
        altered: ``(C, *S)`` or ``(B, C, *S)``; numpy or torch.
        original: the same.
        mask: bool ``(*S)``, for a batch ``(B, 1, *S)``.
        scale: slope.
        shift: change that gives 0.5.

    Returns:
        ``(*S)`` or ``(B, 1, *S)``; 0 where nothing changed.
    """
    batched = mask.ndim == altered.ndim
    change = abs(altered - original)
    if isinstance(altered, np.ndarray):
        change = change.mean(1, keepdims=True) if batched else change.mean(0)
        return np.where(mask & (change > 0), 1 / (1 + np.exp(-scale * (change - shift))), 0).astype(altered.dtype)
    change = change.mean(1, keepdim=True) if batched else change.mean(0)
    return (scale * (change - shift)).sigmoid() * (mask & (change > 0))
