from __future__ import annotations

import errno
from array import array
from random import Random

import pytest

from isochrone.errors import Damaged
from isochrone.sim.disk import Platter, SimDisk, SimFile
from isochrone.store import log as log_module
from isochrone.store.format import (
    DISCARD,
    WRITE,
    checksum,
    decode_segment_header,
    describe,
    segment_name,
)
from isochrone.store.log import (
    Log,
    payload_verifies,
    read_batch,
    scan_segment,
    segments,
)
from isochrone.types import BLOCK, KIB
from isochrone.world.disk import Disk
from tests.store.pools import Clock, pattern

POOL = "00112233445566778899aabbccddeeff"
SEGMENT = 64 * KIB  # 16 slots: the header and, for instance, seven batches of one block


@pytest.fixture
def platter() -> Platter:
    return Platter(Random(1))


@pytest.fixture
def disk(platter: Platter) -> SimDisk:
    return SimDisk(platter)


@pytest.fixture
def log(disk: SimDisk) -> Log:
    return new_log(disk)


def new_log(disk: Disk) -> Log:
    return Log(disk, Clock(), POOL, lsn=0, segment=0, first_lsns={}, segment_bytes=SEGMENT)


def append(log: Log, *numbers: int, volume: int = 1) -> int:
    """One batch with one write of one block a number."""
    blocks = [pattern(n) for n in numbers]
    descriptors = [describe(WRITE, volume, n, 1, 0) for n in numbers]
    return log.append(descriptors, array("Q", map(checksum, blocks)), b"", blocks)


def read(log: Log, place: int, n: int) -> bytes:
    return log.read(place, array("Q", [checksum(pattern(n))]))


def lsns(log: Log, first: int, last: int) -> list[int]:
    found: list[int] = []
    for batch in log.batches(first, last):
        found += range(batch.header.first_lsn, batch.header.last_lsn + 1)
    return found


def sync(log: Log) -> None:
    ticket = log.begin_sync()
    ticket.run()
    log.end_sync(ticket)


# -- appending and reading


def test_what_was_appended_can_be_read(log: Log) -> None:
    places = {n: append(log, n) for n in range(20)}
    assert log.lsn == 20
    assert len(set(places.values())) == 20
    for n, place in places.items():
        assert read(log, place, n) == pattern(n)


def test_blocks_of_a_batch_follow_each_other(log: Log) -> None:
    place = append(log, 1, 2, 3)
    sums = array("Q", [checksum(pattern(n)) for n in (1, 2, 3)])
    assert log.read(place, sums) == pattern(1) + pattern(2) + pattern(3)
    assert log.read(place + 1, sums[1:]) == pattern(2) + pattern(3)


def test_a_batch_never_crosses_segments(log: Log, disk: SimDisk) -> None:
    for n in range(7):
        append(log, n)
    assert segments(disk) == [1]
    assert log.position == (1, 15)
    append(log, 7)
    assert segments(disk) == [1, 2]
    assert log.position == (2, 3)
    assert log.first_lsns == {1: 1, 2: 8}
    header = decode_segment_header(disk.open(segment_name(2)).read_at(BLOCK, 0))
    assert header is not None
    assert (header.pool, header.number, header.first_lsn) == (log.pool, 2, 8)
    assert disk.open(segment_name(1)).size() <= SEGMENT


def test_a_batch_that_fits_exactly_fills_the_segment(log: Log, disk: SimDisk) -> None:
    append(log, *range(14))  # header, meta, 14 blocks
    assert log.position == (1, 16)
    append(log, 99)
    assert log.position == (2, 3)
    assert lsns(log, 1, 15) == list(range(1, 16))


def test_meta_over_several_slots(log: Log, disk: SimDisk) -> None:
    descriptors = [describe(DISCARD, 1, n, 1, 0) for n in range(400)]
    log.append(descriptors, array("Q"), b"", [])
    batch = read_batch(disk.open(segment_name(1)), log.pool, 1, 1)
    assert batch is not None
    assert batch.header.meta_bytes > 2 * BLOCK
    assert batch.descriptors["block"].tolist() == list(range(400))
    place = append(log, 5)
    assert read(log, place, 5) == pattern(5)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_changed_block_is_damage_and_is_named(log: Log, platter: Platter, at: int) -> None:
    place = append(log, 1, 2, 3)
    platter.flip(segment_name(1), (2 + at) * BLOCK + 77, 3)
    sums = array("Q", [checksum(pattern(n)) for n in (1, 2, 3)])
    with pytest.raises(Damaged, match=f"slot {2 + at} of segment 1 ") as e:
        log.read(place, sums)
    assert "check" in e.value.hint
    for other in {0, 1, 2} - {at}:
        assert log.read(place + other, sums[other : other + 1]) == pattern(1 + other)


