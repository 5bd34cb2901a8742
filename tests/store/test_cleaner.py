"""Free-space collection: what is dead goes, what lives stays, over any crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from isochrone.errors import Damaged, IsochroneError, NoSpace
from isochrone.sim.clock import SimClock
from isochrone.sim.disk import Platter, SimDisk
from isochrone.sim.loop import run
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.cleaner import (
    BUSY_ROUNDS,
    IDLE_ROUNDS,
    ROUND_SECONDS,
    Candidate,
    Cleaner,
    choose,
    worth,
)
from isochrone.store.format import SLOT_BITS, SLOT_MASK, segment_name
from isochrone.store.pool import Limits, Pool
from isochrone.store.tracks import LEAF_BLOCKS
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, GIB, KIB, MIB
from isochrone.world.disk import FolderDisk
from tests.store.pools import Inline, make_world

LIMITS = Limits(segment_bytes=256 * KIB, garbage_bytes=0, reserve_bytes=0, sweep_nodes=4)


class Quiet:
    """A clock whose sleeps are over at once."""

    def __init__(self) -> None:
        self.now = 0

    def wall_ns(self) -> int:
        self.now += 1
        return self.now

    def monotonic(self) -> float:
        return self.now / 1e9

    async def sleep(self, seconds: float) -> None:
        return None


def quiet_world() -> object:
    world = make_world()
    object.__setattr__(world, "clock", Quiet())
    return world


def open_pool(disk: object, limits: Limits = LIMITS) -> Pool:
    return Pool.open(disk, quiet_world(), limits)  # type: ignore[arg-type]


def fill(pool: Pool, name: str, random: Random, writes: int, blocks: int) -> dict[int, bytes]:
    device = VolumeDevice(pool, pool.state.names[name])
    model = {}
    for _ in range(writes):
        block = random.randrange(blocks)
        model[block] = random.randbytes(BLOCK)
        device.write(block * BLOCK, memoryview(model[block]))
        pool.commit()
    return model


def holds(pool: Pool, name: str, model: dict[int, bytes]) -> None:
    device = VolumeDevice(pool, pool.state.names[name])
    for block, data in model.items():
        assert b"".join(device.read(block * BLOCK, BLOCK)) == data, f"{name} block {block}"


def segment_bytes(disk: SimDisk) -> int:
    return sum(disk.open(name).size() for name in disk.names() if name.startswith("segment"))


def test_the_worthiest_are_old_and_empty() -> None:
    assert worth(Candidate(1, 10, 5), 100) > worth(Candidate(1, 90, 5), 100)
    assert worth(Candidate(1, 50, 500), 100) > worth(Candidate(1, 50, 5), 100)
    full, half = Candidate(1, 99, 10), Candidate(2, 50, 10)
    assert choose([full, half], 100, 10) == [half]
    assert choose([full, half], 100, 0) == []
    assert choose([full], 100, 10) == []


def test_overwrites_and_discards_give_their_space_back() -> None:
    disk = SimDisk(Platter(Random(1)))
    pool = open_pool(disk)
    volumes.create(pool, "v", 1 * MIB)
    model = fill(pool, "v", Random(2), 2000, 256)
    before = segment_bytes(disk)
    report = run(Cleaner(pool).round())
    assert report.freed_segments > 20
    assert segment_bytes(disk) < before / 4
    holds(pool, "v", model)
    check_pool(pool)
    VolumeDevice(pool, pool.state.names["v"]).discard(0, 1 * MIB)
    pool.commit()
    run(Cleaner(pool).round())
    assert segment_bytes(disk) <= 3 * LIMITS.segment_bytes


def test_deleting_everything_shrinks_the_files_to_the_baseline(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path / "pool")
    pool = open_pool(disk)
    baseline = pool.log.bytes_on_disk
    for name in ("a", "b"):
        volumes.create(pool, name, 4 * MIB)
        fill(pool, name, Random(name), 500, 1024)
    copies.take(pool, ["a", "b"], name="c")
    fill(pool, "a", Random(5), 500, 1024)
    copies.delete(pool, "c")
    for name in ("a", "b"):
        volumes.delete(pool, name)
    run(Cleaner(pool).round())
    assert pool.log.bytes_on_disk <= baseline + 2 * LIMITS.segment_bytes
    pool.log.spares.trim()  # as the cleaner does when nobody writes; see the next test
    assert pool.log.spares.bytes_on_disk <= 2 * LIMITS.segment_bytes
    pool.abandon()
    disk.close()


def test_the_spares_of_an_idle_pool_are_given_back() -> None:
    async def main() -> None:
        world = replace(make_world(), clock=SimClock(asyncio.get_running_loop()))
        pool = Pool.open(SimDisk(Platter(Random(1))), world, LIMITS)
        volumes.create(pool, "v", 1 * MIB)
        for _ in range(6):
            pool.log.spares.add(pool.log.spares.make())
        cleaner = Cleaner(pool)
        task = asyncio.get_running_loop().create_task(cleaner.run())
        await asyncio.sleep((IDLE_ROUNDS - 1) * ROUND_SECONDS)
        assert len(pool.log.spares) == 6
        await asyncio.sleep(3 * ROUND_SECONDS)
        assert len(pool.log.spares) == 2
        task.cancel()
        await cleaner.stop()

    run(main())


def test_a_note_that_is_being_written_is_awaited_at_the_end() -> None:
    """Whoever stops the cleaner closes the metadata store next."""

    class Slow(Inline):
        async def run(self, work: Callable[[], Any]) -> Any:
            await asyncio.sleep(10)
            return await super().run(work)

    async def main() -> None:
        world = replace(make_world(work=Slow()), clock=SimClock(asyncio.get_running_loop()))
        limits = replace(LIMITS, garbage_bytes=1 * MIB)
        pool = Pool.open(SimDisk(Platter(Random(1))), world, limits)
        cleaner = Cleaner(pool)
        await cleaner.round()
        volumes.create(pool, "v", 1 * MIB)
        await pool.flush()
        assert not cleaner.due
        task = asyncio.get_running_loop().create_task(cleaner.run())
        await asyncio.sleep(5)
        task.cancel()
        await cleaner.stop()
        assert pool.setting("durable") == str(pool.log.durable)
        pool.abandon()

    run(main())


def test_a_burst_is_not_moved_about_and_is_cleaned_up_after() -> None:
    """While somebody writes much, only what is wholly dead goes; the rest follows in calm."""

    async def main() -> None:
        world = replace(make_world(), clock=SimClock(asyncio.get_running_loop()))
        limits = replace(LIMITS, burst_bytes=1 * GIB)
        pool = Pool.open(SimDisk(Platter(Random(1))), world, limits)
        volumes.create(pool, "v", 64 * MIB)
        cleaner = Cleaner(pool)
        task = asyncio.get_running_loop().create_task(cleaner.run())
        device, random = VolumeDevice(pool, pool.state.names["v"]), Random(2)
        for _ in range(8):
            for _ in range(3 * 256):
                device.write(random.randrange(512) * 8 * BLOCK, memoryview(bytes(8 * BLOCK)))
                pool.commit()
            await asyncio.sleep(ROUND_SECONDS)
        assert pool.bytes_moved == 0
        before = pool.log.bytes_on_disk
        assert before > 2 * cleaner.last.live_bytes
        await asyncio.sleep((BUSY_ROUNDS + 2) * ROUND_SECONDS)
        assert pool.bytes_moved > 0
        assert pool.log.bytes_on_disk < before
        task.cancel()
        await cleaner.stop()

    run(main())


def test_the_cleaner_outlives_a_disk_that_does_not_answer() -> None:
    async def main() -> None:
        world = replace(make_world(), clock=SimClock(asyncio.get_running_loop()))
        platter = Platter(Random(1))
        pool = Pool.open(SimDisk(platter), world, LIMITS)
        task = asyncio.get_running_loop().create_task(Cleaner(pool).run())

        def refuse() -> int:
            raise OSError(5, "Input/output error")

        pool.disk.free_bytes = refuse  # type: ignore[method-assign]
        await asyncio.sleep(3 * ROUND_SECONDS)
        assert not task.done()
        task.cancel()

    run(main())


def test_copies_keep_what_they_share() -> None:
    disk = SimDisk(Platter(Random(1)))
    pool = open_pool(disk)
    volumes.create(pool, "v", 1 * MIB)
    old = fill(pool, "v", Random(2), 600, 256)
    copies.take(pool, ["v"], name="c")
    new = {**old, **fill(pool, "v", Random(3), 900, 256)}
    for _ in range(3):
        run(Cleaner(pool).round())
        holds(pool, "v@c", old)
        holds(pool, "v", new)
    copies.delete(pool, "c")
    freed = run(Cleaner(pool).round()).freed_segments
    assert freed > 0
    holds(pool, "v", new)


def test_moved_blocks_move_again_and_survive_reopening() -> None:
    disk = SimDisk(Platter(Random(1)))
    pool = open_pool(disk)
    volumes.create(pool, "v", 1 * MIB)
    model = fill(pool, "v", Random(2), 300, 256)
    random = Random(4)
    for turn in range(8):
        model.update(fill(pool, "v", random, 150, 40))  # hot; the rest is moved over and over
        report = run(Cleaner(pool).round())
        assert turn == 0 or report.moved_bytes
        holds(pool, "v", model)
        if turn % 2:
            run(pool.flush())
            pool.abandon()
            pool = open_pool(disk)
            holds(pool, "v", model)
    check_pool(pool)
    assert pool.log.forwarding


def test_what_a_mirror_has_not_taken_is_pinned() -> None:
    disk = SimDisk(Platter(Random(1)))
    pool = open_pool(disk)
    volume = volumes.create(pool, "v", 1 * MIB)
    fill(pool, "v", Random(2), 500, 64)
    pool.record(r.GroupCreated(name="g", lineage="0" * 32, volumes=(volume.id,)))
    pool.record(r.SessionOpened(group="g", peer="p"))
    pool.record(r.CutPlaced(group="g", cut=1, stamp=1))
    marked = pool.state.groups["g"].marks[0].lsn
    fill(pool, "v", Random(3), 500, 64)
    run(Cleaner(pool).round())
    run(pool.flush())
    held = list(pool.log.batches(marked + 1, pool.log.lsn))
    assert held[0].header.first_lsn <= marked + 1
    assert held[-1].header.last_lsn == pool.log.lsn
    pool.record(r.CutPlaced(group="g", cut=2, stamp=2, acked={"p": 2}))
    fill(pool, "v", Random(4), 100, 64)
    run(Cleaner(pool).round())
    with pytest.raises(Damaged, match="no longer holds"):
        list(pool.log.batches(marked + 1, pool.log.lsn))


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_at_any_disk_call_of_a_round_loses_nothing(seed: int, power: bool) -> None:
    point = 0
    while True:
        platter = Platter(Random(f"{seed}/{point}"))
        disk = SimDisk(platter)
        pool = open_pool(disk)
        volumes.create(pool, "v", 1 * MIB)
        model = fill(pool, "v", Random(seed), 250, 90)
        copies.take(pool, ["v"], name="c")
        old = dict(model)
        model.update(fill(pool, "v", Random(seed + 1), 120, 90))
        run(pool.flush())
        crashed = crash_after(platter, point, power)
        with suppress(IsochroneError):  # a dead disk
            run(Cleaner(pool).round())
        done = not crashed()
        platter.watch = None
        if not done:
            pool = open_pool(SimDisk(platter))
        holds(pool, "v", model)
        holds(pool, "v@c", old)
        check_pool(pool)
        if not done:
            run(Cleaner(pool).round())  # what was begun can be finished
            holds(pool, "v", model)
            holds(pool, "v@c", old)
        if done:
            assert point > 20
            return
        point += 3 + seed * 5 % 17  # other points for other seeds


def crash_after(platter: Platter, calls: int, power: bool) -> Callable[[], bool]:
    left = [calls]

    def watch(call: str, name: str) -> None:
        left[0] -= 1
        if left[0] == -1:
            if power:
                platter.power_cut()
            else:
                platter.kill()

    platter.watch = watch
    return lambda: left[0] < 0


def test_a_damaged_block_is_not_moved_and_its_segment_stays() -> None:
    platter = Platter(Random(1))
    pool = open_pool(SimDisk(platter))
    volumes.create(pool, "v", 1 * MIB)
    fill(pool, "v", Random(2), 400, 200)
    oldest = min(pool.log.first_lsns)
    table = pool.state.tables[pool.state.names["v"]]
    pointers = [w for _, words in pool.state.forest.leaves(table) for w in words[:LEAF_BLOCKS] if w]
    victim = min(pointers)
    assert victim >> SLOT_BITS == oldest
    platter.flip(segment_name(oldest), (victim & SLOT_MASK) * BLOCK + 77)
    with pytest.raises(Damaged, match="not what was written"):
        run(Cleaner(pool).round())
    assert oldest in pool.log.first_lsns


@pytest.mark.parametrize("power", [True, False])
def test_a_moved_block_that_rots_before_a_crash_costs_no_other(power: bool) -> None:
    """Its batch is the last of the log; it must not pass for torn when its segment is gone."""
    platter = Platter(Random(3))
    pool = open_pool(SimDisk(platter))
    volumes.create(pool, "v", 1 * MIB)
    model = fill(pool, "v", Random(2), 400, 200)
    run(Cleaner(pool).round())
    moved = pool.log.forwarding.segments()
    assert moved and not set(moved) & set(pool.log.first_lsns)
    table = pool.state.tables[pool.state.names["v"]]
    births = {b: pool.state.forest.at(table, b)[0] for b in model}
    places = {b: pool.log.forwarding.place(birth) for b, birth in births.items()}
    victim = max((b for b in model if places[b] != births[b]), key=lambda b: places[b])
    place = places[victim]
    platter.flip(segment_name(place >> SLOT_BITS), (place & SLOT_MASK) * BLOCK + 77)
    if power:
        platter.power_cut()
    else:
        platter.kill()
    pool = open_pool(SimDisk(platter))
    del model[victim]
    holds(pool, "v", model)
    with pytest.raises(Damaged, match="not what was written"):
        VolumeDevice(pool, pool.state.names["v"]).read(victim * BLOCK, BLOCK)


def test_a_store_that_cannot_grow_does_not_keep_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note of what is durable is good to have; on a full disk the space is more urgent."""
    pool = open_pool(SimDisk(Platter(Random(3))))
    volumes.create(pool, "v", 1 * MIB)
    model = fill(pool, "v", Random(2), 400, 200)
    asked = []

    async def note_durable(*, at_once: bool = False) -> None:
        asked.append(at_once)
        raise NoSpace("the metadata store cannot grow")

    monkeypatch.setattr(pool, "note_durable", note_durable)
    report = run(Cleaner(pool).round())
    assert asked and all(asked) and report.moved_bytes and report.freed_segments >= len(asked)
    holds(pool, "v", model)


