"""Full pools: overwriting goes on, growing does not, and space that is given up comes back."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import pytest

from isochrone.errors import NoSpace
from isochrone.store import cleaner, copies, relations, volumes
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.kept import Kept
from isochrone.store.pool import Limits, Pool
from isochrone.store.relations import Span, Wish
from isochrone.store.space import PACE_S_MAX, STUCK_TURNS, Space
from isochrone.types import BLOCK, KIB, MIB
from tests.store.pools import Rig, device, get, pattern, put, settle

CAPACITY = 40 * MIB
LIMITS = Limits(
    segment_bytes=1 * MIB,
    node_bytes=128 * KIB,
    checkpoint_bytes=4 * MIB,
    garbage_bytes=512 * KIB,
    reserve_bytes=2 * MIB,
    capacity_bytes=CAPACITY,
    sweep_nodes=8,
)
STEP = 64 * KIB


@dataclass
class FakeLog:
    """Only what is asked of a log."""

    free_bytes: int = 0
    bytes_on_disk: int = 0
    segment_slots: int = MIB // BLOCK


@dataclass
class FakeForest:
    newly_mapped: int = 0


def make(free: int, on_disk: int, live: int | None = None) -> tuple[Space, FakeLog, FakeForest]:
    """Sizes in MiB; segments of 1 MiB, a reserve of 4."""
    log, forest = FakeLog(free * MIB, on_disk * MIB), FakeForest()
    space = Space(cast(Any, log), cast(Any, forest), 4 * MIB)
    space.look()
    if live is not None:
        space.marked(live * MIB, 0)
    return space, log, forest


def test_a_pool_is_pressed_before_writers_are_refused() -> None:
    """There is time to let go of what a mirror keeps."""
    seen = [(make(free, 60)[0].short, make(free, 60)[0].pressed) for free in range(30, 4, -1)]
    assert seen[0] == (False, False)
    assert (True, False) in seen
    assert seen[-1] == (True, True)
    assert sorted(seen) == seen


def test_a_pool_with_room_is_left_alone() -> None:
    space, _, _ = make(100, 100, 90)
    assert (space.short, space.full, space.wanted, space.pace()) == (False, False, 0, (0.0, False))


def test_garbage_is_left_to_ripen() -> None:
    """With 40 MiB of garbage a few MiB of headroom are enough; the rest need not be cleaned."""
    space, _, _ = make(14, 186, 146)
    assert not space.short
    space, _, _ = make(12, 188, 146)
    assert space.short
    assert 0 < space.wanted < 8 * MIB


def test_before_the_first_marking_nothing_is_called_full() -> None:
    space, _, _ = make(5, 195)
    assert space.short and not space.full


def test_living_blocks_fill_a_pool_and_garbage_does_not() -> None:
    assert make(6, 194, 150)[0].full is False
    assert make(6, 194, 190)[0].full is True
    assert make(60, 140, 135)[0].full is False


def test_growth_since_the_marking_counts() -> None:
    space, _, forest = make(12, 188, 160)
    assert not space.full
    forest.newly_mapped = 22 * MIB // BLOCK
    space.look()
    assert space.full


def test_writers_wait_longer_the_less_there_is() -> None:
    space, log, _ = make(6, 194, 140)
    waits = []
    for quarter in range(12, 0, -1):
        log.free_bytes = 5 * MIB + quarter * MIB // 2
        seconds, again = space.pace()
        waits.append(seconds)
        assert not again
    assert waits == sorted(waits)
    assert 0 < waits[-1] <= PACE_S_MAX


def test_in_the_reserve_they_wait_until_it_is_hopeless() -> None:
    space, log, _ = make(4, 196, 140)
    for _ in range(STUCK_TURNS - 1):
        assert space.pace() == (PACE_S_MAX, True)
    assert space.pace() == (0.0, False), "the error is due"
    log.free_bytes = 6 * MIB
    assert space.pace()[0] > 0
    log.free_bytes = 4 * MIB
    assert space.pace() == (PACE_S_MAX, True), "a new wait"


def test_a_disk_that_does_not_answer_changes_nothing() -> None:
    class Silent(FakeLog):
        def __getattribute__(self, name: str) -> Any:
            if name == "free_bytes":
                raise OSError
            return super().__getattribute__(name)

    space = Space(cast(Any, Silent()), cast(Any, FakeForest()), MIB)
    space.look()
    assert not space.short and not space.full


@dataclass
class FakeTable:
    lent: int


def test_what_was_lent_since_the_marking_counts_as_kept() -> None:
    space, _, _ = make(12, 188, 160)
    space.marked(160 * MIB, 0, Kept(256), until=100)
    old, new = array("Q", [0, 50, 90]), array("Q", [130])
    assert not space.keeps(cast(Any, FakeTable(0)), old)
    assert not space.keeps(cast(Any, FakeTable(100)), old), "the marking has seen it"
    assert space.keeps(cast(Any, FakeTable(120)), old)
    assert not space.keeps(cast(Any, FakeTable(120)), new)
    assert not space.keeps(cast(Any, FakeTable(120)), array("Q", [0]))


# -- whole pools


@pytest.fixture(autouse=True)
def small_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is moved at a time is small beside a segment, as it is in life."""
    monkeypatch.setattr(cleaner, "MOVE_BLOCKS_MAX", 16)