def test_a_short_segment_is_damage(log: Log, disk: SimDisk) -> None:
    place = append(log, 1, 2)
    disk.open(segment_name(1)).truncate(3 * BLOCK + 100)
    with pytest.raises(Damaged, match="slot 3 of segment 1"):
        log.read(place, array("Q", [checksum(pattern(1)), checksum(pattern(2))]))
    with pytest.raises(Damaged):
        read(log, place + 1, 2)
    assert read(log, place, 1) == pattern(1)


def test_a_missing_segment_is_damage(log: Log) -> None:
    with pytest.raises(Damaged, match="segment 9 of the log is missing"):
        read(log, 9 << 24 | 1, 0)


def test_more_segments_than_may_be_open(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "OPEN_SEGMENTS_MAX", 3)
    places = {}
    for n in range(70):
        places[n] = append(log, n)
        if n % 7 == 6:
            sync(log)
        assert len(log._files) <= 3
    for n in [*range(70), *range(69, -1, -1), *range(0, 70, 7)]:
        assert read(log, places[n], n) == pattern(n)
        assert len(log._files) <= 3


def test_a_file_that_is_being_synced_stays_open(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the sync fails, or worse, syncs another file that got its number."""
    monkeypatch.setattr(log_module, "OPEN_SEGMENTS_MAX", 2)
    places = {n: append(log, n) for n in range(7)}  # fill a segment that nobody writes later
    ticket = log.begin_sync()
    for n in range(7, 50):
        places[n] = append(log, n)
    for n in range(7, 50):
        assert read(log, places[n], n) == pattern(n)
    ticket.run()
    log.end_sync(ticket)
    assert log.durable == 7
    sync(log)
    assert log.durable == 50


# -- durability


def test_a_ticket_covers_what_was_appended_before_it(log: Log, platter: Platter) -> None:
    append(log, 1)
    assert (log.lsn, log.durable) == (1, 0)
    ticket = log.begin_sync()
    append(log, 2)
    ticket.run()
    log.end_sync(ticket)
    assert (log.lsn, log.durable) == (2, 1)
    sync(log)
    assert log.durable == 2


def test_headers_tell_what_was_durable(log: Log, disk: SimDisk) -> None:
    append(log, 1)
    append(log, 2)
    sync(log)
    append(log, 3)
    found = [b.header.durable_lsn for b in scan_segment(disk.open(segment_name(1)), log.pool, 1, 1)]
    assert found == [0, 0, 2]


@pytest.mark.parametrize("seed", range(30))
def test_what_a_ticket_covered_survives_a_power_cut(seed: int) -> None:
    platter = Platter(Random(seed))
    disk = SimDisk(platter)
    log = new_log(disk)
    for n in range(10 + seed):
        append(log, n)
    sync(log)
    for n in range(100, 110):
        append(log, n)
    platter.power_cut()
    found = []
    disk = SimDisk(platter)
    for number in segments(disk):
        found += [b.header.first_lsn for b in scan_segment(disk.open(segment_name(number)),
                                                           log.pool, number, 1)]  # fmt: skip
    assert found[: 10 + seed] == list(range(1, 11 + seed))


def test_the_names_of_new_segments_are_synced_once(log: Log, platter: Platter) -> None:
    calls: list[str] = []
    append(log, 1)
    platter.watch = lambda call, name: calls.append(call)
    sync(log)
    assert calls == ["sync", "sync_names"]
    calls.clear()
    append(log, 2)
    sync(log)
    sync(log)
    assert calls == ["write", "sync"]


# -- errors


def test_an_append_that_fails_leaves_the_log_as_it_was(log: Log, platter: Platter) -> None:
    append(log, 1)
    platter.faults.fail_at = 1
    with pytest.raises(OSError):
        append(log, 2)
    assert (log.lsn, log.position) == (1, (1, 3))
    place = append(log, 3)
    assert log.lsn == 2
    assert read(log, place, 3) == pattern(3)
    assert lsns(log, 1, 2) == [1, 2]


def test_nothing_of_a_failed_append_stays_behind(disk: SimDisk, platter: Platter) -> None:
    """Not even if what follows goes elsewhere: its header would lead recovery astray."""
    log = new_log(disk)
    for n in range(6):
        append(log, n)
    platter.capacity = 15 * BLOCK  # the meta of the next batch, and half of its block
    platter.capacity += BLOCK // 2 - BLOCK
    with pytest.raises(OSError) as e:
        append(log, 6)
    assert e.value.errno == errno.ENOSPC
    assert read_batch(disk.open(segment_name(1)), log.pool, 1, 13) is not None
    platter.capacity = None
    append(log, 7, 8, 9)
    assert log.position[0] == 2
    assert read_batch(disk.open(segment_name(1)), log.pool, 1, 13) is None
    sync(log)
    platter.power_cut()
    assert read_batch(SimDisk(platter).open(segment_name(1)), log.pool, 1, 13) is None


@pytest.mark.parametrize("failing", range(1, 4))
def test_a_segment_that_cannot_be_made_is_made_later(
    log: Log, platter: Platter, failing: int
) -> None:
    """To create it, to write its header, to write the batch: from there on everything fails."""
    for n in range(7):
        append(log, n)
    calls = 0

    def watch(call: str, name: str) -> None:
        nonlocal calls
        calls += call in ("create", "write")
        if calls == failing:
            platter.faults.fail_at, platter.faults.fail_for_ever = 1, True

    platter.watch = watch
    with pytest.raises(OSError):
        append(log, 7)
    platter.watch = None
    platter.faults.fail_at, platter.faults.fail_for_ever = 0, False
    assert (log.lsn, log.position) == (7, (1, 15) if failing < 3 else (2, 1))
    place = append(log, 8)
    assert read(log, place, 8) == pattern(8)
    assert lsns(log, 1, 8) == list(range(1, 9))


# -- batches by lsn


def test_batches_of_a_range(log: Log) -> None:
    for n in range(10):
        append(log, 3 * n, 3 * n + 1, 3 * n + 2)  # lsn 3n+1 .. 3n+3
    assert lsns(log, 1, 30) == list(range(1, 31))
    assert lsns(log, 5, 7) == [4, 5, 6, 7, 8, 9]
    assert lsns(log, 6, 6) == [4, 5, 6]
    assert lsns(log, 30, 30) == [28, 29, 30]


def test_batches_before_the_oldest_segment_are_gone(log: Log, disk: SimDisk) -> None:
    for n in range(20):
        append(log, n)
    del log.first_lsns[1]
    with pytest.raises(Damaged, match="no longer holds record 3"):
        lsns(log, 3, 9)
    assert lsns(log, 9, 12) == [9, 10, 11, 12]


@pytest.mark.parametrize("slot", [1, 5, 13])
def test_a_gap_in_the_middle_is_damage(log: Log, platter: Platter, slot: int) -> None:
    """A mirror that skipped records would be wrong for ever, and not know it."""
    for n in range(30):
        append(log, n)
    platter.flip(segment_name(2), slot * BLOCK + 30)
    bad = 8 + (slot - 1) // 2
    batches = log.batches(1, 30)
    assert [next(batches).header.first_lsn for _ in range(1, bad)] == list(range(1, bad))
    with pytest.raises(Damaged, match=f"record {bad}"):
        next(batches)
    assert lsns(log, 1, bad - 1) == list(range(1, bad))
    assert lsns(log, 15, 30) == list(range(15, 31))


def test_payload_is_verified_apart(log: Log, disk: SimDisk, platter: Platter) -> None:
    append(log, 1, 2)
    file = disk.open(segment_name(1))
    batch = read_batch(file, log.pool, 1, 1)
    assert batch is not None and payload_verifies(file, batch)
    platter.flip(segment_name(1), 3 * BLOCK + 5)
    assert read_batch(file, log.pool, 1, 1) is not None
    assert not payload_verifies(file, batch)
    file.truncate(3 * BLOCK)
    assert not payload_verifies(file, batch)


def test_other_files_are_no_segments(log: Log, disk: SimDisk) -> None:
    append(log, 1)
    for name in ("notes", "segment-1", "segment-0000000000000002.old"):
        disk.create(name).close()
    assert segments(disk) == [1]


def test_room_that_the_tail_has_reserved_is_free_to_it(
    log: Log, disk: SimDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that counts reserved room as used does not make a pool full before its time."""
    room, begun = 100 * SEGMENT, 0

    def reserve(file: SimFile, size: int) -> bool:
        nonlocal begun
        begun += 1
        return begun % 2 > 0  # each second wish is refused

    def free() -> int:
        tail = log.position[1] * BLOCK
        whole = len(log.first_lsns) - 1
        return room - whole * SEGMENT - (SEGMENT if begun % 2 else tail)

    monkeypatch.setattr(SimFile, "reserve", reserve)
    append(log, 0)
    monkeypatch.setattr(disk, "free_bytes", free)
    for n in range(40):
        append(log, n)
        segment, slot = log.position
        assert log.free_bytes == room - (segment - 1) * SEGMENT - slot * BLOCK
    assert begun > 3
