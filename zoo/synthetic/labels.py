"""Labels: how anomalous a changed pixel is, in [0, 1]."""

from collections.abc import Iterator
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import torch
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
        from zoo.synthetic.batched_labels import label_batch

        if batched:
            return label_batch(altered, original, mask, sigma)
        return label_batch(altered[None], original[None], mask[None, None], sigma)[0, 0]
    if batched:
        labels = np.zeros(mask.shape, altered.dtype)
        for one in zip(labels[:, 0], altered, original, mask[:, 0], strict=True):
            _write_label(*one, sigma)
        return labels
    label = np.zeros(mask.shape, altered.dtype)
    _write_label(label, altered, original, mask, sigma)
    return label


def _write_label(label: Array, altered: Array, original: Array, mask: Array, sigma: float) -> None:
    for island in islands(mask):
        components, _ = ndimage.label(mask[island])
        own, changed = label[island], mask[island]
        change = np.abs(altered[(slice(None), *island)] - original[(slice(None), *island)])[:, changed]
        change = change[0] if len(change) == 1 else change.mean(0)
        values = -np.expm1(change * change * (-1 / (2 * sigma**2)))
        if not np.isfinite(values).all():
            raise ValueError("the altered image is not finite inside the mask")
        own[changed] = values
        for box in ndimage.find_objects(components):  # in order: boxes may overlap, later ones see earlier results
            if max(part.stop - part.start for part in box) > 1:
                own[box] = fill_holes(close(own[box]))


def islands(mask: Array) -> Iterator[tuple[slice, ...]]:
    """Boxes that hold all of the mask and are separated by empty lines or planes.

    Looking for components in them costs little where the mask is a small part of a volume.

    Args:
        mask: ``(*S)`` bool.
    """
    dims = mask.ndim
    others = [tuple(other for other in range(dims) if other != axis) for axis in range(dims)]
    waiting = [(tuple(slice(0, n) for n in mask.shape), 0, 0)]
    while waiting:
        box, axis, settled = waiting.pop()
        held = np.flatnonzero(mask[box].any(others[axis]))
        if not len(held):
            continue
        length, start = box[axis].stop - box[axis].start, box[axis].start
        if len(held) == length and settled >= dims - 1:
            yield box
            continue
        breaks = (np.diff(held) > 1).nonzero()[0] if held[-1] - held[0] >= len(held) else ()
        settled = settled + 1 if len(held) == length else 1
        for run in reversed(np.split(held, np.add(breaks, 1)) if len(breaks) else [held]):
            cut = slice(start + int(run[0]), start + int(run[-1]) + 1)
            waiting.append(((*box[:axis], cut, *box[axis + 1 :]), (axis + 1) % dims, settled))


def close(values: Array) -> Array:
    """Grey closing with the neighbourhood of connectivity 2: a square, or in 3-D three crossing squares."""
    return neighbourhood(neighbourhood(values, values.ndim, np.maximum), values.ndim, np.minimum)


def neighbourhood(values: Any, dims: int, larger: Any) -> Any:
    """Largest (or smallest) value of each pixel's neighbourhood of connectivity 2; outside the array nothing counts.

    Args:
        values: ``(..., *S)``; numpy or torch.
        dims: number of spatial axes.
        larger: ``maximum`` or ``minimum`` of the same library.
    """
    first = _along(values, -dims, larger)
    if dims == 1:
        return first
    square = _along(first, 1 - dims, larger)
    if dims == 2:
        return square
    larger(square, _along(first, -1, larger), out=square)
    return larger(square, _along(_along(values, -2, larger), -1, larger), out=square)


def _along(values: Any, axis: int, larger: Any) -> Any:
    behind = [slice(None)] * (-axis - 1)
    after: Any
    before: Any
    after, before = (..., slice(1, None), *behind), (..., slice(None, -1), *behind)
    result: Any = values.copy() if isinstance(values, np.ndarray) else values.clone()
    larger(result[after], values[before], out=result[after])
    larger(result[before], values[after], out=result[before])
    return result


