from __future__ import annotations

import asyncio
from array import array
from functools import partial
from pathlib import Path

import pytest

from isochrone.errors import Damaged, NoSpace, PoolFailed
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.pool import Pool
from isochrone.store.recover import read_tail
from isochrone.types import BLOCK, MIB, TIB
from isochrone.world.disk import METADATA_NAME, FolderDisk
from tests.store.pools import (
    SMALL,
    Image,
    Rig,
    catalogue,
    device,
    get,
    open_on,
    pattern,
    put,
    settle,
    shown,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def pool(rig: Rig) -> Pool:
    pool = rig.open()
    volumes.create(pool, "disk", 64 * MIB)
    put(pool, "disk", 0, pattern(1, 100_000))
    put(pool, "disk", 40 * MIB, pattern(2, 100_000))
    return pool


def same(rig: Rig, pool: Pool, again: Pool) -> None:
    check_pool(again)
    assert shown(again) == shown(pool)
    assert catalogue(again) == catalogue(pool)


def test_nothing_is_replayed_after_a_checkpoint(rig: Rig, pool: Pool) -> None:
    settle(pool.checkpoint())
    image, items = shown(pool), catalogue(pool)
    metadata_position = pool._metadata.position()
    assert metadata_position is not None and metadata_position.lsn == pool.log.lsn
    rig.platter.kill()
    again = rig.open()
    assert read_tail(again.disk, again.log.pool, metadata_position).sections == []
    assert shown(again) == image
    assert catalogue(again) == items


def test_what_came_later_is_replayed_on_top(rig: Rig, pool: Pool) -> None:
    settle(pool.checkpoint())
    put(pool, "disk", 10, b"later")
    copies.take(pool, ["disk"], name="c", writable=True)
    put(pool, "disk@c", 50 * MIB, b"more")
    device(pool, "disk").discard(40 * MIB, MIB)
    pool.commit()
    image, items = shown(pool), catalogue(pool)
    again = rig.kill()
    assert shown(again) == image
    assert catalogue(again) == items


def test_everything_of_the_catalogue_comes_back(rig: Rig, pool: Pool) -> None:
    volumes.create(pool, "b", MIB)
    copies.take(pool, ["disk", "b"], name="c")
    pool.record(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1, 2)))
    pool.record(r.SessionOpened(group="g", peer="p"))
    pool.record(r.CutPlaced(group="g", cut=5, stamp=1))
    pool.record(r.MirrorAdded(group="h", source="there:1"))
    incoming = r.IncomingVolume(remote=9, name="x", size=MIB, local=50, shadow=51)
    pool.record(r.IncomingBegun(group="h", lineage="cd" * 16, epoch=2, base=0, volumes=(incoming,)))
    pool.stage_write(51, 0, memoryview(pattern(5)))
    pool.commit()
    pool.record(r.CopyTaken(name="hid", writable=False, stamp=2, members=((51, 52),), group="h"))
    items = catalogue(pool)
    again = rig.reopen(pool)
    assert catalogue(again) == items
    assert "x" not in again.state.names and "x@hid" not in again.state.names
    again.record(r.IncomingCommitted(group="h", cut=1, stamp=3))
    assert get(again, "x", 0, BLOCK) == get(again, "x@hid", 0, BLOCK) == pattern(5)
    again = rig.reopen(again)
    assert get(again, "x@hid", 0, BLOCK) == pattern(5)
    copies.delete(again, "c")
    again.record(r.GroupDeleted(name="g"))
    volumes.delete(again, "b")
    items = catalogue(again)
    assert catalogue(rig.reopen(again)) == items


def test_only_what_changed_is_written(rig: Rig, pool: Pool) -> None:
    written: list[int] = []
    commit = pool._metadata.commit
    pool._metadata.commit = lambda change: (  # type: ignore[method-assign]
        written.append(len(list(change.nodes))), commit(change))[1]  # fmt: skip
    settle(pool.checkpoint())
    settle(pool.checkpoint())
    put(pool, "disk", 0, b"x")
    settle(pool.checkpoint())
    assert written == [3, 0, 2]  # a chunk and two leaves; nothing; a chunk and a leaf
    rig.platter.kill()


# -- what happens meanwhile


def test_changes_during_a_checkpoint_are_not_in_it_and_not_lost(rig: Rig, pool: Pool) -> None:
    n = 0

    def meanwhile() -> None:
        nonlocal n
        n += 1
        put(pool, "disk", n * BLOCK, pattern(100 + n))
        copies.take(pool, ["disk"], name=f"during{n}", writable=True)
        put(pool, f"disk@during{n}", 41 * MIB, pattern(200 + n))
        device(pool, "disk").discard(40 * MIB + n * BLOCK, BLOCK)
        pool.commit()

    rig.work.before = rig.work.after = meanwhile
    settle(pool.checkpoint())
    rig.work.before = rig.work.after = None
    assert n >= 4  # before and after the sync, before and after the transaction
    image, items = shown(pool), catalogue(pool)
    again = rig.kill()
    assert shown(again) == image
    assert catalogue(again) == items
    settle(again.checkpoint())
    assert shown(rig.kill()) == image


