"""The log: an append-only sequence of records in segment files.

Knows batches and places, not what records mean. The tail is appended by synchronous calls into the
page cache; making it durable is a *ticket* that may run in a thread while appends go on.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from isochrone.errors import Damaged
from isochrone.store.ahead import AHEAD_SLOTS, Ahead
from isochrone.store.format import (
    HEADER,
    SEGMENT_BYTES,
    SLOT_BITS,
    SLOT_MASK,
    VERSION,
    Batch,
    Header,
    checksum,
    checksums,
    decode_batch,
    decode_header,
    encode_meta,
    encode_segment_header,
    meta_sum,
    meta_verifies,
    segment_name,
    segment_number,
    segment_sum,
    slots,
)
from isochrone.store.forward import Forwarding
from isochrone.store.spares import Spares
from isochrone.types import BLOCK, Buffer
from isochrone.world.clock import Clock
from isochrone.world.disk import Disk, File

OPEN_SEGMENTS_MAX: Final = (
    512  # file descriptors held for reading; half of the usual limit of 1,024
)
ZEROS: Final = memoryview(bytes(AHEAD_SLOTS * BLOCK))


Stretch = tuple[File, int, int]  # a file, an offset, a length


@dataclass(frozen=True, slots=True)
class SyncTicket:
    """What has to be synced so that everything up to `lsn` is durable."""

    lsn: int
    files: tuple[File, ...]
    disk: Disk | None  # set if new names must be synced too

    @property
    def only_data(self) -> bool:
        """Whether it is one file under a name that is durable: no work for a journal."""
        return len(self.files) == 1 and self.disk is None

    def run(self) -> None:
        """Blocks; may run in a thread. Raises `OSError`."""
        for file in self.files:
            file.sync()
        if self.disk is not None:
            self.disk.sync_names()


class Log:
    """An open log. Made by `recover`, which knows where it ends."""

    def __init__(
        self,
        disk: Disk,
        clock: Clock,
        pool: str,
        *,
        lsn: int,
        segment: int,
        first_lsns: dict[int, int],
        last_sum: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = 0,
        capacity_bytes: int = 0,
    ) -> None:
        self._disk = disk
        self._clock = clock
        self.pool = bytes.fromhex(pool)
        self.lsn = lsn  # newest record
        self.durable = lsn  # newest record that survives a power cut
        self.last_sum = last_sum  # of the newest batch; 0: there is none
        self._previous = last_sum  # what the next batch names: that, or its segment's header
        self.bytes_appended = 0
        self.first_lsns = first_lsns  # segment -> lsn of the first record it may hold, ascending
        self._files: dict[int, File] = {}
        self._segment = segment  # the newest; 0: none yet
        self._segment_slots = segment_bytes // BLOCK
        self._slot = self._segment_slots  # full: the first append makes a new segment
        self._tail: File | None = None
        self._torn = False  # an append has failed and may have left bytes behind the tail
        self._reserved = False  # the disk counts the room behind the tail as used
        self._unsynced: dict[int, File] = {}
        self._names_unsynced = False
        self._syncing: SyncTicket | None = None
        self._ahead = Ahead(self._segment_slots)
        self.forwarding = Forwarding()
        self.spares = Spares(disk, self._segment_slots * BLOCK)
        self.on_roll: Callable[[], None] = lambda: None  # called when a new segment has begun
        self._reserve = reserve_bytes
        self._capacity = capacity_bytes

    # -- appending

    @property
    def position(self) -> tuple[int, int]:
        """(segment, slot) where the next batch goes, unless it needs a new segment."""
        return self._segment, self._slot

    def append(
        self,
        descriptors: list[bytes],
        sums: array[int],
        bodies: bytes,
        payload: Sequence[Buffer],
        *,
        privileged: bool = False,
    ) -> int:
        """Append records as one batch; the pointer of its first payload block.

        Only privileged ones may take from the reserve: those that help to give space back.
        Raises `OSError` and leaves the log as it was if the disk does not take it.
        """
        room = slots(HEADER.size + 24 * len(descriptors) + 8 * len(sums) + len(bodies)) + len(sums)
        assert room < self._segment_slots
        if self._torn:
            self._cut_torn()
        if self._slot + room > self._segment_slots:
            if not privileged and self.free_bytes < self._segment_slots * BLOCK + self._reserve:
                raise OSError(errno.ENOSPC, "the pool is full up to its reserve")
            self._new_segment()
        assert self._tail is not None
        meta = encode_meta(
            pool=self.pool,
            segment=self._segment,
            slot=self._slot,
            first_lsn=self.lsn + 1,
            durable_lsn=self.durable,
            previous=self._previous,
            stamp=self._clock.wall_ns(),
            descriptors=descriptors,
            sums=sums,
            bodies=bodies,
        )
        self._torn = True
        self._tail.write_at([meta, *payload], self._slot * BLOCK)
        self._torn = False
        self._unsynced[self._segment] = self._tail
        first = self._segment << SLOT_BITS | (self._slot + len(meta) // BLOCK)
        self._slot += room
        self.lsn += len(descriptors)
        self.last_sum = self._previous = meta_sum(meta)
        self.bytes_appended += room * BLOCK
        return first

    def _cut_torn(self) -> None:
        """Take away what a failed append has left.

        Its meta may be intact. If the next batch began a new segment, nothing would overwrite it,
        and recovery would follow it instead of what came later.
        """
        assert self._tail is not None
        self._tail.truncate(self._slot * BLOCK)
        self._unsynced[self._segment] = self._tail
        self._ahead.cut(self._slot)
        self._torn = self._reserved = False

    def _new_segment(self) -> None:
        number = self._segment + 1
        try:
            file = self._named(number)
        except FileExistsError:  # an earlier attempt failed, and even its removal
            self._disk.remove(segment_name(number))
            file = self._named(number)
        header = encode_segment_header(
            self.pool, number, self.lsn + 1, self.last_sum, self._clock.wall_ns()
        )
        try:
            file.write_at([header], 0)
        except OSError:
            file.close()
            self._disk.remove(segment_name(number))
            raise
        self._segment, self._slot, self._tail = number, 1, file
        self._previous = segment_sum(header)
        self._unsynced[number] = file
        self._hold(number, file)
        self.first_lsns[number] = self.lsn + 1
        self._names_unsynced = True
        self.on_roll()

    def _named(self, number: int) -> File:
        """The file of a new segment: a spare one if there is any."""
        name = segment_name(number)
        spare = self.spares.use(name)
        self._reserved = False
        self._ahead.segment_begun(spare=spare is not None)
        if spare is not None:
            return spare
        file = self._disk.create(name)
        if self._tail is not None:  # who fills segments is likely to fill this one too
            self._reserved = file.reserve(self._segment_slots * BLOCK)
        return file

    # -- making durable

    def begin_sync(self) -> SyncTicket:
        """A ticket for everything appended so far. One at a time."""
        assert self._syncing is None
        self._write_ahead()
        ticket = SyncTicket(
            self.lsn, tuple(self._unsynced.values()), self._disk if self._names_unsynced else None
        )
        self._unsynced, self._names_unsynced = {}, False
        self._syncing = ticket
        return ticket

    def _write_ahead(self) -> None:
        """See `ahead`. What goes wrong here goes wrong again when it matters."""
        count = self._ahead.due(self._slot, self.bytes_appended)
        if count and self._tail is not None and not self._torn:
            with suppress(OSError):
                self._tail.write_at([ZEROS[: count * BLOCK]], self._slot * BLOCK)
            self._unsynced[self._segment] = self._tail

    def end_sync(self, ticket: SyncTicket) -> None:
        """The ticket ran without an error."""
        self._syncing = None
        self.durable = max(self.durable, ticket.lsn)

    # -- reading

    def file(self, segment: int) -> File:
        file = self._files.get(segment)
        if file is None:
            file = self._open(segment)
        return file

    def _open(self, segment: int) -> File:
        try:
            file = self._disk.open(segment_name(segment))
        except FileNotFoundError as e:
            raise Damaged(f"segment {segment} of the log is missing") from e
        self._hold(segment, file)
        return file

    def _hold(self, segment: int, file: File) -> None:
        """Keep a file open, and the number of open ones bounded."""
        if len(self._files) >= OPEN_SEGMENTS_MAX:
            self._close_idle()
        self._files[segment] = file

    def _close_idle(self) -> None:
        """Close the file that was opened first of those that nobody writes or syncs."""
        syncing = self._syncing.files if self._syncing is not None else ()
        for number, file in self._files.items():
            if number != self._segment and number not in self._unsynced and file not in syncing:
                file.close()
                del self._files[number]
                return

    def read(self, first: int, sums: array[int]) -> bytes:
        """Blocks born one after the other from a pointer on, each verified. Raises `Damaged`."""
        if not self.forwarding:
            return self.read_place(first, sums)
        pieces = []
        done = 0
        for place, count in self.forwarding.runs(first, len(sums)):
            pieces.append(self.read_place(place, sums[done : done + count]))
            done += count
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_place(self, first: int, sums: array[int]) -> bytes:
        """As `read`, for blocks that lie one after the other."""
        segment, slot = first >> SLOT_BITS, first & SLOT_MASK
        length = len(sums) * BLOCK
        data = self.file(segment).read_at(length, slot * BLOCK)
        if length == BLOCK:
            if checksum(data) == sums[0]:
                return data
        elif len(data) == length and verifies(data, sums):
            return data
        bad = next(
            at for at, s in enumerate(sums) if checksum(data[at * BLOCK : (at + 1) * BLOCK]) != s
        )
        raise Damaged(
            f"block at slot {slot + bad} of segment {segment} is not what was written",
            hint="run: isochrone check DIR",
        )

    def batches(self, from_lsn: int, to_lsn: int) -> Iterator[Batch]:
        """Every batch with records in a range of lsn, in order. Raises `Damaged` at a gap."""
        numbers = sorted(self.first_lsns)
        start = max((n for n in numbers if self.first_lsns[n] <= from_lsn), default=None)
        if start is None:
            raise Damaged(f"the log no longer holds record {from_lsn}")
        next_lsn = from_lsn
        for number in numbers[numbers.index(start) :]:
            for batch in scan_segment(self.file(number), self.pool, number, 1):
                header = batch.header
                if header.last_lsn < from_lsn:
                    continue
                if header.first_lsn > next_lsn:
                    break
                yield batch
                next_lsn = header.last_lsn + 1
                if next_lsn > to_lsn:
                    return
        raise Damaged(f"the log no longer holds record {next_lsn}")

    def stretches(self, start: tuple[int, int], end: tuple[int, int]) -> list[Stretch]:
        """What lies between two positions, in files that are open."""
        found: list[Stretch] = []
        for segment in range(start[0], end[0] + 1):
            low = start[1] if segment == start[0] else 0
            high = end[1] if segment == end[0] else self._segment_slots
            if high > low and (file := self._files.get(segment)) is not None:
                found.append((file, low * BLOCK, (high - low) * BLOCK))
        return found

    # -- giving space back

    @property
    def segment_slots(self) -> int:
        return self._segment_slots

    @property
    def bytes_on_disk(self) -> int:
        """What the segment files hold, the tail at its true length, spares not counted."""
        full = len(self.first_lsns) - (1 if self._tail is not None else 0)
        tail = self._slot * BLOCK if self._tail is not None else 0
        return full * self._segment_slots * BLOCK + tail

    @property
    def free_bytes(self) -> int:
        """What new segments may still take, the reserve included."""
        free = self._disk.free_bytes()
        if self._reserved:
            free += (self._segment_slots - self._slot) * BLOCK
        if self._capacity:
            free = min(free, self._capacity - self.bytes_on_disk)
        return max(0, free)

    @property
    def pressed(self) -> bool:
        """Whether space is short enough to empty segments that would otherwise be left alone."""
        return self.free_bytes < max(4 * self._reserve, self.bytes_on_disk // 16)

    def remove(self, segment: int) -> None:
        """Give up a segment that nothing leads to any more. Raises `OSError`.

        Its number is never used again: what its file holds cannot be taken for a part of the log.
        """
        assert segment != self._segment and segment not in self._unsynced
        file = self._files.pop(segment, None)
        if file is not None:
            file.close()
        if self.pressed or not self.spares.keep(segment_name(segment)):
            self._disk.remove(segment_name(segment))
        del self.first_lsns[segment]
        self._names_unsynced = True

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def verifies(data: Buffer, sums: array[int]) -> bool:
    """Whether each block of `data` has its checksum."""
    return len(data) == len(sums) * BLOCK and checksums(data) == sums.tolist()


def scan_segment(
    file: File, pool: bytes, number: int, slot: int, previous: int | None = None
) -> Iterator[Batch]:
    """Batches one after the other from a slot on, until one does not verify or continue the chain.

    `previous` is what the first of them has to name; None if that is not known. Verifies the meta
    bytes, not the payload.
    """
    while (batch := read_batch(file, pool, number, slot)) is not None:
        if previous not in (None, batch.header.previous):
            return
        yield batch
        slot, previous = batch.header.end_slot, batch.header.sum


def read_batch(file: File, pool: bytes, number: int, slot: int) -> Batch | None:
    """The batch at a place, or None if none verifies there."""
    first = file.read_at(BLOCK, slot * BLOCK)
    header = decode_header(first, pool, number, slot)
    if header is None:
        return None
    meta = first[: header.meta_bytes]
    if header.meta_bytes > BLOCK:
        meta += file.read_at(header.meta_bytes - BLOCK, (slot + 1) * BLOCK)
    if not meta_verifies(meta, header):
        return None
    if header.version != VERSION or header.flags:
        raise Damaged(
            f"segment {number} has a batch of format {header.version}.{header.flags};"
            f" this version knows {VERSION}.0",
            hint="start the version of isochrone that wrote it",
        )
    return decode_batch(meta, header)


def payload_verifies(file: File, batch: Batch) -> bool:
    """Whether every payload block of a batch is there."""
    header = batch.header
    data = file.read_at(header.payload_blocks * BLOCK, header.payload_slot * BLOCK)
    sums = array("Q", batch.sums.tobytes())
    return len(data) == header.payload_blocks * BLOCK and verifies(data, sums)


def segments(disk: Disk) -> list[int]:
    """Numbers of the segment files of a disk, ascending."""
    found = (segment_number(name) for name in disk.names())
    return sorted(number for number in found if number is not None)


__all__ = [
    "Header",
    "Log",
    "SyncTicket",
    "payload_verifies",
    "read_batch",
    "scan_segment",
    "segments",
]
