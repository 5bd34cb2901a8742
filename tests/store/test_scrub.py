"""Scrubbing an open pool: every rotten living block is found, and nothing else is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import msgspec
import pytest
import structlog

from isochrone.errors import Conflict, Damaged, InvalidInput
from isochrone.sim.loop import run
from isochrone.store import copies, scrub, volumes
from isochrone.store.cleaner import Cleaner
from isochrone.store.format import SLOT_BITS, SLOT_MASK, segment_name
from isochrone.store.pool import Limits, Pool
from isochrone.store.scrub import Progress, Scrub
from isochrone.types import BLOCK, KIB, MIB
from isochrone.world import system_world
from isochrone.world.disk import FolderDisk
from tests.store.pools import Rig, device, pattern, put, settle

LIMITS = Limits(segment_bytes=128 * KIB, garbage_bytes=0, reserve_bytes=0, sweep_nodes=4)


@pytest.fixture
def rig() -> Rig:
    return Rig(limits=LIMITS)


def fill(pool: Pool, name: str, random: Random, writes: int, blocks: int = 200) -> None:
    for n in range(writes):
        put(pool, name, random.randrange(blocks) * BLOCK, pattern(n + 1000 * len(name)))


def place(pool: Pool, name: str, block: int) -> tuple[int, int]:
    """(segment, slot) of a block now."""
    pointer, _ = pool.state.forest.at(pool.state.tables[pool.state.names[name]], block)
    where = pool.log.forwarding.place(pointer)
    return where >> SLOT_BITS, where & SLOT_MASK


def rot(rig: Rig, pool: Pool, name: str, block: int) -> int:
    segment, slot = place(pool, name, block)
    rig.platter.flip(segment_name(segment), slot * BLOCK + 77)
    return segment


def mapped(pool: Pool, name: str) -> list[int]:
    table = pool.state.tables[pool.state.names[name]]
    return [b for b in range(400) if pool.state.forest.at(table, b)[0]]


async def full(worker: Scrub) -> Progress:
    worker.start()
    await worker.ended(1e9)
    return worker.progress


def found(progress: Progress) -> list[tuple[str, int, int]]:
    return sorted((e, f.offset, f.bytes) for f in progress.findings for e in f.exports)


def test_a_good_pool(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", 2 * MIB)
    fill(pool, "v", Random(1), 300)
    done = settle(full(Scrub(pool)))
    assert (done.state, done.damaged, done.findings) == ("done", 0, [])
    assert done.blocks == done.living == len(mapped(pool, "v"))
    assert done.completed == done.ended > done.started
    assert done.segments > 5


def test_an_empty_pool(rig: Rig) -> None:
    done = settle(full(Scrub(rig.open())))
    assert (done.state, done.blocks) == ("done", 0)


@pytest.mark.parametrize("seed", range(6))
def test_rotten_living_blocks_are_found_and_no_others(rig: Rig, seed: int) -> None:
    random = Random(seed)
    pool = rig.open()
    volumes.create(pool, "v", 2 * MIB)
    fill(pool, "v", random, 250)
    copies.take(pool, ["v"], name="c")
    fill(pool, "v", random, 150)
    settle(Cleaner(pool).round())
    fill(pool, "v", random, 50)
    wanted = set()
    for block in random.sample(mapped(pool, "v@c"), 5):
        rot(rig, pool, "v@c", block)
        wanted.add(("v@c", block))
        if place(pool, "v", block) == place(pool, "v@c", block):
            wanted.add(("v", block))
    done = settle(full(Scrub(pool)))
    assert {
        (export, offset // BLOCK + n)
        for export, offset, length in found(done)
        for n in range(length // BLOCK)
    } == wanted
    assert done.damaged_bytes == 5 * BLOCK
    assert done.completed_damaged == done.damaged
    assert all(finding.segment in pool.log.first_lsns for finding in done.findings)


def test_dead_blocks_may_rot(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1, 8 * BLOCK))
    rot(rig, pool, "v", 3)
    put(pool, "v", 3 * BLOCK, pattern(2))
    assert settle(full(Scrub(pool))).findings == []


def test_neighbours_are_one_finding_and_one_event(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1, 16 * BLOCK))
    for block in (3, 4, 5, 9):
        rot(rig, pool, "v", block)
    with structlog.testing.capture_logs() as logs:
        done = settle(full(Scrub(pool)))
    assert found(done) == [("v", 3 * BLOCK, 3 * BLOCK), ("v", 9 * BLOCK, BLOCK)]
    assert done.damaged == 2
    events = [entry for entry in logs if entry["event"] == "scrub found damage"]
    assert [(e["exports"], e["offset"], e["segment"]) for e in events] == [
        ("v", 3 * BLOCK, 1), ("v", 9 * BLOCK, 1),
    ]  # fmt: skip


def test_events_and_findings_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "EVENTS_MAX", 3)
    monkeypatch.setattr(scrub, "FINDINGS_MAX", 5)
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1, 20 * BLOCK))
    for block in range(0, 20, 2):
        rot(rig, pool, "v", block)
    with structlog.testing.capture_logs() as logs:
        done = settle(full(Scrub(pool)))
    assert (done.damaged, len(done.findings)) == (10, 5)
    assert [e["log_level"] for e in logs].count("error") == 3
    assert "more damage" in [e["event"] for e in logs if e["log_level"] == "error"][-1]


def test_a_rotten_batch_with_good_blocks(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    for block in range(6):
        put(pool, "v", block * BLOCK, pattern(block))
    segment, slot = place(pool, "v", 2)
    rig.platter.flip(segment_name(segment), (slot - 1) * BLOCK + 60)  # what describes it
    done = settle(full(Scrub(pool)))
    assert found(done) == [("v", 2 * BLOCK, BLOCK)]
    assert "can be read, but not be moved" in done.findings[0].cause
    rig.platter.flip(segment_name(segment), slot * BLOCK)  # and the block as well
    done = settle(full(Scrub(pool)))
    assert "is not what was written" in done.findings[0].cause
    assert done.blocks == 5


def test_a_segment_header_and_a_missing_segment(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", 2 * MIB)
    for block in range(60):
        put(pool, "v", block * BLOCK, pattern(block))
    rig.platter.flip(segment_name(1), 20)
    inode = rig.platter.names.pop(segment_name(2))
    done = settle(full(Scrub(pool)))
    header, *missing = sorted(done.findings, key=lambda f: f.segment)
    assert header.cause == "the header of segment 1 is damaged" and not header.exports
    assert {f.cause for f in missing} == {"segment 2 of the log is missing"}
    rig.platter.names[segment_name(2)] = inode
    there = {place(pool, "v", b)[0] for b in range(60)}
    assert 2 in there and sum(f.bytes for f in missing) > 10 * BLOCK


def test_a_segment_that_was_missing_at_start(rig: Rig) -> None:
    """The log does not list it: that blocks should be there is known from the tables only."""
    pool = rig.open()
    volumes.create(pool, "v", 2 * MIB)
    for block in range(60):
        put(pool, "v", block * BLOCK, pattern(block))
    settle(pool.checkpoint())
    lost = {b for b in range(60) if place(pool, "v", b)[0] == 1}
    rig.platter.names.pop(segment_name(1))
    pool = rig.kill()
    assert lost and 1 not in pool.log.first_lsns
    done = settle(full(Scrub(pool)))
    assert {f.cause for f in done.findings} == {"segment 1 of the log is missing"}
    assert sum(f.bytes for f in done.findings) == len(lost) * BLOCK
    assert done.living == 60 and done.blocks == 60 - len(lost)


def test_a_segment_whose_header_was_damaged_at_start(rig: Rig) -> None:
    """The log does not list it either, but its blocks are read: they are verified as any other."""
    pool = rig.open()
    volumes.create(pool, "v", 2 * MIB)
    for block in range(60):
        put(pool, "v", block * BLOCK, pattern(block))
    settle(pool.checkpoint())
    rig.platter.flip(segment_name(1), 20)
    bad = next(b for b in range(60) if place(pool, "v", b)[0] == 1)
    rot(rig, pool, "v", bad)
    pool = rig.kill()
    assert 1 not in pool.log.first_lsns
    done = settle(full(Scrub(pool)))
    header, block = sorted(done.findings, key=lambda f: f.bytes)
    assert header.cause == "the header of segment 1 is damaged" and not header.exports
    assert (block.exports, block.offset, block.bytes) == (["v"], bad * BLOCK, BLOCK)
    assert done.blocks == 59


def test_a_disk_that_cannot_read_a_part(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1, 16 * BLOCK))
    rig.platter.faults.read_error = 1.0
    done = settle(full(Scrub(pool)))
    assert {f.cause.partition(":")[0] for f in done.findings if f.exports} == {
        "the disk cannot read a block"
    }
    rig.platter.faults.read_error = 0.0
    assert settle(full(Scrub(pool))).findings == []


def test_what_was_right_when_read_again_is_let_go(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1, 16 * BLOCK))
    segment = rot(rig, pool, "v", 5)
    slot = place(pool, "v", 5)[1]
    worker = Scrub(pool)
    original = scrub.confirm

    async def confirm(*arguments: object) -> object:
        rig.platter.flip(segment_name(segment), slot * BLOCK + 77)
        return await original(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scrub, "confirm", confirm)
        done = settle(full(worker))
    assert (done.findings, done.dismissed) == ([], 1)


def test_nodes_of_the_tables(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", 16 * MIB)
    put(pool, "v", 0, pattern(1))
    put(pool, "v", 8 * MIB, pattern(2))
    copies.take(pool, ["v"], name="c")
    settle(pool.checkpoint())
    leaf = dict(pool.state.forest.leaf_ids(pool.state.tables[1]))[8]
    pool._metadata._writer.execute("UPDATE node SET sum = sum + 1 WHERE id = ?", (leaf,))
    done = settle(full(Scrub(pool)))
    (finding,) = done.findings
    assert finding.exports == ["v", "v@c"]
    assert (finding.offset, finding.bytes, finding.segment) == (8 * MIB, MIB, 0)
    assert f"node {leaf}" in finding.cause
    assert done.blocks == 1  # the other one


def test_a_catalogue_that_contradicts_itself(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    pool.state.names["ghost"] = 99
    (finding,) = settle(full(Scrub(pool))).findings
    assert "ghost" in finding.cause


def test_pause_resume_and_stop(rig: Rig) -> None:
    async def main() -> None:
        pool = rig.open()
        volumes.create(pool, "v", 2 * MIB)
        fill(pool, "v", Random(1), 300)
        worker = Scrub(pool)
        with pytest.raises(Conflict):
            await worker.pause()
        worker.start()
        while worker.progress.segments < 3:
            await pool.world.clock.sleep(0)
        worker.start()  # nothing new
        await worker.pause()
        at, segments = worker.progress.next, worker.progress.segments
        assert worker.progress.state == "paused" and at >= 4
        other = Scrub(pool)  # as the next process sees it
        assert other.progress.next == at
        other.resume()  # paused: stays so
        assert other._task is None
        done = await full(other)
        assert (done.state, done.passes) == ("done", 1)
        assert done.segments - segments <= len(pool.log.first_lsns) - at + 2
        assert done.blocks == done.living
        other.start()
        await other.stop()
        assert other.progress.state == "stopped"
        assert other.progress.completed == done.completed  # of the pass before
        with pytest.raises(Conflict, match="stopped"):
            await other.stop()
        assert (await full(other)).passes == 3

    settle(main())


def test_a_killed_process_goes_on_where_it_was(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "SAVE_SECONDS", 0.0)

    async def begin() -> int:
        pool = rig.open()
        volumes.create(pool, "v", 2 * MIB)
        fill(pool, "v", Random(1), 300)
        rot(rig, pool, "v", mapped(pool, "v")[0])
        worker = Scrub(pool)
        worker.start()
        while worker.progress.segments < 5:
            await pool.world.clock.sleep(0)
        at = worker.progress.next
        pool.failed = "the process is dead"  # nothing is noted any more
        await worker.close()
        return at

    at = settle(begin())
    pool = rig.kill()
    worker = Scrub(pool)
    assert worker.progress.state == "running"
    assert at - 2 <= worker.progress.next <= at
    before = worker.progress.segments

    async def go_on() -> None:
        worker.resume()
        await worker.ended(1e9)

    settle(go_on())
    assert worker.progress.state == "done"
    assert worker.progress.segments - before <= len(pool.log.first_lsns) - at + 2
    assert worker.progress.damaged == 1


def test_segments_come_and_go_while_it_reads(rig: Rig) -> None:
    """Writers, copies and the cleaner go on; nothing good is called damaged, nothing bad missed."""

    async def main(seed: int) -> None:
        random = Random(seed)
        local = Rig(seed, limits=LIMITS)
        pool = local.open()
        volumes.create(pool, "v", 2 * MIB)
        volumes.create(pool, "still", 2 * MIB)
        fill(pool, "still", random, 60)
        fill(pool, "v", random, 300)
        block = random.choice(mapped(pool, "still"))
        rot(local, pool, "still", block)
        worker = Scrub(pool)
        worker.start()
        cleaner = Cleaner(pool)
        while worker.progress.state == "running":
            fill(pool, "v", random, 5)
            if random.random() < 0.3:
                copies.take(pool, ["v"], name=f"c{random.getrandbits(40)}")
            if len(pool.state.copies) > 2:
                copies.delete(pool, next(iter(pool.state.copies)))
            try:
                await cleaner.round()
            except Damaged:
                assert place(pool, "still", block)[0] in pool.log.first_lsns
            await pool.world.clock.sleep(0)
        assert found(worker.progress) == [("still", block * BLOCK, BLOCK)]

    for seed in range(6):
        settle(main(seed))


def test_the_rate(rig: Rig) -> None:
    """Virtual time: a pass takes as long as its bytes, and hears of a new rate at once."""

    async def main() -> None:
        pool = Pool.open(rig.open().disk, rig.world, LIMITS)
        from isochrone.sim.clock import SimClock

        clock = SimClock(asyncio.get_running_loop())
        object.__setattr__(pool.world, "clock", clock)
        volumes.create(pool, "v", 64 * MIB)
        for at in range(8):
            put(pool, "v", at * MIB, pattern(at, MIB))
        worker = Scrub(pool)
        worker.start(MIB)
        begun = clock.monotonic()
        await worker.ended(1e9)
        took = clock.monotonic() - begun
        assert 7 < took < 16
        worker.start(MIB)
        await clock.sleep(2.0)
        assert worker.progress.state == "running"
        worker.start(1024 * MIB)
        await worker.ended(1.0)
        assert worker.progress.state == "done"
        with pytest.raises(InvalidInput):
            worker.start(5)

    run(main())


def test_a_failed_pool_pauses_it_with_a_reason(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1))
    pool.failed = "a sync failed"
    done = settle(full(Scrub(pool)))
    assert done.state == "paused" and "a sync failed" in done.reason
    pool.failed = ""
    assert settle(full(Scrub(pool))).state == "done"


def test_notes_that_cannot_be_understood(rig: Rig) -> None:
    pool = rig.open()
    settle(pool.keep_setting(scrub.KEY, '{"state": "flying"}'))
    assert Scrub(pool).progress == Progress()
    kept = msgspec.json.encode(Progress(passes=4)).decode()
    settle(pool.keep_setting(scrub.KEY, kept))
    assert Scrub(pool).progress.passes == 4


def test_on_a_real_directory(tmp_path: Path) -> None:
    """Bytes flipped in the files themselves: exactly those blocks, past the page cache."""
    random = Random(5)

    async def main() -> None:
        disk = FolderDisk(tmp_path / "pool")
        pool = Pool.open(disk, system_world(), LIMITS)
        volumes.create(pool, "v", 2 * MIB)
        fill(pool, "v", random, 300)
        await pool.flush()
        wanted = sorted(random.sample(mapped(pool, "v"), 4))
        for block in wanted:
            segment, slot = place(pool, "v", block)
            path = tmp_path / "pool" / segment_name(segment)
            data = bytearray(path.read_bytes())
            data[slot * BLOCK + random.randrange(BLOCK)] ^= 1 << random.randrange(8)
            path.write_bytes(data)
        worker = Scrub(pool)
        worker.start(1024 * MIB)
        await worker.ended(60)
        blocks = [
            offset // BLOCK + n
            for _, offset, length in found(worker.progress)
            for n in range(length // BLOCK)
        ]
        assert blocks == wanted
        with pytest.raises(Damaged):
            device(pool, "v").read(wanted[0] * BLOCK, BLOCK)
        pool.abandon()
        disk.close()

    asyncio.run(main())
