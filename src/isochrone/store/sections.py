"""The log read fast: thousands of batches at a time, in columns instead of objects.

Recovery reads whole segments, and a segment may hold eight thousand batches. Only their meta bytes
are read where they lie far apart; where batches are small, what lies between is read with them,
because a call for each would cost more. What is checked is what `log.read_batch` checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.errors import Damaged
from isochrone.store.format import (
    BATCH_MAGIC,
    DESCRIPTOR,
    DESCRIPTOR_DTYPE,
    HEADER,
    HEADER_DTYPE,
    LENGTHS,
    META_BYTES_MAX,
    MOVE,
    SLOT_BITS,
    SUM_AT,
    VERSION,
    WRITE,
    Batch,
    Header,
    checksum,
    decode_header,
    slots,
)
from isochrone.types import BLOCK, MIB
from isochrone.world.disk import File

WINDOW_BYTES: Final = MIB  # read at a time where batches are small
WINDOW_SLOTS_MAX: Final = 16  # of a batch, to be small: beyond 64 KiB a call for each is cheaper
BATCHES_MAX: Final = 4096  # of a section
META_BYTES_HELD: Final = 4 * MIB  # of a section, reached by batches with many blocks
WORD: Final = 8  # all parts of a batch's meta but the bodies are whole words

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Point:
    """What has been read of a log, and where it goes on."""

    segment: int
    slot: int
    lsn: int  # newest record before
    sum: int  # what the next batch has to name as the one before it


@dataclass(frozen=True, slots=True)
class Section:
    """Verified batches that lie one after the other in a segment, their parts in columns."""

    start: Point
    end: Point
    durable_lsn: int  # the newest claim among them
    headers: NDArray[np.void]
    descriptors: NDArray[np.void]
    sums: Words  # of the payload blocks, in order
    bodies: bytes

    @property
    def nbytes(self) -> int:
        """Memory it takes, nearly."""
        return self.headers.nbytes + self.descriptors.nbytes + self.sums.nbytes + len(self.bodies)

    def pointers(self) -> Words:
        """Where each payload block lies."""
        blocks = self.headers["payload_blocks"].astype(np.int64)
        metas = -(-self.headers["meta_bytes"].astype(np.int64) // BLOCK)
        firsts = self.headers["slot"] + metas - (np.cumsum(blocks) - blocks)
        found = np.repeat(firsts, blocks) + np.arange(int(blocks.sum()))
        return found.astype(np.uint64) | np.uint64(self.start.segment << SLOT_BITS)

    def part(self, first: int, stop: int) -> Section:
        """Some of its batches, at least one."""
        rows = self.headers[first:stop]
        record, block = (
            int(self.headers[name][:first].sum(dtype=np.int64))
            for name in ("records", "payload_blocks")
        )
        after, beyond = (
            int(rows[name].sum(dtype=np.int64)) for name in ("records", "payload_blocks")
        )
        sizes = self.descriptors["body"].astype(np.int64)
        body = int(sizes[:record].sum())
        return Section(
            start=_before(rows[0], self.start.segment),
            end=_after(rows[-1], self.start.segment),
            durable_lsn=int(rows["durable_lsn"].max()),
            headers=rows,
            descriptors=self.descriptors[record : record + after],
            sums=self.sums[block : block + beyond],
            bodies=self.bodies[body : body + int(sizes[record : record + after].sum())],
        )

    def batches(self) -> Iterator[Batch]:
        """One by one, for those who need few of them."""
        record = block = body = 0
        for row in self.headers:
            head = row.tobytes()
            slot = int(row["slot"])
            header = decode_header(head, bytes(head[8:24]), self.start.segment, slot)
            assert header is not None
            described = self.descriptors[record : record + header.records]
            size = int(described["body"].sum(dtype=np.uint64))
            yield Batch(
                header,
                described,
                self.sums[block : block + header.payload_blocks],
                self.bodies[body : body + size],
            )
            record, block = record + header.records, block + header.payload_blocks
            body += size


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where a section lies that is not held in memory."""

    start: Point
    end: Point

    def read(self, file: File, pool: bytes) -> Section:
        """The section, once more. Raises `Damaged` if it is not what it was."""
        section = next(read_sections(file, pool, self.start), None)
        if section is None or section.end != self.end:
            raise Damaged(f"segment {self.start.segment} of the log changes while it is read")
        return section


def read_sections(
    file: File,
    pool: bytes,
    place: Point,
    *,
    batches_max: int = 0,
    held_max: int = 0,
    window_bytes: int = 0,
) -> Iterator[Section]:
    """From a place to the end of the segment, or to what does not verify or continue the log.

    Who shares the loop with others asks for smaller sections; 0: as recovery wants them.
    """
    batches_max, held_max = batches_max or BATCHES_MAX, held_max or META_BYTES_HELD
    metas: list[bytes] = []
    sizes: list[int] = []
    held = 0
    for meta, size in _metas(file, place.slot, window_bytes or WINDOW_BYTES):
        metas.append(meta)
        sizes.append(size)
        held += size
        if len(metas) < batches_max and held < held_max:
            continue
        section = _verified(metas, sizes, pool, place)
        if section is None:
            return
        yield section
        if len(section.headers) < len(metas):
            return
        place, metas, sizes, held = section.end, [], [], 0
    if metas and (section := _verified(metas, sizes, pool, place)) is not None:
        yield section


