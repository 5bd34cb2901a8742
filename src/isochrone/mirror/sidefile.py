"""The side file of a session: the part of the log between two cuts, as what must be sent.

It is no file: the log is read again. Only the last version of each block between two barriers is
kept; a barrier is a record whose place matters (a copy, a resize).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isochrone.mirror.messages import HOLES_MAX
from isochrone.store import records as r
from isochrone.store.catalogue import Image
from isochrone.store.format import BODY, DISCARD, Batch
from isochrone.store.log import Log
from isochrone.store.mirrored import commands
from isochrone.types import BLOCK

U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Last versions of blocks of one volume, ascending, at most as many as asked for."""

    volume: int
    blocks: array[int]
    pointers: array[int]
    sums: array[int]


@dataclass(frozen=True, slots=True)
class HoleRanges:
    ranges: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Barrier:
    record: r.AnyRecord


@dataclass(frozen=True, slots=True)
class Became:
    """A volume changed without any data in the log: what it was then is in a hidden image."""

    image: Image


Item = Blocks | HoleRanges | Barrier | Became


class _Interval:
    """What was written and discarded since the last barrier."""

    def __init__(self) -> None:
        self.columns: list[U64] = []  # rows of volume, block, pointer, sum, in log order
        self.discards: list[tuple[int, int, int, int]] = []  # volume, block, count, rows before
        self.rows = 0

    def write(self, volume: int, block: int, first: int, sums: U64) -> None:
        count = len(sums)
        rows = np.empty((4, count), np.uint64)
        rows[0] = volume
        rows[1] = np.arange(block, block + count, dtype=np.uint64)
        rows[2] = np.arange(first, first + count, dtype=np.uint64)
        rows[3] = sums
        self.columns.append(rows)
        self.rows += count

    def items(self, blocks_max: int) -> Iterator[Item]:
        """Holes first, then blocks: a block that was written after its discard overrides it."""
        ranges = [discard[:3] for discard in self.discards]
        for at in range(0, len(ranges), HOLES_MAX):
            yield HoleRanges(tuple(ranges[at : at + HOLES_MAX]))
        if not self.rows:
            return
        volume, block, pointer, sums = np.concatenate(self.columns, axis=1)
        order = np.lexsort((np.arange(self.rows), block, volume))
        volume, block = volume[order], block[order]
        last = np.append((volume[1:] != volume[:-1]) | (block[1:] != block[:-1]), True)
        order, volume, block = order[last], volume[last], block[last]
        keep = self._not_discarded(volume, block, order)
        order, volume, block = order[keep], volume[keep], block[keep]
        edges = np.flatnonzero(volume[1:] != volume[:-1]) + 1
        for start, stop in zip([0, *edges], [*edges, len(volume)], strict=True):
            for at in range(start, stop, blocks_max):
                rows = slice(at, min(stop, at + blocks_max))
                yield Blocks(
                    int(volume[at]),
                    array("Q", block[rows].tobytes()),
                    array("Q", pointer[order[rows]].tobytes()),
                    array("Q", sums[order[rows]].tobytes()),
                )

    def _not_discarded(self, volume: U64, block: U64, order: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the last versions were not discarded after they were written."""
        keep = np.ones(len(block), bool)
        for discarded, first, count, rows_before in self.discards:
            low = int(np.searchsorted(volume, discarded, "left"))
            high = int(np.searchsorted(volume, discarded, "right"))
            start = low + int(np.searchsorted(block[low:high], np.uint64(first), "left"))
            end = low + int(np.searchsorted(block[low:high], np.uint64(first + count), "left"))
            keep[start:end] &= order[start:end] >= rows_before
        return keep


def window(
    log: Log,
    volumes: Sequence[int],
    after_lsn: int,
    to_lsn: int,
    *,
    blocks_max: int,
    images: Sequence[Image] = (),
) -> Iterator[Item | None]:
    """What a secondary that has everything up to one lsn needs to reach a later one.

    Yields None after each batch that was read, so that the caller can let others run. All records
    up to `to_lsn` must be durable: what a power cut can still take must never be sent.
    """
    assert to_lsn <= log.durable
    if after_lsn >= to_lsn:
        return
    members = np.array(sorted(volumes), np.uint32)
    mine = frozenset(volumes)
    interval = _Interval()
    for batch in log.batches(after_lsn + 1, to_lsn):
        for lsn, record in _take(batch, members, interval, after_lsn, to_lsn):
            commands = list(_commands(record, mine))
            became = [image for image in images if image.lsn == lsn]
            if commands or became:
                yield from interval.items(blocks_max)
                interval = _Interval()
                yield from map(Barrier, [*commands, *_copied(became)])
                yield from (Became(image) for image in became if image.image)
        yield None
    yield from interval.items(blocks_max)


def _commands(record: r.AnyRecord, volumes: frozenset[int]) -> Iterator[r.AnyRecord]:
    """What of a record a secondary of these volumes carries out by itself, in its place."""
    match record:
        case r.VolumesReverted():
            yield from _commands(
                r.CopyTaken(
                    name=record.undo, writable=False, stamp=record.stamp,
                    members=record.undo_members,
                ),
                volumes,
            )  # fmt: skip
        case r.CopyTaken(members=members):
            if any(source in volumes for source, _ in members):
                yield record
        case r.VolumeResized(id=id):
            if id in volumes:
                yield record
        case r.CopyDeleted() | r.CopyClassified():
            yield record  # the copy may be gone by now; the secondary knows if it has it
        case (
            r.RelationsEstablished()
            | r.RelationsRefreshed()
            | r.RelationsRestored()
            | r.RelationsWithdrawn()
        ):
            yield from commands(record, volumes)


def _copied(became: Sequence[Image]) -> Iterator[r.AnyRecord]:
    """What a secondary can copy by itself, by a record of an older version: one instant."""
    steps = [r.NewRelation(0, x.source, x.volume, tuple(x.extents)) for x in became if not x.image]
    if steps:
        yield r.RelationsEstablished(relations=tuple(steps), stamp=0, once=True)


def _take(
    batch: Batch, members: NDArray[np.uint32], interval: _Interval, after: int, to: int
) -> Iterator[tuple[int, r.AnyRecord]]:
    """Add a batch to an interval; yields its bodies, with their lsn, at their places."""
    rows = batch.descriptors
    if not np.isin(rows["volume"], members).any() and not (rows["kind"] == BODY).any():
        return
    lsn, payload, body = batch.header.first_lsn, 0, 0
    wanted = frozenset(members.tolist())
    for kind, volume, block, count, size in rows.tolist():
        inside = after < lsn <= to
        if kind == BODY:
            if inside:
                yield lsn, r.decode(batch.bodies[body : body + size])
            body += size
        elif kind == DISCARD:
            if inside and volume in wanted:
                interval.discards.append((volume, block, count, interval.rows))
        else:
            if inside and volume in wanted:
                interval.write(
                    volume, block, batch.first_pointer + payload,
                    batch.sums[payload : payload + count],
                )  # fmt: skip
            payload += count
        lsn += 1


def read_blocks(log: Log, item: Blocks) -> bytes:
    """The bytes of an item's blocks, verified, with one read for each run in the log."""
    pieces: list[bytes] = []
    pointers = item.pointers
    start = 0
    for at in range(1, len(pointers) + 1):
        if at == len(pointers) or pointers[at] != pointers[at - 1] + 1:
            pieces.append(log.read(pointers[start], item.sums[start:at]))
            start = at
    data = b"".join(pieces)
    assert len(data) == len(pointers) * BLOCK
    return data
