"""What can be wrong with a whole set: images in two splits, near-copies, destroyed grey levels."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from datamodules.cache import Store
from datamodules.reading import Array, Bounds
from datamodules.records import Record
from zoo.errors import UserError

MIN_GREY_LEVELS = 8
OWN_LIMIT = 0.95
_SEEN_IN_TRAINING = ("train", "val")
_AT_ONCE = 256  # images
_TABLES = 32  # of the search for near-copies
_SKETCH_ERROR = 0.1  # eight standard deviations of a correlation of 0.95 between sketches


class Report(NamedTuple):
    """What ``zoo data check`` found.

    Attributes:
        counts: number of images by part.
        errors: what must be mended.
        warnings: what makes figures incomparable or doubtful.
        facts: sizes, grey values and the like, by what they are about.
    """

    counts: dict[str, int]
    errors: list[str]
    warnings: list[str]
    facts: dict[str, str] = {}


def find_leaks(store: Store, records: Sequence[Record]) -> list[str]:
    """Images or subjects that are in more than one split.

    Args:
        store: the cache entry of ``records``.
        records: in the order of the store.

    Returns:
        list: one line per finding: same subject, or identical pixels after preprocessing.
    """
    found = []
    subjects: dict[str, Record] = {}
    for record in records:
        first = subjects.setdefault(record.subject, record) if record.subject else record
        if first.split != record.split:
            found.append(f"subject {record.subject}: {first.id} ({first.split}) and {record.id} ({record.split})")
    pixels: dict[bytes, Record] = {}
    for position in np.flatnonzero(store.pixels.any(1)):
        record = records[store.record[position]]
        first = pixels.setdefault(store.pixels[position].tobytes(), record)
        if first.split != record.split:
            found.append(f"same pixels: {first.id} ({first.split}) and {record.id} ({record.split})")
    return found


class NearCopy(NamedTuple):
    """A test image that looks like a training image, by their ids; the pair's correlation."""

    correlation: float
    test: str
    train: str

    def __str__(self) -> str:
        return f"{self.test} like {self.train} ({self.correlation:.3f})"


def near_copies(store: Store, records: Sequence[Record], limit: float = 0.97) -> list[NearCopy]:
    """Test images that look like a training image: correlation of z-normalised 32x32 thumbnails above ``limit``.

    Any two chest films correlate at 0.97. So the pair must also correlate, above 0.95, in what departs from the average
    training image; that needs at least eight training images. Pairs are found by hashing, in a time that grows little
    faster than the number of images.

    Args:
        store: the cache entry of ``records``, of 2-D images that are no slices (slices of aligned brains are alike).
        records: in the order of the store.
        limit: smallest correlation that counts.

    Returns:
        list: each such test image with its nearest training image, the most alike first.
    """
    splits = np.array([records[number].split for number in store.record])
    train, test = np.flatnonzero(np.isin(splits, _SEEN_IN_TRAINING)), np.flatnonzero(splits == "test")
    if not len(train) or not len(test):
        return []
    average = np.zeros(1, np.float32)
    if len(train) >= 8:
        average = sum(small.sum(0) for small in _thumbnails(store, train)) / np.float32(len(train))
    hashes = _Hashes(average, len(train))
    keys, sketches = hashes.of(store, train)
    order = [np.argsort(column) for column in keys.T]
    found: list[NearCopy] = []
    for start in range(0, len(test), _AT_ONCE):
        chosen = test[start : start + _AT_ONCE]
        own_keys, own_sketches = hashes.of(store, chosen)
        pairs = [_sharing(own, column[by], by) for own, column, by in zip(own_keys.T, keys.T, order, strict=True)]
        row, place = np.unique(np.concatenate(pairs, axis=1), axis=1)
        alike = np.einsum("ij,ij->i", own_sketches[row], sketches[place]) > OWN_LIMIT - _SKETCH_ERROR
        row, place = row[alike], place[alike]
        smalls = thumbnails(store, chosen)
        for number in np.unique(row):
            correlation, best = _nearest_copy(store, train[place[row == number]], smalls[number], average)
            if correlation > limit:
                ids = records[store.record[chosen[number]]].id, records[store.record[best]].id
                found.append(NearCopy(correlation, *ids))
    return sorted(found, reverse=True)


class _Hashes:
    """Random hyperplanes on whose sides departures lie: those that correlate share a table's key more often than not.

    Signs differ on a plane with the probability of the angle over pi. Of pairs at the limit of 0.95 (18 degrees) one of
    a million shares no key among a thousand images, two of a hundred among a million; at 0.99 one of ten million.

    Args:
        average: of the training thumbnails.
        images: in training: the more, the longer the keys, so that others rarely share one.
    """

    def __init__(self, average: Array, images: int) -> None:
        self.average, self.bits = average, max(8, math.ceil(math.log2(images)))
        self.planes: Array | None = None

    def of(self, store: Store, positions: Array) -> tuple[Array, Array]:
        """Keys ``(n, tables)`` int64 and unit sketches ``(n, 64)`` float32."""
        keys, sketches = [], []
        weights = 1 << np.arange(self.bits, dtype=np.int64)
        for small in _thumbnails(store, positions):
            if self.planes is None:
                rng = np.random.default_rng(0)
                self.planes = rng.standard_normal((small.shape[1], _TABLES * self.bits), dtype=np.float32)
            sides = (small - self.average) @ self.planes
            keys.append((sides > 0).reshape(len(small), _TABLES, self.bits) @ weights)
            sketches.append(_unit(sides[:, :64]))
        return np.concatenate(keys), np.concatenate(sketches)


