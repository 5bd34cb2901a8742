"""Reading what lives in one segment file, in order and in pieces, and noting what is not right.

What is noted are *suspects*: the file may have been emptied, or given to other segments, while it
was read. Whoever walks asks the tables of that moment before anything is called damage.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from isochrone.errors import Damaged
from isochrone.store.format import BATCH_MAGIC, Batch, checksum, decode_segment_header
from isochrone.store.log import read_batch
from isochrone.types import BLOCK, MIB
from isochrone.world.disk import File

PIECE_BYTES: Final = MIB  # read between two breaths: about a millisecond of one core
GAP_SLOTS: Final = 16  # dead blocks between living ones that are read too: cheaper than a seek

Cause = Literal["block", "batch", "gap", "header"]


class Suspect(NamedTuple):
    """A slot that does not hold what it should."""

    segment: int
    slot: int
    cause: Cause


@dataclass(slots=True)
class Piece:
    """What was done since the last one."""

    bytes_read: int = 0
    blocks: int = 0  # that are what was written
    suspects: list[Suspect] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Segment:
    """What is expected of a segment file."""

    pool: bytes
    number: int
    living: NDArray[np.int64]  # slots, ascending
    slots: int
    ends: int  # newest record it holds, if `needed`
    needed: bool  # all batches are, also those without a living block


class Window:
    """A file that is read ahead of what is asked for. Answers as `File.read_at` does."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._data = b""
        self._start = 0
        self.bytes_read = 0

    def read_at(self, length: int, offset: int) -> bytes:
        at = offset - self._start
        if at < 0 or at + length > len(self._data):
            self._fill(length, offset)
            at = 0
        return self._data[at : at + length]

    def _fill(self, length: int, offset: int) -> None:
        self._data, self._start = b"", offset
        try:
            self._data = self._file.read_at(max(length, PIECE_BYTES), offset)
        except OSError:
            # One sector of the many cannot be read: it need not be among those asked for.
            self._data = self._file.read_at(length, offset)
        self.bytes_read += len(self._data)


def walk(file: File, segment: Segment) -> Iterator[Piece]:
    """Verify the header, the batches and the living blocks of a segment."""
    return _Walk(file, segment).pieces()


class _Walk:
    def __init__(self, file: File, segment: Segment) -> None:
        self._window = Window(file)
        self._segment = segment
        self._last = int(segment.living[-1]) if len(segment.living) else 0
        self._piece = Piece()

    def pieces(self) -> Iterator[Piece]:
        segment = self._segment
        self._header()
        slot, lsn = 1, 0  # lsn: newest record met
        while slot <= self._last or (segment.needed and lsn < segment.ends):
            batch = self._batch(slot)
            if batch is None:
                following = yield from self._lost(slot)
                if following is None:
                    break
                slot = following
                continue
            yield from self._payload(batch)
            slot, lsn = batch.header.end_slot, batch.header.last_lsn
        yield self._taken()

    def _taken(self) -> Piece:
        piece, self._piece = self._piece, Piece()
        piece.bytes_read, self._window.bytes_read = self._window.bytes_read, 0
        return piece

    def _suspect(self, slot: int, cause: Cause) -> None:
        self._piece.suspects.append(Suspect(self._segment.number, slot, cause))

    def _header(self) -> None:
        segment = self._segment
        try:
            header = decode_segment_header(self._window.read_at(BLOCK, 0))
        except OSError:
            header = None
        if header is None or (header.pool, header.number) != (segment.pool, segment.number):
            self._suspect(0, "header")

    def _batch(self, slot: int) -> Batch | None:
        """The batch at a slot; None if nothing there verifies, or can be read."""
        if slot >= self._segment.slots:
            return None
        try:
            # A window answers as a file does; nothing else of a file is used there.
            return read_batch(
                cast(File, self._window), self._segment.pool, self._segment.number, slot
            )
        except (OSError, Damaged):
            return None

    def _lost(self, slot: int) -> Generator[Piece, None, int | None]:
        """Nothing says what lies from a slot on; returns where the next batch is, if anywhere."""
        following = slot + 1
        while following < self._segment.slots:
            if self._window.bytes_read >= PIECE_BYTES:
                yield self._taken()
            if self._starts(following) and self._batch(following) is not None:
                break
            following += 1
        living = self._segment.living
        first, stop = np.searchsorted(living, (slot, following)).tolist()
        for lost in living[first:stop].tolist():
            self._suspect(lost, "batch")
        if first == stop:
            self._suspect(slot, "gap")
        return following if following < self._segment.slots else None

    def _starts(self, slot: int) -> bool:
        try:
            return self._window.read_at(BLOCK, slot * BLOCK)[:4] == BATCH_MAGIC
        except OSError:
            return False

    def _payload(self, batch: Batch) -> Iterator[Piece]:
        begin, end = batch.header.payload_slot, batch.header.end_slot
        living = self._segment.living
        first, stop = np.searchsorted(living, (begin, end)).tolist()
        if first == stop:
            return
        sums = batch.sums.tolist()
        for low, high in _stretches(living[first:stop]):
            mine = living[np.searchsorted(living, low) : np.searchsorted(living, high)].tolist()
            expected = [sums[slot - begin] for slot in mine]
            self._verify(mine, expected, low, high)
            if self._window.bytes_read >= PIECE_BYTES:
                yield self._taken()

    def _verify(self, slots: list[int], sums: list[int], low: int, high: int) -> None:
        try:
            view = memoryview(self._window.read_at((high - low) * BLOCK, low * BLOCK))
        except OSError:
            for slot, expected in zip(slots, sums, strict=True):
                self._verify_one(slot, expected)
            return
        for slot, expected in zip(slots, sums, strict=True):
            at = (slot - low) * BLOCK
            if checksum(view[at : at + BLOCK]) == expected:
                self._piece.blocks += 1
            else:
                self._suspect(slot, "block")

    def _verify_one(self, slot: int, expected: int) -> None:
        try:
            good = checksum(self._window.read_at(BLOCK, slot * BLOCK)) == expected
        except OSError:
            good = False
        if good:
            self._piece.blocks += 1
        else:
            self._suspect(slot, "block")


def _stretches(slots: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where to read: from a slot, to before a slot; not far over dead ones, and a piece at most."""
    start = previous = int(slots[0])
    for slot in slots[1:].tolist():
        if slot - previous > GAP_SLOTS or slot - start >= PIECE_BYTES // BLOCK:
            yield start, previous + 1
            start = slot
        previous = slot
    yield start, previous + 1
