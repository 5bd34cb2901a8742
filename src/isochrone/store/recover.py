"""Opening a pool: the last checkpoint, then the tail of the log.

The log ends at the first batch that does not verify. Before anything new is appended, whatever lies
beyond is cut off and that cut is made durable, so no later crash can bring old bytes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from isochrone.errors import Damaged
from isochrone.store.format import (
    BATCH_MAGIC,
    SEGMENT_BYTES,
    VERSION,
    Batch,
    decode_segment_header,
    segment_name,
)
from isochrone.store.log import payload_verifies, read_batch, scan_segment, segments
from isochrone.store.metadata import Position
from isochrone.types import BLOCK, MIB
from isochrone.world.disk import Disk, File

ISLAND_BYTES: Final = MIB  # looked through at a time behind the end of the log


@dataclass(slots=True)
class Tail:
    """What was found in the log after a checkpoint."""

    batches: list[Batch] = field(default_factory=list)
    first_lsns: dict[int, int] = field(default_factory=dict)
    lsn: int = 0  # newest valid record
    segment: int = 0  # newest segment file that stays, 0 if none
    discarded_bytes: int = 0  # cut off behind the end


@dataclass(slots=True)
class _Place:
    segment: int
    slot: int


def read_tail(disk: Disk, pool: bytes, start: Position | None) -> Tail:
    """Find the end of the log, cut off what lies beyond, and make the rest durable.

    Raises `Damaged` if records are missing or broken that were durable once.
    """
    numbers = segments(disk)
    first = start.segment if start else min(numbers, default=0)
    tail = Tail(lsn=start.lsn if start else 0)
    for number in (n for n in numbers if n < first):
        # One after the other: a pool may have more of them than a process may have open.
        file = disk.open(segment_name(number))
        try:
            _note(tail, file, pool, number)
        finally:
            file.close()
        tail.segment = number
    files = {number: disk.open(segment_name(number)) for number in numbers if number >= first}
    try:
        _read_tail(disk, pool, start, first, tail, files)
        return tail
    finally:
        for file in files.values():
            file.close()


def _read_tail(
    disk: Disk,
    pool: bytes,
    start: Position | None,
    first: int,
    tail: Tail,
    files: dict[int, File],
) -> None:
    # A segment without a batch need not have its name on the disk yet.
    if start and start.slot > 1 and start.segment and start.segment not in files:
        raise Damaged(f"segment {start.segment} of the log is missing; the checkpoint needs it")
    place = _Place(first, start.slot if start else 1)
    durable = tail.lsn
    for number in sorted(files):
        _note(tail, files[number], pool, number)
    for number in sorted(files):
        if number not in tail.first_lsns:
            continue  # made, never durable; the check below tells if it mattered
        slot = place.slot if number == first else 1
        for batch in scan_segment(files[number], pool, number, slot):
            if batch.header.first_lsn != tail.lsn + 1:
                break  # of a life that a recovery has ended, or after a hole
            tail.batches.append(batch)
            tail.lsn = batch.header.last_lsn
            durable = max(durable, batch.header.durable_lsn)
            place = _Place(number, batch.header.end_slot)
    durable = max(durable, _claimed(files, pool, place))
    _drop_torn(tail, files, durable)
    if durable > tail.lsn:
        raise Damaged(
            f"the log is broken after record {tail.lsn} in segment {place.segment}, but record"
            f" {durable} was durable",
            hint="restore the pool's files, or promote the mirror; nothing was changed here",
        )
    if tail.batches:
        end = _Place(tail.batches[-1].header.segment, tail.batches[-1].header.end_slot)
    else:
        end = _Place(first, start.slot if start else 1)
    _write_again(tail, files, durable)
    _cut_off(disk, tail, files, end)


def _note(tail: Tail, file: File, pool: bytes, number: int) -> None:
    lsn = _first_lsn(file, pool, number)
    if lsn is not None:
        tail.first_lsns[number] = lsn


def _first_lsn(file: File, pool: bytes, number: int) -> int | None:
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
    return header.first_lsn


def _is_used(file: File, number: int) -> bool:
    """Whether a file got this number for a second use that never began."""
    header = decode_segment_header(file.read_at(BLOCK, 0))
    return header is not None and header.number != number


def _claimed(files: dict[int, File], pool: bytes, end: _Place) -> int:
    """The newest lsn that any intact batch behind the end of the log claims to be durable."""
    found = (batch.header.durable_lsn for batch in _islands(files, pool, end))
    return max(found, default=0)


def _islands(files: dict[int, File], pool: bytes, end: _Place) -> Iterator[Batch]:
    for number in (n for n in sorted(files) if n >= end.segment):
        slot = end.slot if number == end.segment else 1
        last = files[number].size() // BLOCK
        while slot < last:
            window = files[number].read_at(ISLAND_BYTES, slot * BLOCK)
            at = next(
                (at for at in range(0, len(window), BLOCK) if window[at : at + 4] == BATCH_MAGIC),
                None,
            )
            if at is None:
                slot += ISLAND_BYTES // BLOCK
                continue
            slot += at // BLOCK
            batch = read_batch(files[number], pool, number, slot)
            if batch is None:
                slot += 1
            else:
                yield batch
                slot = batch.header.end_slot


def _drop_torn(tail: Tail, files: dict[int, File], durable: int) -> None:
    """End the tail at the first batch that was not yet durable and whose payload is torn."""
    for at, batch in enumerate(tail.batches):
        header = batch.header
        if header.last_lsn > durable and not payload_verifies(files[header.segment], batch):
            tail.lsn = header.first_lsn - 1
            del tail.batches[at:]
            return


def _write_again(tail: Tail, files: dict[int, File], durable: int) -> None:
    """Write what nobody vouches for once more, so that the sync after it means something.

    If a sync had failed in the last life, the kernel may hold pages that are not on the disk and
    take them for clean: they read well, a sync of them succeeds, and a power cut takes them away.
    """
    begun = set()
    for batch in tail.batches:
        header = batch.header
        if header.last_lsn > durable:
            file = files[header.segment]
            if header.segment not in begun:
                begun.add(header.segment)
                file.write_at([file.read_at(BLOCK, 0)], 0)
            place = header.slot * BLOCK
            file.write_at([file.read_at(header.end_slot * BLOCK - place, place)], place)


def _cut_off(disk: Disk, tail: Tail, files: dict[int, File], end: _Place) -> None:
    for number in sorted(files):
        file = files[number]
        if number > end.segment or _is_used(file, number):
            tail.discarded_bytes += file.size()
            disk.remove(segment_name(number))
            tail.first_lsns.pop(number, None)
            continue
        tail.segment = max(tail.segment, number)
        beyond = file.size() - end.slot * BLOCK
        if number == end.segment and beyond > 0:
            tail.discarded_bytes += beyond
            file.truncate(end.slot * BLOCK)
        # After a mere crash of the process the bytes may still be in the page cache only.
        file.sync()
    disk.sync_names()
    assert end.slot <= SEGMENT_BYTES // BLOCK
