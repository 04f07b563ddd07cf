"""Volumes: NIfTI, Analyze and FreeSurfer by nibabel, MetaImage and NRRD by SimpleITK."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.listing import ITK, NIFTI, kind
from datamodules.reading.guard import Array, BadFile, Bounds, Form, finite, guarded, range_of_type, real, refuse_size


class Volume(NamedTuple):
    """A volume and where it lies.

    Attributes:
        values: ``(X, Y, Z)`` float32 after the header's scaling.
        affine: ``(4, 4)`` from voxels to mm, right, anterior, superior.
        oriented: the header tells the directions; False: the affine holds the spacing only.
        stated: as of :class:`Decoded`.
    """

    values: Array
    affine: Array
    oriented: bool
    stated: Bounds | None


def _damaged(path: str | Path) -> str:
    return f"damaged {_word(path)}"


def _word(path: str | Path) -> str:
    return "NIfTI" if kind(path) in NIFTI else "volume"


_MAX_OFFSET = 1 << 26  # bytes before the voxels; extensions of the header are small


@guarded(_damaged, "fetch the file again")
def read_volume_file(path: str | Path, *, canonical: bool) -> Volume:
    """Read a volume: NIfTI, Analyze pairs (``.img``), FreeSurfer, and with SimpleITK ``.mha``, ``.mhd``, ``.nrrd``.

    Args:
        path: the file.
        canonical: bring the axes into the order right, anterior, superior as the header says; False: as stored.

    Raises:
        BadFile: not decodable, not one volume of real finite numbers, or axes asked for and unknown.
    """
    import nibabel as nib

    image: Any = _load_itk(path) if kind(path) in ITK else _load_nibabel(path)
    oriented = _has_orientation(image.header)
    if canonical and not oriented:
        raise BadFile(path, "no orientation (sform and qform codes are 0)", "export it again with its orientation")
    stored = real(path, np.empty(0, image.get_data_dtype())).dtype
    scaled = (getattr(image.dataobj, "slope", 1.0), getattr(image.dataobj, "inter", 0.0)) != (1.0, 0.0)
    if canonical:
        image = nib.as_closest_canonical(image)
    values = np.asarray(image.dataobj, np.float32)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise BadFile(path, f"a {_word(path)} of shape {values.shape}", "one 3-D volume a file is expected")
    finite(path, values, "volume")
    stated = None if scaled or stored == np.uint16 else range_of_type(stored)
    return Volume(values, np.asarray(image.affine, np.float64), oriented, stated)


def read_nifti(path: str | Path, *, canonical: bool) -> tuple[Array, Array]:
    """Values ``(X, Y, Z)`` and affine of :func:`read_volume_file`."""
    volume = read_volume_file(path, canonical=canonical)
    return volume.values, volume.affine


@guarded(_damaged, "fetch the file again")
def volume_geometry(path: str | Path) -> tuple[tuple[int, ...], Array]:
    """Shape and affine of a volume from its header.

    Raises:
        BadFile: as :func:`read_volume_file`.
    """
    image: Any = _load_itk(path) if kind(path) in ITK else _load_nibabel(path)
    return tuple(image.shape[:3]), np.asarray(image.affine, np.float64)


@guarded(_damaged, "fetch the file again")
def volume_form(path: str | Path) -> Form:
    """Size and type of a volume from its header.

    Raises:
        BadFile: as :func:`read_volume_file`.
    """
    if kind(path) not in ITK:
        image = _load_nibabel(path)
        return Form(tuple(image.shape), f"{image.get_data_dtype()} volume")
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    reader.ReadImageInformation()
    return Form(tuple(reader.GetSize()), f"{sitk.GetPixelIDValueAsString(reader.GetPixelID())} volume")


def _load_nibabel(path: str | Path) -> Any:
    import nibabel as nib

    image: Any = nib.load(path)
    refuse_size(path, image.shape)
    if int(getattr(image.dataobj, "offset", 0)) > _MAX_OFFSET:
        raise BadFile(
            path, f"voxels that begin at byte {image.dataobj.offset}", "the header is damaged, fetch it again"
        )
    return image


def _load_itk(path: str | Path) -> Any:
    """SimpleITK's volume as nibabel's: axes x, y, z; from left, posterior, superior to right, anterior, superior."""
    import nibabel as nib
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    reader.ReadImageInformation()
    refuse_size(path, reader.GetSize())
    if reader.GetNumberOfComponents() != 1:
        found = f"{reader.GetNumberOfComponents()} values a voxel"
        raise BadFile(path, f"colours or vectors instead of grey values ({found})", "export one value a voxel")
    image = reader.Execute()
    values = sitk.GetArrayFromImage(image).T
    if image.GetDimension() != 3:
        raise BadFile(path, f"a volume of shape {values.shape}", "one 3-D volume a file is expected")
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return nib.Nifti1Image(real(path, values), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, dtype=values.dtype)


def _has_orientation(header: Any) -> bool:
    return "sform_code" not in header or bool(header["sform_code"] or header["qform_code"])
