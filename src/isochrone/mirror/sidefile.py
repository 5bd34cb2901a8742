"""The side file of a session: the part of the log between two cuts, as what must be sent.

It is no file: the log is read again. Only the last version of each block between two barriers is
kept; a barrier is a record whose place matters (a copy, a resize).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Final

import numpy as np

from isochrone.errors import Damaged
from isochrone.mirror.coalescing import KEY_SHIFT, Interval, Rows, keys_of
from isochrone.mirror.messages import HOLES_MAX
from isochrone.store import records as r
from isochrone.store.blocks import fetch
from isochrone.store.catalogue import Image
from isochrone.store.cursor import Cursor
from isochrone.store.format import BODY, DISCARD, WRITE
from isochrone.store.log import Log
from isochrone.store.mirrored import commands
from isochrone.store.sections import Section, Words, blocks_of

SMALL_RECORDS: Final = 256  # discards and bodies looked at before others are served
# Of an interval. To put one among more takes so long that others would wait for `SMALL_RECORDS`
# longer than a millisecond; so it ends here, as at a barrier, and some blocks go once more.
HOLES_HELD_MAX: Final = 16384


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


def window(
    log: Log,
    volumes: Sequence[int],
    after_lsn: int,
    to_lsn: int,
    *,
    blocks_max: int,
    images: Sequence[Image] = (),
    cursor: Cursor | None = None,
) -> Iterator[Item | None]:
    """What a secondary that has everything up to one lsn needs to reach a later one.

    Yields None after each piece of work, so that the caller can let others run. All records up to
    `to_lsn` must be durable: what a power cut can still take must never be sent. `cursor` is that
    of whoever asks for one window after the other.
    """
    assert to_lsn <= log.durable
    if after_lsn >= to_lsn:
        return
    members = np.array(sorted(volumes), np.uint64)
    mine = frozenset(volumes)
    interval = Interval()
    for section in (cursor or Cursor(log)).read(after_lsn + 1, to_lsn):
        for found in _take(section, members, interval, after_lsn, to_lsn):
            if found is None:
                yield from _relieved(interval, members, blocks_max)
                continue
            lsn, record = found
            commands = list(_commands(record, mine))
            became = [image for image in images if image.lsn == lsn]
            if commands or became:
                yield from _items(interval, members, blocks_max)
                interval.clear()
                yield from map(Barrier, [*commands, *_copied(became)])
                yield from (Became(image) for image in became if image.image)
        yield from _relieved(interval, members, blocks_max)
    yield from _items(interval, members, blocks_max)


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
    section: Section, members: Words, interval: Interval, after: int, to: int
) -> Iterator[tuple[int, r.AnyRecord] | None]:
    """Add what a section says of the members to an interval; its bodies, with their lsn, in place.

    None now and then, as `window`.
    """
    described = section.descriptors
    lsns = section.start.lsn + 1 + np.arange(len(described))
    inside = (lsns > after) & (lsns <= to)
    kinds, sizes = described["kind"], described["body"].astype(np.int64)
    ranks = np.searchsorted(members, described["volume"]).astype(np.uint64)
    member = np.isin(described["volume"], members) & inside
    written = member & (kinds == WRITE)
    counts = blocks_of(described)
    keys = np.repeat(keys_of(ranks, described["block"]), counts)
    keys += (np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.uint64)
    chosen = np.repeat(written, counts)
    keys, pointers, sums = keys[chosen], section.pointers()[chosen], section.sums[chosen]
    rows_until = np.cumsum(np.where(written, counts, 0))
    bodies_until = np.cumsum(sizes)
    small = np.flatnonzero((member & (kinds == DISCARD)) | (inside & (kinds == BODY)))
    done = 0
    for n, at in enumerate(small.tolist(), 1):
        if (rows := int(rows_until[at])) > done:
            interval.write(keys[done:rows], pointers[done:rows], sums[done:rows])
            done = rows
        if kinds[at] == DISCARD:
            interval.discard(
                int(ranks[at]), int(described["block"][at]), int(described["count"][at])
            )
        else:
            end = int(bodies_until[at])
            yield int(lsns[at]), r.decode(section.bodies[end - int(sizes[at]) : end])
        if not n % SMALL_RECORDS:
            yield None
    if done < len(keys):
        interval.write(keys[done:], pointers[done:], sums[done:])


def _items(interval: Interval, members: Words, blocks_max: int) -> Iterator[Item | None]:
    """Holes first, then blocks: a block that was written after its discard overrides it."""
    volumes = members.tolist()
    ranges = ((volumes[rank], block, count) for rank, block, count in interval.holes.ranges())
    while some := tuple(islice(ranges, HOLES_MAX)):
        yield HoleRanges(some)
    for rows in interval.rows():
        yield from _blocks(rows, volumes, blocks_max)
        yield None


def _relieved(interval: Interval, members: Words, blocks_max: int) -> Iterator[Item | None]:
    """Let others run; first the interval ends, if it has too many holes."""
    if len(interval.holes) >= HOLES_HELD_MAX:
        yield from _items(interval, members, blocks_max)
        interval.clear()
    yield None


def _blocks(rows: Rows, volumes: Sequence[int], blocks_max: int) -> Iterator[Blocks]:
    ranks, blocks = rows[0] >> np.uint64(KEY_SHIFT), rows[0] & np.uint64((1 << KEY_SHIFT) - 1)
    edges = (np.flatnonzero(ranks[1:] != ranks[:-1]) + 1).tolist()
    for start, stop in pairwise(chain([0], edges, [len(ranks)])):
        for at in range(start, stop, blocks_max):
            piece = slice(at, min(stop, at + blocks_max))
            yield Blocks(
                volumes[int(ranks[at])],
                array("Q", blocks[piece].tobytes()),
                array("Q", rows[2, piece].tobytes()),
                array("Q", rows[3, piece].tobytes()),
            )


def read_blocks(log: Log, item: Blocks) -> bytes:
    """The bytes of an item's blocks, verified, with one read for each run in the log.

    Raises `Damaged`, also for what the disk cannot read.
    """
    pieces = fetch(log, item.pointers, item.sums)
    if pieces is None:  # say what is wrong, and where
        try:
            pieces = [
                log.read(pointer, item.sums[n : n + 1]) for n, pointer in enumerate(item.pointers)
            ]
        except OSError as e:
            raise Damaged(f"the disk cannot read a block: {e.strerror or e}") from e
    return b"".join(pieces)
