"""Reading blocks out of a log, against a dict of what each place holds."""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import Damaged
from isochrone.store.blocks import ZEROS, fetch, fetch_one, zeros
from isochrone.store.format import SLOT_MASK, checksum, pointer
from isochrone.store.forward import Forwarding
from isochrone.store.log import Log
from isochrone.types import BLOCK, KIB, MIB

SLOTS = 200  # of each pretended segment


class Segment:
    """A segment file, every block of which is different."""

    def __init__(self, number: int) -> None:
        self.data = bytearray(
            b"".join((number << 32 | slot).to_bytes(8) * (BLOCK // 8) for slot in range(SLOTS))
        )
        self.calls: list[int] = []  # blocks of each
        self.broken = False

    def read_at(self, length: int, offset: int) -> bytes:
        if self.broken:
            raise OSError(errno.EIO, "a broken disk")
        self.calls.append(length // BLOCK)
        return bytes(self.data[offset : offset + length])

    def block(self, slot: int) -> bytes:
        return bytes(self.data[slot * BLOCK : (slot + 1) * BLOCK])


class Shelf:
    """As much of a log as reading takes."""

    def __init__(self) -> None:
        self.segments = {number: Segment(number) for number in (1, 2, 3)}
        self.forwarding = Forwarding()
        self.log = cast(Log, SimpleNamespace(file=self.file, forwarding=self.forwarding))

    def file(self, number: int) -> Segment:
        if number not in self.segments:
            raise Damaged(f"segment {number} of the log is missing")
        return self.segments[number]

    def block(self, born: int) -> bytes:
        place = self.forwarding.place(born)
        return self.segments[place >> 24].block(place & SLOT_MASK) if born else bytes(BLOCK)

    def sums(self, pointers: array[int]) -> array[int]:
        return array("Q", [checksum(self.block(born)) if born else 0 for born in pointers])

    def fetch(self, pointers: array[int]) -> bytes | None:
        pieces = fetch(self.log, pointers, self.sums(pointers))
        return None if pieces is None else b"".join(pieces)

    @property
    def calls(self) -> list[int]:
        return [count for segment in self.segments.values() for count in segment.calls]


places = st.tuples(st.integers(1, 3), st.integers(1, 150))
stretches = st.tuples(places | st.none(), st.integers(1, 40))  # None: a hole
moves = st.tuples(places, st.integers(1, 9), places)


@given(st.lists(stretches, min_size=1, max_size=8), st.lists(moves, max_size=4))
def test_any_range_is_what_its_places_hold(
    range_: list[tuple[tuple[int, int] | None, int]],
    moved: list[tuple[tuple[int, int], int, tuple[int, int]]],
) -> None:
    shelf = Shelf()
    for birth, count, place in moved:
        shelf.forwarding.move(pointer(*birth), count, pointer(*place))
    pointers = array("Q")
    for place_or_hole, count in range_:
        first = pointer(*place_or_hole) if place_or_hole else 0
        pointers.extend(first + n if first else 0 for n in range(count))
    assert shelf.fetch(pointers) == b"".join(map(shelf.block, pointers))
    for born in set(pointers):
        expected = shelf.sums(array("Q", [born]))[0]
        assert fetch_one(shelf.log, born, expected) == shelf.block(born)


@pytest.mark.parametrize("count", [2, 31, 32, 150])
def test_what_lies_together_is_read_by_one_call(count: int) -> None:
    shelf = Shelf()
    first = pointer(2, 7)
    assert shelf.fetch(array("Q", range(first, first + count))) is not None
    assert shelf.calls == [count]


def test_one_stray_block_does_not_hide_what_lies_together() -> None:
    shelf = Shelf()
    pointers = array("Q", range(pointer(2, 7), pointer(2, 107)))
    pointers[50] = pointer(3, 9)  # the first and the last say nothing of it
    assert shelf.fetch(pointers) == b"".join(map(shelf.block, pointers))
    assert sorted(shelf.calls) == [1, 49, 50]


def test_holes_read_nothing_and_make_no_zeros() -> None:
    shelf = Shelf()
    pieces = fetch(shelf.log, array("Q", bytes(8 * 300)), array("Q", bytes(8 * 300)))
    assert pieces is not None and [len(piece) for piece in pieces] == [300 * BLOCK]
    assert cast(memoryview, pieces[0]).obj is ZEROS.obj
    assert not shelf.calls


def flip(shelf: Shelf) -> None:
    shelf.segments[2].data[20 * BLOCK + 5] ^= 1


def shorten(shelf: Shelf) -> None:
    del shelf.segments[2].data[20 * BLOCK + 100 :]


def break_disk(shelf: Shelf) -> None:
    shelf.segments[2].broken = True


def lose(shelf: Shelf) -> None:
    del shelf.segments[2]


@pytest.mark.parametrize("harm", [flip, shorten, break_disk, lose])
def test_what_is_not_right_gives_nothing(harm: Callable[[Shelf], None]) -> None:
    shelf = Shelf()
    together = array("Q", range(pointer(2, 10), pointer(2, 60)))
    scattered = array("Q", [pointer(1, 5), pointer(2, 20), pointer(3, 7)])
    sums = [shelf.sums(together), shelf.sums(scattered)]
    harm(shelf)
    assert fetch(shelf.log, together, sums[0]) is None
    assert fetch(shelf.log, scattered, sums[1]) is None
    assert fetch_one(shelf.log, scattered[1], sums[1][1]) is None
    assert fetch_one(shelf.log, scattered[0], sums[1][0]) == shelf.block(scattered[0])


@pytest.mark.parametrize("size", [BLOCK, 4 * MIB, 4 * MIB + 4 * KIB, 64 * MIB])
def test_zeros(size: int) -> None:
    pieces = zeros(size)
    assert sum(map(len, pieces)) == size
    assert not any(pieces[-1])
