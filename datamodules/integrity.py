"""What lies in the cache is what was put there: lengths and checksums beside each entry, and what the cache holds.

An entry is a folder with ``checksums.json`` beside its files (of a phantom, whose layout is the official one, beside
the folder). It is checked whenever it is opened, at about a second per gigabyte, and made again with a word where
it differs. The time of ``checksums.json`` is that of the last use.
"""

import contextlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import UserError
from zoo.files import write_text

NAME = "checksums.json"
DIGESTS = "digests.json"  # of the files that were read
LIMIT = 50 << 30  # bytes in the cache above which a word is said
_BLOCK = 1 << 24


class CacheEntry(NamedTuple):
    """An entry of the cache.

    Attributes:
        folder: of the entry.
        size: bytes.
        used: seconds since 1970 of the last use.
    """

    folder: Path
    size: int
    used: float


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/uad-zoo``, usually ``~/.cache/uad-zoo``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uad-zoo"


def is_cache(folder: Path) -> bool:
    """Whether this package keeps prepared data in a folder."""
    return (folder / DIGESTS).is_file()


def checksums_of(folder: Path) -> Path:
    """Where an entry's checksums lie."""
    phantom = folder.parent.name == "phantoms"
    return folder.with_name(f"{folder.name}.{NAME}") if phantom else folder / NAME


def seal(folder: Path, place: Path) -> None:
    """Write lengths and checksums of all files.

    Args:
        folder: complete.
        place: the file to write.
    """
    write_text(place, json.dumps(_measured(folder)) + "\n")


def damage(folder: Path) -> str | None:
    """What is wrong with an entry; None where all is as it was written, which counts as a use.

    Args:
        folder: of the entry.
    """
    place = checksums_of(folder)
    try:
        wanted = json.loads(place.read_text(encoding="utf-8"))
        found = _measured(folder)
    except (OSError, ValueError) as error:
        return f"{place.name} cannot be read ({error})" if not place.is_file() else f"cannot be read ({error})"
    if not isinstance(wanted, dict):
        return f"{place.name} is damaged"
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} does not belong there"
        if wanted[name] != found[name]:
            return f"{name} has {'other bytes' if wanted[name][:1] == found[name][:1] else 'another length'}"
    with contextlib.suppress(OSError):
        os.utime(place)
    return None


def _measured(folder: Path) -> dict[str, list[int]]:
    """Length and CRC-32 of every file, by its path in the folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = list(pool.map(_checksum, files))
    names = [path.relative_to(folder).as_posix() for path in files]
    return dict(zip(names, sums, strict=True))


def _checksum(path: Path) -> list[int]:
    length = checksum = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            length, checksum = length + len(block), zlib.crc32(block, checksum)
    return [length, checksum]


# ---- what the cache holds -----------------------------------------------------------------------------------------


def entries(cache_dir: Path) -> list[CacheEntry]:
    """All entries, the one that was used longest ago first."""
    folders = [path.parent for path in cache_dir.glob(f"*/{NAME}")]
    folders += [path.with_name(path.name.removesuffix(f".{NAME}")) for path in cache_dir.glob(f"phantoms/*.{NAME}")]
    found = [
        CacheEntry(folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), _used(folder))
        for folder in folders
        if folder.is_dir()
    ]
    return sorted(found, key=lambda entry: entry.used)


def _used(folder: Path) -> float:
    return checksums_of(folder).stat().st_mtime


def remove(entry: CacheEntry) -> None:
    """Delete an entry; a process that has it open keeps what it opened."""
    checksums_of(entry.folder).unlink(missing_ok=True)
    shutil.rmtree(entry.folder)


def word_when_full(cache_dir: Path) -> str | None:
    """What to say when the cache is larger than :data:`LIMIT`."""
    size = sum(entry.size for entry in entries(cache_dir))
    if size <= LIMIT:
        return None
    return f"the cache {cache_dir} holds {told(size)}: `zoo data cache clean --older 30` or `--to 20GB` makes room"


def told(size: float) -> str:
    """A number of bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def bytes_of(text: str) -> int:
    """A size such as ``500MB`` or ``20GB``.

    Raises:
        UserError: no size.
    """
    units = {"GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1, "": 1}
    number = text.upper().rstrip("BGKM")
    try:
        return int(float(number) * units[text.upper()[len(number) :]])
    except (ValueError, KeyError, OverflowError) as error:
        raise UserError(f"--to {text}: expected a size such as 500MB or 20GB") from error


def run(cache_dir: Path, action: str, older: float | None, to: str | None) -> int:
    """``zoo data cache list | clean | verify``.

    Args:
        cache_dir: of the entries.
        action: ``list``, ``clean`` (by age or down to a size) or ``verify`` (damaged entries are removed: they are
            made again when they are next needed).
        older: days without use.
        to: largest size of what stays.

    Returns:
        int: 1 if ``verify`` found damage.

    Raises:
        UserError: ``clean`` without saying what.
    """
    found = entries(cache_dir)
    if action == "clean":
        if (older is None) == (to is None):
            raise UserError("zoo data cache clean: say what, with --older DAYS or --to SIZE")
        chosen = list(_chosen(found, older, None if to is None else bytes_of(to)))
        for entry in chosen:
            remove(entry)
        print(f"removed {len(chosen)} entries, {told(sum(entry.size for entry in chosen))}, from {cache_dir}")
        return 0
    if action == "verify":
        problems = [(entry, problem) for entry in found if (problem := damage(entry.folder)) is not None]
        for entry, problem in problems:
            remove(entry)
            print(f"{entry.folder}: {problem}; removed, it is made again when it is needed")
        print(f"{len(found) - len(problems)} entries are as they were written, {len(problems)} were damaged")
        return int(bool(problems))
    for entry in reversed(found):
        days = (time.time() - entry.used) / 86400
        print(f"{told(entry.size):>10}  used {days:5.1f} days ago  {entry.folder.relative_to(cache_dir)}")
    print(f"{told(sum(entry.size for entry in found)):>10}  in {len(found)} entries of {cache_dir}")
    return 0


def _chosen(found: list[CacheEntry], older: float | None, limit: int | None) -> Iterator[Any]:
    left = sum(entry.size for entry in found)
    for entry in found:
        if older is not None and time.time() - entry.used > 86400 * older:
            yield entry
        elif limit is not None and left > limit:
            left -= entry.size
            yield entry