def _sharing(own: Array, ascending: Array, order: Array) -> Array:
    """Pairs ``(2, n)`` of positions in ``own`` and of equal keys in what ``order`` sorts."""
    left, right = np.searchsorted(ascending, own, "left"), np.searchsorted(ascending, own, "right")
    counts = right - left
    row = np.repeat(np.arange(len(own)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([row, order[np.repeat(left, counts) + within]])


def _nearest_copy(store: Store, candidates: Array, small: Array, average: Array) -> tuple[float, int]:
    """Largest correlation with a candidate whose departure correlates too, and the candidate; -1 where none."""
    departure, best = _unit(small[None] - average)[0], (-1.0, -1)
    for start in range(0, len(candidates), _AT_ONCE):
        part = candidates[start : start + _AT_ONCE]
        reference = thumbnails(store, part)
        correlation = np.where(_unit(reference - average) @ departure > OWN_LIMIT, reference @ small, -1)
        place = int(correlation.argmax())
        if correlation[place] > best[0]:
            best = float(correlation[place]), int(part[place])
    return best


def near_copy_notes(copies: Sequence[NearCopy | str], tested: int) -> list[str]:
    """One line for all findings of :func:`near_copies`: how many of the ``tested`` images, and the three nearest."""
    if not copies:
        return []
    nearest = ", ".join(map(str, copies[:3]))
    return [f"{len(copies)} of {tested} test images look like a training image; nearest: {nearest}"]


def thumbnails(store: Store, positions: Array, side: int = 32) -> Array:
    """Block means of the images, at most ``(n, C * side * side)``, each row with mean 0 and length 1."""
    return np.concatenate([*_thumbnails(store, positions, side)])


def _thumbnails(store: Store, positions: Array, side: int = 32) -> Iterator[Array]:
    for start in range(0, len(positions), _AT_ONCE):
        images = store.image(positions[start : start + _AT_ONCE])
        for axis in (2, 3):
            blocks = min(side, images.shape[axis])
            edges = np.linspace(0, images.shape[axis], blocks + 1).astype(int)[:-1]
            counts = np.diff([*edges, images.shape[axis]])
            sums = np.add.reduceat(images, edges, axis)
            images = sums / counts.clip(1).reshape([-1 if a == axis else 1 for a in range(4)])
        flat = images.reshape(len(images), -1)
        yield _unit(flat - flat.mean(1, keepdims=True)).astype(np.float32)


def _unit(rows: Array) -> Array:
    unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    return unit


def refuse_destroyed_greys(store: Store, where: str) -> None:
    """Refuse a set whose images hold almost no distinct values, as masks or thresholded exports do.

    Raises:
        UserError: fewer than 8 distinct values in all of the set.
    """
    values: set[float] = set()
    for position in range(len(store)):
        values.update(np.unique(store.images[position]).tolist())
        if len(values) >= MIN_GREY_LEVELS:
            return
    raise UserError(
        f"{where}: all images together hold only {len(values)} distinct values; these look like masks or thresholded "
        "exports, give the original images"
    )


NEARLY_EMPTY = 0.26  # 12 bits in 16 use 0.06 of the range, 14 bits 0.25
NEARLY_FULL = 0.9


def nearly_empty_range(store: Store, most: int = 64) -> Bounds | None:
    """Where all images lie, as shares of the stored range, if they hardly use it.

    Args:
        store: a cache entry of 16-bit values.
        most: number of images that are looked at, spread evenly.
    """
    chosen = np.unique(np.linspace(0, len(store) - 1, min(len(store), most)).astype(int))
    values = [store.images[position] for position in chosen]
    if values[0].dtype != np.uint16:
        return None
    low, high = min(int(one.min()) for one in values) / 65535, max(int(one.max()) for one in values) / 65535
    return (low, high) if high - low < NEARLY_EMPTY else None


def full_masks(store: Store, records: Sequence[Record]) -> list[str]:
    """Masks that fill nearly all of their image: inverted, or an outline of the body."""
    masked = np.flatnonzero(store.has_mask)
    found = []
    for start in range(0, len(masked), 256):
        chosen = masked[start : start + 256]
        shares = store.mask(chosen).reshape(len(chosen), -1).mean(1)
        found += [(float(share), records[store.record[one]]) for share, one in zip(shares, chosen, strict=True)]
    full = [(share, record) for share, record in found if share > NEARLY_FULL]
    if not full:
        return []
    share, first = full[0]
    which = f"first {first.mask or first.id} ({share:.0%})"
    return [f"{len(full)} masks fill nearly all of their image, {which}; are they inverted?"]
