"""Arrays saved by NumPy: one image a file."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.reading.guard import BadFile, Decoded, Form, finite, guarded, range_of_type, real, refuse_size


@guarded("unreadable array", "save it again with numpy.save")
def read_array_file(path: str | Path) -> Decoded:
    """Read one image from ``.npy`` or from the only array of an ``.npz``: ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``.

    Raises:
        BadFile: not decodable or not one image.
    """
    _check_headers(path)
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.lib.npyio.NpzFile):
        with loaded:
            if len(loaded.files) != 1:
                keys = ", ".join(loaded.files[:6])
                raise BadFile(path, f"arrays {keys}", "an .npz with one image array is expected")
            loaded = loaded[loaded.files[0]]
    values = finite(path, real(path, np.asarray(loaded)))
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[-1] not in (1, 3):
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[-1] not in (1, 3):
        raise BadFile(path, f"an array of shape {values.shape}", "one grey or RGB image is expected")
    stated = range_of_type(values.dtype)
    return Decoded(values.astype(np.float32) if values.dtype.kind == "f" else values, stated)


@guarded("unreadable array", "save it again with numpy.save")
def array_form(path: str | Path) -> Form:
    """Shape and type of the first array of a file, from its header.

    Raises:
        BadFile: as :func:`read_array_file`.
    """
    shape, dtype = _check_headers(path)[0]
    return Form(shape, f"{dtype} array")


def _check_headers(path: str | Path) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shapes and types of all arrays of a file, from their headers."""
    if not zipfile.is_zipfile(path):
        with Path(path).open("rb") as stream:
            return [_check_header(path, stream)]
    found = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                if member.filename.endswith(".npy"):
                    found.append(_check_header(path, stream))
                else:
                    raise BadFile(path, f"a file {member.filename[:40]}", "an .npz with one image array is expected")
    if not found:
        raise BadFile(path, "no array", "an .npz with one image array is expected")
    return found


def _check_header(path: str | Path, stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    real(path, np.empty(0, dtype))
    refuse_size(path, shape or (1,))
    return shape, dtype


def refuse_inflated_archive(path: str | Path) -> None:
    """Refuse a zip archive that holds more than a GiB and a hundred times its size, as no set of images does.

    Raises:
        BadFile: see above, or no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise BadFile(path, f"unreadable ({str(error)[:80]})", "fetch the file again") from error
    if total > max(1 << 30, 100 * Path(path).stat().st_size):
        raise BadFile(path, f"an archive of {total / 1e9:,.0f} GB in a small file", "no set of images; fetch it again")
