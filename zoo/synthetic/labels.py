"""Labels: how anomalous a changed pixel is, in [0, 1]."""

import math
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
        own, changed = label[island], mask[island]
        change = mean_change(altered[(slice(None), *island)], original[(slice(None), *island)])
        change = np.where(changed, change, 0)
        values = -np.expm1(change * change * (-1 / (2 * sigma**2)))
        if not np.isfinite(values).all():
            raise ValueError("the altered image is not finite inside the mask")
        own[...] = values
        for box in _component_boxes(changed):  # in order: boxes may overlap, later ones see earlier results
            if own[box].size > 1:
                own[box] = fill_holes(close(own[box]))


def mean_change(altered: Array, original: Array) -> Array:
    """Mean over the channels of the absolute change of ``(C, *S)``."""
    change = np.abs(altered - original)
    return change[0] if len(change) == 1 else np.asarray(change.mean(0))


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


def _component_boxes(mask: Array) -> list[Any]:
    """Boxes of the components of a mask that touches every side of its array (cross connectivity), by first pixel."""
    if mask.ndim == 2:
        starts = np.count_nonzero(mask[:, 1:] & ~mask[:, :-1], 1) + mask[:, 0]
        if (starts == 1).all() and (mask[1:] & mask[:-1]).any(1).all():  # a run in each row, joined to the next one
            return [(slice(None), slice(None))]
    components, count = ndimage.label(mask)
    return [(slice(None),) * mask.ndim] if count == 1 else ndimage.find_objects(components)


def close(values: Array) -> Array:
    """Grey closing with the neighbourhood of connectivity 2: a square, or in 3-D three crossing squares."""
    closed: Array = neighbourhood(neighbourhood(values, values.ndim, np.maximum), values.ndim, np.minimum)
    return closed


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

    A pixel gets the lowest level at which it is connected to the border. Where nothing on a straight line to the border
    is higher, that is its own value; and so it is beside such a pixel that is not higher. From the others one descends:
    who arrives at a settled pixel keeps its value, who ends in a minimum gets that basin's level, found by passing
    levels between neighbouring basins.

    Args:
        values: ``(*b)``.

    Returns:
        array: new ``(*b)``, never lower than the input.
    """
    level = np.ascontiguousarray(values).copy()
    settled = np.where(_level_along_lines(values) > values, np.asarray(np.inf, values.dtype), values)
    falling = np.flatnonzero(neighbourhood(settled, values.ndim, np.minimum) > values)
    if len(falling):
        flat = level.reshape(-1)
        flat[falling] = _basin_levels(flat, falling, falling + _offsets(values.shape)[:, None])
    return level


def _level_along_lines(values: Array) -> Array:
    """Lowest of the largest values towards the border along the axes, in 3-D along the first two."""
    levels = []
    for axis in (0, 1):
        ahead = behind = np.ascontiguousarray(values.swapaxes(0, axis))
        step = 1
        while step < len(ahead):
            ahead, behind, before, after = np.empty_like(ahead), np.empty_like(behind), ahead, behind
            ahead[:step], behind[-step:] = before[:step], after[-step:]
            np.maximum(before[step:], before[:-step], out=ahead[step:])
            np.maximum(after[step:], after[:-step], out=behind[:-step])
            step *= 2
        levels.append(np.minimum(ahead, behind).swapaxes(0, axis))
    level: Array = np.minimum(*levels)
    if values.ndim > 2:
        level[..., [0, -1]] = values[..., [0, -1]]
    return level


def _basin_levels(lowest: Array, falling: Array, around: Array) -> Array:
    """Levels ``(n,)`` of the pixels without a settled neighbour that is as low as they are.

    Args:
        lowest: values of all pixels.
        falling: ``(n,)`` where these pixels are.
        around: ``(k, n)`` where their neighbours are.
    """
    count = len(falling)
    numbers = np.arange(count)
    place = np.full(len(lowest), count)  # the last number is whatever is settled
    place[falling] = numbers
    near, beside, own = lowest.take(around), place.take(around), lowest.take(falling)
    steepest = (near == near.min(0)).argmax(0)  # the first of the lowest, sooner than argmin
    target, value = beside[steepest, numbers], near[steepest, numbers]
    down = (value < own) | ((value == own) & ((target < numbers) | (target == count)))
    bottom = np.append(np.where(down, target, numbers), count)
    while True:
        further = bottom.take(bottom)
        if (further == bottom).all():
            break
        bottom = further
    basin, there = bottom[:-1], bottom.take(beside)
    across = np.flatnonzero((basin != there) & (basin < count))
    here, there = basin.take(across % count), there.reshape(-1).take(across)
    height = np.maximum(near, own).reshape(-1).take(across)
    bottoms = np.append(np.flatnonzero(basin == numbers), count)
    place = np.empty(count + 1, int)  # of a basin among the basins; the last one is whatever is settled
    place[bottoms] = np.arange(len(bottoms))
    levels = _spill(place.take(here), place.take(there), height, len(bottoms))
    return np.maximum(own, levels.take(place.take(basin)))


def _spill(here: Array, there: Array, height: Array, basins: int) -> Array:
    """Levels of basins of which neighbours are parted by a height, and of which the last has the lowest level."""
    if basins**2 < 16 * len(here):  # one height for each pair
        heights = np.full(basins**2, np.inf, height.dtype)
        np.minimum.at(heights, here * basins + there, height)
        pairs = np.flatnonzero(heights < np.inf)
        here, there, height = pairs // basins, pairs % basins, heights.take(pairs)
    levels = np.full(basins, np.inf, height.dtype)
    levels[-1] = -np.inf
    while True:
        lowered = levels.copy()
        np.minimum.at(lowered, here, np.maximum(height, levels.take(there)))
        if (lowered == levels).all():
            return levels
        levels = lowered


@lru_cache(maxsize=2048)
def _offsets(size: tuple[int, ...]) -> Array:
    """Steps in memory to the neighbours of a pixel."""
    near = np.argwhere(ndimage.generate_binary_structure(len(size), 2)) - 1
    return near[np.abs(near).any(1)] @ [math.prod(size[axis + 1 :]) for axis in range(len(size))]


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
