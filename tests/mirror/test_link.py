"""A link gives the same messages however its bytes are split, and holds little of them."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import PeerFault
from isochrone.mirror import wire
from isochrone.mirror.link import Link
from isochrone.mirror.messages import AnyMessage, Data, Sync
from isochrone.types import MIB
from tests.mirror.messages import EXAMPLES, data
from tests.mirror.test_wire import same

ALL = list(EXAMPLES.values())


def stream(messages: list[AnyMessage]) -> bytes:
    link = Link()
    return b"".join(bytes(piece) for message in messages for piece in link.send(message))


def taken(link: Link) -> list[AnyMessage]:
    return list(iter(link.next, None))


def feed(link: Link, data: bytes) -> list[AnyMessage]:
    link.receive(data)
    return taken(link)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(stream(ALL))), max_size=30))
def test_any_split_gives_the_same_messages(cuts: list[int]) -> None:
    whole = stream(ALL)
    link, got = Link(), []
    edges = [0, *sorted(cuts), len(whole)]
    for start, end in itertools.pairwise(edges):
        got += feed(link, whole[start:end])
    assert len(got) == len(ALL)
    assert all(map(same, got, ALL))
    assert link.bytes_received == len(whole)


def test_byte_by_byte() -> None:
    whole = stream(ALL)
    link, got = Link(), []
    for at in range(len(whole)):
        got += feed(link, whole[at : at + 1])
    assert all(map(same, got, ALL))


def test_two_messages_in_one_read_come_one_after_the_other() -> None:
    link = Link()
    link.receive(stream([Sync(token=1), Sync(token=2)]))
    assert link.next() == Sync(token=1)
    assert link.next() == Sync(token=2)
    assert link.next() is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=20), st.integers(1, 7))
def test_duplicates_are_ignored(again: list[int], length: int) -> None:
    """Any earlier frame may come again, at any time."""
    sender = Link()
    messages = [Sync(token=n) for n in range(length)]
    frames = [b"".join(sender.send(m)) for m in messages]
    link, got, repeats = Link(), [], 0
    for n, frame in enumerate(frames):
        got += feed(link, frame)
        for old in again:
            if old <= n:
                repeats += 1
                assert feed(link, frames[old]) == []
    assert got == messages
    assert link.duplicates == repeats


@pytest.mark.parametrize("order", [[1], [0, 2], [0, 1, 3, 2], [2, 1, 0]])
def test_gaps_and_reordering_are_refused(order: list[int]) -> None:
    sender = Link()
    frames = [b"".join(sender.send(Sync(token=n))) for n in range(4)]
    link = Link()
    link.receive(b"".join(frames[n] for n in order))
    with pytest.raises(PeerFault, match="is missing"):
        taken(link)


def test_what_came_before_a_gap_is_delivered_first() -> None:
    sender = Link()
    frames = [b"".join(sender.send(Sync(token=n))) for n in range(3)]
    link = Link()
    link.receive(frames[0] + frames[2])
    assert link.next() == Sync(token=0)
    with pytest.raises(PeerFault):
        link.next()


def test_it_holds_one_frame_and_one_read() -> None:
    """However long the stream is, and however much its frames unpack to."""
    sender = Link()
    zeros = data(1, list(range(256)), bytes(MIB))
    whole = b"".join(b"".join(sender.send(zeros)) for _ in range(64))
    assert len(whole) < MIB  # 64 MiB when unpacked
    link, most, seen = Link(), 0, 0
    for at in range(0, len(whole), 5000):
        link.receive(whole[at : at + 5000])
        while (message := link.next()) is not None:
            assert isinstance(message, Data)
            seen += 1
        most = max(most, len(link._inbox))
    assert seen == 64
    assert most < 5000 + wire.HEAD_BYTES + len(whole) // 64


def test_a_frame_that_never_ends_is_bounded_by_its_limit() -> None:
    head = wire._HEAD.pack(wire.MAGIC, 1, 12, 0, 1, wire.FRAME_BYTES_MAX) + bytes(8)
    link = Link()
    feed(link, head)
    junk = Random(1).randbytes(65536)
    for _ in range(wire.FRAME_BYTES_MAX // len(junk) - 1):
        assert feed(link, junk) == []
    assert link._inbox.bytes_held < 2 * wire.FRAME_BYTES_MAX
    with pytest.raises(PeerFault, match="damaged"):
        feed(link, junk)


def test_it_counts_what_commands_cost() -> None:
    sender, receiver = Link(), Link()
    for message in ALL:
        receiver.receive(b"".join(bytes(piece) for piece in sender.send(message)))
    taken(receiver)
    size = len(stream([EXAMPLES["command"]]))
    assert sender.bytes_commands == receiver.bytes_commands == size
    assert sender.bytes_sent == receiver.bytes_received == len(stream(ALL))
