"""The region in which the multi-task paper (Baugh et al. 2023) compares itself with CRADL."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from zoo.metrics.counting import Array

Layout = Literal["padded", "turned"]  # how CRADL cut the two collections that it was evaluated on
_SIZE = (190, 155)  # of the centre crop, along y and x
_SIDE = 128


def to_original_grid(
    volume: Array,
    layout: Layout,
    *,
    original: Sequence[int],
    box: Sequence[tuple[int, int]],
    full: Sequence[int],
    low: Sequence[int],
) -> Array:
    """Put a map of half resolution back where its brain was cut out; zero elsewhere.

    Args:
        volume: ``(D, H, W)``, the brain in its centre.
        layout: ``padded`` volumes were mirrored along their second axis.
        original: shape of the file's volume.
        box: start and end of the brain in it, along each axis.
        full: shape of the brain before it was padded to even sides and halved.
        low: its shape after.

    Raises:
        ValueError: the shapes contradict each other.
    """
    from skimage.transform import resize

    if any(b - a != n or 2 * m not in (n, n + 1) for (a, b), n, m in zip(box, full, low, strict=True)):
        raise ValueError(f"box {list(box)}, full {list(full)} and low {list(low)} are not of one brain")
    starts = [(whole - part) // 2 for whole, part in zip(volume.shape, low, strict=True)]
    brain = volume[tuple(slice(start, start + part) for start, part in zip(starts, low, strict=True))]
    doubled = resize(brain, tuple(2 * part for part in low), order=3)[tuple(slice(side) for side in full)]
    result = np.zeros(tuple(original), doubled.dtype)
    result[tuple(slice(*side) for side in box)] = doubled[:, ::-1] if layout == "padded" else doubled
    return result


def cradl_region(volume: Array, layout: Layout) -> Array:
    """Cut a map or a mask on the original grid to CRADL's slices.

    Args:
        volume: ``(D, H, W)`` with ``D`` over 20, ``H`` and ``W`` at least 190 and 155; bool for a mask.
        layout: ``padded`` by 5 columns on both sides, or ``turned`` upside down.

    Returns:
        array: ``(D - 20, 128, 128)``, bool for a mask.
    """
    from skimage.transform import resize

    depth, height, width = volume.shape
    if depth <= 20 or height < _SIZE[0] or width < _SIZE[1]:
        raise ValueError(f"the volume is {volume.shape}: more than 20 slices of at least {_SIZE} are needed")
    top, left = (height - _SIZE[0]) // 2, (width - _SIZE[1] + 1) // 2
    cut: Any = volume[10:-10, top : top + _SIZE[0], left : left + _SIZE[1]]
    cut = np.pad(cut, ((0, 0), (0, 0), (5, 5))) if layout == "padded" else cut[:, ::-1]
    side = (_SIDE + 1, _SIDE + 1)
    values = cut.astype(float) if volume.dtype == bool else cut
    slices = [resize(one, side, order=1, mode="edge", anti_aliasing=False)[:-1, :-1] for one in values]
    return np.stack(slices) >= 0.5 if volume.dtype == bool else np.stack(slices)
