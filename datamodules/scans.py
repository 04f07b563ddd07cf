"""What sets of volumes from lists, nnU-Net folders and BIDS share: one scale a volume, slices of planes, or volumes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.cache import Prepared
from datamodules.collection import Collection
from datamodules.listing import NIFTI, kind
from datamodules.preprocessing import moving, plain, read_volume_mask, resize_image, resize_mask, scaling
from datamodules.reading import Array, BadFile, read_volume_file, volume_geometry
from datamodules.records import Record, hash_order, held_out
from zoo.errors import UserError

Plane = Literal["axial", "coronal", "sagittal"]
PLANES = ("sagittal", "coronal", "axial")  # axes of a volume in right-anterior-superior order
_BOUNDS = (1.0, 99.0)  # percentiles that become 0 and 1
_DARKEST = 1e-3


class Scans(Collection):
    """Volumes as slices of one or more planes (``mode: slices``), or as they are (``mode: volumes``).

    Each volume is scaled by the 1st and 99th percentile of its foreground, unless ``intensity_range`` says one scale
    for all (CT). The foreground is a mask beside the volume where there is one, else what is not 0. All slices of a
    volume that show something are images of one case.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        subset: str | None = None,
        mode: Literal["slices", "volumes"] = "slices",
        planes: tuple[Plane, ...] = ("axial",),
        image_size: int | tuple[int, ...] = 128,
        test_fraction: float = 0.2,
        **options: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            root: folder of one set, or the folder above several.
            subset: folder of one of them.
            mode: ``slices`` (2-D) or ``volumes`` (3-D).
            planes: planes that are sliced: ``axial``, ``coronal``, ``sagittal``.
            image_size: side, (height, width) or (depth, height, width).
            test_fraction: share of the subjects that are tested where no list says which, by hash.
            **options: see :class:`~datamodules.folder.Folder`, but for the table.
        """
        super().__init__(root=root, subset=subset, image_size=image_size, **options)
        if self.in_channels not in (None, 1):
            raise UserError(f"data.in_channels {self.in_channels}: volumes have one channel")
        if not 0 < test_fraction < 1:
            raise UserError(f"data.test_fraction must be in (0, 1), found {test_fraction}")
        wrong = [plane for plane in planes if plane not in PLANES]
        if wrong or not planes:
            raise UserError(f"data.planes {list(planes)}: name some of {', '.join(PLANES)}")
        self.mode, self.planes, self.test_fraction = mode, tuple(planes), test_fraction
        self.foreground_rule = "above_minimum"

    @property
    def channels(self) -> int:
        """One."""
        return 1

    @property
    def spatial_size(self) -> tuple[int, ...]:
        """``(H, W)`` or ``(D, H, W)``."""
        size, dims = self.image_size, 2 if self.mode == "slices" else 3
        sides = (size,) * dims if isinstance(size, int) else tuple(size or ())
        if len(sides) != dims:
            raise UserError(f"data.image_size {size} has {len(sides)} sides, mode {self.mode} needs {dims}")
        return sides

    @classmethod
    def open_for_check(cls, root: Path, **options: Any) -> "Scans":
        """With the default size."""
        return cls(root=str(root), **options)

    def divided(self, records: Sequence[Record], *, test: bool = True) -> list[Record]:
        """Records that no list divides: subjects to test (unless a list says those), validate and train by hash."""
        owners = [record.subject or record.id for record in records]
        order = hash_order(set(owners), self.seed)
        tested = set(order[: max(1, round(self.test_fraction * len(order)))] if test else ())
        val = held_out([owner for owner in owners if owner not in tested], self.val_fraction, self.seed)
        split = {owner: "test" if owner in tested else "val" if owner in val else "train" for owner in owners}
        return [replace(record, split=split[owner]) for record, owner in zip(records, owners, strict=True)]

    def grey_scale(self) -> None:
        """Each volume has its own."""
        return None

    def _training_files(self) -> list[Path]:
        return []

    def original(self, source: str, number: int) -> None:
        """None: slices are turned and left out."""
        return None

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Read, scale, slice, resize."""
        options: dict[str, Any] = {"mode": self.mode, "planes": self.planes, "bounds": self.intensity_range}
        return partial(prepare_scan, size=self.spatial_size, grid=self.working_grid(), **options)

    def working_grid(self) -> tuple[int, int, int] | None:
        """Voxels (x, y, z) of a grid that volumes are cut or padded to and then halved; None: as they are."""
        return None

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that decides the pixels."""
        return plain(
            {
                "mode": self.mode,
                "size": self.spatial_size,
                "planes": self.planes,
                "bounds": self.intensity_range,
                "grid": self.working_grid(),
            }
        )


def prepare_scan(
    record: Record,
    *,
    size: tuple[int, ...],
    mode: str,
    planes: tuple[str, ...],
    bounds: tuple[float, float] | None,
    grid: tuple[int, int, int] | None,
) -> Prepared:
    """One volume in [0, 1], sliced or whole.

    Args:
        record: the volume, the outlines of lesions, and as companion the mask of the foreground if there is one.
        size: ``(H, W)`` or ``(D, H, W)``.
        mode: ``slices`` or ``volumes``.
        planes: planes to slice.
        bounds: values that become 0 and 1; None: percentiles of the foreground.
        grid: see :meth:`Scans.working_grid`.

    Raises:
        BadFile: not decodable, constant, or masks that do not fit.
    """
    volume = read_volume_file(record.image, canonical=True)
    _, stored = volume_geometry(record.image)
    to_file: Array = np.rint(np.linalg.inv(stored) @ volume.affine)  # axes turn by whole voxels
    values = volume.values
    if values.min() == values.max():
        raise BadFile(record.image, "a constant volume", "fetch it again")
    inside = values != 0
    for path in (one for one in record.companions if kind(one) in NIFTI):  # not the second file of a pair
        inside = read_volume_mask(path, values.shape, volume.affine, volume.oriented)
        if not inside.any():
            raise BadFile(path, "an empty mask", "fetch it again or remove it")
    truth = None
    if record.mask is not None:
        truth = read_volume_mask(record.mask, values.shape, volume.affine, volume.oriented)
    low, high = np.percentile(values[inside], _BOUNDS) if bounds is None else bounds
    scaled = np.clip((values - low) / max(high - low, 1e-12), _DARKEST, 1)  # what is 0 is no foreground
    unit: Array = np.where(inside, scaled, 0).astype(np.float32)
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if grid is not None:
        inside = _halved(_cut(inside, grid))
        unit = np.where(inside, np.maximum(_halved(_cut(unit, grid)), _DARKEST), 0).astype(np.float32)
        truth = None if truth is None else _halved(_cut(truth, grid))
        cut = [had - side for had, side in zip(values.shape, grid, strict=True)]
        starts = [more // 2 if more > 0 else -(-more // 2) for more in cut]
        to_file = to_file @ moving(starts) @ scaling(grid, [side // 2 for side in grid])
        spacing = spacing * 2
    if mode == "volumes":
        return _whole(unit, truth, spacing, size, to_file)
    return _sliced(unit, inside, truth, spacing, size, planes, to_file)


def _cut(volume: Array, grid: tuple[int, int, int]) -> Array:
    """Cut or pad evenly to the grid."""
    for axis, side in enumerate(grid):
        extra = volume.shape[axis] - side
        if extra > 0:
            volume = np.take(volume, range(extra // 2, extra // 2 + side), axis)
        elif extra < 0:
            pads = [(0, 0)] * 3
            pads[axis] = (-extra // 2, -extra - (-extra // 2))
            volume = np.pad(volume, pads)
    return volume


def _halved(volume: Array) -> Array:
    """Half as many voxels along each axis: values by cubic splines, masks where half of a voxel is covered."""
    from scipy.ndimage import find_objects, zoom

    shape = tuple(side // 2 for side in volume.shape)
    if volume.dtype == bool:
        blocks = volume.reshape(shape[0], 2, shape[1], 2, shape[2], 2)
        covered: Array = blocks.mean((1, 3, 5)) >= 0.5
        return covered
    halved = np.zeros(shape, np.float32)
    box = find_objects((volume != 0).astype(np.int8))[0]  # splines are slow: not over the empty space
    wide = [
        (max(part.start // 2 - 4, 0), min(-(-part.stop // 2) + 4, side)) for part, side in zip(box, shape, strict=True)
    ]
    inner = tuple(slice(2 * start, 2 * stop) for start, stop in wide)
    halved[tuple(slice(*ends) for ends in wide)] = zoom(volume[inner], 0.5, order=3, grid_mode=True, mode="nearest")
    return halved.clip(0, 1)


def _turned(volume: Array, axis: int) -> Array:
    """Slices ``(n, H, W)`` along an axis, front or head up."""
    turned: Array = np.moveaxis(volume, axis, 0).transpose(0, 2, 1)[:, ::-1]
    return turned


def _sliced(
    unit: Array,
    inside: Array,
    truth: Array | None,
    spacing: Array,
    size: tuple[int, ...],
    planes: tuple[str, ...],
    to_file: Array,
) -> Prepared:
    images, masks, numbers = [], [], []
    target, count = (size[0], size[1]), 0
    for plane in planes:
        axis = PLANES.index(plane)
        shown = _turned(inside, axis)
        kept = np.flatnonzero(shown.reshape(len(shown), -1).any(1))
        numbers += [count + int(number) for number in kept]
        count += len(shown)
        images.append(np.moveaxis(resize_image(np.moveaxis(_turned(unit, axis)[kept], 0, -1), target), -1, 0))
        if truth is not None:
            masks += [resize_mask(one, target) for one in _turned(truth, axis)[kept]]
    mask = None if truth is None else np.stack(masks)
    labels = None if mask is None else tuple(int(one.any()) for one in mask)
    axes = [axis for axis in range(3) if axis != PLANES.index(planes[0])]
    turned = _turned(unit, PLANES.index(planes[0])).shape[1:]
    zoom = (float(spacing[axes[1]] * turned[0] / target[0]), float(spacing[axes[0]] * turned[1] / target[1]))
    image = np.concatenate(images)
    back = to_file @ _way_back(PLANES.index(planes[0]), turned) @ scaling((1, *turned), (1, *target))
    way = back if len(planes) == 1 else None  # maps of several planes are not one volume
    return Prepared(image[:, None], mask, image > 0, labels, tuple(numbers), zoom, way)


def _way_back(axis: int, turned: tuple[int, ...]) -> Array:
    """From ``(slice, row, column)`` of :func:`_turned` to voxels: ``(4, 4)``."""
    across, along = (other for other in range(3) if other != axis)
    matrix = np.zeros((4, 4))
    matrix[axis, 0] = matrix[across, 2] = matrix[3, 3] = 1
    matrix[along, 1], matrix[along, 3] = -1, turned[0] - 1
    return matrix


def _whole(unit: Array, truth: Array | None, spacing: Array, size: tuple[int, ...], to_file: Array) -> Prepared:
    from skimage.transform import resize

    def fitted(volume: Array) -> Array:
        turned = _turned(volume, 2)
        values = resize(turned.astype(np.float64), size, order=1, anti_aliasing=True)
        return np.asarray(values >= 0.5) if volume.dtype == bool else np.asarray(values, np.float32)

    mask = None if truth is None else fitted(truth)[None]
    label = None if mask is None else (int(mask.any()),)
    sides = (unit.shape[2], unit.shape[1], unit.shape[0])
    zoom = tuple(float(spacing[2 - k] * sides[k] / size[k]) for k in range(3))
    image = fitted(unit)
    back = to_file @ _way_back(2, (unit.shape[1],)) @ scaling((unit.shape[2], unit.shape[1], unit.shape[0]), size)
    return Prepared(image[None, None], mask, image[None] > 0, label, None, zoom, back)
