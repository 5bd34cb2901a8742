"""The log on disk, byte by byte. Nothing else in the store calls `struct`.

All numbers are little-endian. A *slot* is 4 KiB, counted from the start of its segment file.

Segment file `segment-<16 hex digits of its number>`, slot 0:

    offset size  field
         0    8  magic "ISOSEG\\r\\n" (the line end shows a transfer that rewrote text)
         8    2  version of everything in this file, 1
        10    6  zero
        16   16  pool identity
        32    8  segment number
        40    8  lsn of the first record this segment may hold
        48    8  checksum of the last batch before this segment; 0 if it is the first of the pool
        56    8  wall clock when it was made, ns since 1970 (a label)
        64    8  xxh3-64 of bytes 0..63
        72       zero up to 4096

A file `spare-<16 hex digits>` is a segment to be: all its slots are written (with zeros, or with a
segment that was emptied), so that what is appended needs no new room from the file system. It gets
its number with its name; what it held before does not verify under that number. Spares do not
outlive the process that made them: the next one deletes them before it appends.

Then batches, each starting on a slot boundary:

    offset size  field
         0    4  magic "IBAT"
         4    2  version, 1
         6    2  flags, 0
         8   16  pool identity
        24    8  segment number            (a batch read from a wrong place does not verify)
        32    4  slot of this header
        36    4  meta bytes: header + descriptors + checksums + bodies, without padding
        40    4  number of records
        44    4  payload blocks
        48    8  lsn of the first record; the others follow without gaps
        56    8  durable lsn: newest record known to survive a power cut when this was written
        64    8  checksum of what is before it: the last batch, or the header of this segment
        72    8  wall clock, ns since 1970 (a label)
        80    8  xxh3-64 of the meta bytes with this field zero
        88       descriptors, 24 bytes a record
                 xxh3-64 of each payload block, 8 bytes each, in order
                 bodies of the body records, in order
                 zero up to the next slot
                 payload blocks, one slot each, in order

Descriptor:

         0    1  kind: 1 write, 2 discard, 3 body, 4 move
         1    3  zero
         4    4  volume id (body, move: 0)
         8    8  first block (body: 0; move: pointer to the birth place of the first block)
        16    4  number of blocks (body: 0)
        20    4  bytes of the body (otherwise 0)

A record is valid if its batch's meta verifies and each payload block has the checksum given there.
Headers of segments and batches are a chain: each names the checksum of the one before. Bytes of an
append that failed, of a life that ended earlier, or of a file's former use may verify at their
place; nothing later continues them.
The valid log ends at the first batch that does not verify or does not continue the chain. That is
damage, and not the end, if any later batch or the checkpoint claims a durable lsn at or beyond it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from isochrone.types import BLOCK, MIB, Buffer

VERSION: Final = 1
SEGMENT_MAGIC: Final = b"ISOSEG\r\n"
BATCH_MAGIC: Final = b"IBAT"

SEGMENT_BYTES: Final = 64 * MIB  # the unit of cleaning; 2^24 slots are the pointer's limit
META_BYTES_MAX: Final = 4 * MIB  # above any real batch; stops a damaged length from reading all
ROWS_BYTES_MIN: Final = 16 * BLOCK  # below, to cut blocks out with numpy is no cheaper
SLOT_BITS: Final = 24
SLOT_MASK: Final = (1 << SLOT_BITS) - 1

SEGMENT_HEADER: Final = Struct("<8sH6x16sQQQQ")
SUM: Final = Struct("<Q")
HEADER: Final = Struct("<4sHH16sQIIIIQQQQQ")
DESCRIPTOR: Final = Struct("<B3xIQII")
DESCRIPTOR_DTYPE: Final = np.dtype(
    {
        "names": ["kind", "volume", "block", "count", "body"],
        "formats": ["u1", "<u4", "<u8", "<u4", "<u4"],
        "offsets": [0, 4, 8, 16, 20],
        "itemsize": 24,
    }
)
HEADER_DTYPE: Final = np.dtype(
    {
        "names": [
            *("magic", "version", "flags", "pool", "segment", "slot", "meta_bytes", "records"),
            *("payload_blocks", "first_lsn", "durable_lsn", "previous", "stamp", "sum"),
        ],
        "formats": [
            *("S4", "<u2", "<u2", "S16", "<u8", "<u4", "<u4", "<u4"),
            *("<u4", "<u8", "<u8", "<u8", "<u8", "<u8"),
        ],
    }
)  # HEADER, for many of them at once
LENGTHS: Final = Struct("<4s32xI4xI")  # the magic, meta bytes and payload blocks of a header
SUM_AT: Final = 80
SEGMENT_SUM_AT: Final = 64
assert SEGMENT_HEADER.size == SEGMENT_SUM_AT
assert HEADER.size == 88 == HEADER_DTYPE.itemsize and SUM_AT == HEADER.size - 8
assert DESCRIPTOR.size == 24 == DESCRIPTOR_DTYPE.itemsize
assert array("Q").itemsize == 8

WRITE: Final = 1
DISCARD: Final = 2
BODY: Final = 3
MOVE: Final = 4  # written by the cleaner: these blocks, born elsewhere, now lie here

checksum = xxh3_64_intdigest


def checksums(data: Buffer) -> list[int]:
    """Of each block of whole blocks. To cut the blocks out costs as much as to hash them."""
    if len(data) < ROWS_BYTES_MIN:
        view = memoryview(data)
        return [checksum(view[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    rows: Iterable[Any] = np.frombuffer(data, np.uint8).reshape(-1, BLOCK)  # buffers, too
    return list(map(checksum, rows))


def pointer(segment: int, slot: int) -> int:
    """The birth place of a block as one number; never 0, which means unmapped."""
    return segment << SLOT_BITS | slot


def segment_name(number: int) -> str:
    return f"segment-{number:016x}"


def segment_number(name: str) -> int | None:
    """The number in a segment's file name; None for any other file."""
    try:
        number = int(name.removeprefix("segment-"), 16)
    except ValueError:
        return None
    return number if segment_name(number) == name else None


