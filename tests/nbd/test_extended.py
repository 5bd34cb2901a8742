"""Extended headers against hand-made frames: no client at hand speaks them yet.

The frames follow what QEMU 8.2 and libnbd 1.18 send and expect.
"""

from __future__ import annotations

import errno
from struct import pack

import pytest

from isochrone.errors import PeerFault
from isochrone.nbd import wire
from isochrone.nbd.contexts import offered
from isochrone.nbd.extended import ExtendedTransmission
from isochrone.nbd.inbox import Inbox
from isochrone.nbd.transmission import NO_PAYLOAD, PAYLOAD_BYTES_MAX, Request
from isochrone.types import MIB
from tests.nbd.test_transmission import Session

SIZE = 1 << 45  # beyond 32 bits of anything
LEN = wire.CMD_PAYLOAD_LEN


class Extended(Session):
    def __init__(self, *, size: int = SIZE, read_only: bool = False, contexts: bool = True):
        self.out = []
        self.inbox = Inbox()
        self.transmission = ExtendedTransmission(
            size,
            read_only=read_only,
            structured=True,
            out=self.out,
            contexts=offered({"copy": 7}) if contexts else (),
        )


def request(
    command: int,
    offset: int = 0,
    length: int | None = None,
    *,
    flags: int = 0,
    payload: bytes = b"",
) -> bytes:
    length = len(payload) if length is None else length
    head = pack(">IHH8sQQ", 0x21E41C71, flags, command, b"cookie01", offset, length)
    return head + payload


def cookie(offset: int) -> bytes:
    return b"cookie01" + pack(">Q", offset)


def error(offset: int, number: int, data: bytes) -> bool:
    """Whether `data` is one error chunk with this number, and the offset echoed."""
    magic, flags, kind, handle, echoed, length, told, words = wire.Struct(">IHH8sQQIH").unpack(
        data[:38]
    )
    assert (magic, flags, kind, handle) == (0x6E8A278C, 1, 0x8001, b"cookie01")
    assert (echoed, length, len(data)) == (offset, 6 + words, 38 + words)
    return told == number


def refused(session: Extended, data: bytes, offset: int, number: int) -> None:
    assert session.take(data) == []
    assert error(offset, number, session.sent())
    assert len(session.take(request(wire.READ, 0, 1))) == 1


# -- requests


def test_requests_of_64_bits() -> None:
    session = Extended()
    for command in (wire.TRIM, wire.WRITE_ZEROES, wire.CACHE, wire.BLOCK_STATUS):
        (got,) = session.take(request(command, 4096, SIZE - 4096))
        assert got == (command, cookie(4096), 4096, SIZE - 4096, 0, NO_PAYLOAD)
    (got,) = session.take(request(wire.READ, 1 << 40, 512, flags=wire.CMD_DF))
    assert got[:4] == (wire.READ, cookie(1 << 40), 1 << 40, 512)
    assert session.take(request(wire.FLUSH)) == [(wire.FLUSH, cookie(0), 0, 0, 0, NO_PAYLOAD)]


@pytest.mark.parametrize("flags", [LEN, LEN | wire.CMD_FUA, 0])
def test_write(flags) -> None:
    """Without the flag too, as QEMU does: the payload is there all the same."""
    session = Extended()
    data = request(wire.WRITE, 5, flags=flags, payload=b"data") + request(wire.READ, 5, 4)
    write, read = session.take(data)
    assert write == (wire.WRITE, cookie(5), 5, 4, flags & ~LEN, b"data")
    assert read[0] == wire.READ
    assert session.inbox.pinned


@pytest.mark.parametrize("cut", range(0, 36 + 32 + 32, 7))
def test_a_cut_anywhere(cut) -> None:
    data = request(wire.WRITE, 5, flags=LEN, payload=b"data") + request(wire.READ, 5, 4)
    data += request(wire.DISC)
    session = Extended()
    requests = session.take(data[:cut]) + session.take(data[cut:])
    assert [r[0] for r in requests] == [wire.WRITE, wire.READ]
    assert requests[0][5] == b"data"


def test_disc_ends() -> None:
    session = Extended()
    data = request(wire.DISC, flags=0xFFFF, offset=9, length=2**64 - 1)
    session.inbox.room()[: len(data)] = data
    session.inbox.filled(len(data))
    assert session.transmission.parse(session.inbox, []) is False


@pytest.mark.parametrize("command", [wire.READ, wire.TRIM, wire.FLUSH, wire.CACHE, 6, 8, 99])
def test_a_payload_nobody_wants_is_skipped_and_refused(command) -> None:
    payload = request(wire.TRIM, 0, 512) * 3  # would be requests if it were not skipped
    refused(Extended(), request(command, 7, flags=LEN, payload=payload), 7, errno.EINVAL)


@pytest.mark.parametrize("command", [wire.READ, wire.WRITE, wire.BLOCK_STATUS, 99])
@pytest.mark.parametrize("length", [PAYLOAD_BYTES_MAX + 1, 2**32, 2**63, 2**64 - 1])
def test_a_payload_beyond_the_limit_ends_the_session_unallocated(command, length) -> None:
    session = Extended()
    with pytest.raises(PeerFault):
        session.take(request(command, 0, length, flags=LEN))
    assert error(0, errno.EINVAL, session.sent())
    assert len(session.inbox.view) < MIB


