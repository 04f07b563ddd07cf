"""DICOM films: one grey frame a file, with what its header says about showing it."""

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.listing import is_dicom
from datamodules.reading.guard import (
    LIMIT_VARIABLE,
    Array,
    BadFile,
    Bounds,
    Decoded,
    Form,
    finite,
    guarded,
    refuse_size,
    size_limit,
)

_DECODERS = {
    "1.2.840.10008.1.2.4.5": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.6": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.7": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.8": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.9": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.20": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.5": "pylibjpeg pylibjpeg-rle",
}


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


@guarded("a damaged DICOM header", "fetch the file again")
def read_dicom(path: str | Path) -> Dicom:
    """Decode a single-frame grey DICOM file.

    Raises:
        BadFile: no DICOM, no pixels, more than one frame, colour, values beyond BitsStored, or no decoder for its
            compression (the message names the packages that bring it).
    """
    header = _dicom_header(path)
    pixels = _film_pixels(header, path)
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    return Dicom(
        pixels,
        float(_field(header, "RescaleSlope") or 1),
        float(_field(header, "RescaleIntercept") or 0),
        _window(header),
        header.get("PhotometricInterpretation", "MONOCHROME2") == "MONOCHROME1",
        None if not spacing else (float(spacing[0]), float(spacing[1])),
    )


@guarded("a damaged DICOM header", "fetch the file again")
def read_film(path: str | Path, *, shown_as_stated: bool) -> Decoded:
    """Decode a single-frame grey DICOM file to the values that its header states.

    Args:
        path: the file.
        shown_as_stated: apply the window or table of interest; False: modality values only (Hounsfield units).

    Returns:
        Decoded: ``(H, W, 1)`` float32; :attr:`Decoded.stated` is the window, the table's range, or what the stored bits
        can hold, rescaled.

    Raises:
        BadFile: as :func:`read_dicom`.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi

    header = _dicom_header(path)
    pixels = _film_pixels(header, path)
    bits, signed = int(header.get("BitsStored", 16)), bool(int(header.get("PixelRepresentation", 0)))
    stored = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if header.get("ModalityLUTSequence"):
        values = apply_modality_lut(pixels, header)
        stated = (0.0, 2.0 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    else:
        slope, intercept = float(_field(header, "RescaleSlope") or 1), float(_field(header, "RescaleIntercept") or 0)
        values = pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        low, high = sorted(slope * one + intercept for one in stored)
        stated = (low, high)
    window = _window(header)
    if shown_as_stated and header.get("VOILUTSequence"):
        values = apply_voi(np.rint(values).astype(np.int32), header)
        stated = (0.0, 2.0 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    elif shown_as_stated and window is not None:
        values, stated = _through_window(header, values, window)
    inverted = str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1"
    inverted |= str(header.get("PresentationLUTShape", "")) == "INVERSE"
    return Decoded(finite(path, np.asarray(values, np.float32)[..., None]), stated, inverted)


@guarded("a damaged DICOM header", "fetch the file again")
def film_form(path: str | Path) -> Form:
    """Size and depth of a DICOM film from its header, without its pixels.

    Raises:
        BadFile: a damaged header.
    """
    import pydicom

    refuse_inflation(path)
    header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    bits, signed = int(header.get("BitsStored", 16)), int(header.get("PixelRepresentation", 0)) == 1
    colours = "grey" if int(header.get("SamplesPerPixel", 1)) == 1 else "colour"
    return Form((int(header.Rows), int(header.Columns)), f"{bits}-bit {'signed ' * signed}{colours} DICOM")


def _through_window(header: Any, values: Array, window: Bounds) -> tuple[Array, Bounds]:
    """DICOM PS3.3 C.11.2: the S-curve, or the two ends of a straight one."""
    centre, width = window
    function = str(_field(header, "VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -80, 80))), (0.0, 1.0)
    if function == "LINEAR_EXACT" or width <= 1:
        return values, (centre - width / 2, centre + width / 2)
    return values, (centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _dicom_header(path: str | Path) -> Any:
    """All of the file, with pixels that can be decoded.

    Raises:
        BadFile: no DICOM, or one that holds no image.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    with Path(path).open("rb") as stream:
        preamble = stream.read(132)[128:] == b"DICM"
    try:
        if preamble:
            refuse_inflation(path)
        header = pydicom.dcmread(path, force=not preamble and is_dicom(path))
    except (InvalidDicomError, EOFError, OSError, zlib.error) as error:
        raise BadFile(path, f"not a DICOM file ({str(error)[:80]})", "fetch it again") from error
    if "PixelData" not in header:
        name = getattr(header.get("SOPClassUID"), "name", "") or "of no class"
        if "Image Storage" in str(name):
            raise BadFile(
                path, "a DICOM header without PixelData", "the download was interrupted, fetch the file again"
            )
        raise BadFile(path, f"no image: a DICOM header without PixelData ({name})", "leave it out, it is no picture")
    return header


