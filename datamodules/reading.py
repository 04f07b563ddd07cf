"""Decode files at full depth, and say what is wrong with those that cannot be decoded."""

import gzip
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.errors import UserError
from zoo.files import suffix as suffix

Array = np.ndarray[Any, np.dtype[Any]]

RASTER = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM = (".dcm", ".dicom")
NIFTI = (".nii", ".nii.gz")
NUMPY = (".npy", ".npz")
SUFFIXES = RASTER + DICOM + NIFTI + NUMPY

_DECODERS = {
    "1.2.840.10008.1.2.4.5": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.6": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.7": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.8": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.9": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.20": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.5": "pylibjpeg pylibjpeg-rle",
}


class BadFile(UserError):
    """One file that cannot be used: ``path: what was found; what to do``."""

    def __init__(self, path: str | Path, found: str, remedy: str) -> None:
        super().__init__(f"{path}: {found}; {remedy}")
        self.path, self.found, self.remedy = str(path), found, remedy


class Dicom(NamedTuple):
    """Pixels of a DICOM file and what is needed to show them.

    Attributes:
        pixels: stored values ``(H, W)``, before rescaling.
        slope: rescale slope, 1 when absent.
        intercept: rescale intercept, 0 when absent.
        window: ``(centre, width)`` of the first window, None when absent or without width.
        inverted: MONOCHROME1, small values are bright.
        spacing: pixel spacing ``(row, column)`` in mm, None when absent.
    """

    pixels: Array
    slope: float
    intercept: float
    window: tuple[float, float] | None
    inverted: bool
    spacing: tuple[float, float] | None


def is_hidden(path: Path) -> bool:
    """Files that operating systems leave behind: ``._x``, ``.DS_Store``, ``Thumbs.db``."""
    return path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")


def list_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """All files below ``folder`` with one of ``suffixes``, in sorted order, without hidden ones and phantom truth."""
    found = [
        path
        for path in folder.rglob("*")
        if suffix(path) in suffixes
        and not is_hidden(path)
        and "_phantom_truth" not in path.parts
        and "__MACOSX" not in path.parts
        and path.is_file()
    ]
    return sorted(found)


def sniff(path: str | Path) -> None:
    """Refuse files that are not what their name says.

    Raises:
        BadFile: missing, empty, an HTML page or a git-lfs pointer.
    """
    path = Path(path)
    if not path.is_file():
        raise BadFile(path, "no such file", "check the path or download it again")
    with path.open("rb") as stream:
        head = stream.read(256)
    if not head:
        raise BadFile(path, "0 bytes", "the download was interrupted, fetch the file again")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        raise BadFile(path, "an HTML page", "the download expired or needs a login, fetch the file again")
    if head.startswith(b"version https://git-lfs"):
        raise BadFile(path, "a git-lfs pointer", "run `git lfs pull` where it was cloned")


