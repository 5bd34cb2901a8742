"""Which blocks of the log are alive: every pointer of every table, shared leaves once.

Works on what a checkpoint wrote, so it needs nothing of the running pool and may run in a thread.
Nothing that was unreachable then can become reachable later, so what is dead here is dead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.store.forward import Forwarding
from isochrone.store.kept import Ids, Kept, by_segment
from isochrone.store.tracks import LEAF_BLOCKS
from isochrone.types import BLOCK

TABLES_AT_ONCE: Final = 256  # roots: 1 MiB of chunk ids of tables of 1 TiB
LEAF_BYTES: Final = 16 * LEAF_BLOCKS
BATCH_LEAVES: Final = 256  # pointers sorted at a time: 2 MiB

Bits = NDArray[np.bool_]
Read = Callable[[Iterable[int]], Iterable[bytes]]


class Marks:
    """Living slots by segment."""

    def __init__(self, segment_slots: int) -> None:
        self._slots = segment_slots
        self._bits: dict[int, Bits] = {}
        self._none: Bits = np.zeros(segment_slots, bool)
        self.history: dict[str, int] = {}  # group -> bytes that its points alone keep, with nodes
        self._counts: dict[int, int] = {}  # of segments that did not change since they were counted

    def bits(self, segment: int) -> Bits:
        """One flag for each slot of a segment."""
        return self._bits.get(segment, self._none)

    def count(self, segment: int) -> int:
        found = self._counts.get(segment)
        if found is None:
            found = self._counts[segment] = int(np.count_nonzero(self.bits(segment)))
        return found

    def segments(self) -> set[int]:
        """Those where something lives, also if there is no such segment."""
        return {segment for segment in self._bits if self.count(segment)}

    @property
    def total(self) -> int:
        """Living blocks in all."""
        return sum(map(self.count, self._bits))

    def count_all(self) -> None:
        """In the thread, so that the loop need count again only what it changes."""
        for segment in self._bits:
            self.count(segment)

    def mark(self, pointers: NDArray[np.uint64], kept: Kept | None = None) -> None:
        """Pointers in any order, also more than once: those go to `kept`. Zeros are holes."""
        pointers = pointers[pointers != 0]
        if not len(pointers):
            return
        pointers = np.sort(
            pointers
        )  # np.unique costs ten times as much, and twice marked is marked
        for segment, slots in by_segment(pointers):
            bits = self._bits.get(segment)
            if bits is None:
                bits = self._bits[segment] = np.zeros(self._slots, bool)
            if kept is not None:
                again = bits[slots]
                again[1:] |= slots[1:] == slots[:-1]
                kept.add(segment, slots[again])
            bits[slots] = True
            self._counts.pop(segment, None)

    def resolve(self, forwarding: Forwarding) -> None:
        """From births to places: a moved block lives where it is now, not where it was born."""
        moved = []
        for segment in forwarding.segments():
            slots, places = forwarding.rows(segment)
            moved.append((segment, slots, places[self.bits(segment)[slots]]))
        for segment, slots, _ in moved:
            self.unmark(segment, slots)
        for _, _, places in moved:
            self.mark(places)

    def unmark(self, segment: int, slots: NDArray[np.uint32]) -> None:
        if segment in self._bits:
            self._bits[segment][slots] = False
            self._counts.pop(segment, None)


def mark(
    roots: Sequence[bytes],
    read: Read,
    segment_slots: int,
    kept: Kept | None = None,
    passing: Sequence[bytes] = (),
    points: Mapping[str, Sequence[bytes]] = {},
) -> Marks:
    """Mark what the tables of these roots reach. `read` yields the words of nodes by their ids.

    What more than one of them reaches goes to `kept`. Roots that are `passing`, soon to be gone,
    make their blocks live, but do not keep them; nor do the `points` of each group, and what
    these alone make live is counted.
    """
    marks = Marks(segment_slots)
    _, leaves = _ids(roots, read)
    for pointers in _pointers(leaves.met - leaves.again, read):
        marks.mark(pointers, kept)
    for pointers in _pointers(leaves.again, read):
        marks.mark(pointers, kept)
        if kept is not None:
            for segment, slots in by_segment(np.sort(pointers[pointers != 0])):
                kept.add(segment, slots)
    if passing:
        _, more = _ids(passing, read)
        for pointers in _pointers(more.met - leaves.met, read):
            marks.mark(pointers)
        leaves.met |= more.met
    for group, versions in points.items():
        before, (_, older) = marks.total, _ids(versions, read)
        alone = older.met - leaves.met
        for pointers in _pointers(alone, read):
            marks.mark(pointers)
        marks.history[group] = (marks.total - before) * BLOCK + len(alone) * LEAF_BYTES
        leaves.met |= alone
    marks.count_all()
    return marks


def _pointers(leaves: Iterable[int], read: Read) -> Iterator[NDArray[np.uint64]]:
    batch: list[NDArray[np.uint64]] = []
    for words in read(sorted(leaves)):
        batch.append(np.frombuffer(words, np.uint64, LEAF_BLOCKS))
        if len(batch) == BATCH_LEAVES:
            yield np.concatenate(batch)
            batch.clear()
    if batch:
        yield np.concatenate(batch)


def reachable(roots: Iterable[bytes], read: Read) -> set[int]:
    """Ids of all nodes that the tables of these roots reach."""
    chunks, leaves = _ids(roots, read)
    return chunks.met | leaves.met


def _ids(roots: Iterable[bytes], read: Read) -> tuple[Ids, Ids]:
    """Ids of chunks and leaves. A thousand copies of one volume have nearly the same."""
    chunks, leaves = Ids(), Ids()
    tables = Counter(roots)
    for again in (False, True):
        some = [root for root, count in tables.items() if (count > 1) is again]
        for at in range(0, len(some), TABLES_AT_ONCE):
            rows = [np.frombuffer(root, np.uint64) for root in some[at : at + TABLES_AT_ONCE]]
            chunks.add(np.concatenate(rows), again=again)
    for again, ids in ((False, chunks.met - chunks.again), (True, chunks.again)):
        for words in read(sorted(ids)):
            leaves.add(np.frombuffer(words, np.uint64), again=again)
    return chunks, leaves
