"""Requests and replies of an open export."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from isochrone.errors import PeerFault
from isochrone.nbd import wire
from isochrone.nbd.contexts import Context, offered
from isochrone.nbd.inbox import Inbox
from isochrone.nbd.transmission import NO_PAYLOAD, PAYLOAD_BYTES_MAX, Request, Transmission
from isochrone.types import MIB, Buffer
from tests.nbd.serving import request

SIZE = 128 * MIB
FUA = wire.CMD_FUA


class Session:
    """A transmission and its inbox."""

    def __init__(
        self,
        *,
        size: int = SIZE,
        read_only: bool = False,
        structured: bool = False,
        contexts: Sequence[Context] = (),
    ):
        self.out: list[Buffer] = []
        self.inbox = Inbox()
        self.transmission = Transmission(
            size, read_only=read_only, structured=structured, out=self.out, contexts=contexts
        )

    def take(self, data: bytes) -> list[Request]:
        requests: list[Request] = []
        while data:
            room = self.inbox.room()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            self.inbox.filled(count)
            data = data[count:]
            self.transmission.parse(self.inbox, requests)
        return requests

    def sent(self) -> bytes:
        data = b"".join(self.out)
        self.out.clear()
        return data


def refused(session: Session, data: bytes, number: int) -> None:
    """`data` is answered with this error at once, and the session goes on."""
    assert session.take(data) == []
    assert session.sent() == wire.simple_error(b"cookie01", number)
    assert session.take(request(wire.READ, 0, 1)) != []


# -- requests


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (wire.READ, 0),
        (wire.READ, FUA),
        (wire.TRIM, 0),
        (wire.TRIM, FUA),
        (wire.CACHE, 0),
        (wire.WRITE_ZEROES, 0),
        (wire.WRITE_ZEROES, FUA | wire.CMD_NO_HOLE),
        (wire.WRITE_ZEROES, FUA | wire.CMD_FAST_ZERO),
    ],
)
def test_requests_without_payload(command, flags) -> None:
    session = Session()
    assert session.take(request(command, 5, 512, flags=flags)) == [
        (command, b"cookie01", 5, 512, flags, NO_PAYLOAD)
    ]
    assert session.sent() == b""


@pytest.mark.parametrize("flags", [0, FUA])
def test_write(flags) -> None:
    session = Session()
    assert session.take(request(wire.WRITE, SIZE - 4, payload=b"data", flags=flags)) == [
        (wire.WRITE, b"cookie01", SIZE - 4, 4, flags, b"data")
    ]
    assert session.inbox.pinned


def test_flush() -> None:
    session = Session(read_only=True)
    (got,) = session.take(request(wire.FLUSH, flags=FUA))
    assert got[0] == wire.FLUSH
    refused(session, request(wire.FLUSH, 0, 1), errno.EINVAL)
    refused(session, request(wire.FLUSH, 1, 0), errno.EINVAL)


def test_many_requests_at_once() -> None:
    session = Session()
    data = b"".join(
        request(wire.WRITE, i, payload=b"%04d" % i) + request(wire.READ, i, 4) for i in range(500)
    )
    got = session.take(data)
    assert [r[2] for r in got] == [i for i in range(500) for _ in "wr"]
    assert [bytes(r[5]) for r in got[::2]] == [b"%04d" % i for i in range(500)]


def test_trim_and_zeroes_may_be_longer_than_a_payload() -> None:
    session = Session(size=1 << 40)
    for command in (wire.TRIM, wire.WRITE_ZEROES, wire.CACHE):
        assert len(session.take(request(command, 0, 2**32 - 1))) == 1


@pytest.mark.parametrize("flags", [0, FUA, wire.CMD_REQ_ONE])
def test_block_status(flags) -> None:
    session = Session(size=1 << 40, structured=True, contexts=offered({}))
    (got,) = session.take(request(wire.BLOCK_STATUS, 5, 2**32 - 1, flags=flags))
    assert got == (wire.BLOCK_STATUS, b"cookie01", 5, 2**32 - 1, flags, NO_PAYLOAD)


@pytest.mark.parametrize(
    ("structured", "contexts", "data"),
    [
        (False, [], request(wire.BLOCK_STATUS, 0, 512)),
        (True, [], request(wire.BLOCK_STATUS, 0, 512)),
        (True, offered({}), request(wire.BLOCK_STATUS, 0, 0)),
        (True, offered({}), request(wire.BLOCK_STATUS, SIZE - 1, 2)),
        (True, offered({}), request(wire.BLOCK_STATUS, 2**64 - 1, 2**32 - 1)),
        (True, offered({}), request(wire.BLOCK_STATUS, 0, 512, flags=wire.CMD_DF)),
        (True, offered({}), request(wire.BLOCK_STATUS, 0, 512, flags=wire.CMD_PAYLOAD_LEN)),
        (True, offered({}), request(wire.READ, 0, 512, flags=wire.CMD_REQ_ONE)),
    ],
)
def test_block_status_that_cannot_be_answered(structured, contexts, data) -> None:
    session = Session(structured=structured, contexts=contexts)
    assert session.take(data) == []
    sent = session.sent()
    if structured:
        assert wire.ERROR_CHUNK.unpack(sent[:26])[5] == errno.EINVAL
    else:
        assert sent == wire.simple_error(b"cookie01", errno.EINVAL)
    assert len(session.take(request(wire.READ, 0, 1))) == 1


def test_disc_ends_and_what_follows_is_ignored() -> None:
    session = Session()
    inbox, requests = session.inbox, []
    data = request(wire.READ, 0, 1) + request(wire.DISC) + b"garbage" * 9
    inbox.room()[: len(data)] = data
    inbox.filled(len(data))
    assert session.transmission.parse(inbox, requests) is False
    assert len(requests) == 1


# -- requests that cannot be right


@pytest.mark.parametrize("command", [7, 8, 9, 100, 0xFFFF])
def test_unknown_command_is_einval_and_the_session_goes_on(command) -> None:
    refused(Session(), request(command, 0, 512), errno.EINVAL)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (wire.READ, 1 << 15),
        (wire.READ, wire.CMD_DF),  # not without structured replies
        (wire.READ, wire.CMD_NO_HOLE),
        (wire.WRITE, wire.CMD_NO_HOLE),
        (wire.WRITE, wire.CMD_DF | FUA),
        (wire.TRIM, wire.CMD_FAST_ZERO),
        (wire.WRITE_ZEROES, wire.CMD_DF),
        (wire.FLUSH, 1 << 3),
        (wire.CACHE, 1 << 3),
    ],
)
def test_unknown_flags_are_einval_and_the_session_goes_on(command, flags) -> None:
    payload = b"x" * 512 if command == wire.WRITE else b""
    length = 0 if command == wire.FLUSH else 512
    refused(Session(), request(command, 0, length, flags=flags, payload=payload), errno.EINVAL)


@pytest.mark.parametrize(
    "command", [wire.READ, wire.WRITE, wire.TRIM, wire.WRITE_ZEROES, wire.CACHE]
)
def test_zero_length_is_einval(command) -> None:
    refused(Session(), request(command, 0, 0), errno.EINVAL)


@pytest.mark.parametrize("offset", [SIZE - 511, SIZE, SIZE + 1, 2**63, 2**64 - 512, 2**64 - 1])
@pytest.mark.parametrize(
    ("command", "number"),
    [
        (wire.READ, errno.EINVAL),
        (wire.TRIM, errno.EINVAL),
        (wire.CACHE, errno.EINVAL),
        (wire.WRITE, errno.ENOSPC),
        (wire.WRITE_ZEROES, errno.ENOSPC),
    ],
)
def test_spec_review_2019_past_the_end_also_where_64_bits_wrap(command, number, offset) -> None:
    payload = b"x" * 512 if command == wire.WRITE else b""
    refused(Session(), request(command, offset, 512, payload=payload), number)


@pytest.mark.parametrize("command", [wire.WRITE, wire.TRIM, wire.WRITE_ZEROES])
@pytest.mark.parametrize("offset", [0, SIZE])
def test_spec_review_2019_read_only_is_eperm(command, offset) -> None:
    payload = b"x" * 512 if command == wire.WRITE else b""
    session = Session(read_only=True)
    refused(session, request(command, offset, 512, payload=payload), errno.EPERM)


def test_zeros_without_a_hole_are_not_fast_and_say_so() -> None:
    flags = wire.CMD_NO_HOLE | wire.CMD_FAST_ZERO
    refused(Session(), request(wire.WRITE_ZEROES, 0, 512, flags=flags), errno.ENOTSUP)


def test_a_refused_write_is_skipped_with_its_payload_and_pins_nothing() -> None:
    session = Session(read_only=True)
    data = request(wire.WRITE, 0, payload=request(wire.READ, 0, 1) * 3)
    assert session.take(data) == []
    assert session.sent() == wire.simple_error(b"cookie01", errno.EPERM)
    assert not session.inbox.pinned


def test_cve_2005_3534_the_largest_payload_and_one_more_byte() -> None:
    session = Session()
    payload = b"x" * PAYLOAD_BYTES_MAX
    ((*_, got),) = session.take(request(wire.WRITE, 0, payload=payload))
    assert got == payload
    session = Session()
    with pytest.raises(PeerFault):
        session.take(request(wire.WRITE, 0, PAYLOAD_BYTES_MAX + 1))
    assert session.sent() == wire.simple_error(b"cookie01", errno.EINVAL)


@pytest.mark.parametrize("length", [PAYLOAD_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_cve_2011_0530_a_payload_beyond_the_limit_is_not_allocated(length) -> None:
    session = Session(size=1 << 40)
    with pytest.raises(PeerFault):
        session.take(request(wire.WRITE, 0, length))
    assert len(session.inbox.view) < MIB


def test_a_read_beyond_the_limit_is_einval() -> None:
    refused(Session(), request(wire.READ, 0, PAYLOAD_BYTES_MAX + 1), errno.EINVAL)
    assert len(Session().take(request(wire.READ, 0, PAYLOAD_BYTES_MAX))) == 1


def test_a_bad_magic_ends_the_session_after_what_came_before() -> None:
    session = Session()
    requests: list[Request] = []
    data = request(wire.READ, 0, 1) + b"\0" * 28
    session.inbox.room()[: len(data)] = data
    session.inbox.filled(len(data))
    with pytest.raises(PeerFault):
        session.transmission.parse(session.inbox, requests)
    assert len(requests) == 1


# -- replies


def test_done() -> None:
    session = Session()
    session.transmission.done([b"cookie01", b"cookie02"])
    session.transmission.done([])
    done = bytes.fromhex("67446698 00000000")
    assert session.sent() == done + b"cookie01" + done + b"cookie02"


def test_data_simple() -> None:
    session = Session()
    session.transmission.data(b"cookie01", 7, 6, [b"abc", memoryview(b"def")])
    assert session.sent() == bytes.fromhex("67446698 00000000") + b"cookie01abcdef"


def test_data_structured() -> None:
    session = Session(structured=True)
    assert len(session.take(request(wire.READ, 7, 6, flags=wire.CMD_DF))) == 1
    session.transmission.data(b"cookie01", 7, 6, [b"abc", b"def"])
    assert session.sent() == wire.data_chunk(b"cookie01", 7, 6) + b"abcdef"


def test_status_reply() -> None:
    session = Session(structured=True)
    session.transmission.status(b"cookie01", [(0, [(2**32 - 1, 0), (5, 3)]), (2, [(9, 1)])])
    assert session.sent() == (
        bytes.fromhex("668e33ef 0000 0005")
        + b"cookie01"
        + bytes.fromhex("00000014 00000000 ffffffff 00000000 00000005 00000003")
        + bytes.fromhex("668e33ef 0001 0005")
        + b"cookie01"
        + bytes.fromhex("0000000c 00000002 00000009 00000001")
    )


def test_failed() -> None:
    session = Session()
    session.transmission.failed(b"cookie01", errno.EIO, "words")
    assert session.sent() == wire.simple_error(b"cookie01", errno.EIO)
    session = Session(structured=True)
    session.transmission.failed(b"cookie01", errno.EIO, "words")
    assert session.sent() == wire.error_chunk(b"cookie01", errno.EIO, "words")