@pytest.mark.parametrize("run", [1, 2])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("power", [False, True])
def test_a_crash_in_a_checkpoint(rig: Rig, pool: Pool, run: int, after: bool, power: bool) -> None:
    """Before and after the sync, before and after the transaction."""

    class Crash(BaseException):
        pass

    settle(pool.checkpoint())
    put(pool, "disk", 5 * BLOCK, pattern(7))
    copies.take(pool, ["disk"], name="c")
    settle(pool.flush())
    image, items = shown(pool), catalogue(pool)
    put(pool, "disk", 9 * BLOCK, pattern(8))
    late_image, late_items = shown(pool), catalogue(pool)
    rig.work.runs = 0

    def crash() -> None:
        if rig.work.runs == run:
            raise Crash

    setattr(rig.work, "after" if after else "before", crash)
    with pytest.raises(Crash):
        settle(pool.checkpoint())
    rig.work.before = rig.work.after = None
    again = rig.cut(1) if power else rig.kill()
    check_pool(again)
    assert (shown(again), catalogue(again)) in [(image, items), (late_image, late_items)]
    if (run, after) != (1, False) or not power:
        assert shown(again) == late_image
    put(again, "disk", 0, b"goes on")
    settle(again.checkpoint())
    assert get(rig.kill(), "disk", 0, 7) == b"goes on"


def test_checkpoints_come_one_after_the_other(rig: Rig, pool: Pool) -> None:
    async def both() -> None:
        await asyncio.gather(pool.checkpoint(), pool.checkpoint(), pool.checkpoint())

    settle(both())
    assert rig.work.runs >= 1 + 3  # one sync, three transactions
    assert check_pool(rig.kill()) > 0


# -- failures


@pytest.mark.parametrize("error", [NoSpace("full"), Damaged("broken"), OSError(5, "EIO")])
def test_a_failed_transaction_loses_nothing(rig: Rig, pool: Pool, error: Exception) -> None:
    settle(pool.checkpoint())
    copies.take(pool, ["disk"], name="c")
    put(pool, "disk", 5 * BLOCK, pattern(7))
    commit = pool._metadata.commit

    def fail(change) -> None:
        raise error

    pool._metadata.commit = fail  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(type(error)):
            settle(pool.checkpoint())
        put(pool, "disk", 6 * BLOCK, pattern(8))
    pool._metadata.commit = commit  # type: ignore[method-assign]
    image, items = shown(pool), catalogue(pool)
    settle(pool.checkpoint())
    start = pool._metadata.position()
    assert start is not None and start.lsn == pool.log.lsn
    again = rig.kill()  # from the checkpoint alone
    assert shown(again) == image
    assert catalogue(again) == items


def test_a_failed_sync_is_no_checkpoint(rig: Rig, pool: Pool) -> None:
    rig.platter.faults.sync_error = 1.0
    with pytest.raises(PoolFailed):
        settle(pool.checkpoint())
    with pytest.raises(PoolFailed):
        settle(pool.checkpoint())
    assert pool._metadata.position() is None


def test_a_full_disk_under_the_metadata_store(tmp_path: Path) -> None:
    """A real file; the limit is SQLite's own."""
    disk = FolderDisk(tmp_path)
    pool = open_on(disk, SMALL)
    volumes.create(pool, "disk", 1 << 30)
    pool._metadata._writer.pragma("max_page_count", 12)
    for n in range(120):
        put(pool, "disk", n * 4 * MIB, pattern(n))
    image = shown_blocks(pool)
    for _ in range(2):
        with pytest.raises(NoSpace):
            settle(pool.checkpoint())
    put(pool, "disk", 3, b"still writable")
    image = shown_blocks(pool)
    pool._metadata._writer.pragma("max_page_count", 1 << 30)
    settle(pool.checkpoint())
    pool.abandon()
    pool = open_on(disk, SMALL)
    assert shown_blocks(pool) == image
    pool.abandon()
    disk.close()


def shown_blocks(pool: Pool) -> list[bytes]:
    return [get(pool, "disk", n * 4 * MIB, BLOCK) for n in range(40)]


# -- the sweep


def fill(pool: Pool, name: str, n: int) -> None:
    for at in range(12):
        put(pool, name, at * 4 * MIB, pattern(1000 * n + at, BLOCK))


@pytest.mark.parametrize("hurry", [False, True])
def test_a_sweep_keeps_what_the_checkpoint_needs(hurry: bool) -> None:
    """Also if the running tables have left it behind by the time of the sweep."""
    rig = Rig()
    pool = rig.open()
    volumes.create(pool, "disk", 64 * MIB)
    fill(pool, "disk", 0)
    copies.take(pool, ["disk"], name="c")
    counts = []
    for n in range(1, 12):
        fill(pool, "disk", n)
        if hurry:
            rig.work.before = partial(fill, pool, "disk", 100 + n)
        settle(pool.checkpoint())
        rig.work.before = None
        counts.append(pool._metadata.node_count())
        image = shown(pool)
        pool = rig.kill()
        check_pool(pool)
        assert shown(pool) == image
    assert max(counts) < 80, "there was no sweep"


