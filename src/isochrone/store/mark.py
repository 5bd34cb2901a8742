"""Which blocks of the log are alive: every pointer of every table, shared leaves once.

Works on what a checkpoint wrote, so it needs nothing of the running pool and may run in a thread.
Nothing that was unreachable then can become reachable later, so what is dead here is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.store.format import SLOT_BITS, SLOT_MASK
from isochrone.store.tracks import LEAF_BLOCKS

BATCH_LEAVES: Final = 256  # pointers sorted at a time: 2 MiB

Bits = NDArray[np.bool_]
Read = Callable[[Iterable[int]], Iterable[bytes]]


class Marks:
    """Living slots by segment."""

    def __init__(self, segment_slots: int) -> None:
        self._slots = segment_slots
        self._bits: dict[int, Bits] = {}
        self._none: Bits = np.zeros(segment_slots, bool)

    def bits(self, segment: int) -> Bits:
        """One flag for each slot of a segment."""
        return self._bits.get(segment, self._none)

    def count(self, segment: int) -> int:
        return int(self.bits(segment).sum())

    @property
    def total(self) -> int:
        """Living blocks in all."""
        return sum(int(bits.sum()) for bits in self._bits.values())

    def mark(self, pointers: NDArray[np.uint64]) -> None:
        """Pointers in any order, also more than once; zeros are holes."""
        pointers = pointers[pointers != 0]
        if not len(pointers):
            return
        pointers = np.sort(
            pointers
        )  # np.unique costs ten times as much, and twice marked is marked
        numbers = pointers >> np.uint64(SLOT_BITS)
        slots = (pointers & np.uint64(SLOT_MASK)).astype(np.int64)
        edges = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
        for start, stop in zip([0, *edges], [*edges, len(pointers)], strict=True):
            segment = int(numbers[start])
            bits = self._bits.get(segment)
            if bits is None:
                bits = self._bits[segment] = np.zeros(self._slots, bool)
            bits[slots[start:stop]] = True

    def unmark(self, segment: int, slots: NDArray[np.uint32]) -> None:
        if segment in self._bits:
            self._bits[segment][slots] = False


def mark(roots: Iterable[bytes], read: Read, segment_slots: int) -> Marks:
    """Mark what the tables of these roots reach. `read` yields the words of nodes by their ids."""
    marks = Marks(segment_slots)
    chunks: set[int] = set()
    for root in roots:
        chunks.update(np.frombuffer(root, np.uint64).tolist())
    chunks.discard(0)
    leaves: set[int] = set()
    for words in read(sorted(chunks)):
        leaves.update(np.frombuffer(words, np.uint64).tolist())
    leaves.discard(0)
    batch: list[NDArray[np.uint64]] = []
    for words in read(sorted(leaves)):
        batch.append(np.frombuffer(words, np.uint64, LEAF_BLOCKS))
        if len(batch) == BATCH_LEAVES:
            marks.mark(np.concatenate(batch))
            batch.clear()
    if batch:
        marks.mark(np.concatenate(batch))
    return marks