def full_pool() -> tuple[Rig, Pool, int]:
    """A pool into which nothing more would go; its volume, and how much of it is mapped."""
    rig = Rig(limits=LIMITS)
    pool = rig.open()
    volumes.create(pool, "v", 64 * MIB)
    collector = Cleaner(pool)
    at = 0
    while not pool.space.full:
        put(pool, "v", at, pattern(at, STEP))
        at += STEP
        if at % MIB == 0:
            settle(collector.round())
    with pytest.raises(NoSpace, match="blocks that have data"):
        put(pool, "v", at, pattern(at, STEP))
    return rig, pool, at


def overwrite(pool: Pool, mapped: int, times: float) -> None:
    """At random, so many times over, the cleaner running when it is due, as it does beside us."""
    random, collector = Random(1), Cleaner(pool)
    for n in range(int(times * mapped / STEP)):
        put(pool, "v", random.randrange(mapped // STEP) * STEP, pattern(n, STEP))
        pool.space.look()
        if pool.space.short:
            settle(collector.round())


def test_blocks_that_have_data_can_be_overwritten_for_ever() -> None:
    rig, pool, mapped = full_pool()
    assert mapped > CAPACITY * 2 // 3, "too much is left unused"
    overwrite(pool, mapped, 2)
    assert pool.log.free_bytes >= LIMITS.reserve_bytes
    check_pool(pool)
    pool = rig.kill()
    overwrite(pool, mapped, 1)
    check_pool(pool)


def test_what_is_refused_leaves_everything_as_it_was() -> None:
    _, pool, mapped = full_pool()
    before = get(pool, "v", 0, mapped)
    lsn = pool.log.lsn
    with pytest.raises(NoSpace):
        put(pool, "v", mapped + 8 * MIB, pattern(1))
    assert pool.log.lsn == lsn
    assert get(pool, "v", 0, mapped) == before
    assert get(pool, "v", mapped + 8 * MIB, BLOCK) == bytes(BLOCK)


def test_blocks_that_a_copy_keeps_count_as_growth() -> None:
    _, pool, mapped = full_pool()
    copies.take(pool, ["v"], name="c")
    with pytest.raises(NoSpace, match="a copy keeps"):
        put(pool, "v", 0, pattern(1))
    copies.delete(pool, "c")
    settle(Cleaner(pool).round())
    put(pool, "v", 0, pattern(1))
    overwrite(pool, mapped, 0.5)


def filled_up(pool: Pool, name: str) -> None:
    """Let a volume of its own take all room."""
    volumes.create(pool, name, 64 * MIB)
    collector, at = Cleaner(pool), 0
    settle(collector.round())
    while not pool.space.full:
        put(pool, name, at, pattern(at, STEP))
        at += STEP
        if at % MIB == 0:
            settle(collector.round())


@pytest.mark.parametrize("again", [False, True])
def test_what_only_an_older_copy_keeps_is_kept(again: bool) -> None:
    """The newest copy is a clone that went its own way, so it does not tell."""
    rig = Rig(limits=LIMITS)
    pool = rig.open()
    volumes.create(pool, "v", 1 * MIB)
    put(pool, "v", 0, pattern(1, MIB))
    copies.take(pool, ["v"], name="old")
    put(pool, "v", 4 * BLOCK, pattern(2))
    copies.take(pool, ["v"], name="new", writable=True)
    put(pool, "v@new", 0, pattern(3))
    put(pool, "v", 8 * BLOCK, pattern(4))
    filled_up(pool, "rest")
    if again:
        pool = rig.kill()
        settle(Cleaner(pool).round())
        assert pool.space.full
    with pytest.raises(NoSpace, match="keeps"):
        put(pool, "v", 0, pattern(5))  # by "old"
    with pytest.raises(NoSpace, match="keeps"):
        put(pool, "v@new", BLOCK, pattern(5))  # by "v" and "old"
    put(pool, "v@new", 0, pattern(6))
    put(pool, "v", 8 * BLOCK, pattern(7))
    copies.delete(pool, "new")
    settle(Cleaner(pool).round())
    put(pool, "v", 4 * BLOCK, pattern(8))  # nobody but "new" had it


@pytest.mark.parametrize("blocks_on", [0, 16, 1024])
def test_what_another_volume_got_from_it_is_kept(blocks_on: int) -> None:
    """Without a relation on record, and at any place."""
    rig = Rig(limits=LIMITS)
    pool = rig.open()
    for name in ("one", "other"):
        volumes.create(pool, name, 8 * MIB)
    put(pool, "one", 0, pattern(1, MIB))
    span = Span(0, blocks_on * BLOCK, MIB // 2)
    relations.establish(pool, [Wish("one", "other", (span,))], once=True)
    filled_up(pool, "rest")
    with pytest.raises(NoSpace, match="keeps"):
        put(pool, "one", 0, pattern(2))
    with pytest.raises(NoSpace, match="keeps"):
        put(pool, "other", blocks_on * BLOCK, pattern(2))
    put(pool, "one", MIB // 2, pattern(2))
    volumes.delete(pool, "other")
    settle(Cleaner(pool).round())
    put(pool, "one", 0, pattern(2))


def test_an_image_on_its_way_to_a_mirror_keeps_nobody_from_writing() -> None:
    rig = Rig(limits=LIMITS)
    pool = rig.open()
    volumes.create(pool, "v", 1 * MIB)
    put(pool, "v", 0, pattern(1, MIB))
    filled_up(pool, "rest")
    table = pool.state.tables[pool.state.names["v"]]
    pool.state.pins.append(pool.state.forest.clone(table, passing=True))
    put(pool, "v", 0, pattern(2))
    settle(Cleaner(pool).round())
    put(pool, "v", BLOCK, pattern(2))


def test_what_was_shared_since_the_marking_is_kept() -> None:
    rig = Rig(limits=LIMITS)
    pool = rig.open()
    volumes.create(pool, "v", 1 * MIB)
    volumes.create(pool, "w", 1 * MIB)
    put(pool, "v", 0, pattern(1, MIB))
    filled_up(pool, "rest")
    relations.establish(pool, [Wish("v", "w")], once=True)
    for name in ("v", "w"):
        with pytest.raises(NoSpace, match="keeps"):
            put(pool, name, 0, pattern(2))
    put(pool, "rest", 0, pattern(2))


@pytest.mark.parametrize("way", ["discard", "delete"])
def test_what_is_given_up_can_be_used_again_at_once(way: str) -> None:
    _, pool, mapped = full_pool()
    if way == "discard":
        device(pool, "v").discard(0, mapped // 2)
        pool.commit()
    else:
        volumes.delete(pool, "v")
        volumes.create(pool, "v", 64 * MIB)
    settle(Cleaner(pool).round())
    assert not pool.space.full
    put(pool, "v", 50 * MIB, pattern(3))
    assert get(pool, "v", 50 * MIB, BLOCK) == pattern(3)