def test_a_sweep_keeps_pinned_images() -> None:
    rig = Rig()
    pool = rig.open()
    volumes.create(pool, "disk", 64 * MIB)
    fill(pool, "disk", 0)
    settle(pool.checkpoint())
    pin = pool.state.forest.clone(pool.state.tables[1])
    pool.state.pins.append(pin)
    for n in range(1, 15):
        fill(pool, "disk", n)
        settle(pool.checkpoint())
    pool.state.forest._nodes = dict(pool.state.forest.fresh)  # as if all had been evicted
    for at in range(12):
        assert b"".join(pool.read(pin, at * 1024, 1)) == pattern(at, BLOCK)
    with_pin = pool._metadata.node_count()
    pinned = pool.state.forest.reachable([pin])
    assert pinned <= stored(pool)
    pool.state.pins.remove(pin)
    for n in range(1, 15):
        fill(pool, "disk", n)
        settle(pool.checkpoint())
    assert pool._metadata.node_count() <= with_pin
    assert pinned.isdisjoint(stored(pool))


def stored(pool: Pool) -> set[int]:
    return {id for (id,) in pool._metadata._writer.execute("SELECT id FROM node")}


def test_deleted_volumes_leave_the_store() -> None:
    rig = Rig()
    pool = rig.open()
    for n in range(10):
        volumes.create(pool, f"v{n}", 64 * MIB)
        fill(pool, f"v{n}", n)
    settle(pool.checkpoint())
    assert pool._metadata.node_count() >= 130
    for n in range(10):
        volumes.delete(pool, f"v{n}")
    settle(pool.checkpoint())
    settle(pool.checkpoint())
    assert pool._metadata.node_count() == 0
    assert pool._metadata.roots() == {}


# -- what is not as it was written


def test_a_missing_table_is_damage(rig: Rig, pool: Pool) -> None:
    settle(pool.checkpoint())
    pool._metadata._writer.execute("DELETE FROM root")
    with pytest.raises(Damaged, match="lost or changed rows"):
        rig.kill()


def test_a_missing_node_is_damage_for_its_readers_only(rig: Rig, pool: Pool) -> None:
    volumes.create(pool, "other", MIB)
    put(pool, "other", 0, pattern(9))
    settle(pool.checkpoint())
    leaf = int(pool.state.forest.node(pool.state.tables[1].root[0]).words[0])
    pool._metadata._writer.execute("DELETE FROM node WHERE id = ?", (leaf,))
    again = rig.kill()
    with pytest.raises(Damaged, match=f"node {leaf} "):
        get(again, "disk", 0, BLOCK)
    assert get(again, "disk", 40 * MIB, BLOCK) == pattern(2, 100_000)[:BLOCK]
    assert get(again, "other", 0, BLOCK) == pattern(9)
    with pytest.raises(Damaged):
        check_pool(again)


def test_every_page_of_the_store_may_rot(tmp_path: Path) -> None:
    """Never wrong data, never an error that is not ours."""
    disk = FolderDisk(tmp_path)
    pool = open_on(disk, SMALL)
    volumes.create(pool, "disk", TIB)
    for n in range(20):
        put(pool, "disk", n * 4 * MIB, pattern(n))
    copies.take(pool, ["disk"], name="c")
    settle(pool.close())
    good = (tmp_path / METADATA_NAME).read_bytes()
    refused = 0
    for at in range(0, len(good), 1024):
        data = bytearray(good)
        data[at : at + 64] = bytes(b ^ 0x55 for b in data[at : at + 64])
        (tmp_path / METADATA_NAME).write_bytes(data)
        try:
            again = open_on(disk, SMALL)
            try:
                for n in range(20):
                    assert get(again, "disk", n * 4 * MIB, BLOCK) == pattern(n)
                    assert get(again, "disk@c", n * 4 * MIB, BLOCK) == pattern(n)
            finally:
                again.abandon()
        except Damaged:
            refused += 1
        (tmp_path / METADATA_NAME).write_bytes(good)
    assert refused > 64, "most of what was hit is in use"
    pool = open_on(disk, SMALL)
    check_pool(pool)
    pool.abandon()
    disk.close()


def test_positions_at_every_place_of_a_segment(rig: Rig) -> None:
    """A checkpoint after each of many appends; the tail of each is replayed exactly."""
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    model = Image(MIB)
    for n in range(80):
        put(pool, "disk", (n % 9) * BLOCK, pattern(n, (1 + n % 3) * BLOCK))
        model = model.put((n % 9) * BLOCK, pattern(n, (1 + n % 3) * BLOCK))
        settle(pool.checkpoint())
        put(pool, "disk", 100 * BLOCK, array("Q", [n]).tobytes())
        model = model.put(100 * BLOCK, array("Q", [n]).tobytes())
        if n % 5 == 0:
            pool = rig.kill()
        assert shown(pool) == {"disk": model}