def test_a_full_pool_refuses_writes_before_its_reserve_and_heals() -> None:
    disk = SimDisk(Platter(Random(1)))
    limits = Limits(
        segment_bytes=256 * KIB, garbage_bytes=0, reserve_bytes=512 * KIB, capacity_bytes=4 * MIB
    )
    pool = open_pool(disk, limits)
    volumes.create(pool, "v", 8 * MIB)
    device = VolumeDevice(pool, pool.state.names["v"])
    written = {}

    def fill_up() -> None:
        for block in range(2048):
            data = bytes([block % 251 + 1]) * BLOCK
            device.write(block * BLOCK, memoryview(data))
            pool.commit()
            written[block] = data

    with pytest.raises(NoSpace):
        fill_up()
    holds(pool, "v", written)
    assert pool.log.free_bytes >= limits.reserve_bytes
    copies.take(pool, ["v"], name="still-works")
    copies.delete(pool, "still-works")
    device.discard(0, 4 * MIB)
    pool.commit()
    run(Cleaner(pool).round())
    for block in range(100):
        device.write(block * BLOCK, memoryview(b"n" * BLOCK))
        pool.commit()
    holds(
        pool, "v", {**{b: bytes(BLOCK) for b in written}, **dict.fromkeys(range(100), b"n" * BLOCK)}
    )


def test_overwriting_for_ever_at_80_percent_fill_never_runs_out() -> None:
    disk = SimDisk(Platter(Random(1)))
    limits = Limits(
        segment_bytes=256 * KIB, garbage_bytes=0, reserve_bytes=1 * MIB, capacity_bytes=20 * MIB
    )
    pool = open_pool(disk, limits)
    volumes.create(pool, "v", 16 * MIB)
    cleaner = Cleaner(pool)
    random = Random(3)
    device = VolumeDevice(pool, pool.state.names["v"])
    model = {}
    for n in range(9000):
        block = n if n < 3200 else random.randrange(3200)  # 12.5 of 16 MiB that may be used
        model[block] = n.to_bytes(8, "big") * (BLOCK // 8)
        try:
            device.write(block * BLOCK, memoryview(model[block]))
            pool.commit()
        except NoSpace:
            run(cleaner.round())
            device.write(block * BLOCK, memoryview(model[block]))
            pool.commit()
        if n % 200 == 0 and cleaner.due:
            run(cleaner.round())
    holds(pool, "v", model)
    check_pool(pool)
