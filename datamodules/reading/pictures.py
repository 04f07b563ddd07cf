"""Pictures: png, jpg, tif, bmp, gif, webp, jp2 and pnm, by Pillow, deep TIFFs by tifffile."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.listing import kind
from datamodules.reading.guard import (
    LIMIT_VARIABLE,
    Array,
    BadFile,
    Decoded,
    Form,
    finite,
    guarded,
    range_of_type,
    real,
    refuse_size,
    size_limit,
)
from zoo.errors import UserError

_PILLOW = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "JPEG2000", "PPM")  # none that starts programs


@guarded("damaged image", "remove it or fetch it again")
def read_picture_file(path: str | Path) -> Decoded:
    """Decode png, jpg, tif, bmp, gif, webp, jp2 or pnm.

    Palette, CMYK and alpha become plain grey or RGB; EXIF rotation is applied.

    Returns:
        Decoded: ``(H, W, C)`` with C 1 or 3, type as stored.

    Raises:
        BadFile: not decodable, too large, more than one page or frame, NaN or infinite values.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        if image.format == "TIFF":
            return _decode_tiff(path, image)
        if image.format == "PNG" and _png_depth(path) == 16 and image.mode in ("RGB", "RGBA", "LA"):
            raise BadFile(path, "a 16-bit PNG with colour or alpha", "save it as 16-bit TIFF or grey PNG")
        image.load()
        values = _to_array(ImageOps.exif_transpose(image))
        return Decoded(values, range_of_type(values.dtype), lossy=image.format in ("JPEG", "MPO"))


def read_raster(path: str | Path) -> Array:
    """Values of :func:`read_picture_file`: ``(H, W, C)``."""
    return read_picture_file(path).values


@guarded("damaged mask", "remove it or fetch it again")
def read_mask_file(path: str | Path) -> Decoded:
    """Decode a picture that marks a finding: all channels, and what is transparent in :attr:`Decoded.alpha`.

    Raises:
        BadFile: as :func:`read_picture_file`.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        if image.format == "TIFF" and (_tiff_depth(image) > 8 or image.mode not in ("1", "L", "P", "RGB", "RGBA")):
            return _decode_tiff(path, image)
        image.load()
        lossy = image.format in ("JPEG", "MPO")
        image = ImageOps.exif_transpose(image)
        if image.mode == "P" and len(set(zip(*[iter(image.getpalette() or [0, 0, 0])] * 3, strict=False))) == 1:
            return Decoded(np.asarray(image)[..., None], None)  # labels without colours
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            values = np.asarray(image.convert("RGBA"))
            return Decoded(values[..., :3], None, alpha=values[..., 3], lossy=lossy)
        values = _to_array(image)
        return Decoded(finite(path, values, "mask"), None, lossy=lossy)


@guarded("damaged image", "remove it or fetch it again")
def picture_size(path: str | Path) -> tuple[int, int]:
    """``(H, W)`` of a picture from its header, as it is shown.

    Raises:
        BadFile: as :func:`read_picture_file`.
    """
    with _opened(path) as image:
        return _size_as_shown(image)


@guarded("damaged image", "remove it or fetch it again")
def picture_form(path: str | Path) -> Form:
    """Size and depth of a picture from its header.

    Raises:
        BadFile: as :func:`read_picture_file`.
    """
    with _opened(path) as image:
        if image.format == "TIFF":
            import tifffile

            with tifffile.TiffFile(path) as file:
                page: Any = file.pages[0]
                kind_of = {"f": "float ", "i": "signed "}.get(page.dtype.kind, "") if page.dtype is not None else ""
                return Form(_size_as_shown(image), f"{page.bitspersample}-bit {kind_of}{_colours(image.mode)} TIFF")
        depth = _png_depth(path) if image.format == "PNG" else _DEPTHS.get(image.mode, 8)
        return Form(_size_as_shown(image), f"{depth}-bit {_colours(image.mode)} {image.format}")


_DEPTHS = {"1": 1, "I": 16, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16, "F": 32}


def _colours(mode: str) -> str:
    words = {"P": "palette", "PA": "palette", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "CMYK", "YCbCr": "colour"}
    return words.get(mode, "colour" if mode == "tifffile" else "grey")


def _size_as_shown(image: Any) -> tuple[int, int]:
    width, height = image.size
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def _opened(path: str | Path) -> Any:
    """Pillow's image before decoding: one of the known kinds, of a size that can be read, with one page."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    Image.MAX_IMAGE_PIXELS = size_limit()  # Pillow warns above this and stops at twice as much; the check below is ours
    try:
        image = Image.open(path, formats=_PILLOW)
    except UnidentifiedImageError as error:
        if kind(path) in (".tif", ".tiff"):
            return _TiffOnly(path)
        raise BadFile(path, "not an image", "remove it or fetch it again") from error
    except Image.DecompressionBombError:  # before its size could be asked for
        found = f"more than {2 * size_limit() / 1e6:,.0f} million pixels"
        raise BadFile(path, found, f"if it is right, set the environment variable {LIMIT_VARIABLE}") from None
    try:
        refuse_size(path, image.size[::-1])
        frames = _pages(path, image)
        if frames > 1:
            word = "pages" if image.format == "TIFF" else "frames"
            raise BadFile(path, f"a {image.format} of {frames} {word}", "one image a file is expected; split it")
    except BaseException:
        image.close()
        raise
    return image


