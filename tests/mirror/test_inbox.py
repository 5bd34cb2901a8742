"""Pieces come out as they went in, views of them stay as they are, and buffers are used again."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.mirror.inbox import LONG_BYTES, MARGIN_BYTES, STANDARD_BYTES, Inbox
from isochrone.types import MIB

NOISE = Random(1).randbytes(4 * MIB)
LENGTHS = st.one_of(st.integers(1, 300), st.integers(LONG_BYTES - 2, 3 * STANDARD_BYTES))


def receive(inbox: Inbox, data: memoryview, most: int) -> memoryview:
    """One receive call: what it leaves."""
    room = inbox.room()
    assert len(room) > 0
    count = min(len(room), len(data), most)
    room[:count] = data[:count]
    room.release()
    inbox.filled(count)
    return data[count:]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(LENGTHS, st.booleans()), max_size=8),
    st.lists(st.integers(1, 200_000), min_size=1),
)
def test_whatever_is_wanted_and_however_it_comes(
    pieces: list[tuple[int, bool]], steps: list[int]
) -> None:
    """Some keep what they took for ever: nothing that comes later shows in it."""
    inbox, rest = Inbox(), memoryview(NOISE)
    kept: list[tuple[memoryview, int]] = []
    at = turn = 0
    for length, keeps in pieces:
        while (piece := inbox.take(length)) is None:
            rest = receive(inbox, rest, steps[turn % len(steps)])
            turn += 1
        assert piece == NOISE[at : at + length]
        if keeps:
            kept.append((piece, at))
        at += length
    assert all(piece == NOISE[at : at + len(piece)] for piece, at in kept)
    assert inbox.bytes_held <= 4 * (max([n for n, _ in pieces], default=0) + 2 * STANDARD_BYTES)


@pytest.mark.parametrize("length", [LONG_BYTES, MIB])
def test_frames_of_one_length_take_turns_in_two_buffers_and_are_never_moved(length: int) -> None:
    inbox, rest = Inbox(), memoryview(NOISE * 8)
    buffers, last = [], None
    for _ in range(20):
        while inbox.take(32) is None:
            rest = receive(inbox, rest, 2 * MIB)
        calls = 0
        while (piece := inbox.take(length)) is None:
            rest = receive(inbox, rest, 2 * MIB)
            calls += 1
        assert calls <= 1
        last = piece  # the one before is let go of only now
        buffers.append(id(piece.obj))
    assert last is not None
    assert len(set(buffers[3:])) == 2
    assert inbox.bytes_held <= 2 * max(2 * STANDARD_BYTES, length + MARGIN_BYTES)


def test_a_quiet_connection_holds_little_again_after_long_frames() -> None:
    inbox = Inbox()
    inbox.put(NOISE[:MIB])
    assert inbox.take(MIB) is not None
    assert inbox.bytes_held > MIB
    for _ in range(3):
        inbox.put(NOISE[:100])
        assert inbox.take(100) == NOISE[:100]
    assert inbox.bytes_held <= 4 * STANDARD_BYTES


def test_a_long_piece_that_is_announced_and_does_not_come_is_bounded_by_itself() -> None:
    inbox = Inbox()
    assert inbox.take(2 * MIB) is None
    assert len(inbox.room()) == 2 * MIB
    assert inbox.bytes_held <= 2 * MIB + MARGIN_BYTES + STANDARD_BYTES


def test_more_can_be_put_than_anybody_takes() -> None:
    inbox = Inbox()
    inbox.put(NOISE)
    assert len(inbox) == len(NOISE)
    assert inbox.take(len(NOISE)) == NOISE
