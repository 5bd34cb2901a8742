"""Opening a pool: the last checkpoint, then the tail of the log.

The log ends at the first batch that does not verify. Before anything new is appended, whatever lies
beyond is cut off and that cut is made durable, so no later crash can bring old bytes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from isochrone.errors import Damaged
from isochrone.store.format import (
    BATCH_MAGIC,
    SEGMENT_BYTES,
    VERSION,
    Batch,
    SegmentHeader,
    decode_segment_header,
    segment_name,
)
from isochrone.store.log import payload_verifies, read_batch, segments
from isochrone.store.metadata import REBUILD, Position
from isochrone.store.sections import Point, Section, Stretch, read_sections
from isochrone.types import BLOCK, MIB
from isochrone.world.disk import Disk, File

FILES_MAX: Final = 256  # open at a time; a quarter of the usual limit
HELD_BYTES_MAX: Final = 256 * MIB  # of a tail between reading and replay: 10 GiB of single writes
ISLAND_BYTES: Final = MIB  # looked through at a time behind the end of the log
REWRITE_BYTES: Final = MIB  # written again at a time


class Files:
    """Segment files, opened when they are needed: there may be more than a process may hold."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._open: dict[int, File] = {}

    def __getitem__(self, number: int) -> File:
        file = self._open.get(number)
        if file is None:
            if len(self._open) >= FILES_MAX:
                self._open.pop(next(iter(self._open))).close()
            file = self._open[number] = self._disk.open(segment_name(number))
        return file

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()


@dataclass(slots=True)
class Tail:
    """What was found in the log after a checkpoint.

    As many sections as `HELD_BYTES_MAX` allows are held, so that they need not be read twice; of
    the others only their places.
    """

    sections: list[Section | Stretch] = field(default_factory=list)
    headers: dict[int, SegmentHeader] = field(default_factory=dict)
    lsn: int = 0  # newest valid record
    last_sum: int = 0  # checksum of the newest valid batch
    segment: int = 0  # newest segment file that stays, 0 if none
    discarded_bytes: int = 0  # cut off behind the end
    held_bytes: int = 0

    @property
    def first_lsns(self) -> dict[int, int]:
        """Segment -> lsn of the first record it may hold, ascending."""
        return {number: header.first_lsn for number, header in self.headers.items()}

    def add(self, section: Section) -> None:
        self.lsn, self.last_sum = section.end.lsn, section.end.sum
        if self.held_bytes + section.nbytes <= HELD_BYTES_MAX:
            self.held_bytes += section.nbytes
            self.sections.append(section)
        else:
            self.sections.append(Stretch(section.start, section.end))

    def replay(self, disk: Disk, pool: bytes) -> Iterator[Section]:
        """Every section in order; none is held any longer than until the next."""
        files = Files(disk)
        try:
            for at, found in enumerate(self.sections):
                yield _section(files, pool, found)
                self.sections[at] = Stretch(found.start, found.end)
        finally:
            files.close()


def _section(files: Files, pool: bytes, found: Section | Stretch) -> Section:
    if isinstance(found, Section):
        return found
    return found.read(files[found.start.segment], pool)


def read_tail(disk: Disk, pool: bytes, start: Position | None, durable: int = 0) -> Tail:
    """Find the end of the log, cut off what lies beyond, and make the rest durable.

    `durable` is the newest record that is known from elsewhere to be so. Raises `Damaged` if
    records are missing or broken that were durable once.
    """
    files = Files(disk)
    try:
        return _Reader(disk, pool, start, files).read(durable)
    finally:
        files.close()


def look_at_tail(disk: Disk, pool: bytes, start: Position | None, durable: int = 0) -> Tail:
    """The tail as `read_tail` finds it, and raising as it does; nothing is changed."""
    files = Files(disk)
    try:
        reader = _Reader(disk, pool, start, files)
        reader.look(durable)
        return reader.tail
    finally:
        files.close()


