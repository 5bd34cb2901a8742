"""What was written and discarded between two barriers, reduced to what must be sent. Pure.

A block of a volume is one number, its *key*: the rank of the volume among the members, and the
block. Rows are sorted while they come, some thousands at a time, and merged by ranges of keys when
they are asked for: however long an interval is, no step takes longer than a millisecond, for which
nobody else is served.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.mirror.messages import GROUP_VOLUMES_MAX
from isochrone.types import BLOCK, VOLUME_BYTES_MAX

U64 = NDArray[np.uint64]
Rows = NDArray[np.uint64]  # four columns: key, number in the interval, pointer, checksum

KEY_SHIFT: Final = 34  # a volume has no more blocks than that
PLACE_SHIFT: Final = 20  # rows that are sorted together
ROWS_SORTED: Final = 16384  # at a time: sorted and gathered in a few tenths of a millisecond
PARTS_CUT: Final = 16  # sorted parts in which edges are looked up before others are served
assert VOLUME_BYTES_MAX // BLOCK == 1 << KEY_SHIFT
assert GROUP_VOLUMES_MAX << KEY_SHIFT + PLACE_SHIFT == 1 << 64

_PLACE: Final = np.uint64((1 << PLACE_SHIFT) - 1)


def keys_of(ranks: U64, blocks: U64) -> U64:
    keys: U64 = ranks << np.uint64(KEY_SHIFT) | blocks
    return keys


def last_of_each(keys: U64) -> NDArray[np.intp]:
    """Places of the last of equal keys, by ascending key.

    Key and place make one number: to sort those takes a twentieth of the time of a stable sort.
    """
    assert len(keys) < 1 << PLACE_SHIFT
    both = keys << np.uint64(PLACE_SHIFT) | np.arange(len(keys), dtype=np.uint64)
    both.sort()
    key = both >> np.uint64(PLACE_SHIFT)
    last = np.append(key[1:] != key[:-1], True)
    places: NDArray[np.intp] = (both[last] & _PLACE).astype(np.intp)
    return places


class Holes:
    """Disjoint ranges of keys, each with how many rows had been written when it was discarded."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._rows_before: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, end: int, rows_before: int) -> None:
        """A later one takes the place of what it covers of earlier ones."""
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        pieces = [(start, end, rows_before)]
        if low < high:
            if self._starts[low] < start:
                pieces.insert(0, (self._starts[low], start, self._rows_before[low]))
            if self._ends[high - 1] > end:
                pieces.append((end, self._ends[high - 1], self._rows_before[high - 1]))
        self._starts[low:high] = [piece[0] for piece in pieces]
        self._ends[low:high] = [piece[1] for piece in pieces]
        self._rows_before[low:high] = [piece[2] for piece in pieces]

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """(rank of a volume, block, count), ascending."""
        for start, end in zip(self._starts, self._ends, strict=True):
            yield start >> KEY_SHIFT, start & (1 << KEY_SHIFT) - 1, end - start

    def columns(self) -> tuple[U64, U64, U64]:
        starts, ends, before = self._starts, self._ends, self._rows_before
        return np.array(starts, np.uint64), np.array(ends, np.uint64), np.array(before, np.uint64)


class Interval:
    """Takes rows and discards in the order of the log; gives the last version of each block."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin the next one."""
        self.holes = Holes()
        self._fresh: list[Rows] = []
        self._fresh_rows = 0
        self._sorted: list[Rows] = []  # by ascending key, each key once; the oldest first
        self._written = 0  # rows so far

    def write(self, keys: U64, pointers: U64, sums: U64) -> None:
        numbers = np.arange(self._written, self._written + len(keys), dtype=np.uint64)
        self._fresh.append(np.stack((keys, numbers, pointers, sums)))
        self._written += len(keys)
        self._fresh_rows += len(keys)
        if self._fresh_rows >= ROWS_SORTED:
            self._sort()

    def discard(self, rank: int, block: int, count: int) -> None:
        start = (rank << KEY_SHIFT) + block
        self.holes.add(start, min(start + count, (rank + 1) << KEY_SHIFT), self._written)

    def _sort(self) -> None:
        if self._fresh:
            rows = np.concatenate(self._fresh, axis=1)
            self._sorted.append(rows[:, last_of_each(rows[0])])
            self._fresh, self._fresh_rows = [], 0

    def rows(self) -> Iterator[Rows]:
        """By ascending key, in pieces; without what was discarded after it was written."""
        self._sort()
        starts, ends, before = self.holes.columns()
        for rows in merged(self._sorted):
            if len(starts):
                hole = np.searchsorted(starts, rows[0], "right").astype(np.intp) - 1
                inside = (hole >= 0) & (rows[0] < ends[hole])
                rows = rows[:, ~inside | (rows[1] >= before[hole])]
            yield rows


def merged(parts: Sequence[Rows]) -> Iterator[Rows]:
    """One after the other by ranges of keys; of equal keys that of the last part stays.

    The edges of the ranges are samples of all parts, so that each has about as many rows. To look
    them up in many parts takes long: meanwhile there are pieces without a row.
    """
    if len(parts) < 2:
        yield from parts
        return
    every = max(1, ROWS_SORTED // len(parts))
    samples = np.sort(np.concatenate([part[0][::every] for part in parts]))
    edges = np.unique(samples[:: max(1, ROWS_SORTED // every)])[1:]
    cuts: list[list[int]] = []
    for part in parts:
        cuts.append([0, *np.searchsorted(part[0], edges).tolist(), part.shape[1]])
        if not len(cuts) % PARTS_CUT:
            yield part[:, :0]
    for n in range(len(edges) + 1):
        rows = np.concatenate(
            [part[:, cut[n] : cut[n + 1]] for part, cut in zip(parts, cuts, strict=True)], axis=1
        )
        yield rows[:, last_of_each(rows[0])]


__all__ = ["Holes", "Interval", "Rows", "keys_of", "last_of_each", "merged"]
