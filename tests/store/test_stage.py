from __future__ import annotations

from array import array

from isochrone.store.format import (
    BODY,
    DESCRIPTOR,
    DISCARD,
    META_BYTES_MAX,
    WRITE,
    checksum,
    checksums,
)
from isochrone.store.stage import RECORDS_MAX, STAGE_BYTES_MAX, Stage
from isochrone.types import BLOCK
from tests.store.pools import pattern


def test_a_new_stage_is_empty() -> None:
    stage = Stage()
    assert not stage
    assert not stage.full


def test_what_was_staged_is_described_in_order() -> None:
    stage = Stage()
    one, three = pattern(1), pattern(2, 3 * BLOCK)
    stage.write(5, 10, memoryview(one))
    stage.discard(6, 2, 0xFFFFFFFF)
    stage.body(b"abc")
    stage.write(5, 1 << 33, memoryview(three))
    stage.body(b"de")
    assert len(stage) == 5
    assert [DESCRIPTOR.unpack(d) for d in stage.descriptors] == [
        (WRITE, 5, 10, 1, 0),
        (DISCARD, 6, 2, 0xFFFFFFFF, 0),
        (BODY, 0, 0, 0, 3),
        (WRITE, 5, 1 << 33, 3, 0),
        (BODY, 0, 0, 0, 2),
    ]
    blocks = [one, *(three[at : at + BLOCK] for at in range(0, 3 * BLOCK, BLOCK))]
    assert list(stage.sums) == [checksum(block) for block in blocks]
    assert b"".join(stage.payload) == one + three
    assert stage.bodies == [b"abc", b"de"]
    assert stage.updates == [
        (WRITE, 5, 10, 1),
        (DISCARD, 6, 2, 0xFFFFFFFF),
        (WRITE, 5, 1 << 33, 3),
    ]


def test_runs_in_one_piece_are_what_writes_of_each_are() -> None:
    data = memoryview(pattern(1, 6 * BLOCK))
    sums = array("Q", checksums(data))
    one, other = Stage(), Stage()
    one.write_runs(5, [(7, 1), (9, 3), (1 << 33, 2)], data, sums)
    other.write(5, 7, data[:BLOCK])
    other.write(5, 9, data[BLOCK : 4 * BLOCK])
    other.write(5, 1 << 33, data[4 * BLOCK :])
    assert one.descriptors == other.descriptors
    assert one.sums == other.sums
    assert one.updates == other.updates
    assert one.blocks == other.blocks == 6
    assert b"".join(one.payload) == b"".join(other.payload)


def test_payload_is_not_copied() -> None:
    data = bytearray(pattern(1))
    stage = Stage()
    stage.write(1, 0, memoryview(data))
    data[0] ^= 1
    assert b"".join(stage.payload) == bytes(data)


def test_it_is_full_by_bytes() -> None:
    stage = Stage(4 * BLOCK)
    for n in range(3):
        stage.write(1, n, memoryview(pattern(n)))
        assert not stage.full
    stage.write(1, 3, memoryview(pattern(3)))
    assert stage.full


def test_it_is_full_by_records() -> None:
    stage = Stage()
    for n in range(RECORDS_MAX - 1):
        stage.discard(1, n, 1)
    assert not stage.full
    stage.discard(1, 0, 1)
    assert stage.full


def test_a_full_stage_is_a_batch_that_recovery_takes() -> None:
    blocks = STAGE_BYTES_MAX // BLOCK + STAGE_BYTES_MAX // 2 // BLOCK  # one write may go beyond
    assert 80 + RECORDS_MAX * DESCRIPTOR.size + 8 * blocks < META_BYTES_MAX
