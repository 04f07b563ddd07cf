"""Files on disk: written whole or not at all, and names with double suffixes."""

import contextlib
import csv
import errno
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import UserError

_DOUBLE = (".nii.gz", ".img.gz", ".hdr.gz", ".ome.tif", ".ome.tiff", ".tar.gz", ".tar.bz2", ".tar.xz")


@contextlib.contextmanager
def whole(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Write a file or a folder under another name in the same folder, which takes its own when the block ends well.

    Whatever ends the block otherwise, nothing half-written stays. The other name has the same suffix, since many
    writers choose their format by it. Missing parents are made.

    Args:
        path: the file or folder to be written; an existing file is replaced.
        shared: several processes may write ``path`` at once; the last one wins. Otherwise the other name is always the
            same, so that what a killed process left is written over.

    Yields:
        Path: the name to write to.

    Raises:
        OSError: the disk is full, the place cannot be written, ...; ``filename`` is ``path``.
    """
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}" if shared else f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        yield partial
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _remove(partial)
        cause = _disk_error(error, partial)
        if cause is not None:
            number = cause.errno or errno.EIO
            raise OSError(number, cause.strerror or str(cause) or os.strerror(number), str(path)) from error
        raise


@contextlib.contextmanager
def named(path: Path, written: Path | None = None) -> Iterator[None]:
    """Let a failure to write name ``path``.

    Args:
        path: to be named.
        written: the file or folder that is written, None: ``path``. Failures that name another file pass unchanged.

    Raises:
        OSError: see above; ``filename`` is ``path``.
    """
    try:
        yield
    except Exception as error:
        if (cause := _disk_error(error, written or path)) is not None:
            number = cause.errno or errno.EIO
            raise OSError(number, cause.strerror or str(cause) or os.strerror(number), str(path)) from error
        raise


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder that is to be filled; it is removed if the block fails, unless it was there before."""
    before = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        if not before:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Write a UTF-8 text file, whole or not at all; see :func:`whole`."""
    with whole(path, shared=shared) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; the system lets go of it when the process ends, however it does.

    Args:
        folder: exists; the lock is its file ``.lock``, beside it ``.held-by`` says who has it.

    Raises:
        UserError: another process holds it; the message tells which.
        OSError: it cannot be written.
    """
    from filelock import FileLock, Timeout

    lock, note = FileLock(folder / ".lock"), folder / ".held-by"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        owner = note.read_text(encoding="utf-8") if note.is_file() else "another process"
        raise UserError(f"{folder}: in use by {owner}; wait for it or end it") from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        write_text(note, f"process {os.getpid()} on {socket.gethostname()} since {since}")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _disk_error(error: BaseException, partial: Path) -> OSError | None:
    """The failure to write behind ``error``: libraries wrap it, or raise something else while they clean up."""
    seen: list[BaseException] = []
    link: BaseException | None = error if isinstance(error, Exception) else None
    while link is not None and link not in seen:
        seen.append(link)
        if isinstance(link, OSError):
            about = link.filename
            ours = about is None or Path(os.fsdecode(about)) == partial or partial in Path(os.fsdecode(about)).parents
            return link if ours else None
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # what writers of other languages say
            if os.strerror(number) in str(link):
                return OSError(number, os.strerror(number))
        link = link.__cause__ or link.__context__
    return None


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, shared: bool = False) -> None:
    """Write a CSV file, whole or not at all, whose cells no spreadsheet takes for formulas; see :func:`plain_cell`.

    Args:
        path: the file.
        columns: in this order; other entries of the rows are left out.
        rows: cells by column.
        shared: as of :func:`whole`.
    """
    with whole(path, shared=shared) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([plain_cell(column) for column in columns])
        writer.writerows([[plain_cell(row.get(column, "")) for column in columns] for row in rows])


def plain_cell(value: Any) -> Any:
    """A text that spreadsheets would take for a formula, with an apostrophe in front; others as they are."""
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


# ---- names --------------------------------------------------------------------------------------------------------


def suffix(path: Path | str) -> str:
    """Lower-case suffix of a file's name; double ones such as ``.nii.gz`` count as one.

    Args:
        path: path or name.

    Returns:
        str: with its dot; empty if there is none.
    """
    name = Path(path).name.lower()
    return next((double for double in _DOUBLE if name.endswith(double)), Path(name).suffix)


def stem(path: Path | str) -> str:
    """Name of a file without its folder and :func:`suffix`: ``scan`` of ``a/scan.nii.gz``, ``v1.2`` of ``v1.2.png``."""
    name = Path(path).name
    ending = suffix(name)
    return name[: len(name) - len(ending)]


_LONGEST = 200  # bytes of one part of a path; file systems allow 255, writers add some
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?$")


class OutputNames:
    """Names of output files for ids: below the output folder, portable, short enough, and never the same twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, identity: str, ending: str, fuller: str = "") -> Path:
        """A relative path for an id such as ``case#3/scan.png``.

        Args:
            identity: a relative path, as users name their files.
            ending: put behind it, with its dot.
            fuller: an id to take where another file has the name already.
        """
        parts = [_portable(part) for part in re.split(r"[/\\]", identity) if part not in ("", ".", "..")] or ["image"]
        folders = [_short(part, part) for part in parts[:-1]]
        path = Path(*folders, _short(parts[-1], identity, ending) + ending)
        if path.as_posix().casefold() in self._taken and fuller not in ("", identity):
            return self.name(fuller, ending)
        if path.as_posix().casefold() in self._taken:  # also a.png beside A.png
            path = Path(*folders, f"{_cut(parts[-1], ending)}-{_mark(identity)}{ending}")
        self._taken.add(path.as_posix().casefold())
        return path


def _portable(part: str) -> str:
    part = re.sub(r"[\x00-\x1f<>:\"|?*#]", "_", part).rstrip(". ") or "_"
    return f"_{part}" if _RESERVED.match(part) else part


def _short(part: str, identity: str, ending: str = "") -> str:
    cut = _cut(part, ending)
    return part if cut == part else f"{cut}-{_mark(identity)}"


def _cut(part: str, ending: str) -> str:
    room = _LONGEST - len(ending.encode())
    return part if len(part.encode()) <= room else part.encode()[: room - 9].decode("utf-8", "ignore")


def _mark(identity: str) -> str:
    return hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
