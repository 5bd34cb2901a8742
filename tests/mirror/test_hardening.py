"""A long copy is synced step by step, and only then leaves the page cache."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from isochrone.errors import PoolFailed
from isochrone.mirror.hardening import Hardening
from isochrone.sim.disk import SimFile
from isochrone.store import volumes
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, MIB
from tests.store.pools import SMALL, Rig, pattern, settle

# Writes of a block that make a step worth it: each takes two slots.
ENOUGH = SMALL.segment_bytes // 2 // (2 * BLOCK)


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []

    def forget(file: SimFile, offset: int, length: int) -> None:
        found.append((offset, length))

    monkeypatch.setattr(SimFile, "forget", forget)
    return found


def write(pool: Pool, count: int) -> None:
    for n in range(count):
        pool.stage_write(1, n, memoryview(pattern(n)))
        pool.commit()


def with_pool(act: Callable[[Rig, Pool], Awaitable[None]]) -> None:
    async def main() -> None:
        rig = Rig()
        pool = rig.open()
        volumes.create(pool, "v", 64 * MIB)
        await act(rig, pool)

    settle(main())


def test_it_forgets_what_came_since_the_last_step_and_nothing_else(
    forgotten: list[tuple[int, int]],
) -> None:
    async def act(rig: Rig, pool: Pool) -> None:
        write(pool, 3)
        hardening, start = Hardening(pool), pool.log.position
        for _ in range(3):
            forgotten.clear()
            write(pool, ENOUGH)
            end = pool.log.position
            hardening.step()
            assert not forgotten, "it is not durable yet"
            await pool.flush()
            await asyncio.sleep(0)
            assert forgotten == [stretch[1:] for stretch in pool.log.stretches(start, end)]
            start = end

    with_pool(act)


def test_segments_that_were_filled_are_forgotten_to_their_end(
    forgotten: list[tuple[int, int]],
) -> None:
    async def act(rig: Rig, pool: Pool) -> None:
        hardening, start = Hardening(pool), pool.log.position
        write(pool, 200)
        end = pool.log.position
        assert end[0] >= start[0] + 2
        hardening.step()
        await pool.flush()
        await asyncio.sleep(0)
        whole = SMALL.segment_bytes
        assert forgotten[0] == (start[1] * BLOCK, whole - start[1] * BLOCK)
        assert forgotten[1:-1] == [(0, whole)] * (end[0] - start[0] - 1)
        assert forgotten[-1] == (0, end[1] * BLOCK)

    with_pool(act)


def test_one_step_at_a_time(forgotten: list[tuple[int, int]]) -> None:
    """Who is slower than the link gets no queue of steps: the next one covers what was left out."""

    async def act(rig: Rig, pool: Pool) -> None:
        hardening, start = Hardening(pool), pool.log.position
        for _ in range(3):
            write(pool, ENOUGH)
            end = pool.log.position
            hardening.step()
        await pool.flush()
        await asyncio.sleep(0)
        first = len(forgotten)
        assert first < len(pool.log.stretches(start, end))
        write(pool, ENOUGH)
        hardening.step()
        await pool.flush()
        await asyncio.sleep(0)
        end = pool.log.position
        size = sum(length for _, _, length in pool.log.stretches(start, end))
        assert sum(length for _, length in forgotten) == size
        assert len(forgotten) > first

    with_pool(act)


def test_what_cannot_be_synced_is_not_forgotten(forgotten: list[tuple[int, int]]) -> None:
    async def act(rig: Rig, pool: Pool) -> None:
        hardening = Hardening(pool)
        write(pool, ENOUGH)
        rig.platter.faults.sync_error = 1.0
        hardening.step()
        with pytest.raises(PoolFailed):
            await pool.flush()
        assert not forgotten

    with_pool(act)


def test_a_little_is_not_worth_a_sync(forgotten: list[tuple[int, int]]) -> None:
    """A primary that says after each block how far it has come costs no sync each time."""

    async def act(rig: Rig, pool: Pool) -> None:
        hardening, durable = Hardening(pool), pool.log.durable
        for _ in range(ENOUGH - 1):
            write(pool, 1)
            hardening.step()
            await asyncio.sleep(0)
        assert pool.log.durable == durable
        assert not forgotten
        write(pool, 1)
        hardening.step()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert pool.log.durable == pool.log.lsn

    with_pool(act)
