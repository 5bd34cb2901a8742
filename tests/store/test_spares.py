"""Spare segment files, also over crashes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest

from isochrone.sim.clock import SimClock
from isochrone.sim.disk import Platter, SimDisk
from isochrone.sim.loop import run
from isochrone.store import volumes
from isochrone.store.format import segment_name
from isochrone.store.spares import (
    IDLE_KEPT_MAX,
    KEPT_MAX,
    MADE_MIN,
    QUIET_SECONDS,
    RETRY_SECONDS,
    Spares,
    make_in_advance,
)
from isochrone.types import BLOCK, KIB, MIB
from isochrone.world import World
from tests.store.pools import Rig, get, make_world, pattern, put, settle

SIZE = 256 * KIB


def disk() -> SimDisk:
    return SimDisk(Platter(Random(1)))


def timed_world() -> World:
    """One in which time passes, virtually."""
    return replace(make_world(), clock=SimClock(asyncio.get_running_loop()))


def test_a_spare_is_whole_before_it_counts_and_gets_its_number_by_name() -> None:
    d = disk()
    spares = Spares(d, SIZE)
    assert spares.use(segment_name(1)) is None
    spares.add(spares.make())
    file = spares.use(segment_name(1))
    assert file is not None
    assert file.size() == SIZE
    assert d.names() == [segment_name(1)]
    assert len(spares) == 0


def test_spares_of_an_earlier_life_are_deleted() -> None:
    d = disk()
    Spares(d, SIZE).make()
    d.create("spare-00000000000000ff").write_at([b"x"], 0)
    d.create(segment_name(1))
    again = Spares(d, SIZE)
    assert (len(again), d.names()) == (0, [segment_name(1)])
    assert again.make() in d.names()


@pytest.mark.parametrize("seed", range(40))
def test_a_segment_that_became_a_spare_again_is_not_followed(seed: int) -> None:
    """A power cut takes its name back, not its synced bytes; then its number is used again."""
    rig = Rig(seed)
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    put(pool, "disk", 0, pattern(0, 4 * BLOCK))
    pool.log.spares.add(pool.log.spares.make())
    settle(pool.flush())
    settle(pool.checkpoint())
    while pool.log.position[0] == 1:
        put(pool, "disk", 9 * BLOCK, pattern(9, 20 * BLOCK))
    settle(pool.flush())
    rig.platter.kill()
    pool = rig.open()
    pool.log.spares.add(pool.log.spares.make())
    settle(pool.flush())
    for n in range(1, 5):
        put(pool, "disk", n * BLOCK, pattern(n))  # in the spare, now segment 3
    rig.platter.names["segment-0000000000000003"].harden()  # synced, its name not
    pool = rig.cut(seed)
    put(pool, "disk", 0, pattern(50))
    image = get(pool, "disk")
    settle(pool.flush())
    assert get(rig.kill(), "disk") == image


def test_emptied_segments_are_kept_up_to_a_bound() -> None:
    d = disk()
    spares = Spares(d, SIZE)
    for number in range(KEPT_MAX + 1):
        d.create(segment_name(number + 1))
        assert spares.keep(segment_name(number + 1)) == (number < KEPT_MAX)
    assert segment_name(KEPT_MAX + 1) in d.names()
    assert spares.bytes_on_disk == KEPT_MAX * SIZE


def test_an_idle_pool_gives_its_spares_back() -> None:
    d = disk()
    spares = Spares(d, SIZE)
    for _ in range(5):
        spares.add(spares.make())
    spares.trim()
    assert len(spares) == len(d.names()) == IDLE_KEPT_MAX


def test_a_writer_that_does_not_pause_gets_no_spares_written() -> None:
    d = disk()
    spares = Spares(d, SIZE)

    async def main() -> None:
        rolled = asyncio.Event()
        work = make_in_advance(timed_world(), spares, lambda: True, rolled)
        task = asyncio.get_running_loop().create_task(work)
        for _ in range(20):
            rolled.set()
            await asyncio.sleep(QUIET_SECONDS / 2)
        assert len(spares) == 0
        await asyncio.sleep(2)
        assert len(spares) == MADE_MIN
        task.cancel()

    run(main())


def test_a_full_disk_leaves_no_half_spare() -> None:
    d = SimDisk(Platter(Random(1), capacity=SIZE // 2))
    spares = Spares(d, SIZE)
    with pytest.raises(OSError, match="No space"):
        spares.make()
    assert d.names() == []


def test_a_disk_that_does_not_say_what_is_free_is_asked_again() -> None:
    spares = Spares(disk(), SIZE)
    answers = [OSError(5, "Input/output error"), True]

    def wanted() -> bool:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(
            make_in_advance(timed_world(), spares, wanted, asyncio.Event())
        )
        await asyncio.sleep(2 * RETRY_SECONDS)
        assert not task.done()
        assert len(spares) == MADE_MIN
        task.cancel()

    run(main())


@pytest.mark.parametrize("wanted", [True, False])
def test_spares_are_made_in_advance_and_after_each_use(wanted: bool) -> None:
    d = disk()
    spares = Spares(d, SIZE)

    async def main() -> None:
        rolled = asyncio.Event()
        task = asyncio.get_running_loop().create_task(
            make_in_advance(timed_world(), spares, lambda: wanted, rolled)
        )
        await asyncio.sleep(1)
        assert len(spares) == (MADE_MIN if wanted else 0)
        spares.use(segment_name(1))
        rolled.set()
        await asyncio.sleep(2)
        assert len(spares) == (MADE_MIN if wanted else 0)
        task.cancel()

    run(main())
