"""Damaged blocks heal in place: for all that share them, for good, with nothing but themselves."""

from __future__ import annotations

import pytest

from isochrone.errors import Damaged
from isochrone.mirror import groups
from isochrone.store import copies, mend, volumes
from isochrone.store.check import findings
from isochrone.store.cleaner import Cleaner
from isochrone.store.format import checksum
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, device, get, pattern
from tests.store.test_reread import spoil


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def shared(rig: Rig) -> Pool:
    """A volume of a group and a copy, which share blocks."""
    pool = rig.open()
    volumes.create(pool, "a", 16 * MIB)
    volumes.create(pool, "other", MIB)
    groups.create(pool, "g", ["a"])
    for block in range(6):
        device(pool, "a").write(block * BLOCK, memoryview(pattern(block)))
        pool.commit()
    device(pool, "other").write(0, memoryview(pattern(77)))
    pool.commit()
    copies.take(pool, ["a"], name="c")
    device(pool, "a").write(5 * BLOCK, memoryview(pattern(55)))
    pool.commit()
    return pool


def spots(pool: Pool, name: str, *blocks: int) -> list[mend.Spot]:
    return [(pool.state.names[name], block) for block in blocks]


async def damage(pool: Pool) -> dict[int, int]:
    found = mend.births(
        pool, [*spots(pool, "a", *range(9)), *spots(pool, "a@c", *range(9)), (99, 1)]
    )
    return {birth: sum for birth, (sum, _) in found.items()}


async def test_whose_it_is_and_where(shared: Pool) -> None:
    await shared.flush()
    assert await damage(shared) == {}
    assert await mend.look_up(shared, {}) == []
    spoil(shared, "a", 2)
    spoil(shared, "a@c", 5)
    spoil(shared, "other", 0)
    first, second = sorted(
        await mend.look_up(shared, await damage(shared)), key=lambda lost: lost.block
    )
    id = shared.state.names["a"]
    assert (first.owners, first.block, first.spots) == (["a", "a@c"], 2, [(id, 2)])
    assert (second.owners, second.block, second.spots) == (["a@c"], 5, [(id, 5)])
    (other,) = await mend.look_up(
        shared, {b: s for b, (s, _) in mend.births(shared, spots(shared, "other", 0)).items()}
    )
    assert (other.owners, other.spots) == (["other"], [])


async def test_all_that_share_it_heal_and_stay_so(rig: Rig, shared: Pool) -> None:
    await shared.flush()
    spoil(shared, "a", 2, 3)
    spoil(shared, "a@c", 5)
    lost = await damage(shared)
    assert len(lost) == 3
    assert len(list(findings(shared))) == 5, "two of them in both"
    by_sum = {checksum(pattern(n)): pattern(n) for n in (2, 3, 5)}
    healed = await mend.heal(shared, {b: (s, by_sum[s]) for b, s in lost.items()})
    assert healed == set(lost)
    assert list(findings(shared)) == []
    for name, last in (("a", 55), ("a@c", 5)):
        assert get(shared, name, 2 * BLOCK, BLOCK) == pattern(2)
        assert get(shared, name, 5 * BLOCK, BLOCK) == pattern(last)
    await Cleaner(shared).round()
    assert list(findings(shared)) == []
    await shared.flush()
    again = rig.kill()  # by the log alone
    assert list(findings(again)) == []
    assert get(again, "a@c", 5 * BLOCK, BLOCK) == pattern(5)


async def test_nothing_else_is_taken(shared: Pool) -> None:
    await shared.flush()
    spoil(shared, "a", 2)
    ((birth, sum),) = (await damage(shared)).items()
    at = shared.log.lsn
    for wrong in (pattern(3), pattern(2)[:-1], b""):
        with pytest.raises(Damaged, match="not that block"):
            await mend.heal(shared, {birth: (sum, wrong)})
    assert shared.log.lsn == at


async def test_a_block_that_died_meanwhile_harms_nothing(shared: Pool) -> None:
    await shared.flush()
    spoil(shared, "a@c", 5)
    ((birth, sum),) = (await damage(shared)).items()
    copies.delete(shared, "c")
    await mend.heal(shared, {birth: (sum, pattern(5))})
    await Cleaner(shared).round()
    assert not shared.log.forwarding, "nobody remembers it"
    assert list(findings(shared)) == []


async def test_search_finds_a_block_where_it_was(shared: Pool) -> None:
    await shared.flush()
    id = shared.state.names["a"]
    assert mend.search(shared, id, 5, checksum(pattern(55))) == pattern(55)
    assert mend.search(shared, id, 5, checksum(pattern(5))) == pattern(5), "the copy has it"
    assert mend.search(shared, id, 4, checksum(pattern(5))) is None
    assert mend.search(shared, id, 5, 0) is None
    assert mend.search(shared, 12345, 5, 0) is None
    spoil(shared, "a@c", 5)
    assert mend.search(shared, id, 5, checksum(pattern(5))) is None


def test_homes(shared: Pool) -> None:
    state = shared.state
    a = state.names["a"]
    assert mend.home(state, a) == mend.home(state, state.names["a@c"]) == a
    assert mend.home(state, state.names["other"]) == mend.home(state, 12345) == 0