class _Reader:
    """One recovery: the log of a pool from a checkpoint on."""

    def __init__(self, disk: Disk, pool: bytes, start: Position | None, files: Files) -> None:
        numbers = segments(disk)
        first = start.segment if start else min(numbers, default=0)
        self._disk = disk
        self._pool = pool
        self._files = files
        self._older = [number for number in numbers if number < first]
        self._numbers = [number for number in numbers if number >= first]
        self._start = (
            Point(first, start.slot, start.lsn, start.sum) if start else Point(first, 1, 0, 0)
        )
        self._tail = Tail(lsn=self._start.lsn, last_sum=self._start.sum)

    @property
    def tail(self) -> Tail:
        return self._tail

    def read(self, durable: int) -> Tail:
        durable, tail = self.look(durable), self._tail
        self._write_again(durable)
        self._cut_off(tail.sections[-1].end if tail.sections else self._start)
        return tail

    def look(self, known: int) -> int:
        """Find the end of the log; the newest record that must be durable."""
        start, tail = self._start, self._tail
        for number in [*self._older, *self._numbers]:
            self._note(number)
        self._refuse_exchanged()
        tail.segment = max(self._older, default=0)
        # A segment without a batch need not have its name on the disk yet.
        if start.slot > 1 and start.segment and start.segment not in self._numbers:
            raise Damaged(
                f"segment {start.segment} of the log is missing; the checkpoint needs it",
                hint=f"restore the file; if it is the metadata store that is too old, {REBUILD}",
            )
        end, durable = self._follow()
        durable = max(durable, known, self._claimed(end))
        self._drop_torn(durable)
        if durable > tail.lsn:
            raise Damaged(
                f"the log is broken after record {tail.lsn} in segment {end.segment}, but record"
                f" {durable} was durable",
                hint="restore the pool's files, or promote the mirror; nothing was changed here",
            )
        return durable

    def _refuse_exchanged(self) -> None:
        """A file with another's header was used before: the other's name is free since. Or else."""
        for number in self._numbers:
            header = decode_segment_header(self._files[number].read_at(BLOCK, 0))
            if header is None or header.number in self._tail.headers:
                continue  # its own, or a second name of one that is in its place
            if header.number in self._numbers or header.number in self._older:
                raise Damaged(
                    f"segment {number} of the log holds what belongs into segment {header.number}",
                    hint="give the pool's files their own names back; nothing was changed here",
                )

    def _follow(self) -> tuple[Point, int]:
        """Take the log as far as it verifies; its end, and the newest lsn it calls durable."""
        tail, end = self._tail, self._start
        durable = end.lsn
        for number in self._numbers:
            if number not in tail.headers:
                continue  # made, never durable; a check later tells if it mattered
            slot = self._start.slot if number == self._start.segment else 1
            previous = _previous(tail, number, slot)
            if previous is None:
                continue  # of a life that a recovery has ended, or after a hole
            place = Point(number, slot, tail.lsn, previous)
            for section in read_sections(self._files[number], self._pool, place):
                tail.add(section)
                durable = max(durable, section.durable_lsn)
                end = section.end
        return end, durable

    def _note(self, number: int) -> None:
        header = _segment_header(self._files[number], self._pool, number)
        if header is not None:
            self._tail.headers[number] = header

    def _claimed(self, end: Point) -> int:
        """The newest lsn that any intact batch behind the end of the log claims to be durable."""
        return max((batch.header.durable_lsn for batch in self._islands(end)), default=0)

    def _islands(self, end: Point) -> Iterator[Batch]:
        for number in (n for n in self._numbers if n >= end.segment):
            file = self._files[number]
            slot = end.slot if number == end.segment else 1
            last = file.size() // BLOCK
            while slot < last:
                window = file.read_at(ISLAND_BYTES, slot * BLOCK)
                places = range(0, len(window), BLOCK)
                at = next((at for at in places if window[at : at + 4] == BATCH_MAGIC), None)
                if at is None:
                    slot += ISLAND_BYTES // BLOCK
                    continue
                slot += at // BLOCK
                batch = read_batch(file, self._pool, number, slot)
                if batch is None:
                    slot += 1
                else:
                    yield batch
                    slot = batch.header.end_slot

    def _drop_torn(self, durable: int) -> None:
        """End the tail at the first batch that was not yet durable and whose payload is torn."""
        tail = self._tail
        for at, found in enumerate(tail.sections):
            if found.end.lsn <= durable:
                continue
            section = _section(self._files, self._pool, found)
            file = self._files[section.start.segment]
            for n, batch in enumerate(section.batches()):
                if batch.header.last_lsn > durable and not payload_verifies(file, batch):
                    tail.sections[at:] = [section.part(0, n)] if n else []
                    end = tail.sections[-1].end if tail.sections else self._start
                    tail.lsn, tail.last_sum = end.lsn, end.sum
                    return

    def _write_again(self, durable: int) -> None:
        """Write what nobody vouches for once more, so that the sync after it means something.

        If a sync had failed in the last life, the kernel may hold pages that are not on the disk
        and take them for clean: they read well, a sync of them succeeds, and a power cut takes
        them away.
        """
        begun = set()
        for found in self._tail.sections:
            if found.end.lsn <= durable:
                continue
            section = _section(self._files, self._pool, found)
            last = section.headers["first_lsn"] + section.headers["records"] - 1
            first_slot = int(section.headers["slot"][int(np.argmax(last > durable))])
            file = self._files[section.start.segment]
            if section.start.segment not in begun:
                begun.add(section.start.segment)
                file.write_at([file.read_at(BLOCK, 0)], 0)
            end = section.end.slot * BLOCK
            for place in range(first_slot * BLOCK, end, REWRITE_BYTES):
                file.write_at([file.read_at(min(REWRITE_BYTES, end - place), place)], place)

    def _cut_off(self, end: Point) -> None:
        tail = self._tail
        for number in self._numbers:
            file = self._files[number]
            if number > end.segment or _is_used(file, number):
                tail.discarded_bytes += file.size()
                self._disk.remove(segment_name(number))
                tail.headers.pop(number, None)
                continue
            tail.segment = max(tail.segment, number)
            beyond = file.size() - end.slot * BLOCK
            if number == end.segment and beyond >= 0:  # 0: there may be reserved room
                tail.discarded_bytes += beyond
                file.truncate(end.slot * BLOCK)
            # After a mere crash of the process the bytes may still be in the page cache only.
            file.sync()
        self._disk.sync_names()
        assert end.slot <= SEGMENT_BYTES // BLOCK


def _previous(tail: Tail, number: int, slot: int) -> int | None:
    """What the batch at a place has to name as the one before; None: nothing there continues."""
    if slot > 1:
        return tail.last_sum
    header = tail.headers[number]
    return header.sum if header.previous == tail.last_sum else None


def _segment_header(file: File, pool: bytes, number: int) -> SegmentHeader | None:
    header = decode_segment_header(file.read_at(BLOCK, 0))
    if header is None:
        return None
    if header.version != VERSION:
        raise Damaged(
            f"segment {number} has log format {header.version}; this version knows {VERSION}",
            hint="start the version of isochrone that wrote it",
        )
    if header.pool != pool:
        raise Damaged(f"segment {number} belongs to another pool")
    if header.number != number:
        return None  # a used file that got a new name, and was never written under it
    return header


def _is_used(file: File, number: int) -> bool:
    """Whether a file got this number for a second use that never began."""
    header = decode_segment_header(file.read_at(BLOCK, 0))
    return header is not None and header.number != number
