"""Work copies go before production is refused room, and not before."""

from __future__ import annotations

from random import Random

import pytest

from isochrone.errors import Damaged, NoSpace, NotFound
from isochrone.store import cleaner, copies, holds, volumes
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.front import PoolBackend
from isochrone.store.pool import Pool
from isochrone.store.sacrifice import Sacrifices, candidates
from isochrone.types import MIB
from tests.store.pools import Rig, client, get, pattern, put, settle
from tests.store.test_space import LIMITS, STEP

SIZE = 12 * MIB  # with two copies that have nothing in common any more, a pool of 40 is full


@pytest.fixture(autouse=True)
def small_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner, "MOVE_BLOCKS_MAX", 16)


@pytest.fixture
def rig() -> Rig:
    return Rig(limits=LIMITS)


@pytest.fixture
def pool(rig: Rig) -> Pool:
    pool = rig.open()
    volumes.create(pool, "v", SIZE)
    for at in range(0, SIZE, STEP):
        put(pool, "v", at, pattern(at, STEP))
    return pool


def write(pool: Pool, times: float, seed: int = 1) -> None:
    """Overwrite at random, the cleaner beside us."""
    random, collector = Random(seed), Cleaner(pool)
    for n in range(int(times * SIZE / STEP)):
        put(pool, "v", random.randrange(SIZE // STEP) * STEP, pattern(n, STEP))
        collector._look()
        if collector.due:
            settle(collector.round())


def take(pool: Pool, name: str, *, expendable: bool = True) -> None:
    copies.take(pool, ["v"], name=name, expendable=expendable)
    write(pool, 2)


def test_the_oldest_goes_and_production_goes_on(pool: Pool, rig: Rig) -> None:
    for name in ("one", "two", "three", "four"):
        take(pool, name)
    write(pool, 4)
    left = list(pool.state.copies)
    assert left == ["one", "two", "three", "four"][-len(left) :]
    assert 0 < len(left) < 3, "not all: the newest has room"
    check_pool(pool)
    settle(pool.flush())
    assert list(rig.cut().state.copies) == left


def test_what_is_not_expendable_stays_and_production_is_refused(pool: Pool) -> None:
    take(pool, "one")
    holds.pin(pool, pool.state.copies["one"], "")
    with pytest.raises(NoSpace):
        take(pool, "two", expendable=False)
    assert list(pool.state.copies) == ["one", "two"]
    holds.unpin(pool, pool.state.copies["one"])
    # It may go now, and with it the reason to refuse.
    collector = Cleaner(pool)
    settle(collector.round())
    collector._look()
    assert "one" not in pool.state.copies
    settle(collector.round())
    put(pool, "v", 0, pattern(7, STEP))


def test_a_reader_loses_it_and_nothing_else(pool: Pool) -> None:
    take(pool, "one")
    device = PoolBackend(pool).attach("v@one", client("backup"))
    take(pool, "two")
    write(pool, 4)
    assert "one" not in pool.state.copies
    with pytest.raises((NotFound, Damaged)):
        device.read(0, STEP)
    assert len(get(pool, "v", 0, SIZE)) == SIZE


def test_with_room_nothing_goes(pool: Pool) -> None:
    take(pool, "one")
    settle(Cleaner(pool).round())
    assert [copy.name for copy in candidates(pool)] == ["one"]
    assert Sacrifices(pool).look() == ""
    assert list(pool.state.copies) == ["one"]


def test_one_at_a_time(pool: Pool) -> None:
    """What the first one frees is known after the next marking only."""
    for name in ("one", "two", "three"):
        copies.take(pool, ["v"], name=name, expendable=True)
    settle(Cleaner(pool).round())
    pool.space.tight = True
    sacrifices = Sacrifices(pool)
    assert [sacrifices.look() for _ in range(3)] == ["one", "", ""]
    pool.space.markings += 1
    assert sacrifices.look() == "two"
    pool.space.markings += 1
    pool.failed = "a sync failed"
    assert sacrifices.look() == ""
