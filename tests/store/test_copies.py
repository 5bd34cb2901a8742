from __future__ import annotations

import pytest

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.store import copies, volumes
from isochrone.store.copies import MEMBERS_MAX
from isochrone.store.format import SEGMENT_BYTES
from isochrone.store.pool import Limits, Pool
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, client, device, get, pattern, put, settle


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def pool(rig: Rig) -> Pool:
    pool = rig.open()
    for n, name in enumerate("abc"):
        volumes.create(pool, name, MIB)
        put(pool, name, 0, pattern(n))
    return pool


def test_a_copy_of_several_volumes_is_one_record(pool: Pool) -> None:
    lsn = pool.log.lsn
    copy = copies.take(pool, ["c", "a"], name="t0")
    assert pool.log.lsn == lsn + 1 == copy.lsn
    assert [s for s, _ in copy.members] == [3, 1]
    for n, name in enumerate("abc"):
        put(pool, name, 0, pattern(10 + n))
    assert get(pool, "a@t0", 0, BLOCK) == pattern(0)
    assert get(pool, "c@t0", 0, BLOCK) == pattern(2)
    assert "b@t0" not in pool.state.names


def test_a_copy_is_taken_after_what_was_staged_before_it(pool: Pool) -> None:
    """Staged and not yet committed: it was written before the copy was asked for."""
    device(pool, "a").write(0, memoryview(pattern(50)))
    copies.take(pool, ["a"], name="t0")
    device(pool, "a").write(0, memoryview(pattern(51)))
    pool.commit()
    assert get(pool, "a@t0", 0, BLOCK) == pattern(50)
    assert get(pool, "a", 0, BLOCK) == pattern(51)


def test_clones_and_sources_go_their_own_ways(pool: Pool, rig: Rig) -> None:
    copies.take(pool, ["a"], name="s")
    copies.take(pool, ["a@s"], name="one", writable=True)
    copies.take(pool, ["a@s@one"], name="two", writable=True)
    put(pool, "a", 0, pattern(20))
    put(pool, "a@s@one", 0, pattern(21))
    put(pool, "a@s@one@two", 5 * BLOCK, pattern(22))
    for again in (False, True):
        if again:
            settle(pool.flush())
            pool = rig.cut()
        assert get(pool, "a", 0, BLOCK) == pattern(20)
        assert get(pool, "a@s", 0, BLOCK) == pattern(0)
        assert get(pool, "a@s@one", 0, BLOCK) == pattern(21)
        assert get(pool, "a@s@one@two", 0, BLOCK) == pattern(0)
        assert get(pool, "a@s@one@two", 5 * BLOCK, BLOCK) == pattern(22)
        assert get(pool, "a@s@one", 5 * BLOCK, BLOCK) == bytes(BLOCK)


def test_a_copy_outlives_its_source_and_the_other_way_round(pool: Pool) -> None:
    copies.take(pool, ["a", "b"], name="s", writable=True)
    volumes.delete(pool, "a")
    assert get(pool, "a@s", 0, BLOCK) == pattern(0)
    assert pool.state.describe(volumes.find(pool, "a@s")) == "clone of a deleted volume"
    put(pool, "a@s", 0, pattern(30))
    copies.delete(pool, "s")
    assert get(pool, "b", 0, BLOCK) == pattern(1)
    assert sorted(pool.state.names) == ["b", "c"]


def test_a_source_deleted_and_made_again_is_another_one(pool: Pool) -> None:
    copies.take(pool, ["a"], name="s")
    volumes.delete(pool, "a")
    volumes.create(pool, "a", MIB)
    with pytest.raises(Conflict):
        copies.take(pool, ["a"], name="s")
    copies.take(pool, ["a"], name="s2")
    assert get(pool, "a@s", 0, BLOCK) == pattern(0)
    assert get(pool, "a@s2", 0, BLOCK) == bytes(BLOCK)


def test_taking_a_copy_touches_no_block() -> None:
    """Flat in the bytes used."""
    rig = Rig(limits=Limits(SEGMENT_BYTES))
    pool = rig.open()
    volumes.create(pool, "big", 1 << 40)
    for n in range(400):
        put(pool, "big", n << 31, pattern(n))
    settle(pool.checkpoint())
    calls = rig.platter.calls
    appended = pool.log.bytes_appended
    nodes = pool.state.forest.next_id
    copies.take(pool, ["big"], name="s")
    assert rig.platter.calls == calls + 1  # the append
    assert pool.log.bytes_appended == appended + BLOCK
    assert pool.state.forest.next_id == nodes


def test_what_held_still_is_on_record(pool: Pool, rig: Rig) -> None:
    copies.take(pool, ["a"], name="t0")
    assert copies.find_copy(pool, "t0").consistency == "crash"
    lsn = pool.log.lsn
    copies.classify(pool, "t0", "crash")
    assert pool.log.lsn == lsn, "nothing new"
    copies.classify(pool, "t0", "application")
    assert copies.find_copy(pool, "t0").consistency == "application"
    with pytest.raises(NotFound):
        copies.classify(pool, "t1", "application")
    settle(pool.flush())
    again = rig.cut()
    assert copies.find_copy(again, "t0").consistency == "application"


def test_names_that_nobody_gave_are_times(pool: Pool) -> None:
    first = copies.take(pool, ["a"])
    second = copies.take(pool, ["a"])
    third = copies.take(pool, ["b"])
    assert [c.name for c in (first, second, third)] == [
        "20270115T080000Z",
        "20270115T080000Z-2",
        "20270115T080000Z-3",
    ]


def test_refusals_change_nothing(pool: Pool) -> None:
    copies.take(pool, ["a"], name="s")
    lsn = pool.log.lsn
    for error, call in (
        (Conflict, lambda: copies.take(pool, ["b"], name="s")),
        (InvalidInput, lambda: copies.take(pool, [], name="t")),
        (InvalidInput, lambda: copies.take(pool, ["a", "a"], name="t")),
        (InvalidInput, lambda: copies.take(pool, ["a"], name="t@u")),
        (InvalidInput, lambda: copies.take(pool, [f"v{n}" for n in range(5000)], name="t")),
        (NotFound, lambda: copies.take(pool, ["a", "no"], name="t")),
        (NotFound, lambda: copies.delete(pool, "no")),
        (NotFound, lambda: copies.find_copy(pool, "no")),
    ):
        with pytest.raises(error):
            call()
    assert pool.log.lsn == lsn
    assert list(pool.state.copies) == ["s"]


def test_a_copy_in_use_stays(pool: Pool) -> None:
    copy = copies.take(pool, ["a", "b"], name="s")
    pool.attached.attach(copy.members[1][1], client())
    with pytest.raises(Conflict, match="'b@s' is in use by client"):
        copies.delete(pool, "s")
    pool.attached.detach(copy.members[1][1], client())
    copies.delete(pool, "s")
    assert pool.state.copies == {}


def test_the_largest_copy_is_one_record_that_recovery_takes() -> None:
    rig = Rig(limits=Limits(SEGMENT_BYTES))
    pool = rig.open()
    name = "n" * 100
    every = [f"{name}-{n}" for n in range(MEMBERS_MAX)]
    for each in every:
        volumes.create(pool, each, MIB)
    copies.take(pool, every, name="all")
    assert pool.log.lsn == MEMBERS_MAX + 1
    pool = rig.kill()
    assert len(pool.state.copies["all"].members) == MEMBERS_MAX
