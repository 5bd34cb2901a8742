"""Whole sessions: any split, any order, any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import Conflict, NotFound
from isochrone.nbd import inbox, wire
from isochrone.nbd.connection import MOVES, Ask, Connection, Phase, Request, Step, Tls
from isochrone.types import MIB, ExportInfo
from tests.nbd.serving import context_data, info_data, option, request

DISK = ExportInfo("disk", MIB, read_only=False, description="a disk")

SCRIPT = (
    wire.CLIENT_FLAGS.pack(3)
    + option(4711, b"what?")
    + option(wire.OPT_STRUCTURED_REPLY)
    + option(wire.OPT_LIST)
    + option(wire.OPT_INFO, info_data(b"gone"))
    + option(wire.OPT_INFO, info_data(b"disk", wire.INFO_NAME))
    + option(wire.OPT_LIST_META_CONTEXT, context_data(b"disk"))
    + option(wire.OPT_SET_META_CONTEXT, context_data(b"disk", b"base:allocation", b"x"))
    + option(wire.OPT_GO, info_data(b"disk"))
    + request(wire.BLOCK_STATUS, 0, MIB)
    + request(wire.WRITE, 0, payload=b"payload", flags=wire.CMD_FUA)
    + request(wire.READ, 0, 7)
    + request(99, 0, 7)
    + request(wire.WRITE, MIB, payload=b"past the end")
    + request(wire.FLUSH)
    + request(wire.WRITE_ZEROES, 4096, 4096)
    + request(wire.DISC)
)


class Driver:
    """Answers as a server would, and notes what happens."""

    def __init__(self, tls: Tls = Tls.OFF) -> None:
        self.connection = Connection(tls)
        self.log: list[object] = []
        self.sent = b""

    def feed(self, data: bytes) -> None:
        self._note(self.connection.receive_data(data))
        while (question := self.connection.question) is not None:
            self.log.append(question)
            if question.ask is Ask.LIST:
                requests = self.connection.listing([DISK])
            elif question.name not in ("", "disk"):
                requests = self.connection.refuse(NotFound("gone"))
            elif question.ask is Ask.SECURE:
                requests = self.connection.secured()
            elif question.ask is Ask.CONTEXTS:
                requests = self.connection.offer("disk", {"copy": 7})
            elif question.ask is Ask.INFO:
                requests = self.connection.describe(DISK)
            else:
                requests = self.connection.opened(DISK)
            self._note(requests)
        self.sent += b"".join(self.connection.output())

    def _note(self, requests: list[Request]) -> None:
        for command, cookie, offset, length, flags, payload in requests:
            self.log.append((command, cookie, offset, length, flags, bytes(payload)))
        self.connection.release()


def whole() -> Driver:
    driver = Driver()
    driver.feed(SCRIPT)
    assert driver.connection.phase is Phase.CLOSED
    assert driver.connection.fault == ""
    assert len(driver.log) == 6 + 5
    return driver


def same(one: Driver, other: Driver) -> None:
    assert one.log == other.log
    assert one.sent == other.sent
    assert one.connection.phase is other.connection.phase


@pytest.mark.parametrize("cut", range(len(SCRIPT) + 1))
def test_a_cut_at_any_byte_changes_nothing(cut) -> None:
    driver = Driver()
    driver.feed(SCRIPT[:cut])
    driver.feed(SCRIPT[cut:])
    same(driver, whole())


def test_byte_by_byte_changes_nothing() -> None:
    driver = Driver()
    for i in range(len(SCRIPT)):
        driver.feed(SCRIPT[i : i + 1])
    same(driver, whole())


@given(st.lists(st.integers(0, len(SCRIPT)), max_size=20).map(sorted))
def test_any_split_changes_nothing(cuts) -> None:
    driver = Driver()
    for start, end in zip([0, *cuts], [*cuts, len(SCRIPT)], strict=True):
        driver.feed(SCRIPT[start:end])
    same(driver, whole())


# -- hostile peers

PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        option,
        st.sampled_from([1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 2**32 - 1]),
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                context_data,
                st.sampled_from([b"disk", b"gone"]),
                st.sampled_from([b"base:allocation", b"qemu:", b"qemu:dirty-bitmap:copy", b""]),
            ),
            st.builds(info_data, st.sampled_from([b"", b"disk", b"gone", b"\xff"])),
        ),
    ),
    st.builds(
        request,
        st.integers(0, 9),
        st.sampled_from([0, 1, 4096, MIB - 1, MIB, 2**63, 2**64 - 1]),
        st.sampled_from([0, 1, 4096, MIB, 2**26, 2**26 + 1, 2**32 - 1]),
        flags=st.sampled_from([0, 1, 2, 4, 8, 16, 0xFFFF]),
        payload=st.binary(max_size=20),
    ),
    st.builds(
        lambda command, offset, length, flags, payload: (
            wire.EXTENDED_REQUEST.pack(
                wire.EXTENDED_REQUEST_MAGIC, flags, command, b"8 bytes." + offset, length
            )
            + payload
        ),
        st.integers(0, 9),
        st.sampled_from([bytes(8), bytes(7) + b"\1", b"\xff" * 8]),
        st.sampled_from([0, 1, 12, 20, MIB, 2**26, 2**26 + 1, 2**32, 2**64 - 1]),
        st.sampled_from([0, 1, 4, 8, 32, 33, 40, 0xFFFF]),
        st.sampled_from([b"", bytes(7) + b"\x09" + bytes(4), bytes(20)]),
    ),
    st.builds(lambda n: wire.OPTION.pack(wire.OPTION_MAGIC, 7, n), st.integers(0, 2**32 - 1)),
)
OPENINGS = st.sampled_from(
    [
        b"",
        wire.CLIENT_FLAGS.pack(3),
        wire.CLIENT_FLAGS.pack(1) + option(wire.OPT_EXPORT_NAME, b"disk"),
        wire.CLIENT_FLAGS.pack(3)
        + option(wire.OPT_STRUCTURED_REPLY)
        + option(wire.OPT_SET_META_CONTEXT, context_data(b"disk", b"base:allocation"))
        + option(wire.OPT_GO, info_data(b"")),
        wire.CLIENT_FLAGS.pack(3)
        + option(wire.OPT_EXTENDED_HEADERS)
        + option(wire.OPT_SET_META_CONTEXT, context_data(b"disk", b"base:allocation"))
        + option(wire.OPT_GO, info_data(b"")),
    ]
)


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(Tls), OPENINGS, st.lists(PIECES, max_size=25), st.integers(1, 300))
def test_no_bytes_raise_and_memory_stays_bounded(tls, opening, pieces, step) -> None:
    driver = Driver(tls)
    data = opening + b"".join(pieces)
    for start in range(0, len(data), step):
        driver.feed(data[start : start + step])
        assert len(driver.connection._inbox.view) <= 3 * inbox.EAGER_BYTES_MAX
    assert len(driver.sent) < 10_000 + 300 * len(pieces)
    for entry in driver.log:
        if isinstance(entry, tuple):
            command, _, offset, length, _, payload = entry
            assert offset + length <= MIB
            if command != wire.BLOCK_STATUS:
                assert len(payload) == (length if command == wire.WRITE else 0)


def test_nothing_is_taken_after_the_end() -> None:
    driver = whole()
    before = list(driver.log)
    driver.feed(SCRIPT * 10)
    assert driver.log == before
    assert driver.sent == whole().sent


def test_options_sent_ahead_wait_for_the_answer() -> None:
    connection = Connection()
    connection.receive_data(wire.CLIENT_FLAGS.pack(3) + option(wire.OPT_LIST) * 3)
    for _ in range(3):
        assert connection.phase is Phase.ASKING
        connection.output()
        connection.refuse(Conflict("no"))
    assert connection.phase is Phase.OPTIONS


def test_requests_sent_ahead_of_the_answer_to_go_are_returned_with_it() -> None:
    connection = Connection()
    go = option(wire.OPT_GO, info_data(b""))
    sent = wire.CLIENT_FLAGS.pack(3) + go + request(wire.WRITE, 0, payload=b"early")
    assert connection.receive_data(sent) == []
    (got,) = connection.opened(DISK)
    assert bytes(got[5]) == b"early"


# -- payloads


def test_payloads_stay_until_released() -> None:
    driver = Driver()
    driver.feed(wire.CLIENT_FLAGS.pack(3) + option(wire.OPT_GO, info_data(b"")))
    connection = driver.connection
    kept: list[tuple[memoryview, bytes]] = []
    for i in range(200):
        payload = bytes([i + 1]) * 5000
        data = request(wire.WRITE, 0, payload=payload)
        for part in (data[:3000], data[3000:]):
            kept += [(r[5], payload) for r in connection.receive_data(part)]
        for view, content in kept:
            assert view == content
        if i % 50 == 49:
            assert len(kept) == 50
            kept.clear()
            connection.release()


def test_payloads_are_not_copied() -> None:
    driver = Driver()
    driver.feed(wire.CLIENT_FLAGS.pack(3) + option(wire.OPT_GO, info_data(b"")))
    connection = driver.connection
    data = request(wire.WRITE, 0, payload=b"x" * 100)
    room = connection.get_buffer()
    room[: len(data)] = data
    (got,) = connection.buffer_updated(len(data))
    room[28:128] = b"y" * 100
    assert got[5] == b"y" * 100


# -- the table


def test_every_phase_can_be_reached_and_left() -> None:
    reached = {Phase.FLAGS}
    for _ in Phase:
        reached |= {to for phase in reached for to in MOVES[phase].values()}
    assert reached == set(Phase) == set(MOVES)
    assert all(MOVES[phase][Step.ENDED] is Phase.CLOSED for phase in Phase)
    assert {step for moves in MOVES.values() for step in moves} == set(Step)