def _metas(file: File, slot: int, window_bytes: int) -> Iterator[tuple[bytes, int]]:
    """What may be the meta bytes of one batch after the other, in whole words, and their size."""
    window, base, span = b"", slot, 1
    while True:
        at = (slot - base) * BLOCK
        if at + BLOCK > len(window):
            length = window_bytes if span <= WINDOW_SLOTS_MAX else BLOCK
            window, base, at = file.read_at(length, slot * BLOCK), slot, 0
            if len(window) < BLOCK:
                return
        magic, size, blocks = LENGTHS.unpack_from(window, at)
        if magic != BATCH_MAGIC or not HEADER.size <= size <= META_BYTES_MAX:
            return
        used = slots(size)
        if at + used * BLOCK > len(window):
            window, base, at = file.read_at(used * BLOCK, slot * BLOCK), slot, 0
            if len(window) < used * BLOCK:
                return
        yield window[at : at + (size + WORD - 1) // WORD * WORD], size
        span = used + blocks
        slot += span


def _verified(metas: list[bytes], sizes: list[int], pool: bytes, place: Point) -> Section | None:
    """As many of these batches as verify and continue the log; None if not even the first does."""
    words = np.frombuffer(bytearray(b"".join(metas)), np.uint64)
    lengths = np.fromiter(map(len, metas), np.int64, len(metas)) // WORD
    starts = np.cumsum(lengths) - lengths
    heads = words[starts[:, None] + np.arange(HEADER.size // WORD)]
    rows: NDArray[np.void] = heads.view(HEADER_DTYPE)[:, 0]
    good = _count(_continues(rows, pool, place))
    words[starts[:good] + SUM_AT // WORD] = 0
    view = words.view(np.uint8).data
    expected = rows["sum"][:good].tolist()
    for n, at in enumerate((starts[:good] * WORD).tolist()):
        if checksum(view[at : at + sizes[n]]) != expected[n]:
            good = n
            break
    if not good:
        return None
    _check_versions(rows[:good], place.segment)
    return _section(rows[:good], starts[:good], words, view, place)


def _count(flags: NDArray[np.bool_]) -> int:
    """How many are set before the first that is not."""
    return len(flags) if flags.all() else int(flags.argmin())


def _continues(rows: NDArray[np.void], pool: bytes, place: Point) -> NDArray[np.bool_]:
    """Which headers belong to their very place, and continue what is before it."""
    records, blocks, size = (
        rows[name].astype(np.int64) for name in ("records", "payload_blocks", "meta_bytes")
    )
    spans = -(-size // BLOCK) + blocks
    places = place.slot + np.cumsum(spans) - spans
    lsns = (place.lsn + 1 + np.cumsum(records) - records).astype(np.uint64)
    previous = np.concatenate([np.array([place.sum], np.uint64), rows["sum"][:-1]])
    found: NDArray[np.bool_] = (
        (rows["pool"] == pool.rstrip(b"\0"))
        & (rows["segment"] == place.segment)
        & (rows["slot"] == places)
        & (records > 0)
        & (HEADER.size + DESCRIPTOR.size * records + WORD * blocks <= size)
        & (rows["first_lsn"] == lsns)
        & (rows["previous"] == previous)
    )
    return found


def _check_versions(rows: NDArray[np.void], segment: int) -> None:
    other = (rows["version"] != VERSION) | (rows["flags"] != 0)
    if other.any():
        row = rows[int(other.argmax())]
        raise Damaged(
            f"segment {segment} has a batch of format {row['version']}.{row['flags']};"
            f" this version knows {VERSION}.0",
            hint="start the version of isochrone that wrote it",
        )


def _section(
    rows: NDArray[np.void], starts: Numbers, words: Words, view: memoryview, place: Point
) -> Section | None:
    """Verified meta bytes taken apart, up to one whose lengths contradict each other."""
    records, blocks = (rows[name].astype(np.int64) for name in ("records", "payload_blocks"))
    at = starts + HEADER.size // WORD
    each = DESCRIPTOR.size // WORD
    first_word = np.repeat(at, records) + each * _within(records)
    descriptors = words[first_word[:, None] + np.arange(each)].view(DESCRIPTOR_DTYPE)[:, 0]
    edges = np.cumsum(records) - records
    written = np.add.reduceat(blocks_of(descriptors), edges)
    bodies = np.add.reduceat(descriptors["body"].astype(np.int64), edges)
    parts = HEADER.size + DESCRIPTOR.size * records + WORD * blocks
    good = _count((written == blocks) & (parts + bodies == rows["meta_bytes"]))
    if not good:
        return None
    rows, records, blocks = rows[:good], records[:good], blocks[:good]
    sums = words[np.repeat(at[:good] + each * records, blocks) + _within(blocks)]
    body_at = (starts[:good] * WORD + parts[:good]).tolist()
    return Section(
        start=place,
        end=_after(rows[-1], place.segment),
        durable_lsn=int(rows["durable_lsn"].max()),
        headers=rows,
        descriptors=descriptors[: int(records.sum())],
        sums=sums,
        bodies=b"".join(
            view[body_at[n] : body_at[n] + int(bodies[n])] for n in np.flatnonzero(bodies[:good])
        ),
    )


def _before(row: np.void, segment: int) -> Point:
    return Point(segment, int(row["slot"]), int(row["first_lsn"]) - 1, int(row["previous"]))


def _after(row: np.void, segment: int) -> Point:
    last = Header._make(row.item())
    return Point(segment, last.end_slot, last.last_lsn, last.sum)


def blocks_of(descriptors: NDArray[np.void]) -> Numbers:
    """Payload blocks of each record."""
    kinds = descriptors["kind"]
    has = (kinds == WRITE) | (kinds == MOVE)
    return np.where(has, descriptors["count"].astype(np.int64), 0)


def _within(counts: Numbers) -> Numbers:
    """0, 1, … for each count, one after the other."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
