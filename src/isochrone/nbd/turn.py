"""One turn: all requests that arrived together, over all connections, in three steps.

1. Every change is staged on its device.
2. One commit appends them all.
3. The reads are served, so they see the changes of their turn.

Changes with FUA and flushes are handed back: they are answered when a flush that starts after this
turn has ended. No sockets and no loop here; whoever calls sends what the connections then hold.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from isochrone.errors import IsochroneError, OutOfRange
from isochrone.nbd import contexts, wire
from isochrone.nbd.connection import Connection, Request, Tls
from isochrone.nbd.limits import OWN_BYTES
from isochrone.nbd.wire import (
    BLOCK_STATUS,
    CMD_FUA,
    CMD_NO_HOLE,
    CMD_REQ_ONE,
    FLUSH,
    READ,
    TRIM,
    WRITE,
    WRITE_ZEROES,
)
from isochrone.types import KIB, MIB, Backend, Device

READ_BYTES_PER_TURN: Final = 1 * MIB  # of one connection; the rest waits until these are sent
READS_AT_ONCE: Final = 16  # behind a commit, or half of them: the client goes on with these
READ_BYTES_OF_ALL: Final = 64 * MIB  # of a turn; a thousand large reads are as many turns
ZERO_BYTES_PER_TURN: Final = 8 * MIB  # of one connection, written because it wants no holes
STATUS_COST: Final = 256 * KIB  # of looking up one context: it takes as long as reading so much

CHANGES: Final = frozenset({WRITE, TRIM, WRITE_ZEROES})
ZEROS: Final = memoryview(bytes(MIB))


class Seat:
    """What a turn needs of one connection."""

    __slots__ = (
        *("broken", "connection", "device", "reads", "requests", "squeezed", "unfinished"),
    )

    def __init__(self, tls: Tls = Tls.OFF) -> None:
        self.connection = Connection(tls)
        self.device: Device | None = None  # set while an export is open
        self.requests: list[Request] = []  # arrived since the last turn
        self.unfinished: list[Request] = []  # the rest of changes that take more than one turn
        self.reads: list[Request] = []  # not served yet; they pin no payload
        self.squeezed = False  # memory is short, and this connection holds more than its part
        self.broken: Exception | None = None  # a defect met on the way: end this connection

    @property
    def changes(self) -> bool:
        """Whether a request waits that changes something."""
        return any(request[0] in CHANGES for request in self.requests)


S = TypeVar("S", bound=Seat)


@dataclass(slots=True)
class Outcome(Generic[S]):
    """What is left to do after a turn."""

    waiting: list[tuple[S, list[bytes]]] = field(default_factory=list)  # for a flush
    commit_failure: Exception | None = None
    read_until: int = 0  # the seats from here on got no reads: too much was read for the others


def take_turn(backend: Backend, seats: Sequence[S], *, tight: bool = False) -> Outcome[S]:
    """Serve the requests of all these connections; only small reads while memory is `tight`."""
    outcome: Outcome[S] = Outcome()
    staged: list[tuple[S, list[bytes], list[bytes]]] = []
    for seat in seats:
        if not seat.requests:
            continue
        changes: list[bytes] = []  # cookies
        durable: list[bytes] = []  # cookies of changes with FUA
        flushes: list[bytes] = []
        try:
            refused = _stage(seat, changes, durable, flushes)
        except Exception as e:  # noqa: BLE001 - the server logs it and ends this connection only
            seat.broken, refused = e, True
        # A part of what was refused may be staged: it must not wait for somebody else's commit.
        if changes or durable or seat.unfinished or refused:
            staged.append((seat, changes, durable))
        if flushes:
            outcome.waiting.append((seat, flushes))
    if staged:
        try:
            backend.commit()
        except Exception as e:  # noqa: BLE001 - nothing staged may be called done; all else goes on
            outcome.commit_failure = e
    for seat, changes, durable in staged:
        if outcome.commit_failure is not None:
            rest = [request[1] for request in seat.unfinished]
            seat.unfinished = []
            for cookie in changes + durable + rest:
                fail(seat, cookie, outcome.commit_failure)
            continue
        seat.connection.done(changes)
        if durable:
            outcome.waiting.append((seat, durable))
    left = READ_BYTES_OF_ALL
    changed = {seat for seat, _, _ in staged}
    for seat in seats:
        seat.requests, seat.unfinished = seat.unfinished, []
        seat.connection.release()
        if left > 0:
            outcome.read_until += 1
        if seat.reads and left > 0 and not seat.squeezed:
            try:
                budget = OWN_BYTES if tight else READ_BYTES_PER_TURN
                left -= _serve(seat, budget, tight=tight, parted=seat in changed)
            except Exception as e:  # noqa: BLE001 - as above
                seat.broken = e
    return outcome


def fail(seat: Seat, cookie: bytes, error: Exception) -> None:
    """Answer a request that met an error."""
    number = getattr(error, "errno", None) or errno.EIO
    seat.connection.failed(cookie, number, str(error))


def _stage(seat: Seat, changes: list[bytes], durable: list[bytes], flushes: list[bytes]) -> bool:
    """Hand every change to the device, and sort out what comes later.

    Whether one was refused.
    """
    device, refused = seat.device, False
    if device is None:  # gone since the requests arrived
        return refused
    write, discard, reads = device.write, device.discard, seat.reads
    zeros_left = ZERO_BYTES_PER_TURN
    for request in seat.requests:
        command, cookie, offset, length, flags, payload = request
        if command == READ:
            reads.append(request)
            continue
        try:
            if command == WRITE:
                write(offset, payload)
            elif command == WRITE_ZEROES and flags & CMD_NO_HOLE:
                part = min(length, zeros_left)
                zeros_left -= part
                for at in range(offset, offset + part, len(ZEROS)):
                    write(at, ZEROS[: offset + part - at])
                if part < length:
                    rest = (command, cookie, offset + part, length - part, flags, payload)
                    seat.unfinished.append(rest)
                    continue
            elif command in (TRIM, WRITE_ZEROES):
                discard(offset, length)
            elif command == FLUSH:
                flushes.append(cookie)
                continue
            elif command == BLOCK_STATUS:  # as the reads, it sees the changes of its turn
                reads.append(request)
                continue
            else:  # CACHE: nothing could be nearer than the page cache
                seat.connection.done([cookie])
                continue
        except OutOfRange as e:  # the device has shrunk since it was opened
            number = e.errno if command == TRIM else errno.ENOSPC
            seat.connection.failed(cookie, number, e.message)
        except (IsochroneError, OSError) as e:
            refused = True
            fail(seat, cookie, e)
        else:
            (durable if flags & CMD_FUA else changes).append(cookie)
    return refused


def _serve(seat: Seat, budget: int, *, tight: bool, parted: bool) -> int:
    """Read for this connection, up to what one turn may hold in memory; how much that was.

    `parted`: it has waited for a commit. Answers to half of its reads let it go on meanwhile.
    """
    device, reads = seat.device, seat.reads
    if device is None:
        reads.clear()
        return 0
    read, answer = device.read, seat.connection.data
    left = budget
    most = max(READS_AT_ONCE, len(reads) // 2) if parted else len(reads)
    served = 0
    for request in reads:
        command, cookie, offset, length, _, _ = request
        if tight and length > left and command == READ:
            seat.squeezed = left == budget  # else the next turn will do
            break
        served += 1
        if command == BLOCK_STATUS:
            left -= _tell_status(seat, device, request)
            if left <= 0:
                break
            continue
        try:
            pieces = read(offset, length)
        except (IsochroneError, OSError) as e:
            fail(seat, cookie, e)
            continue
        answer(cookie, offset, length, pieces)
        left -= length
        if left <= 0 or served >= most:
            break
    del reads[:served]
    return budget - left


def _tell_status(seat: Seat, device: Device, request: Request) -> int:
    """Answer a BLOCK_STATUS; what it cost, in bytes of a turn."""
    _, cookie, offset, length, flags, payload = request
    agreed = seat.connection.contexts
    if payload:
        ids = {id for (id,) in wire.LENGTH.iter_unpack(payload)}
        agreed = [context for context in agreed if context.id in ids]
    limit = 1 if flags & CMD_REQ_ONE else max(1, contexts.EXTENTS_MAX // len(agreed))
    try:
        found = [
            (context.id, contexts.status(device, context, offset, length, limit))
            for context in agreed
        ]
    except (IsochroneError, OSError) as e:
        fail(seat, cookie, e)
    else:
        seat.connection.status(cookie, found)
    return STATUS_COST * len(agreed)
