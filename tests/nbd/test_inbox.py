"""The receive buffer: nothing lost, nothing overwritten while seen, nothing without bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import PeerFault
from isochrone.nbd import inbox as limits
from isochrone.nbd.inbox import Inbox
from isochrone.types import KIB, MIB, Buffer


def put(inbox: Inbox, data: Buffer) -> int:
    """One receive call; returns how much of `data` there was room for."""
    room = inbox.room()
    count = min(len(room), len(data))
    room[:count] = data[:count]
    inbox.filled(count)
    return count


def put_all(inbox: Inbox, data: Buffer) -> None:
    data = memoryview(data)
    while data:
        data = data[put(inbox, data) :]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60_000), st.booleans(), st.booleans()), min_size=1, max_size=30
    ),
    st.integers(1, 50_000),
)
def test_frames_arrive_whole_and_views_of_them_stay(steps, receive) -> None:
    inbox = Inbox()
    inbox.expect_payloads()
    seen: list[tuple[memoryview, bytes]] = []
    for n, (length, pin, release) in enumerate(steps):
        frame = bytes([n % 251 + 1]) * length
        sent = 0
        while inbox.end - inbox.start < length:
            inbox.frame = length
            sent += put(inbox, frame[sent : sent + receive])
        inbox.frame = 0
        view = inbox.view[inbox.start : inbox.start + length]
        inbox.start += length
        assert view == frame
        if pin:
            inbox.pinned = True
            seen.append((view, frame))
        for old, content in seen:
            assert old == content
        if release:
            inbox.pinned = False
            seen.clear()


def test_there_is_always_room() -> None:
    inbox = Inbox()
    for _ in range(3000):
        assert put(inbox, b"x" * 100) > 0


def test_memory_follows_what_was_sent_not_what_was_announced() -> None:
    inbox = Inbox()
    inbox.expect_payloads()
    put_all(inbox, b"header")
    inbox.frame = 64 * MIB
    put_all(inbox, b"x" * MIB)
    assert len(inbox.view) <= 2 * limits.EAGER_BYTES_MAX
    put_all(inbox, b"x" * 20 * MIB)
    assert len(inbox.view) <= 64 * MIB
    put_all(inbox, bytes(43 * MIB - 6))
    assert len(inbox.view) == 64 * MIB


def test_memory_of_a_large_frame_is_given_back() -> None:
    inbox = Inbox()
    inbox.expect_payloads()
    put_all(inbox, b"header")
    inbox.frame = 32 * MIB
    put_all(inbox, bytes(32 * MIB - 6))
    inbox.start, inbox.frame = inbox.end, 0
    inbox.room()
    assert len(inbox.view) <= limits.STANDARD_BYTES_MAX


def test_a_quiet_client_costs_little_and_a_busy_one_gets_more() -> None:
    inbox = Inbox()
    assert len(inbox.room()) <= 4 * KIB
    inbox.expect_payloads()
    assert len(inbox.room()) == limits.STANDARD_BYTES_MIN
    for _ in range(10):
        put(inbox, bytes(2 * MIB))
        inbox.start = inbox.end
    assert len(inbox.room()) == limits.STANDARD_BYTES_MAX


def test_it_never_holds_more_than_a_frame() -> None:
    """Only a caller that goes on receiving without parsing gets here."""
    inbox = Inbox()
    with pytest.raises(PeerFault):
        put_all(inbox, bytes(limits.FRAME_BYTES_MAX + 2 * MIB))
    assert len(inbox.view) <= limits.FRAME_BYTES_MAX + MIB
