"""Blocks that more than one table keeps: to write over one of them gives nothing back.

Found while marking, by their birth places, so exactly what was so at that checkpoint, however it
came about: by a copy, by a relation that is on record no more, at another place of another volume.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from isochrone.store.format import SLOT_BITS, SLOT_MASK

Words = NDArray[np.uint64]


class Ids:
    """Numbers of nodes that were met, and which of them more than once."""

    def __init__(self) -> None:
        self.met: set[int] = set()
        self.again: set[int] = set()

    def add(self, words: Words, *, again: bool = False) -> None:
        """Zeros are no nodes. `again`: whatever leads to these was itself met more than once."""
        found, counts = np.unique(words, return_counts=True)
        ids = set(found.tolist())
        self.again |= ids if again else (self.met & ids) | set(found[counts > 1].tolist())
        self.met |= ids
        self.met.discard(0)
        self.again.discard(0)


class Kept:
    """A flag for each slot, a bit large, of the segments that have such blocks."""

    def __init__(self, segment_slots: int) -> None:
        self._slots = segment_slots
        self._bits: dict[int, NDArray[np.uint8]] = {}

    def add(self, segment: int, slots: NDArray[np.int64]) -> None:
        if not len(slots):
            return
        flags = np.zeros(self._slots, bool)
        flags[slots] = True
        bits = np.packbits(flags)
        found = self._bits.get(segment)
        self._bits[segment] = bits if found is None else found | bits

    def among(self, pointers: array[int]) -> bool:
        """Whether any of these blocks is one."""
        return any(
            bool((self._bits[segment][slots >> 3] & (128 >> (slots & 7))).any())
            for segment, slots in by_segment(np.sort(np.frombuffer(pointers, np.uint64)))
            if segment in self._bits
        )


def by_segment(pointers: Words) -> Iterable[tuple[int, NDArray[np.int64]]]:
    """Sorted pointers as (segment, slots)."""
    if not len(pointers):
        return
    numbers = pointers >> np.uint64(SLOT_BITS)
    slots = (pointers & np.uint64(SLOT_MASK)).astype(np.int64)
    edges = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    for start, stop in pairwise([0, *edges.tolist(), len(pointers)]):
        yield int(numbers[start]), slots[start:stop]