def read_raster(path: str | Path) -> Array:
    """Decode png, jpg, tif or bmp.

    Palette, CMYK and alpha become plain grey or RGB; EXIF rotation is applied.

    Returns:
        Array: ``(H, W, C)`` with C 1 or 3; uint8, uint16 or float32, as stored.

    Raises:
        BadFile: not decodable.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    sniff(path)
    try:
        with Image.open(path) as image:
            if image.format == "PNG" and _png_depth(path) == 16 and image.mode in ("RGB", "RGBA", "LA"):
                raise BadFile(path, "a 16-bit PNG with colour or alpha", "save it as 16-bit TIFF or grey PNG")
            if image.format == "TIFF" and image.mode in ("RGB", "RGBA") and _tiff_depth(image) > 8:
                return _read_tiff(path)
            image.load()
            return _to_array(ImageOps.exif_transpose(image))
    except BadFile:
        raise
    except UnidentifiedImageError as error:
        if suffix(path) in (".tif", ".tiff"):
            return _read_tiff(path)
        raise BadFile(path, "not an image", "remove it or fetch it again") from error
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        raise BadFile(path, f"damaged image ({error})", "remove it or fetch it again") from error


def _to_array(image: Any) -> Array:
    mode = image.mode
    if mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if mode == "I":
        values = np.asarray(image)
        fits = values.size == 0 or (values.min() >= 0 and values.max() <= 65535)
        return (values.astype(np.uint16) if fits else values.astype(np.float32))[..., None]
    if mode == "F":
        return np.asarray(image, np.float32)[..., None]
    if mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))[..., None]
    if mode == "P":  # a palette of greys is a grey image
        colours = np.asarray(image.convert("RGBA").convert("RGB"))
        grey = np.ptp(colours.astype(np.int16), axis=-1).max() == 0
        return colours[..., :1].copy() if grey else colours
    return np.asarray(image.convert("RGB"))


def _png_depth(path: str | Path) -> int:
    with Path(path).open("rb") as stream:
        head = stream.read(26)
    return head[24] if len(head) > 24 else 0


def _tiff_depth(image: Any) -> int:
    bits = image.tag_v2.get(258, 8)
    return int(max(bits)) if isinstance(bits, tuple) else int(bits)


def _read_tiff(path: str | Path) -> Array:
    import tifffile

    try:
        values = np.asarray(tifffile.imread(path))
    except Exception as error:  # tifffile raises many kinds
        raise BadFile(path, f"unreadable TIFF ({error})", "save it as uncompressed 8- or 16-bit TIFF") from error
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[-1] not in (1, 3, 4):
        raise BadFile(path, f"a TIFF of shape {values.shape}", "one grey or RGB image a file is expected")
    values = values[..., :3] if values.shape[-1] == 4 else values
    return values if values.dtype in (np.uint8, np.uint16) else values.astype(np.float32)


def read_dicom(path: str | Path) -> Dicom:
    """Decode a single-frame grey DICOM file.

    Raises:
        BadFile: no DICOM, no pixels, more than one frame, colour, values beyond BitsStored, or no decoder for its
            compression (the message names the packages that bring it).
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    sniff(path)
    try:
        header = pydicom.dcmread(path)
    except (InvalidDicomError, EOFError, OSError, zlib.error) as error:
        raise BadFile(path, f"not a DICOM file ({str(error)[:80]})", "fetch it again") from error
    try:
        if "PixelData" not in header:
            raise BadFile(
                path, "a DICOM header without PixelData", "the download was interrupted, fetch the file again"
            )
        pixels = _film_pixels(header, path)
        spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
        return Dicom(
            pixels,
            float(header.get("RescaleSlope", 1) or 1),
            float(header.get("RescaleIntercept", 0) or 0),
            _window(header),
            header.get("PhotometricInterpretation", "MONOCHROME2") == "MONOCHROME1",
            None if not spacing else (float(spacing[0]), float(spacing[1])),
        )
    except BadFile:
        raise
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # pydicom decodes fields when they are asked for
        raise BadFile(path, f"a damaged DICOM header ({str(error)[:80]})", "fetch the file again") from error


def _film_pixels(header: Any, path: str | Path) -> Array:
    syntax = _transfer_syntax(header, path)
    samples, frames = int(header.get("SamplesPerPixel", 1)), int(header.get("NumberOfFrames", 1) or 1)
    kind = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if samples != 1 or not kind.startswith("MONOCHROME"):
        found = f"a colour DICOM ({kind}, {samples} samples a pixel)"
        raise BadFile(path, found, "one grey film a file is expected")
    if frames != 1:
        raise BadFile(path, f"a DICOM of {frames} frames", "one grey film a file is expected")
    unsigned = not int(header.get("PixelRepresentation", 0))
    try:
        if unsigned:  # bits beyond BitsStored would be dropped, and bright pixels turn dark, without a word
            header.pixel_array_options(correct_unused_bits=False)
        pixels = np.asarray(header.pixel_array)
    except Exception as error:  # every decoder plugin raises its own kind
        raise _undecodable(path, syntax, error) from error
    stored = int(header.get("BitsStored", 16))
    if unsigned and pixels.max(initial=0) >= 2**stored:
        found = f"values up to {pixels.max()}, but BitsStored {stored} allows {2**stored - 1}"
        raise BadFile(path, found, "correct the header or fetch the file again")
    return pixels


