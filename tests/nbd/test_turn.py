"""The turn without a loop: order, and who is told what when something fails."""

from __future__ import annotations

import errno

import pytest

from isochrone.errors import NoSpace, OutOfRange, PoolFailed
from isochrone.nbd import contexts, wire
from isochrone.nbd.turn import READ_BYTES_PER_TURN, Seat, take_turn
from isochrone.types import BLOCK, MIB, ExportInfo
from tests.nbd.memory import MemoryBackend
from tests.nbd.serving import context_data, info_data, option, request

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
    assert backend.commits == 1, "of nothing here; of a part elsewhere"


@pytest.mark.parametrize("defect", [NoSpace("full"), RuntimeError("a defect")])
def test_a_part_of_a_refused_change_does_not_wait_for_somebody_else(backend, defect) -> None:
    taken = seat(backend)
    whole = taken.device.write

    def half(offset: int, data: memoryview) -> None:
        whole(offset, data[:1])
        raise defect

    taken.device.write = half
    arrive(taken, request(wire.WRITE, 0, payload=b"ab"))
    take_turn(backend, [taken])
    assert (backend.commits, backend.staged) == (1, [])


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


@pytest.mark.parametrize(
    ("asked", "turns"), [(16, [16]), (17, [16, 1]), (32, [16, 16]), (100, [50, 50])]
)
def test_reads_behind_a_commit_are_answered_in_two_parts(
    backend, asked: int, turns: list[int]
) -> None:
    """The client can go on with the first part while the other is fetched."""
    taken = seat(backend)
    arrive(taken, *(request(wire.READ, 0, 8) for _ in range(asked)))
    arrive(taken, request(wire.WRITE, 0, payload=b"x"))
    answered = []
    while not answered or taken.reads:
        take_turn(backend, [taken])
        answered.append(len(sent(taken)) // (16 + 8))  # and 16 bytes for the write
    assert answered == turns


def test_reads_alone_are_answered_together(backend) -> None:
    taken = seat(backend)
    arrive(taken, *(request(wire.READ, 0, 8) for _ in range(100)))
    take_turn(backend, [taken])
    assert not taken.reads


# -- zeros that are no hole


def test_no_hole_writes_zeros_over_as_many_turns_as_it_takes(backend) -> None:
    backend.devices["disk"].content[:] = b"x" * SIZE
    taken = seat(backend)
    flags = wire.CMD_NO_HOLE | wire.CMD_FUA
    arrive(taken, request(wire.WRITE_ZEROES, 5, SIZE - 6, flags=flags))
    arrive(taken, request(wire.READ, 0, 1))
    outcome = take_turn(backend, [taken])
    assert outcome.waiting == []
    assert sent(taken) == DONE + b"x"
    assert len(taken.requests) == 1
    outcome = take_turn(backend, [taken])
    assert outcome.waiting == [(taken, [b"cookie01"])]
    assert taken.requests == []
    assert bytes(backend.devices["disk"].content) == b"x" * 5 + bytes(SIZE - 6) + b"x"


def test_no_hole_fails_as_a_whole(backend) -> None:
    taken = seat(backend)
    backend.commit_failure = NoSpace("full")
    arrive(taken, request(wire.WRITE_ZEROES, 0, SIZE, flags=wire.CMD_NO_HOLE))
    take_turn(backend, [taken])
    assert sent(taken) == wire.simple_error(b"cookie01", errno.ENOSPC)
    assert taken.requests == []


# -- block status


def knowing_seat(backend: MemoryBackend, *names: str) -> Seat:
    """A connection with structured replies and these contexts."""
    taken = Seat()
    taken.device = device = backend.attach("disk", "test")
    connection = taken.connection
    queries = [name.encode() for name in names]
    connection.receive_data(
        wire.CLIENT_FLAGS.pack(3)
        + option(wire.OPT_STRUCTURED_REPLY)
        + option(wire.OPT_SET_META_CONTEXT, context_data(b"disk", *queries))
    )
    connection.offer("disk", device.copies())
    connection.receive_data(option(wire.OPT_GO, info_data(b"disk")))
    connection.opened(ExportInfo("disk", SIZE, read_only=False, description=""))
    connection.output()
    return taken


def test_status_sees_the_writes_of_its_turn(backend) -> None:
    taken = knowing_seat(backend, contexts.ALLOCATION)
    arrive(taken, request(wire.BLOCK_STATUS, 0, 2 * BLOCK))
    arrive(taken, request(wire.WRITE, 0, payload=b"x"))
    take_turn(backend, [taken])
    extents = [(BLOCK, 0), (BLOCK, 3)]
    assert sent(taken) == DONE + wire.status_chunk(b"cookie01", 0, extents, last=True)


def test_status_of_several_contexts(backend) -> None:
    backend.take_copy("disk", "copy")
    taken = knowing_seat(backend, contexts.ALLOCATION, contexts.DIRTY + "copy")
    backend.devices["disk"].content[:1] = b"x"
    arrive(taken, request(wire.BLOCK_STATUS, 1, 2 * BLOCK, flags=wire.CMD_REQ_ONE))
    take_turn(backend, [taken])
    assert sent(taken) == wire.status_chunk(
        b"cookie01", 0, [(BLOCK - 1, 0)], last=False
    ) + wire.status_chunk(b"cookie01", 2, [(BLOCK - 1, 1)], last=True)


def test_cve_2025_47711_a_status_reply_is_cut_and_adds_up(backend, monkeypatch) -> None:
    monkeypatch.setattr(contexts, "EXTENTS_MAX", 6)
    taken = knowing_seat(backend, contexts.ALLOCATION, contexts.DEPTH)
    for block in range(0, 20, 2):
        backend.devices["disk"].content[block * BLOCK : block * BLOCK + 1] = b"x"
    arrive(taken, request(wire.BLOCK_STATUS, 0, SIZE))
    take_turn(backend, [taken])
    assert sent(taken) == wire.status_chunk(
        b"cookie01", 0, [(BLOCK, 0), (BLOCK, 3), (BLOCK, 0)], last=False
    ) + wire.status_chunk(b"cookie01", 1, [(BLOCK, 1), (BLOCK, 0), (BLOCK, 1)], last=True)


def test_many_status_requests_are_spread_over_turns(backend) -> None:
    taken = knowing_seat(backend, contexts.ALLOCATION, contexts.DEPTH)
    arrive(taken, *(request(wire.BLOCK_STATUS, 0, SIZE) for _ in range(5)))
    for left in (3, 1, 0):
        take_turn(backend, [taken])
        assert len(taken.reads) == left


def test_a_status_that_cannot_be_found_out(backend) -> None:
    taken = knowing_seat(backend, contexts.ALLOCATION)
    backend.devices["disk"].read_failure = OSError(errno.EIO, "bad sector")
    arrive(taken, request(wire.BLOCK_STATUS, 0, 512))
    take_turn(backend, [taken])
    assert sent(taken) == wire.error_chunk(b"cookie01", errno.EIO, "[Errno 5] bad sector")


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
