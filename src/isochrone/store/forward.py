"""Where moved blocks are now.

A pointer names the birth place of a block and never changes while the block lives. When the cleaner
moves a block, it notes birth place and new place here; track tables and copies are not touched.

One sorted row of slots and one of places for each segment that blocks were moved out of.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.store.format import SLOT_BITS, SLOT_MASK

LONG: Final = 32  # blocks; from here on a glance by numpy is cheaper than to walk through them


def neighbours(places: array[int]) -> Sequence[tuple[int, int]]:
    """(place, count) of blocks that lie one after the other, or, at place 0, are holes together."""
    first = places[0]
    if len(places) >= LONG and (np.diff(np.frombuffer(places, np.uint64)) == 1).all():
        return ((first, len(places)),)  # the common case of data that was written in one go
    found: list[tuple[int, int]] = []
    count = 0
    for place in places:
        if place == (first + count if first else 0):
            count += 1
        else:
            found.append((first, count))
            first, count = place, 1
    found.append((first, count))
    return found


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

    def runs(self, first: int, count: int) -> Sequence[tuple[int, int]]:
        """Blocks born one after the other, as (place, count) of what still lies together."""
        if count == 1:
            return ((self.place(first), 1),)
        moves = self._moves.get(first >> SLOT_BITS)
        if moves is None:
            return ((first, count),)
        slot = first & SLOT_MASK
        at = bisect_left(moves.slots, slot)
        end = bisect_left(moves.slots, slot + count, at)
        if at == end:
            return ((first, count),)
        places = array("Q", range(first, first + count))
        for moved, place in zip(moves.slots[at:end], moves.places[at:end], strict=True):
            places[moved - slot] = place
        return neighbours(places)

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