def fill_holes(values: Array) -> Array:
    """Raise grey-scale holes that do not touch the border, with the neighbourhood of connectivity 2.

    A pixel gets the lowest level at which it is connected to the border. Straight lines to the border bound that level
    from above and meet it for most pixels. From the others one descends: who arrives at a settled pixel keeps its
    value, who ends in a minimum gets that basin's level, found by passing levels between neighbouring basins.

    Args:
        values: ``(*b)``.

    Returns:
        array: new ``(*b)``, never lower than the input.
    """
    level = _level_along_lines(values)
    flat, lowest = level.reshape(-1), np.ascontiguousarray(values).reshape(-1)
    open_ = np.flatnonzero(flat > lowest)
    if not len(open_):
        return level
    strides = np.array([int(np.prod(values.shape[axis + 1 :])) for axis in range(values.ndim)])
    around = open_ + (_neighbours(values.ndim) @ strides)[:, None]
    place = np.full(len(flat), -1)  # among the open pixels; -1 for settled ones
    place[open_] = np.arange(len(open_))
    near, beside, own = lowest.take(around), place.take(around), lowest[open_]
    flat[open_] = own
    falling = np.flatnonzero(~((near <= own) & (beside < 0)).any(0))
    if len(falling):
        near, beside, own = near[:, falling], beside[:, falling], own[falling]
        flat[open_[falling]] = np.maximum(own, _basin_levels(falling, near, beside, own, len(open_)))
    return level


def _basin_levels(falling: Array, near: Array, beside: Array, own: Array, count: int) -> Array:
    """Level of the basin of each falling pixel, -inf where descent ends at a settled pixel.

    Args:
        falling: ``(n,)`` numbers of pixels without a settled neighbour as low as they are.
        near: ``(k, n)`` values of their neighbours.
        beside: ``(k, n)`` numbers of these, -1 for settled ones.
        own: ``(n,)`` values.
        count: how many numbers there are.
    """
    steepest, column = near.argmin(0), np.arange(len(falling))
    target, value = beside[steepest, column], near[steepest, column]
    bottom = np.full(count + 1, count)  # the last number is whatever is settled
    bottom[falling] = np.where((value < own) | ((value == own) & (target < falling)), target, falling)
    while True:
        further = bottom.take(bottom)
        if np.array_equal(further, bottom):
            break
        bottom = further
    here, there = np.broadcast_to(bottom[falling], near.shape), bottom.take(beside)
    across = np.flatnonzero((here != there) & (here < count))
    height = np.maximum(near, own).take(across)
    here, there = here.ravel().take(across), there.take(across)
    levels = np.full(count + 1, np.inf, own.dtype)
    levels[-1] = -np.inf
    while True:
        lowered = levels.copy()
        np.minimum.at(lowered, here, np.maximum(height, levels.take(there)))
        if np.array_equal(lowered, levels):
            return levels[bottom[falling]]
        levels = lowered


def _level_along_lines(values: Array) -> Array:
    """Lowest of the largest values towards the border along the axes, in 3-D along the first two."""
    if values.ndim < 3:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        lines = [tensor.cummax(axis).values for axis in range(values.ndim)]
        lines += [tensor.flip(axis).cummax(axis).values.flip(axis) for axis in range(values.ndim)]
        return np.asarray(reduce(torch.minimum, lines).numpy())
    level = np.full_like(values, np.inf)
    for axis in (0, 1):
        planes, lowered = values.swapaxes(0, axis), level.swapaxes(0, axis)
        for step in (1, -1):
            reached = planes[::step][0].copy()
            for plane, low in zip(planes[::step], lowered[::step], strict=True):
                np.maximum(reached, plane, out=reached)
                np.minimum(low, reached, out=low)
    level[..., [0, -1]] = values[..., [0, -1]]
    return level


@lru_cache(maxsize=4)
def _neighbours(dims: int) -> Array:
    near = np.argwhere(ndimage.generate_binary_structure(dims, 2)) - 1
    return near[np.abs(near).any(1)]


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
