"""Where moved blocks are now.

A pointer names the birth place of a block and never changes while the block lives. When the cleaner
moves a block, it notes birth place and new place here; track tables and copies are not touched.

One sorted row of slots and one of places for each segment that blocks were moved out of.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from isochrone.store.format import SLOT_BITS, SLOT_MASK


class Moves:
    """Moved blocks that were born in one segment: their slots, ascending, and where they are."""

    __slots__ = ("places", "slots")

    def __init__(self, slots: array[int], places: array[int]) -> None:
        self.slots = slots
        self.places = places


class Forwarding:
    """Birth place -> place, for the blocks of a pool that were moved."""

    def __init__(self) -> None:
        self._moves: dict[int, Moves] = {}
        self.changed: set[int] = set()  # segments whose moves differ from the last checkpoint's

    def __len__(self) -> int:
        return sum(len(moves.slots) for moves in self._moves.values())

    def __bool__(self) -> bool:
        return bool(self._moves)

    def place(self, pointer: int) -> int:
        """Where a block is: a pointer into the segment files as they are now."""
        moves = self._moves.get(pointer >> SLOT_BITS)
        if moves is None:
            return pointer
        slot = pointer & SLOT_MASK
        at = bisect_left(moves.slots, slot)
        if at < len(moves.slots) and moves.slots[at] == slot:
            return moves.places[at]
        return pointer

    def runs(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Blocks born one after the other, as (place, count) of what still lies together."""
        if first >> SLOT_BITS not in self._moves:
            yield first, count
            return
        start, n = self.place(first), 1
        for pointer in range(first + 1, first + count):
            here = self.place(pointer)
            if here == start + n:
                n += 1
            else:
                yield start, n
                start, n = here, 1
        yield start, n

    def move(self, birth: int, count: int, place: int) -> None:
        """Note that blocks born from `birth` on now lie from `place` on."""
        segment, slot = birth >> SLOT_BITS, birth & SLOT_MASK
        moves = self._moves.get(segment)
        if moves is None:
            moves = self._moves[segment] = Moves(array("I"), array("Q"))
        self.changed.add(segment)
        at = bisect_left(moves.slots, slot)
        for n in range(count):
            if at < len(moves.slots) and moves.slots[at] == slot + n:
                moves.places[at] = place + n
            else:
                moves.slots.insert(at, slot + n)
                moves.places.insert(at, place + n)
            at += 1

    def segments(self) -> list[int]:
        """Segments that blocks were moved out of."""
        return sorted(self._moves)

    def rows(self, segment: int) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Copies of the slots and places of a segment's moved blocks."""
        moves = self._moves[segment]
        return np.array(moves.slots, np.uint32), np.array(moves.places, np.uint64)

    def keep(self, segment: int, alive: NDArray[np.bool_]) -> None:
        """Forget the moves of dead blocks; `alive` is over the segment's rows."""
        slots, places = self.rows(segment)
        if alive.all():
            return
        self.changed.add(segment)
        if not alive.any():
            del self._moves[segment]
            return
        kept = Moves(array("I", slots[alive].tobytes()), array("Q", places[alive].tobytes()))
        self._moves[segment] = kept

    # -- checkpoints

    def saved_form(self, segment: int) -> tuple[bytes, bytes] | None:
        """Slots and places of a segment as bytes; None if nothing of it is moved any more."""
        moves = self._moves.get(segment)
        return None if moves is None else (moves.slots.tobytes(), moves.places.tobytes())

    def load(self, saved: Mapping[int, tuple[bytes, bytes]]) -> None:
        for segment, (slots, places) in saved.items():
            self._moves[segment] = Moves(array("I", slots), array("Q", places))
