"""Reading a segment: pieces are bounded, and every slot that is not right is a suspect."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from isochrone.store.format import SLOT_MASK, segment_name
from isochrone.store.log import scan_segment
from isochrone.store.pool import Limits, Pool
from isochrone.store.walk import PIECE_BYTES, Piece, Segment, Suspect, walk
from isochrone.types import BLOCK, KIB, MIB
from isochrone.world.disk import File
from tests.store.pools import Rig, pattern, put


@pytest.fixture
def rig() -> Rig:
    return Rig(limits=Limits(segment_bytes=4 * MIB))


@pytest.fixture
def pool(rig: Rig) -> Pool:
    from isochrone.store import volumes

    pool = rig.open()
    volumes.create(pool, "v", 8 * MIB)
    for n in range(20):
        put(pool, "v", n * 64 * KIB, pattern(n, (1 + n % 3) * BLOCK))
    put(pool, "v", 4 * MIB, pattern(99, MIB + 8 * BLOCK))
    return pool


def payload(pool: Pool) -> list[int]:
    """All slots that hold blocks."""
    found: list[int] = []
    for batch in scan_segment(pool.log.file(1), pool.log.pool, 1, 1):
        found += range(batch.header.payload_slot, batch.header.end_slot)
    return found


def walked(pool: Pool, living: list[int], *, needed: bool = False) -> Piece:
    file: File = pool.disk.open(segment_name(1))
    segment = Segment(pool.log.pool, 1, np.array(living, np.int64), 1024, pool.log.lsn, needed)
    total = Piece()
    for piece in walk(file, segment):
        assert piece.bytes_read <= 3 * PIECE_BYTES
        total.bytes_read += piece.bytes_read
        total.blocks += piece.blocks
        total.suspects += piece.suspects
    return total


def test_all_that_lives_is_verified(pool: Pool) -> None:
    slots = payload(pool)
    found = walked(pool, slots)
    assert (found.blocks, found.suspects) == (len(slots), [])
    assert walked(pool, []).blocks == 0
    some = Random(1).sample(slots, 30)
    assert walked(pool, sorted(some)).blocks == 30


def test_a_bit_in_any_living_block(pool: Pool, rig: Rig) -> None:
    slots = payload(pool)
    for slot in slots[:: len(slots) // 25]:
        rig.platter.flip(segment_name(1), slot * BLOCK + 9)
        found = walked(pool, slots)
        assert found.suspects == [Suspect(1, slot, "block")]
        assert found.blocks == len(slots) - 1
        rest = [s for s in slots if s != slot]
        assert walked(pool, rest).suspects == []
        rig.platter.flip(segment_name(1), slot * BLOCK + 9)


def test_a_batch_that_is_lost_takes_its_blocks_and_no_others(pool: Pool, rig: Rig) -> None:
    batches = list(scan_segment(pool.log.file(1), pool.log.pool, 1, 1))
    batch = batches[7].header
    slots = payload(pool)
    rig.platter.flip(segment_name(1), batch.slot * BLOCK + 50)
    mine = range(batch.payload_slot, batch.end_slot)
    found = walked(pool, slots)
    assert found.suspects == [Suspect(1, slot, "batch") for slot in mine]
    assert found.blocks == len(slots) - len(mine)
    dead = [slot for slot in slots if slot not in mine]
    assert walked(pool, dead).suspects == [Suspect(1, batch.slot, "gap")]
    before = [slot for slot in slots if slot < batch.slot]
    assert walked(pool, before).suspects == []  # nothing that lives is behind it
    assert walked(pool, before, needed=True).suspects == [Suspect(1, batch.slot, "gap")]


def test_needed_batches_are_walked_to_the_end_and_not_beyond(pool: Pool, rig: Rig) -> None:
    assert walked(pool, [], needed=True).suspects == []
    last = list(scan_segment(pool.log.file(1), pool.log.pool, 1, 1))[-1].header
    rig.platter.flip(segment_name(1), last.slot * BLOCK)
    assert walked(pool, [], needed=True).suspects == [Suspect(1, last.slot, "gap")]


def test_a_header_of_another_segment(pool: Pool, rig: Rig) -> None:
    rig.platter.flip(segment_name(1), 33)
    assert walked(pool, payload(pool)).suspects == [Suspect(1, 0, "header")]


def test_one_sector_that_cannot_be_read(pool: Pool) -> None:
    slots = payload(pool)
    bad = slots[-5]

    class Scratched:
        def __init__(self, file: File) -> None:
            self.file = file

        def read_at(self, length: int, offset: int) -> bytes:
            if offset <= bad * BLOCK < offset + length:
                raise OSError(5, "Input/output error")
            return self.file.read_at(length, offset)

    segment = Segment(pool.log.pool, 1, np.array(slots), 1024, 0, False)
    file = Scratched(pool.disk.open(segment_name(1)))
    pieces = list(walk(file, segment))  # type: ignore[arg-type]
    assert [s for p in pieces for s in p.suspects] == [Suspect(1, bad, "block")]
    assert sum(p.blocks for p in pieces) == len(slots) - 1
    assert bad & SLOT_MASK == bad