class _TiffOnly:
    """A TIFF that Pillow does not know, such as 16-bit colour; :func:`_decode_tiff` reads it."""

    format, mode = "TIFF", "tifffile"

    def __init__(self, path: str | Path) -> None:
        self.size = _tiff_shape(path)[1::-1]

    def __enter__(self) -> "_TiffOnly":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def getexif(self) -> dict[int, int]:
        return {}


def _pages(path: str | Path, image: Any) -> int:
    if image.format == "MPO" or not getattr(image, "is_animated", False):  # MPO: a photograph and its preview
        return 1
    if image.format != "TIFF":
        return int(image.n_frames)
    import tifffile

    with tifffile.TiffFile(path) as file:  # previews and smaller copies are no pages
        return sum(1 for page in file.pages if not getattr(page, "is_reduced", False))


def _to_array(image: Any) -> Array:
    mode = image.mode
    if mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if mode == "I":  # PNG and PGM of 16 bits
        return np.asarray(image).astype(np.uint16)[..., None]
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
    bits = image.tag_v2.get(258, 8) if hasattr(image, "tag_v2") else 16
    return int(max(bits)) if isinstance(bits, tuple) else int(bits)


def _tiff_shape(path: str | Path) -> tuple[int, ...]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        shape = file.pages[0].shape
    refuse_size(path, shape)
    return shape


def _decode_tiff(path: str | Path, image: Any) -> Decoded:
    """8-bit files by Pillow, which knows palettes, CMYK and JPEG inside; deeper ones by tifffile, with their type."""
    from PIL import ImageOps

    if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr") and _tiff_depth(image) <= 8:
        lossy = image.info.get("compression") in ("jpeg", "tiff_jpeg")
        image.load()
        values = _to_array(ImageOps.exif_transpose(image))
        return Decoded(values, range_of_type(values.dtype), lossy=lossy)
    import tifffile

    _tiff_shape(path)
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            values = real(path, np.asarray(page.asarray()))
            white_is_zero, bits = int(page.photometric) == 0, page.bitspersample
            planar = values.ndim == 3 and int(page.planarconfig) == 2
    except UserError:
        raise
    except Exception as error:  # tifffile raises many kinds
        raise BadFile(path, f"unreadable TIFF ({error})", "save it as uncompressed 8- or 16-bit TIFF") from error
    values = values[..., None] if values.ndim == 2 else np.moveaxis(values, 0, -1) if planar else values
    if values.ndim != 3 or values.shape[-1] not in (1, 2, 3, 4):
        raise BadFile(path, f"a TIFF of shape {values.shape}", "one grey or RGB image a file is expected")
    values = values[..., : 3 if values.shape[-1] > 2 else 1]  # without alpha
    stated = (0.0, float(2 ** int(bits) - 1)) if values.dtype in (np.uint8, np.uint16) else None
    values = values.astype(np.float32) if values.dtype.kind == "f" else values
    return Decoded(finite(path, values), stated, inverted=white_is_zero)