def spare_name(number: int) -> str:
    return f"spare-{number:016x}"


def encode_segment_header(
    pool: bytes, number: int, first_lsn: int, previous: int, stamp: int
) -> bytes:
    head = SEGMENT_HEADER.pack(SEGMENT_MAGIC, VERSION, pool, number, first_lsn, previous, stamp)
    return (head + SUM.pack(checksum(head))).ljust(BLOCK, b"\0")


class SegmentHeader(NamedTuple):
    version: int
    pool: bytes
    number: int
    first_lsn: int
    previous: int
    stamp: int
    sum: int


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """None if the bytes are not an intact segment header (of any version)."""
    if len(data) < SEGMENT_SUM_AT + SUM.size or data[:8] != SEGMENT_MAGIC:
        return None
    sum = segment_sum(data)
    if checksum(data[:SEGMENT_SUM_AT]) != sum:
        return None
    _, version, pool, number, first_lsn, previous, stamp = SEGMENT_HEADER.unpack_from(data)
    return SegmentHeader(version, pool, number, first_lsn, previous, stamp, sum)


def segment_sum(header: bytes) -> int:
    """What the first batch of a segment names as the one before it."""
    return int(SUM.unpack_from(header, SEGMENT_SUM_AT)[0])


def meta_sum(meta: bytes) -> int:
    """What the batch after this one names as the one before it."""
    return int(SUM.unpack_from(meta, SUM_AT)[0])


class Header(NamedTuple):
    """A batch header."""

    magic: bytes
    version: int
    flags: int
    pool: bytes
    segment: int
    slot: int
    meta_bytes: int
    records: int
    payload_blocks: int
    first_lsn: int
    durable_lsn: int
    previous: int
    stamp: int
    sum: int

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + self.records - 1

    @property
    def payload_slot(self) -> int:
        return self.slot + slots(self.meta_bytes)

    @property
    def end_slot(self) -> int:
        return self.payload_slot + self.payload_blocks


def slots(size: int) -> int:
    """How many slots so many bytes fill."""
    return -(-size // BLOCK)


def decode_header(data: bytes, pool: bytes, segment: int, slot: int) -> Header | None:
    """The header at the start of `data`, or None if it is not one for this very place."""
    if len(data) < HEADER.size or data[:4] != BATCH_MAGIC:
        return None
    header = Header._make(HEADER.unpack_from(data))
    least = HEADER.size + DESCRIPTOR.size * header.records + 8 * header.payload_blocks
    if (header.pool, header.segment, header.slot) != (pool, segment, slot):
        return None
    if header.records == 0 or not least <= header.meta_bytes <= META_BYTES_MAX:
        return None
    return header


def meta_verifies(meta: bytes, header: Header) -> bool:
    """Whether the meta bytes are those that were written."""
    if len(meta) != header.meta_bytes:
        return False
    copy = bytearray(meta)
    SUM.pack_into(copy, SUM_AT, 0)
    return checksum(copy) == header.sum


@dataclass(frozen=True, slots=True)
class Batch:
    """A verified batch, its descriptors and checksums as numpy rows."""

    header: Header
    descriptors: NDArray[np.void]
    sums: NDArray[np.uint64]
    bodies: bytes

    @property
    def first_pointer(self) -> int:
        """Pointer of the first payload block; the others follow."""
        return pointer(self.header.segment, self.header.payload_slot)


def decode_batch(meta: bytes, header: Header) -> Batch | None:
    """Take verified meta bytes apart. None if lengths inside contradict each other."""
    at = HEADER.size
    descriptors = np.frombuffer(meta, DESCRIPTOR_DTYPE, header.records, at)
    at += descriptors.nbytes
    sums = np.frombuffer(meta, np.uint64, header.payload_blocks, at)
    at += sums.nbytes
    kinds = descriptors["kind"]
    written = descriptors["count"][(kinds == WRITE) | (kinds == MOVE)]
    if int(written.sum(dtype=np.uint64)) != header.payload_blocks:
        return None
    if at + int(descriptors["body"].sum(dtype=np.uint64)) != header.meta_bytes:
        return None
    return Batch(header, descriptors, sums, meta[at:])


def encode_meta(
    *,
    pool: bytes,
    segment: int,
    slot: int,
    first_lsn: int,
    durable_lsn: int,
    previous: int,
    stamp: int,
    descriptors: list[bytes],
    sums: array[int],
    bodies: bytes,
) -> bytes:
    """The meta slots of a batch, padded; its payload blocks follow it on disk."""
    size = HEADER.size + DESCRIPTOR.size * len(descriptors) + 8 * len(sums) + len(bodies)
    head = HEADER.pack(
        BATCH_MAGIC, VERSION, 0, pool, segment, slot, size, len(descriptors), len(sums),
        first_lsn, durable_lsn, previous, stamp, 0,
    )  # fmt: skip
    meta = bytearray(b"".join((head, *descriptors, sums.tobytes(), bodies)))
    assert len(meta) == size
    SUM.pack_into(meta, SUM_AT, checksum(meta))
    meta.extend(bytes(-size % BLOCK))
    return bytes(meta)


describe = DESCRIPTOR.pack  # (kind, volume, block, count, body bytes)
