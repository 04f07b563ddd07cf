"""Decode files at full depth, and say what is wrong with those that cannot be decoded.

One file a kind: pictures, DICOM films, volumes, arrays. Every reader is guarded once, see
:mod:`datamodules.reading.guard`.
"""

from datamodules.reading.arrays import array_form, read_array_file, refuse_inflated_archive
from datamodules.reading.films import Dicom, film_form, read_dicom, read_film
from datamodules.reading.guard import Array, BadFile, Bounds, Decoded, Form, refuse_size, size_limit, sniff
from datamodules.reading.pictures import picture_form, picture_size, read_mask_file, read_picture_file, read_raster
from datamodules.reading.volumes import Volume, read_nifti, read_volume_file, volume_form, volume_geometry

__all__ = [
    "Array",
    "BadFile",
    "Bounds",
    "Decoded",
    "Dicom",
    "Form",
    "Volume",
    "array_form",
    "film_form",
    "picture_form",
    "picture_size",
    "read_array_file",
    "read_dicom",
    "read_film",
    "read_mask_file",
    "read_nifti",
    "read_picture_file",
    "read_raster",
    "read_volume_file",
    "refuse_inflated_archive",
    "refuse_size",
    "size_limit",
    "sniff",
    "volume_form",
    "volume_geometry",
]