@pytest.mark.parametrize("length", [2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize(
    ("command", "number"),
    [
        (wire.READ, errno.EINVAL),
        (wire.TRIM, errno.EINVAL),
        (wire.CACHE, errno.EINVAL),
        (wire.BLOCK_STATUS, errno.EINVAL),
        (wire.WRITE_ZEROES, errno.ENOSPC),
    ],
)
def test_past_the_end_where_64_bits_wrap(command, number, length) -> None:
    session = Extended(size=MIB)
    refused(session, request(command, 2**64 - 512, length), 2**64 - 512, number)
    refused(session, request(command, 512, length), 512, number)


def test_read_only_zero_length_and_large_reads() -> None:
    session = Extended(read_only=True)
    refused(session, request(wire.WRITE, 0, flags=LEN, payload=b"x"), 0, errno.EPERM)
    refused(session, request(wire.WRITE, 0, 0, flags=LEN), 0, errno.EPERM)
    refused(session, request(wire.TRIM, 1, 5), 1, errno.EPERM)
    refused(session, request(wire.READ, 1, 0), 1, errno.EINVAL)
    refused(session, request(wire.READ, 1, PAYLOAD_BYTES_MAX + 1), 1, errno.EINVAL)


def test_a_compact_request_is_no_extended_one() -> None:
    session = Extended()
    with pytest.raises(PeerFault):
        session.take(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, 0, bytes(8), 0, 512) + bytes(4))


# -- block status with a payload


def status(length: int, *ids: int, offset: int = 0, flags: int = LEN) -> bytes:
    payload = pack(">Q", length) + b"".join(pack(">I", id) for id in ids)
    return request(wire.BLOCK_STATUS, offset, flags=flags, payload=payload)


def test_status_for_some_contexts() -> None:
    session = Extended()
    (got,) = session.take(status(SIZE - 5, 2, 0, offset=5, flags=LEN | wire.CMD_REQ_ONE))
    assert got[:5] == (wire.BLOCK_STATUS, cookie(5), 5, SIZE - 5, wire.CMD_REQ_ONE)
    assert got[5] == bytes.fromhex("00000002 00000000")
    assert not session.inbox.pinned


@pytest.mark.parametrize(
    "data",
    [
        status(512),  # none
        status(512, 3),  # not agreed on
        status(512, 0, 0),  # twice
        status(0, 0),
        status(SIZE + 1, 0),
        status(2**64 - 1, 0),
        request(wire.BLOCK_STATUS, 0, flags=LEN, payload=b"short"),
        request(wire.BLOCK_STATUS, 0, flags=LEN, payload=bytes(13)),
        request(wire.BLOCK_STATUS, 0, flags=LEN),
        status(512, 0, flags=LEN | wire.CMD_DF),
    ],
)
def test_status_payloads_that_cannot_be(data) -> None:
    refused(Extended(), data, 0, errno.EINVAL)


def test_status_without_contexts() -> None:
    refused(Extended(contexts=False), request(wire.BLOCK_STATUS, 0, 512), 0, errno.EINVAL)
    refused(Extended(contexts=False), status(512, 0), 0, errno.EINVAL)


# -- replies


def test_done() -> None:
    session = Extended()
    session.transmission.done([cookie(1), cookie(1 << 40)])
    session.transmission.done([])
    head = bytes.fromhex("6e8a278c 0001 0000")
    assert session.sent() == (
        head + b"cookie01" + pack(">QQ", 1, 0) + head + b"cookie01" + pack(">QQ", 1 << 40, 0)
    )


def test_data() -> None:
    session = Extended()
    session.transmission.data(cookie(7), 7, 6, [b"abc", memoryview(b"def")])
    assert session.sent() == (
        bytes.fromhex("6e8a278c 0001 0001") + b"cookie01" + pack(">QQQ", 7, 14, 7) + b"abcdef"
    )


def test_status_reply() -> None:
    session = Extended()
    session.transmission.status(cookie(7), [(0, [(1 << 40, 0), (5, 3)]), (2, [(9, 1)])])
    assert session.sent() == (
        bytes.fromhex("6e8a278c 0000 0006")
        + b"cookie01"
        + pack(">QQ", 7, 8 + 32)
        + pack(">IIQQQQ", 0, 2, 1 << 40, 0, 5, 3)
        + bytes.fromhex("6e8a278c 0001 0006")
        + b"cookie01"
        + pack(">QQ", 7, 8 + 16)
        + pack(">IIQQ", 2, 1, 9, 1)
    )


def test_failed() -> None:
    session = Extended()
    session.transmission.failed(cookie(7), errno.ENOSPC, "full")
    assert session.sent() == (
        bytes.fromhex("6e8a278c 0001 8001")
        + b"cookie01"
        + pack(">QQIH", 7, 10, errno.ENOSPC, 4)
        + b"full"
    )


def test_many_at_once() -> None:
    session = Extended()
    data = b"".join(
        request(wire.WRITE, i, flags=LEN, payload=b"%04d" % i) + request(wire.READ, i, 4)
        for i in range(500)
    )
    got: list[Request] = session.take(data)
    assert [r[2] for r in got] == [i for i in range(500) for _ in "wr"]
    assert [bytes(r[5]) for r in got[::2]] == [b"%04d" % i for i in range(500)]
