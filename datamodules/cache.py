"""Decode and preprocess once: arrays in memory-mapped files, named by the content they were made from.

An entry is a folder ``<name>-<key>``: ``images.bin`` (N, C, *S), bit-packed ``masks.bin`` and ``foreground.bin``, and
``index.npz``. It is written under another name and renamed when complete, so that an entry is whole or absent; a lock
lets one process build while others wait.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from datamodules.integrity import DIGESTS, damage, seal, word_when_full
from datamodules.integrity import NAME as CHECKSUMS
from datamodules.reading import Array, BadFile
from datamodules.records import Record
from zoo.errors import UserError
from zoo.files import write_text

CACHE_VERSION = 4
_DIGESTS_AT_ONCE = 4096  # files
_SECONDS_BETWEEN_LINES = 30.0


class Prepared(NamedTuple):
    """What preprocessing makes of one record: ``n`` images, 1 for a picture, the number of slices for a volume.

    Attributes:
        image: ``(n, C, *S)`` float32 in the data set's value range.
        mask: ``(n, *S)`` bool, None when no ground truth is known.
        foreground: ``(n, *S)`` bool, None for all of the image.
        labels: ``n`` labels, None when the record's label holds.
        slices: the ``n`` slice numbers, None when the record is one image.
        spacing: mm per pixel and axis of S, empty when unknown.
        to_file: of volumes: ``(4, 4)`` from ``(slice, row, column, 1)``, or ``(z, y, x, 1)``, to voxel indices of the
            file, so that maps go back into it; None when unknown.
    """

    image: Array
    mask: Array | None = None
    foreground: Array | None = None
    labels: tuple[int, ...] | None = None
    slices: tuple[int, ...] | None = None
    spacing: tuple[float, ...] = ()
    to_file: Array | None = None


class Store:
    """A complete cache entry, opened read-only.

    Attributes:
        shape: ``(C, *S)``.
        record: ``(N,)`` int64, position in the list of records that each image comes from.
        labels: ``(N,)`` int8, -1 where the record's own label holds.
        slices: ``(N,)`` int32, -1 for images that are no slices.
        has_mask: ``(N,)`` bool.
        spacing: ``(N, len(S))`` float32 mm, NaN when unknown.
        to_file: ``(N, 4, 4)`` float32, see :class:`Prepared`; NaN when unknown.
        pixels: ``(N, 16)`` uint8, digest of every image as stored; zeros for blank ones.
        rejected: messages by record position, for files that lenient reading skipped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with np.load(folder / "index.npz") as index:
            meta = json.loads(str(index["meta"]))
            self.record, self.labels = index["record"], index["labels"]
            self.slices, self.has_mask, self.spacing = index["slices"], index["has_mask"], index["spacing"]
            self.pixels, self.to_file = index["pixels"], index["to_file"]
        self.shape: tuple[int, ...] = tuple(meta["shape"])
        self.rejected: dict[int, str] = {int(key): value for key, value in meta["rejected"].items()}
        low, high = meta["value_range"]
        dtype = np.dtype(meta["dtype"])
        self._scale = np.float32((high - low) / 65535) if dtype == np.uint16 else None
        self._low = np.float32(low)
        self.images = np.memmap(folder / "images.bin", dtype, "r", shape=(len(self.record), *self.shape))
        self._masks = self._open_bits("masks.bin") if self.has_mask.any() else None
        self._foreground = self._open_bits("foreground.bin") if meta["foreground"] else None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the entry again by its path: worker processes that are spawned get no pixels through a pipe."""
        Store.__init__(self, state["folder"])

    def __len__(self) -> int:
        return len(self.record)

    def _open_bits(self, name: str) -> np.memmap[Any, np.dtype[np.uint8]]:
        width = -(-int(np.prod(self.shape[1:])) // 8)
        return np.memmap(self.folder / name, np.uint8, "r", shape=(len(self.record), width))

    def image(self, indices: Array) -> Array:
        """Images ``(B, C, *S)`` float32."""
        values = self.images[indices].astype(np.float32)
        if self._scale is not None:
            values *= self._scale
            values += self._low
        return values

    def mask(self, indices: Array) -> Array:
        """Ground truth ``(B, 1, *S)`` bool, False where there is none."""
        return self._bits(self._masks, indices, False)

    def foreground(self, indices: Array) -> Array:
        """Foreground ``(B, 1, *S)`` bool."""
        return self._bits(self._foreground, indices, True)

    def _bits(self, packed: np.memmap[Any, np.dtype[np.uint8]] | None, indices: Array, default: bool) -> Array:
        shape = (len(indices), 1, *self.shape[1:])
        if packed is None:
            return np.full(shape, default)
        bits = np.unpackbits(packed[indices], axis=1, count=int(np.prod(shape[1:])))
        return bits.astype(bool).reshape(shape)


_UNREADABLE = "unreadable"


def content_digests(files: Iterable[str], cache_dir: Path) -> dict[str, str]:
    """BLAKE2 digest of every file's content; unchanged files (size, times) are not read again.

    Files that cannot be read have the digest ``unreadable``: reading them tells why.
    """
    with exclusive(cache_dir / "digests.lock"):
        return _content_digests(files, cache_dir / DIGESTS)


def _content_digests(files: Iterable[str], memo_path: Path) -> dict[str, str]:
    memo: dict[str, list[Any]] = {}
    if memo_path.is_file():
        with contextlib.suppress(ValueError, OSError):
            memo = json.loads(memo_path.read_text())
    digests: dict[str, str] = {}
    fresh: list[tuple[str, list[int]]] = []
    for file in dict.fromkeys(files):
        try:
            status = Path(file).stat()
        except OSError:  # told when it is read, strict or lenient
            digests[file] = _UNREADABLE
            continue
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = memo.get(file)
        if known is not None and known[:3] == stamp:
            digests[file] = known[3]
        else:
            fresh.append((file, stamp))
    if fresh:
        with ThreadPoolExecutor(_threads()) as pool, _progress(len(fresh), "reading the files") as advance:
            for start in range(0, len(fresh), _DIGESTS_AT_ONCE):  # a task a file for a million files fills the memory
                part = fresh[start : start + _DIGESTS_AT_ONCE]
                for (file, stamp), digest in zip(part, pool.map(_digest, [file for file, _ in part]), strict=True):
                    digests[file] = digest
                    if digest != _UNREADABLE:
                        memo[file] = [*stamp, digest]
                    advance()
        write_text(memo_path, json.dumps(memo), shared=True)
    return digests


def _digest(file: str) -> str:
    try:
        with Path(file).open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return _UNREADABLE


def entry_key(records: Sequence[Record], digests: dict[str, str], parameters: dict[str, Any]) -> str:
    """Name of the entry: everything that decides the pixels, and nothing else (not the split, not the seed)."""
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, parameters], sort_keys=True, default=str).encode())
    for record in records:
        parts = [record.id, record.index, record.boxes, [digests[file] for file in record.files]]
        digest.update(json.dumps(parts).encode())
    return digest.hexdigest()[:24]


def open_store(
    name: str,
    records: Sequence[Record],
    prepare: Callable[[Record], Prepared],
    *,
    cache_dir: Path,
    parameters: dict[str, Any],
    value_range: tuple[float, float] | None,
    bad_files: Literal["strict", "lenient"] = "strict",
) -> Store:
    """The entry for these files and parameters, built if it does not exist yet.

    Args:
        name: beginning of the entry's folder name.
        records: sources, in the order in which their images are stored.
        prepare: reads and preprocesses one record; raises :class:`BadFile` for files that it cannot use.
        cache_dir: holds the entries.
        parameters: options that decide the pixels.
        value_range: bounds of the values, stored as 16-bit integers; None stores float32.
        bad_files: ``strict`` raises on files that cannot be used, ``lenient`` leaves them out and lists them in
            :attr:`Store.rejected`.

    Raises:
        UserError: files that cannot be used (strict), none left (lenient), or an unwritable ``cache_dir``.
    """
    key = entry_key(records, content_digests((f for r in records for f in r.files), cache_dir), parameters)
    folder = cache_dir / f"{name}-{key}"
    if not folder.is_dir() or damage(folder) is not None:
        with exclusive(cache_dir / f"{folder.name}.lock"):
            problem = damage(folder) if folder.is_dir() else "is missing"
            if folder.is_dir() and problem is not None:
                warnings.warn(f"{folder}: damaged ({problem}); made again")
            if problem is not None:
                _build(folder, records, prepare, value_range, bad_files)
                if (word := word_when_full(cache_dir)) is not None:
                    warnings.warn(word)
    store = Store(folder)
    if store.rejected and bad_files == "strict":
        raise UserError(list_problems(list(store.rejected.values())))
    return store


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that the operating system releases even if this process is killed.

    Raises:
        UserError: the folder is not writable.
    """
    from filelock import FileLock

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "it cannot be locked"
        raise UserError(
            f"{path.parent}: the cache folder is not writable ({reason}); give another --data.cache_dir"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _build(
    folder: Path,
    records: Sequence[Record],
    prepare: Callable[[Record], Prepared],
    value_range: tuple[float, float] | None,
    bad_files: str,
) -> None:
    for stale in folder.parent.glob(f"{folder.name}.part-*"):  # left by a killed process; the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        problems = _write_entry(part, records, prepare, value_range, keep_going=bad_files == "lenient")
        if problems and bad_files == "strict":
            raise UserError(list_problems([str(problem) for problem in problems.values()]))
        seal(part, part / CHECKSUMS)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(
            f"{folder}: cannot write the cache ({error.strerror or error}); free space or move it"
        ) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def list_problems(problems: Sequence[str]) -> str:
    """At most six lines: a header, the first problems, how many more."""
    shown = list(problems[: 5 if len(problems) <= 5 else 4])
    if len(problems) == 1:
        return shown[0]
    header = f"{len(problems)} files cannot be used (--data.bad_files lenient leaves them out):"
    more = [f"... and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
    return "\n".join([header, *shown, *more])


class _Columns(NamedTuple):
    record: list[int]
    labels: list[int]
    slices: list[int]
    has_mask: list[bool]
    spacing: list[tuple[float, ...]]
    pixels: list[bytes]
    to_file: list[Array]


def _write_entry(
    part: Path,
    records: Sequence[Record],
    prepare: Callable[[Record], Prepared],
    value_range: tuple[float, float] | None,
    keep_going: bool,
) -> dict[int, BadFile]:
    problems: dict[int, BadFile] = {}
    columns = _Columns([], [], [], [], [], [], [])
    shape: tuple[int, ...] | None = None
    whole = True
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((part / f"{name}.bin").open("wb")) for name in _FILES}
        for position, result in enumerate(_in_order(records, prepare)):
            if isinstance(result, BadFile):
                problems[position] = result
                continue
            if shape is None:
                shape = result.image.shape[1:]
            if result.image.shape[1:] != shape:
                problems[position] = _other_size(records[position], result.image.shape[1:], shape)
                continue
            whole &= result.foreground is None or bool(result.foreground.all())
            if not problems or keep_going:
                _append(files, columns, position, result, value_range)
    if problems and not keep_going:
        return problems
    if shape is None:
        lines = [str(problem) for problem in problems.values()]
        raise UserError(list_problems(lines) if lines else f"{part.parent}: no image to cache")
    meta = {
        "shape": shape,
        "dtype": "float32" if value_range is None else "uint16",
        "value_range": value_range or (0.0, 0.0),
        "foreground": not whole,
        "rejected": {position: str(problem) for position, problem in problems.items()},
    }
    arrays: dict[str, Any] = {
        "record": np.array(columns.record, np.int64),
        "labels": np.array(columns.labels, np.int8),
        "slices": np.array(columns.slices, np.int32),
        "has_mask": np.array(columns.has_mask, bool),
        "spacing": _spacings(columns.spacing, len(shape) - 1),
        "to_file": np.array(columns.to_file, np.float32),
        "pixels": np.frombuffer(b"".join(columns.pixels), np.uint8).reshape(-1, 16),
    }
    for name, needed in (("foreground", not whole), ("masks", bool(arrays["has_mask"].any()))):
        if not needed:
            (part / f"{name}.bin").unlink()
    np.savez(part / "index.npz", meta=np.array(json.dumps(meta)), **arrays)
    return problems


_FILES = ("images", "masks", "foreground")


def _append(
    files: Mapping[str, IO[bytes]],
    columns: _Columns,
    position: int,
    result: Prepared,
    value_range: tuple[float, float] | None,
) -> None:
    image = np.asarray(result.image, np.float32)
    count, size = image.shape[0], image.shape[2:]
    if value_range is not None:
        low, high = value_range
        image = np.rint((np.clip(image, low, high) - np.float32(low)) * np.float32(65535 / (high - low)))
        image = image.astype(np.uint16)
    files["images"].write(np.ascontiguousarray(image).tobytes())
    mask = np.zeros((count, *size), bool) if result.mask is None else result.mask
    foreground = np.ones((count, *size), bool) if result.foreground is None else result.foreground
    files["masks"].write(np.packbits(mask.reshape(count, -1).astype(bool), axis=1).tobytes())
    files["foreground"].write(np.packbits(foreground.reshape(count, -1).astype(bool), axis=1).tobytes())
    columns.record.extend([position] * count)
    columns.labels.extend([-1] * count if result.labels is None else result.labels)
    columns.slices.extend([-1] * count if result.slices is None else result.slices)
    columns.has_mask.extend([result.mask is not None] * count)
    columns.spacing.extend([result.spacing] * count)
    columns.to_file.extend([np.full((4, 4), np.nan) if result.to_file is None else result.to_file] * count)
    columns.pixels.extend(_pixel_digest(one) for one in image)


def _pixel_digest(image: Array) -> bytes:
    blank = image.min() == image.max()  # blank slices are equal without being copies
    return bytes(16) if blank else hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def _spacings(values: list[tuple[float, ...]], dims: int) -> Array:
    rows = [value if len(value) == dims else (np.nan,) * dims for value in values]
    return np.array(rows, np.float32).reshape(len(rows), dims)


def _other_size(record: Record, found: tuple[int, ...], expected: tuple[int, ...]) -> BadFile:
    def spell(shape: tuple[int, ...]) -> str:
        return "x".join(map(str, shape[1:])) + f" with {shape[0]} channel(s)"

    return BadFile(record.image, f"{spell(found)}, the first file has {spell(expected)}", "set --data.image_size")


def _in_order(records: Sequence[Record], prepare: Callable[[Record], Prepared]) -> Iterator[Prepared | BadFile]:
    """Results in the order of the records; threads, because decoding and resampling release the interpreter lock."""

    def attempt(record: Record) -> Prepared | BadFile:
        try:
            return prepare(record)
        except BadFile as problem:
            return problem

    threads = _threads()
    ahead = 4 * threads
    pending: deque[Future[Prepared | BadFile]] = deque()
    with ThreadPoolExecutor(threads) as pool, _progress(len(records), "preparing the data (once)") as advance:
        try:
            for record in records:
                pending.append(pool.submit(attempt, record))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
                    advance()
            while pending:
                yield pending.popleft().result()
                advance()
        finally:
            for future in pending:
                future.cancel()


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _progress(total: int, what: str) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, elsewhere a line now and then: only what takes long is told."""
    if total < 64:
        yield lambda: None
        return
    if not sys.stderr.isatty():
        yield _lines(total, what)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _lines(total: int, what: str) -> Callable[[], None]:
    started = told = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, told
        done += 1
        now = time.monotonic()
        if now - told >= _SECONDS_BETWEEN_LINES:
            told = now
            left = (now - started) / done * (total - done)
            print(f"{what}: {done:,} of {total:,}, about {left:.0f} s left", file=sys.stderr, flush=True)

    return advance
