"""Replay in bulk gives what replay record by record gives."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from isochrone.errors import NoSpace
from isochrone.store import copies, replay, volumes
from isochrone.store.metadata import Metadata
from isochrone.store.pool import Pool
from isochrone.store.recover import read_tail
from isochrone.store.replay import Replay, newest
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, device, pattern, settle, shown

SIZE = 16 * MIB


def change(pool: Pool, random: Random) -> None:
    """One turn: writes, sometimes other things, of several volumes."""
    for _ in range(random.choice([1, 3, 20])):
        volume = device(pool, random.choice("ab"))
        block, count = random.randrange(SIZE // BLOCK - 8), random.choice([1, 1, 1, 8])
        match random.randrange(12):
            case 0:
                volume.discard(block * BLOCK, count * BLOCK)
            case _:
                volume.write(block * BLOCK, memoryview(pattern(random.randrange(50)) * count))
    pool.commit()
    if random.random() < 0.05:
        copies.take(pool, ["a", "b"], writable=True)
    if random.random() < 0.05:
        table = pool.state.tables[1]
        run = next((r for r in pool.state.forest.runs(table, 0, SIZE // BLOCK) if r.pointer), None)
        if run is not None:
            data = pool.log.read(run.pointer, run.sums)
            pool.append_moves([(run.pointer, data, run.sums)])


def tables(pool: Pool) -> dict[int, object]:
    state = pool.state
    return {
        id: (
            volume.changed_lsn,
            volume.blocks_changed,
            [(i, words.tobytes()) for i, words in state.forest.leaves(state.tables[id])],
        )
        for id, volume in state.volumes.items()
    }


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("collected", [1, 64, 1 << 20])
def test_the_tables_are_those_that_ran(
    seed: int, collected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "COLLECTED_MAX", collected)
    monkeypatch.setattr(replay, "LEAVES_AT_ONCE", 1 + seed % 3)
    random = Random(f"replay {seed}")
    rig = Rig(seed)
    pool = rig.open()
    for name in "ab":
        volumes.create(pool, name, SIZE)
    for _ in range(60):
        change(pool, random)
    before, image = tables(pool), shown(pool)
    again = rig.kill()
    assert tables(again) == before
    assert shown(again) == image


def test_nodes_are_saved_while_replaying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the budget: memory stays bounded, and a crash afterwards finds the same."""
    monkeypatch.setattr(replay, "LEAVES_AT_ONCE", 2)
    rig = Rig()
    pool = rig.open()
    volumes.create(pool, "a", 256 * MIB)
    for n in range(64):
        device(pool, "a").write(n * 4 * MIB, memoryview(pattern(n)))
        pool.commit()
    for life in range(2):
        pool = rig.kill()
        budget = pool.limits.node_bytes
        assert pool.state.forest.fresh_bytes < budget + 4 * 16 * 1024
        assert pool._metadata.node_count() >= 40
        for n in range(64):
            assert b"".join(device(pool, "a").read(n * 4 * MIB, BLOCK)) == pattern(n), life
    settle(pool.checkpoint())
    pool = rig.kill()
    assert b"".join(device(pool, "a").read(63 * 4 * MIB, BLOCK)) == pattern(63)


def test_a_full_disk_keeps_no_pool_from_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is to delete something has to get in first: the nodes stay in memory."""
    monkeypatch.setattr(replay, "LEAVES_AT_ONCE", 2)
    rig = Rig()
    pool = rig.open()
    volumes.create(pool, "a", 256 * MIB)
    for n in range(64):
        device(pool, "a").write(n * 4 * MIB, memoryview(pattern(n)))
        pool.commit()

    def full(self: Metadata, nodes: object) -> None:
        raise NoSpace("the disk under the pool is full; the metadata store cannot grow")

    monkeypatch.setattr(Metadata, "add_nodes", full)
    pool = rig.kill()
    monkeypatch.undo()
    for _ in range(2):
        for n in range(64):
            assert b"".join(device(pool, "a").read(n * 4 * MIB, BLOCK)) == pattern(n)
        pool = rig.reopen(pool)


def test_sections_that_were_not_held_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isochrone.store.recover.HELD_BYTES_MAX", 0)
    rig = Rig()
    pool = rig.open()
    volumes.create(pool, "a", SIZE)
    for n in range(50):
        device(pool, "a").write(n * BLOCK, memoryview(pattern(n)))
        pool.commit()
    before = tables(pool)
    rig.platter.kill()
    pool = rig.open()
    assert tables(pool) == before


def test_the_last_write_to_a_block_wins() -> None:
    words = np.array([5, 3, 5, 3, 9], np.uint64)
    order = np.array([1, 2, 3, 4, 5], np.uint64)
    blocks, pointers, sums = newest([words, order, order + np.uint64(10)])
    assert blocks.tolist() == [3, 5, 9]
    assert (pointers.tolist(), sums.tolist()) == ([4, 3, 5], [14, 13, 15])


def test_nothing_is_applied_that_was_not_asked_for() -> None:
    rig = Rig()
    pool = rig.open()
    seen: list[object] = []
    work = Replay(pool.state, seen.append, lambda: seen.append("relieved"))
    assert not read_tail(pool.disk, pool.log.pool, None).sections
    work.finish()
    assert seen == []


def test_a_checkpoint_is_due_when_many_leaves_have_changed() -> None:
    """Long before so much log was written: writes that are far apart change a leaf each."""
    pool = Rig().open()
    volumes.create(pool, "a", 256 * MIB)
    settle(pool.checkpoint())
    for n in range(33):
        assert pool.checkpoint_due is (pool.state.forest.fresh_bytes >= pool.limits.node_bytes)
        device(pool, "a").write(n * 4 * MIB, memoryview(pattern(n)))
        pool.commit()
    assert pool.checkpoint_due
    settle(pool.checkpoint())
    assert not pool.checkpoint_due
