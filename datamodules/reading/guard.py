"""The guard of all readers.

The file is looked at before it is opened, its size read from the header before anything is decoded, any exception
becomes the named :class:`BadFile`, and what comes out holds finite real numbers.
"""

import functools
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np

from datamodules.listing import shown
from zoo.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
Bounds = tuple[float, float]
P = ParamSpec("P")
T = TypeVar("T")
Reader = Callable[Concatenate[str | Path, P], T]

LIMIT_VARIABLE = "UAD_MAX_MEGAPIXELS"
_LIMIT = 300  # million pixels or voxels: the largest mammograms have 30, a CT of the whole body 250


class BadFile(UserError):
    """One file that cannot be used: ``path: what was found; what to do``."""

    def __init__(self, path: str | Path, found: str, remedy: str) -> None:
        super().__init__(f"{shown(path)}: {found}; {remedy}")
        self.path, self.found, self.remedy = str(path), found, remedy


class Decoded(NamedTuple):
    """Values of a file and what its header says about them.

    Attributes:
        values: ``(H, W, C)`` or ``(X, Y, Z)``, real and finite.
        stated: values that the header shows as black and white; None where it states none, as for floats.
        inverted: small values are bright.
        alpha: ``(H, W)`` opacity of masks, None where there is none.
        lossy: compression altered the values (JPEG).
    """

    values: Array
    stated: Bounds | None
    inverted: bool = False
    alpha: Array | None = None
    lossy: bool = False


class Form(NamedTuple):
    """What a file's header says of its values.

    Attributes:
        size: sides in pixels or voxels, ``(H, W)`` or ``(X, Y, Z)``.
        stored: how values are stored, in words: ``8-bit grey``, ``12-bit grey DICOM``, ``int16 volume``.
    """

    size: tuple[int, ...]
    stored: str


def size_limit() -> int:
    """Largest number of pixels or voxels of one file that is decoded; ``UAD_MAX_MEGAPIXELS`` (million) raises it.

    Raises:
        UserError: the variable is no number.
    """
    text = os.environ.get(LIMIT_VARIABLE, str(_LIMIT))
    try:
        return int(float(text) * 1e6)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{LIMIT_VARIABLE}={text}: expected a number of million pixels, for example 500") from error


def refuse_size(path: str | Path, shape: Iterable[int]) -> None:
    """Raise :class:`BadFile` for an empty image or one above the limit of values."""
    sides = [int(side) for side in shape]
    count, limit = math.prod(sides), size_limit()
    if min(sides, default=0) < 1:
        raise BadFile(path, f"an empty image ({_times(sides)})", "fetch it again or remove it")
    if count > limit:
        found = f"{_times(sides)}, {count / 1e6:,.0f} million values; the limit is {limit / 1e6:,.0f}"
        remedy = f"if the header is right, set the environment variable {LIMIT_VARIABLE}={math.ceil(count / 1e6)}"
        raise BadFile(path, found, remedy)


def _times(sides: Iterable[int]) -> str:
    return "x".join(map(str, sides))


def sniff(path: str | Path) -> None:
    """Refuse files that are not what their name says.

    Raises:
        BadFile: missing, unreadable, empty, an HTML page or a git-lfs pointer.
    """
    path = Path(path)
    if not path.is_file():
        raise BadFile(path, "no such file", "check the path or download it again")
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
    except OSError as error:
        raise BadFile(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from error
    if not head:
        raise BadFile(path, "0 bytes", "the download was interrupted, fetch the file again")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        raise BadFile(path, "an HTML page", "the download expired or needs a login, fetch the file again")
    if head.startswith(b"version https://git-lfs"):
        raise BadFile(path, "a git-lfs pointer", "run `git lfs pull` where it was cloned")


def guarded(what: str | Callable[[str | Path], str], remedy: str) -> Callable[[Reader[P, T]], Reader[P, T]]:
    """Decorate a reader: the file is looked at first, and whatever the reader raises names the file.

    Args:
        what: the file's kind, for the message, or a function that tells it.
        remedy: what the user can do.
    """

    def decorate(read: Reader[P, T]) -> Reader[P, T]:
        @functools.wraps(read)
        def guarded(path: str | Path, /, *args: P.args, **kwargs: P.kwargs) -> T:
            sniff(path)
            try:
                return read(path, *args, **kwargs)
            except UserError:
                raise
            except MemoryError as error:
                raise BadFile(path, "not enough memory to decode it", "close other programs or shrink it") from error
            except Exception as error:  # decoders raise every kind
                found = what if isinstance(what, str) else what(path)
                reason = " ".join(str(error).replace(str(path), "the file").split())[:100] or type(error).__name__
                raise BadFile(path, f"{found} ({reason})", remedy) from error

        return guarded

    return decorate


def real(path: str | Path, values: Array) -> Array:
    """Refuse what cannot be shown, before it is converted without a word."""
    if values.dtype.names is not None or values.dtype.kind not in "biuf":
        kinds = {"c": "complex numbers", "O": "objects", "V": "records"}
        found = "colours" if values.dtype.names else kinds.get(values.dtype.kind, f"values of type {values.dtype}")
        raise BadFile(path, f"{found} instead of grey values", "export real numbers, one value a pixel")
    return values


def finite(path: str | Path, values: Array, what: str = "image") -> Array:
    """The values as they are; :class:`BadFile` where some are NaN or infinite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        found = f"{int((~np.isfinite(values)).sum())} values are NaN or infinite"
        raise BadFile(path, found, f"export the {what} again")
    return values


def range_of_type(dtype: np.dtype[Any]) -> Bounds | None:
    """What 8- and 16-bit counts without sign state by their type; others state nothing."""
    if dtype.kind == "b":
        return (0.0, 1.0)
    return (0.0, float(np.iinfo(dtype).max)) if dtype in (np.uint8, np.uint16) else None
