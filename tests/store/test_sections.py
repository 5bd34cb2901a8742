"""Sections say what batches say: each log is read both ways, whole and damaged."""

from __future__ import annotations

from array import array
from itertools import pairwise
from random import Random

import pytest

from isochrone.errors import Damaged
from isochrone.sim.disk import Platter, SimDisk
from isochrone.store import sections
from isochrone.store.format import (
    BODY,
    DISCARD,
    MOVE,
    SUM_AT,
    WRITE,
    Batch,
    checksum,
    describe,
    segment_name,
    segment_sum,
)
from isochrone.store.log import Log, scan_segment
from isochrone.store.sections import Point, Section, Stretch, blocks_of, read_sections
from isochrone.types import BLOCK
from isochrone.world.disk import File
from tests.store.pools import Clock, pattern

POOL = bytes.fromhex("00112233445566778899aabbccddeeff")
SLOTS = 600


def make(seed: object, batches: int) -> tuple[SimDisk, list[int]]:
    """A log of one segment with records of all kinds; where each batch ends."""
    random = Random(f"sections {seed}")
    disk = SimDisk(Platter(Random(0)))
    log = Log(
        disk, Clock(), POOL.hex(), lsn=7, segment=0, first_lsns={}, segment_bytes=SLOTS * BLOCK
    )
    ends = []
    for n in range(batches):
        descriptors, payload, bodies = [], [], b""
        for _ in range(random.choice([1, 1, 1, 5, 200])):
            kind = random.choice([WRITE, WRITE, MOVE, DISCARD, BODY])
            if kind == BODY:
                body = random.randbytes(random.choice([1, 7, 8, 700]))
                bodies += body
                descriptors.append(describe(BODY, 0, 0, 0, len(body)))
                continue
            if kind == DISCARD or len(payload) > 60:
                descriptors.append(describe(DISCARD, 1, n, random.randrange(1 << 32), 0))
                continue
            count = random.choice([1, 1, 3])
            descriptors.append(describe(kind, random.randrange(9), n, count, 0))
            payload += [pattern(n)] * count
        if log.position[0] and log.position[1] + len(payload) + 10 > SLOTS:
            break
        log.append(descriptors, array("Q", map(checksum, payload)), bodies, payload)
        ends.append(log.position[1])
    assert log.position[0] == 1
    return disk, ends


def start(file: File, slot: int = 1) -> Point:
    return Point(1, slot, 7, segment_sum(file.read_at(BLOCK, 0)))


def both(file: File) -> tuple[list[Batch], list[Section]]:
    first = start(file)
    slow = list(scan_segment(file, POOL, 1, 1, first.sum))
    return slow, list(read_sections(file, POOL, first))


def assert_same(batches: list[Batch], found: list[Section]) -> None:
    single = [batch for section in found for batch in section.batches()]
    assert [b.header for b in single] == [b.header for b in batches]
    assert [b.descriptors.tolist() for b in single] == [b.descriptors.tolist() for b in batches]
    assert [b.sums.tolist() for b in single] == [b.sums.tolist() for b in batches]
    assert [b.bodies for b in single] == [b.bodies for b in batches]
    pointers = [p for section in found for p in section.pointers().tolist()]
    assert pointers == [b.first_pointer + n for b in batches for n in range(len(b.sums))]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "BATCHES_MAX", 5)
    monkeypatch.setattr(sections, "WINDOW_BYTES", 7 * BLOCK)


@pytest.mark.parametrize("seed", range(20))
def test_a_whole_segment(seed: int) -> None:
    disk, ends = make(seed, 40)
    batches, found = both(disk.open(segment_name(1)))
    assert_same(batches, found)
    assert len(batches) == len(ends) and found[-1].end.slot == ends[-1]
    assert len(found) == -(-len(batches) // 5)
    for one, other in pairwise(found):
        assert one.end == other.start


@pytest.mark.parametrize("seed", range(60))
def test_damage_anywhere_in_the_meta_ends_both(seed: int) -> None:
    disk, ends = make(seed % 7, 30)
    random = Random(f"damage {seed}")
    slot = random.choice([1, *ends[:-1]])
    disk._platter.flip(segment_name(1), slot * BLOCK + random.randrange(112))
    batches, found = both(disk.open(segment_name(1)))
    assert_same(batches, found)
    assert len(batches) == [1, *ends].index(slot)


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_file_that_ends_early(cut: int) -> None:
    disk, _ = make("cut", 30)
    disk._platter.names[segment_name(1)].size = cut * BLOCK
    batches, found = both(disk.open(segment_name(1)))
    assert_same(batches, found)


def test_nothing_follows_another_place_lsn_or_chain() -> None:
    disk, _ = make(1, 10)
    file = disk.open(segment_name(1))
    good = start(file)
    assert list(read_sections(file, POOL, good))
    for wrong in (
        Point(1, 1, 8, good.sum),
        Point(1, 1, 7, good.sum ^ 1),
        Point(2, 1, 7, good.sum),
        Point(1, 2, 7, good.sum),
    ):
        assert not list(read_sections(file, POOL, wrong))
    assert not list(read_sections(file, bytes(16), good))


@pytest.mark.parametrize("field", [4, 6])  # version, flags
def test_another_format_is_refused(field: int) -> None:
    disk, ends = make(2, 10)
    data = disk._platter.names[segment_name(1)].data
    at = ends[0] * BLOCK
    size = int.from_bytes(data[at + 36 : at + 40], "little")
    data[at + field] = 9
    data[at + SUM_AT : at + SUM_AT + 8] = bytes(8)
    sum = checksum(bytes(data[at : at + size]))
    data[at + SUM_AT : at + SUM_AT + 8] = sum.to_bytes(8, "little")
    with pytest.raises(Damaged, match="format"):
        list(read_sections(disk.open(segment_name(1)), POOL, start(disk.open(segment_name(1)))))


@pytest.mark.parametrize("seed", range(5))
def test_parts(seed: int) -> None:
    disk, _ = make(seed, 12)
    file = disk.open(segment_name(1))
    batches, found = both(file)
    section = found[0]
    for first in range(5):
        for stop in range(first + 1, 6):
            part = section.part(first, stop)
            assert_same(batches[first:stop], [part])
            again = next(read_sections(file, POOL, part.start))
            assert_same(batches[first:], [again, *read_sections(file, POOL, again.end)])
    assert section.part(0, 5).end == section.end and section.part(0, 5).start == section.start


def test_a_stretch_is_read_again() -> None:
    disk, ends = make(3, 12)
    file = disk.open(segment_name(1))
    _, found = both(file)
    stretch = Stretch(found[1].start, found[1].end)
    assert_same(list(found[1].batches()), [stretch.read(file, POOL)])
    disk._platter.flip(segment_name(1), ends[5] * BLOCK + 3)
    with pytest.raises(Damaged, match="changes while it is read"):
        stretch.read(file, POOL)


def test_only_writes_and_moves_have_blocks() -> None:
    disk, _ = make(4, 10)
    (section, *_) = both(disk.open(segment_name(1)))[1]
    kinds = section.descriptors["kind"].tolist()
    counts = section.descriptors["count"].tolist()
    expected = [c if k in (WRITE, MOVE) else 0 for k, c in zip(kinds, counts, strict=True)]
    assert blocks_of(section.descriptors).tolist() == expected
