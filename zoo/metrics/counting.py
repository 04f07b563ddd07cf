"""Counting negatives between the positive scores without sorting them, for CPUs whose sort is slow.

Every rank metric needs, for each distinct positive score, how many negatives lie above it and how many tie with it.
Only the few positives are sorted. A table over the leading bits of the float pattern, as fine as the positives are
dense there, says where among them a score falls; one or two comparisons settle nearly all scores, the rest is searched.
All work is ``take``, ``bincount`` and comparisons in chunks that stay in the cache, which run alike on every CPU;
``np.sort`` takes 4 to 65 ns an element, by its vector instructions (AMD's Zen 4 is slow with AVX-512).
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_CHUNK = 1 << 16  # scores: the temporaries of one step stay in the L2 cache
_SLOTS = 4  # table entries to a positive
_TABLE = 1 << 17  # table entries where there are few positives
_SMALL = 1 << 19  # scores below which the table does not pay
_FREQUENT = 0.125  # distinct positives to a score above which sorting is as fast and takes less memory
_CROWD = 8.0  # positives to a table entry above which sorting is better
_ROUNDS = 4  # comparisons of all, then of the rest, before what is left is searched
_FEW = 24  # one in so many is dearer to pick out than all are to compare
_PREFERRED = 0.7  # share of the pass's time that a sort may take: what follows a sort costs as well


class Locator:
    """Counts scores between and at given values.

    Args:
        values: ``(p,)`` float32 or float64, little-endian, finite, ascending and distinct, no negative zero.
        buffer: scores located before they are counted, where that is fewer than eight to a value.

    Attributes:
        crowd: mean number of values that share a value's entry of the table; large where they differ in low bits only.
    """

    def __init__(self, values: Array, buffer: int = 0) -> None:
        self.values, self.padded = values, np.append(values, values.dtype.type(np.inf))
        leading, low = _halves(values)
        high = leading.astype(np.intp)
        bits, sizes = _table_sizes(np.bincount(high, minlength=1 << 16), values.size)
        ends = np.cumsum(sizes)
        self.base: Array = ends - sizes
        self.shift: Array = (16 - bits).astype(np.uint16)
        size, positive = int(ends[-1]), int(ends[(1 << 15) - 1])
        entries = self.base[high] + (low >> self.shift[high])
        # patterns of negative numbers run downwards: their entries are turned round to count what lies below
        entries = np.where(entries < positive, entries + (size - positive), size - 1 - entries)
        held = np.bincount(entries, minlength=size)
        self.crowd = float((held * held).sum() / values.size)
        below = np.cumsum(held) - held
        self.start: Array = np.concatenate((below[size - positive :], below[: size - positive][::-1])).astype(np.int32)
        self.counts = np.zeros(2 * values.size + 2, np.intp)  # between, tied, between, ...
        chunks = max(4, -(-min(8 * values.size, buffer) // _CHUNK))
        self.codes, self.filled = np.empty(chunks * _CHUNK, np.intp), 0
        self.room: list[Array] = [np.empty(_CHUNK, dtype) for dtype in (np.intp, np.intp, np.uint16, np.int32)]
        self.found, self.flags = np.empty(_CHUNK, values.dtype), np.empty(_CHUNK, bool)

    def add(self, scores: Array, inside: Array | None = None) -> bool:
        """Count flat, contiguous scores of the dtype of the values, only those ``inside``; False if any is not finite.

        After False the counts are worth nothing.
        """
        for start in range(0, scores.size, _CHUNK):
            part = scores[start : start + _CHUNK]
            if inside is not None:
                part = part[inside[start : start + _CHUNK]]
            with np.errstate(all="ignore"):
                total = np.add.reduce(part)  # a sum is cheaper than a look at each; it may overflow
            if not np.isfinite(total) and not np.isfinite(part).all():
                return False
            if self.filled + part.size > self.codes.size:
                self._flush()
            self._locate(part, self.codes[self.filled : self.filled + part.size])
            self.filled += part.size
        return True

    def finish(self) -> tuple[Array, Array]:
        """Number of scores between neighbouring values, ``(p + 1,)`` from below the first, and at each, ``(p,)``."""
        self._flush()
        return self.counts[::2], self.counts[1:-1:2]

    def _locate(self, part: Array, code: Array) -> None:
        """Write ``2 j`` for scores between the values ``j - 1`` and ``j``, ``2 j + 1`` for those at ``j``."""
        n = part.size
        high, where, shift, first = (room[:n] for room in self.room)
        found, flags = self.found[:n], self.flags[:n]
        leading, low = _halves(part)
        high[:] = leading
        self.base.take(high, out=where, mode="clip")  # "clip" writes straight to ``out``: three times faster
        self.shift.take(high, out=shift, mode="clip")
        np.right_shift(low, shift, out=shift)
        np.add(where, shift, out=where)
        self.start.take(where, out=first, mode="clip")
        code[:] = first
        # an entry may hold several values: step on while the score lies above
        for left in range(_ROUNDS, -1, -1):
            self.padded.take(code, out=found, mode="clip")
            np.greater(part, found, out=flags)
            if not left or np.count_nonzero(flags) * _FEW < n:
                break
            np.add(code, flags, out=code)
        self._step(np.flatnonzero(flags), part, code, found)
        np.equal(part, found, out=flags)
        np.add(code, code, out=code)
        np.add(code, flags, out=code)

    def _step(self, rest: Array, part: Array, code: Array, found: Array) -> None:
        """Move the few elements ``rest``, which lie above what was found, to the first value that is not below."""
        for _ in range(_ROUNDS):
            if not rest.size:
                return
            at = code[rest] + 1
            value = self.padded.take(at)
            code[rest], found[rest] = at, value
            rest = rest[part[rest] > value]
        code[rest] = at = np.searchsorted(self.values, part[rest])
        found[rest] = self.padded.take(at)

    def _flush(self) -> None:
        self.counts += np.bincount(self.codes[: self.filled], minlength=self.counts.size)
        self.filled = 0


def _halves(scores: Array) -> tuple[Array, Array]:
    """The leading and the next 16 bits of the float patterns, as views."""
    words, step = scores.view(np.uint16), scores.itemsize // 2
    return words[step - 1 :: step], words[step - 2 :: step]


def _table_sizes(dense: Array, values: int) -> tuple[Array, Array]:
    """Low bits and entries for each leading pattern: as many as it holds values, all in all within the room."""
    slots, room = float(1 << 16), max(_TABLE, _SLOTS * values) + dense.size
    while True:
        bits = np.ceil(np.log2(np.maximum(dense * slots, 1))).astype(np.intp).clip(0, 16)
        sizes = np.left_shift(1, bits)
        if sizes.sum() <= room:
            return bits, sizes
        slots /= 2


@functools.cache
def sorts_fast() -> bool:
    """Whether ``np.sort`` beats the pass on this CPU, by the clock, once a process (2 to 3 ms)."""
    scores = (np.arange(1 << 15, dtype=np.uint32) * np.uint32(2654435761) >> 8).astype(np.float32)  # well mixed
    locator = Locator(np.unique(scores[::50]))
    return _seconds(lambda: np.sort(scores)) < _PREFERRED * _seconds(lambda: locator.add(scores))


def _seconds(run: Callable[[], Any]) -> float:
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return min(spent)


def locator_for(values: Array, scores: int) -> Locator | None:
    """A locator where it is faster than sorting so many scores, else None; both lead to the same counts."""
    suits = values.dtype in (np.float32, np.float64) and values.dtype.isnative and sys.byteorder == "little"
    if not suits or scores < _SMALL or values.size > _FREQUENT * scores or sorts_fast():
        return None
    locator = Locator(values, scores // 8)
    return locator if locator.crowd < _CROWD else None
