"""The turn without a loop: order, and who is told what when something fails."""

from __future__ import annotations

import errno

import pytest

from isochrone.errors import NoSpace, OutOfRange, PoolFailed
from isochrone.nbd import wire
from isochrone.nbd.turn import READ_BYTES_PER_TURN, Seat, take_turn
from isochrone.types import MIB, ExportInfo
from tests.nbd.memory import MemoryBackend
from tests.nbd.serving import option, request

SIZE = 16 * MIB
DONE = wire.SIMPLE_DONE + b"cookie01"


@pytest.fixture
def backend() -> MemoryBackend:
    backend = MemoryBackend()
    backend.add("disk", SIZE)
    return backend


def seat(backend: MemoryBackend) -> Seat:
    """A connection whose export is open."""
    taken = Seat()
    taken.device = backend.attach("disk", "test")
    connection = taken.connection
    connection.receive_data(wire.CLIENT_FLAGS.pack(3) + option(wire.OPT_EXPORT_NAME, b"disk"))
    connection.opened(ExportInfo("disk", SIZE, read_only=False, description=""))
    connection.output()
    return taken


def arrive(taken: Seat, *requests: bytes) -> None:
    taken.requests += taken.connection.receive_data(b"".join(requests))


def sent(taken: Seat) -> bytes:
    return b"".join(taken.connection.output())


def test_one_commit_for_all_connections(backend) -> None:
    seats = [seat(backend) for _ in range(3)]
    for n, each in enumerate(seats):
        arrive(each, request(wire.WRITE, n, payload=b"abc"[n : n + 1]))
    arrive(seats[0], request(wire.READ, 0, 3, cookie=b"read...."))
    outcome = take_turn(backend, seats)
    assert backend.commits == 1
    assert outcome.waiting == []
    assert sent(seats[0]) == DONE + wire.SIMPLE_DONE + b"read....abc"
    assert sent(seats[1]) == sent(seats[2]) == DONE


def test_reads_alone_commit_nothing(backend) -> None:
    taken = seat(backend)
    arrive(taken, request(wire.READ, 0, 3), request(wire.CACHE, 0, 3), request(wire.FLUSH))
    outcome = take_turn(backend, [taken])
    assert backend.commits == 0
    assert outcome.waiting == [(taken, [b"cookie01"])]
    assert sent(taken) == DONE + DONE + bytes(3)


def test_fua_waits_for_a_flush_and_the_others_do_not(backend) -> None:
    taken = seat(backend)
    for command in (wire.TRIM, wire.WRITE_ZEROES):
        arrive(taken, request(command, 0, 512))
        arrive(taken, request(command, 0, 512, flags=wire.CMD_FUA, cookie=b"with fua"))
    outcome = take_turn(backend, [taken])
    assert outcome.waiting == [(taken, [b"with fua", b"with fua"])]
    assert sent(taken) == DONE * 2
    assert backend.commits == 1


@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (NoSpace("full"), errno.ENOSPC),
        (PoolFailed("gone"), errno.EIO),
        (OSError(errno.EDQUOT, "quota"), errno.ENOSPC),
        (OSError("no number"), errno.EIO),
        (RuntimeError("a defect"), errno.EIO),
    ],
)
def test_a_failed_commit(backend, failure, number) -> None:
    one, other = seat(backend), seat(backend)
    arrive(one, request(wire.WRITE, 0, payload=b"x"), request(wire.FLUSH, cookie=b"flush..."))
    arrive(other, request(wire.TRIM, 0, 9, flags=wire.CMD_FUA), request(wire.READ, 0, 1))
    backend.commit_failure = failure
    outcome = take_turn(backend, [one, other])
    assert outcome.commit_failure is failure
    assert outcome.waiting == [(one, [b"flush..."])]
    refused = wire.simple_error(b"cookie01", number)
    assert sent(one) == refused
    assert sent(other) == refused + DONE + bytes(1)
    assert one.broken is None


def test_a_refused_change_does_not_touch_its_neighbours(backend) -> None:
    taken = seat(backend)
    device = backend.devices["disk"]
    device.change_failure = NoSpace("full")
    arrive(taken, request(wire.WRITE, 0, payload=b"x"), request(wire.READ, 0, 1))
    take_turn(backend, [taken])
    assert sent(taken) == wire.simple_error(b"cookie01", errno.ENOSPC) + DONE + bytes(1)
    assert backend.commits == 0


@pytest.mark.parametrize(
    ("command", "number"),
    [(wire.WRITE, errno.ENOSPC), (wire.WRITE_ZEROES, errno.ENOSPC), (wire.TRIM, errno.EINVAL)],
)
def test_a_device_that_has_shrunk(backend, command, number) -> None:
    taken = seat(backend)
    backend.devices["disk"].change_failure = OutOfRange("past the end")
    payload = b"x" * 512 if command == wire.WRITE else b""
    arrive(taken, request(command, 0, 512, payload=payload))
    take_turn(backend, [taken])
    assert sent(taken) == wire.simple_error(b"cookie01", number)


def test_a_failed_read(backend) -> None:
    taken = seat(backend)
    backend.devices["disk"].read_failure = OSError(errno.EIO, "bad sector")
    arrive(taken, request(wire.READ, 0, 1))
    take_turn(backend, [taken])
    assert sent(taken) == wire.simple_error(b"cookie01", errno.EIO)


def test_a_defect_breaks_one_connection(backend) -> None:
    one, other = seat(backend), seat(backend)
    defect = RuntimeError("a defect")
    one.device = backend.add("defective")
    backend.devices["defective"].change_failure = defect
    for each in (one, other):
        arrive(each, request(wire.WRITE, 0, payload=b"x"))
    take_turn(backend, [one, other])
    assert (one.broken, other.broken) == (defect, None)
    assert sent(other) == DONE


def test_reads_beyond_a_turn_wait_for_the_next(backend) -> None:
    taken = seat(backend)
    half = READ_BYTES_PER_TURN // 2
    arrive(taken, *(request(wire.READ, 0, half) for _ in range(5)))
    for left in (3, 1, 0):
        take_turn(backend, [taken])
        assert len(taken.reads) == left
        assert len(sent(taken)) == (2 if left else 1) * (16 + half)


def test_a_connection_that_is_gone_is_passed_over(backend) -> None:
    taken = seat(backend)
    arrive(taken, request(wire.READ, 0, 1), request(wire.WRITE, 0, payload=b"x"))
    taken.reads = list(taken.requests)
    taken.device = None
    take_turn(backend, [taken])
    assert sent(taken) == b""
    assert taken.requests == taken.reads == []


def test_payload_memory_is_free_after_the_turn(backend) -> None:
    taken = seat(backend)
    arrive(taken, request(wire.WRITE, 0, payload=b"x"))
    assert taken.connection._inbox.pinned
    take_turn(backend, [taken])
    assert not taken.connection._inbox.pinned
