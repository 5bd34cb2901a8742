"""When zeros are written in front of the log, and that they are nothing to anybody."""

from __future__ import annotations

import errno

import pytest

from isochrone.sim.disk import SimDisk
from isochrone.store import volumes
from isochrone.store.ahead import AHEAD_SLOTS, LEFT_SLOTS, LITTLE_BYTES, OFTEN, Ahead
from isochrone.store.format import segment_name
from isochrone.store.log import Log, scan_segment
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, get, pattern, put, settle
from tests.store.test_log import append, sync
from tests.store.test_log import disk as disk
from tests.store.test_log import log as log
from tests.store.test_log import platter as platter

SLOTS = 4096


def fresh() -> Ahead:
    ahead = Ahead(SLOTS)
    ahead.segment_begun(spare=False)
    return ahead


def small_syncs(ahead: Ahead, slot: int, count: int = OFTEN, start: int = 0) -> list[int]:
    return [ahead.due(slot, start + n * 8192) for n in range(count)]


def test_who_syncs_little_and_often_gets_a_stretch() -> None:
    ahead = fresh()
    assert small_syncs(ahead, 20) == [0] * (OFTEN - 1) + [AHEAD_SLOTS]
    last = 20 + AHEAD_SLOTS - LEFT_SLOTS
    assert small_syncs(ahead, last, start=OFTEN * 8192) == [0] * OFTEN
    assert ahead.due(last + 1, OFTEN * 8192) == AHEAD_SLOTS


def test_a_large_sync_begins_the_count_anew() -> None:
    ahead = fresh()
    small_syncs(ahead, 20, OFTEN - 1)
    assert ahead.due(40, 10 * MIB) == 0
    assert ahead.due(41, 10 * MIB + LITTLE_BYTES) == 0
    assert [ahead.due(42, 11 * MIB - 1) for _ in range(OFTEN)][-1] == 0  # the first was large


def test_a_spare_has_been_written() -> None:
    ahead = Ahead(SLOTS)
    ahead.segment_begun(spare=True)
    assert small_syncs(ahead, 20, 100) == [0] * 100


def test_a_stretch_ends_with_the_segment() -> None:
    ahead = fresh()
    assert small_syncs(ahead, SLOTS - 100)[-1] == 100
    assert small_syncs(ahead, SLOTS - 1, 50, MIB) == [0] * 50
    assert small_syncs(ahead, SLOTS, 50, 2 * MIB) == [0] * 50


def test_what_was_cut_off_is_written_again() -> None:
    ahead = fresh()
    assert small_syncs(ahead, 20)[-1] == AHEAD_SLOTS
    ahead.cut(30)
    assert ahead.due(30, OFTEN * 8192) == AHEAD_SLOTS


# -- in the log


def many_small_syncs(log: Log, count: int = OFTEN + 1) -> None:
    for n in range(count):
        append(log, n % 3)
        sync(log)


def test_the_tail_is_longer_than_the_log_and_reads_the_same(disk: SimDisk, log: Log) -> None:
    for n in range(2):
        append(log, n)
        sync(log)
    segment, slot = log.position
    size = disk.open(segment_name(segment)).size()
    assert size == slot * BLOCK  # twice is not often
    for n in range(OFTEN):
        append(log, n)
        sync(log)
    segment, slot = log.position
    file = disk.open(segment_name(segment))
    assert file.size() > slot * BLOCK
    assert not any(file.read_at(file.size(), slot * BLOCK))
    batches = list(scan_segment(file, log.pool, segment, 1))
    assert batches[-1].header.end_slot == slot
    assert batches[-1].header.last_lsn == log.lsn


def test_a_disk_that_refuses_zeros_may_still_take_data(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_small_syncs(log, 2)
    file = log.file(log.position[0])
    write_at = type(file).write_at

    def no_zeros(self, pieces, offset) -> None:
        if not any(map(any, pieces)):
            raise OSError(errno.ENOSPC, "full")
        write_at(self, pieces, offset)

    monkeypatch.setattr(type(file), "write_at", no_zeros)
    many_small_syncs(log)
    assert log.durable == log.lsn


@pytest.mark.parametrize("seed", range(20))
def test_a_power_cut_among_zeros_loses_nothing_that_was_flushed(seed: int) -> None:
    rig = Rig(seed)
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    for n in range(30):
        put(pool, "disk", n * BLOCK, pattern(n))
        settle(pool.flush())
    put(pool, "disk", 40 * BLOCK, pattern(40))  # not flushed: there or not
    pool = rig.cut(seed)
    for n in range(30):
        assert get(pool, "disk", n * BLOCK, BLOCK) == pattern(n)
    assert get(pool, "disk", 40 * BLOCK, BLOCK) in (pattern(40), bytes(BLOCK))
    put(pool, "disk", 0, b"goes on")
    settle(pool.flush())
    assert get(rig.cut(seed), "disk", 0, 7) == b"goes on"