def refuse_inflation(path: str | Path) -> None:
    """Deflated files are inflated whole by pydicom: count first."""
    from pydicom.filereader import read_file_meta_info

    try:
        meta = read_file_meta_info(path)
        deflated = str(meta.get("TransferSyntaxUID", "")) == "1.2.840.10008.1.2.1.99"
        start = 144 + int(meta.get("FileMetaInformationGroupLength", 0))
    except Exception:  # damaged: reading all of it tells more
        return
    if not deflated:
        return
    limit, total, inflater = 4 * size_limit() + (1 << 26), 0, zlib.decompressobj(-zlib.MAX_WBITS)
    with Path(path).open("rb") as stream:
        stream.seek(start)
        for block in iter(lambda: stream.read(1 << 16), b""):
            data = block
            while data and total <= limit:
                total += len(inflater.decompress(data, 1 << 24))
                data = inflater.unconsumed_tail
            if total > limit:
                found = f"a deflated DICOM of more than {limit / 1e6:,.0f} MB"
                raise BadFile(path, found, f"if it is right, set the environment variable {LIMIT_VARIABLE}")


def _field(header: Any, name: str) -> Any:
    """A value of the header, or of the functional groups in which enhanced files keep it."""
    if name in header:
        return header[name].value
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in list(header.get(groups) or [])[:1]:
            for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in list(group.get(sequence) or [])[:1]:
                    if name in item:
                        return item[name].value
    return None


def _film_pixels(header: Any, path: str | Path) -> Array:
    syntax = _transfer_syntax(header, path)
    samples, frames = int(header.get("SamplesPerPixel", 1)), int(header.get("NumberOfFrames", 1) or 1)
    kind = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if samples != 1 or not kind.startswith("MONOCHROME"):
        found = f"a colour DICOM ({kind}, {samples} samples a pixel)"
        raise BadFile(path, found, "one grey film a file is expected")
    if frames != 1:
        raise BadFile(path, f"a DICOM of {frames} frames", "one grey film a file is expected")
    refuse_size(path, (header.Rows, header.Columns))
    unsigned = not int(header.get("PixelRepresentation", 0))
    try:
        if unsigned:  # bits beyond BitsStored would be dropped, and bright pixels turn dark, without a word
            header.pixel_array_options(correct_unused_bits=False)
        pixels = np.asarray(header.pixel_array)
    except Exception as error:  # every decoder plugin raises its own kind
        raise _undecodable(path, syntax, error) from error
    stored = int(header.get("BitsStored", 16))
    if unsigned and pixels.max(initial=0) >= 2**stored:
        if _has_embedded_overlay(header, stored):
            without: Array = pixels & pixels.dtype.type(2**stored - 1)
            return without
        found = f"values up to {pixels.max()}, but BitsStored {stored} allows {2**stored - 1}"
        raise BadFile(path, found, "correct the header or fetch the file again")
    return pixels


def _has_embedded_overlay(header: Any, stored: int) -> bool:
    """Old files keep drawings in the bits above the pixels' (group 60xx with a bit position and no data)."""
    groups = range(0x6000, 0x6100, 2)
    return any(
        int(header[group, 0x0102].value or 0) >= stored and (group, 0x3000) not in header
        for group in groups
        if (group, 0x0102) in header
    )


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
        value = _field(header, key)
        if isinstance(value, (MultiValue, list)):
            value = value[0] if len(value) else None
        if value in (None, ""):
            return None
        values.append(float(value))
    return (values[0], values[1]) if values[1] > 0 else None
