"""Maps and masks on the grid of a NIfTI file, with its header."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.files import whole

Array = NDArray[Any]


def write_like(source: str | Path, values: Array, path: Path, *, name: str, method: str, largest: float) -> None:
    """Write values with a source's header: its affine bit for bit, its codes and units.

    Args:
        source: NIfTI file of one volume.
        values: ``(X, Y, Z)`` as stored in the source, float32 or uint8.
        path: new ``.nii`` or ``.nii.gz``.
        name: what the values are, at most 15 letters.
        method: named in the header.
        largest: upper end of the display window.

    Raises:
        UserError: the source is no single volume, or of another shape.
    """
    import nibabel

    image: Any = nibabel.load(source)
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise UserError(f"{source}: a NIfTI of shape {image.shape}; maps are written for single 3-D volumes")
    if shape != values.shape:
        raise UserError(f"{source}: shape {shape}, the map has {values.shape}")
    second = isinstance(image.header, nibabel.Nifti2Header)
    kind: Any = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    header = kind.header_class.from_header(image.header)
    header.set_data_shape(values.shape)
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("none", name=name[:15])
    header["cal_min"], header["cal_max"] = 0, largest
    header["descrip"] = f"uad-zoo {method}"[:79].encode()
    with whole(path) as partial:
        nibabel.save(kind(values, image.affine, header), partial)


def on_grid(values: Array, to_file: Array, shape: tuple[int, int, int], outside: float = 0.0) -> Array:
    """A map on the grid of a file: linear, or the nearest value of whole numbers.

    Args:
        values: ``(D, h, w)``.
        to_file: ``(4, 4)`` from indices of ``values`` to voxels of the file.
        shape: ``(X, Y, Z)`` of the file.
        outside: value of voxels that the map does not cover.
    """
    from scipy.ndimage import affine_transform

    back = np.linalg.inv(to_file)
    whole_numbers = values.dtype.kind in "iub"
    covered = affine_transform(
        np.ones(values.shape, np.uint8), back[:3, :3], back[:3, 3], shape, order=0, mode="grid-constant"
    )
    moved: Array = affine_transform(
        values, back[:3, :3], back[:3, 3], shape, order=0 if whole_numbers else 1, mode="nearest"
    )
    return np.where(covered > 0, moved, np.asarray(outside, values.dtype))


def shape_of(source: str | Path) -> tuple[int, int, int]:
    """Shape of the volume in a NIfTI file.

    Raises:
        UserError: no single volume.
    """
    import nibabel

    shape = nibabel.load(source).shape  # type: ignore[attr-defined]
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise UserError(f"{source}: a NIfTI of shape {shape}; maps are written for single 3-D volumes")
    return int(shape[0]), int(shape[1]), int(shape[2])


def place(source: str | Path, index: tuple[float, float, float]) -> tuple[float, float, float]:
    """Position in mm (RAS) of voxel indices of a NIfTI file."""
    import nibabel

    affine = nibabel.load(source).affine  # type: ignore[attr-defined]
    x, y, z = (affine @ [*index, 1.0])[:3]
    return float(x), float(y), float(z)


def voxel_volume(source: str | Path) -> float:
    """mm³ of a voxel."""
    import nibabel

    return float(abs(np.linalg.det(nibabel.load(source).affine[:3, :3])))  # type: ignore[attr-defined]