def _transfer_syntax(header: Any, path: str | Path) -> str:
    meta = getattr(header, "file_meta", None)
    if meta is not None and "TransferSyntaxUID" in meta:
        return str(meta.TransferSyntaxUID)
    expected = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
    if len(header.PixelData) not in (expected, expected + 1):
        raise BadFile(path, "no TransferSyntaxUID and compressed pixels", "fetch the file again")
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    header.file_meta = FileMetaDataset() if meta is None else meta
    implicit = header.original_encoding[0]
    header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return str(header.file_meta.TransferSyntaxUID)


def _undecodable(path: str | Path, syntax: str, error: Exception) -> BadFile:
    packages = next((value for key, value in _DECODERS.items() if syntax.startswith(key)), None)
    missing = "missing dependencies" in str(error) or "no available" in str(error).lower()
    if packages is not None and missing:
        return BadFile(path, f"compressed ({syntax}) and no decoder installed", f"pip install {packages}")
    reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return BadFile(path, f"damaged pixels ({reason})", "fetch the file again")


def _window(header: Any) -> tuple[float, float] | None:
    from pydicom.multival import MultiValue

    values = []
    for key in ("WindowCenter", "WindowWidth"):
        value = header.get(key)
        if isinstance(value, (MultiValue, list)):
            value = value[0] if len(value) else None
        if value in (None, ""):
            return None
        values.append(float(value))
    return (values[0], values[1]) if values[1] > 0 else None


def read_nifti(path: str | Path, *, canonical: bool) -> tuple[Array, Array]:
    """Read a volume.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        canonical: bring the axes into the order right, anterior, superior as the header says; False: as stored.

    Returns:
        tuple: values ``(X, Y, Z)`` float32 after the header's scaling, and the 4x4 affine in mm.

    Raises:
        BadFile: not decodable, not one volume, or axes asked for and unknown.
    """
    import nibabel as nib

    sniff(path)
    try:
        image: Any = nib.load(path)
        if canonical and not _has_orientation(image.header):
            raise BadFile(path, "no orientation (sform and qform codes are 0)", "export it again with its orientation")
        if canonical:
            image = nib.as_closest_canonical(image)
        values = np.asarray(image.dataobj, np.float32)
    except BadFile:
        raise
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise BadFile(path, f"damaged NIfTI ({str(error)[:100]})", "fetch the file again") from error
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise BadFile(path, f"a NIfTI of shape {values.shape}", "one 3-D volume a file is expected")
    if not np.isfinite(values).all():
        raise BadFile(
            path, f"{int((~np.isfinite(values)).sum())} values are NaN or infinite", "export the volume again"
        )
    return values, np.asarray(image.affine, np.float64)


def _has_orientation(header: Any) -> bool:
    return "sform_code" not in header or bool(header["sform_code"] or header["qform_code"])


def read_array(path: str | Path) -> Array:
    """Read one image from ``.npy`` or from the only array of an ``.npz``: ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``.

    Raises:
        BadFile: not decodable or not one image.
    """
    sniff(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                if len(loaded.files) != 1:
                    keys = ", ".join(loaded.files[:6])
                    raise BadFile(path, f"arrays {keys}", "an .npz with one image array is expected")
                values = loaded[loaded.files[0]]
        else:
            values = loaded
    except BadFile:
        raise
    except Exception as error:  # zip, zlib, pickle and header errors
        raise BadFile(path, f"unreadable array ({str(error)[:80]})", "save it again with numpy.save") from error
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[-1] not in (1, 3):
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[-1] not in (1, 3):
        raise BadFile(path, f"an array of shape {values.shape}", "one grey or RGB image is expected")
    return values if values.dtype in (np.uint8, np.uint16) else values.astype(np.float32)
