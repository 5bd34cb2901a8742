"""What several tables keep: never missed, and right after a marking never said without need."""

from __future__ import annotations

from array import array
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import IsochroneError
from isochrone.store import copies, relations, revert, volumes
from isochrone.store.cleaner import Cleaner
from isochrone.store.format import pointer
from isochrone.store.kept import Ids, Kept, by_segment
from isochrone.store.pool import Pool
from isochrone.store.relations import Span, Wish
from isochrone.types import BLOCK, MIB, TRACK
from tests.store.pools import Rig, device, pattern, settle

SLOTS = 20  # no multiple of eight
BLOCKS = 4 * MIB // BLOCK


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=6))
def test_ids_are_met_once_or_again(rows: list[list[int]]) -> None:
    ids, counts = Ids(), Counter(id for row in rows for id in row if id)
    for row in rows:
        ids.add(np.array(row, np.uint64))
    assert ids.met == set(counts)
    assert ids.again == {id for id, count in counts.items() if count > 1}


def test_whatever_is_below_a_node_met_again_is_met_again() -> None:
    ids = Ids()
    ids.add(np.array([0, 5, 6], np.uint64), again=True)
    assert ids.met == ids.again == {5, 6}


Places = st.sets(st.tuples(st.integers(1, 3), st.integers(1, SLOTS - 1)), max_size=20)


@given(Places, Places)
def test_among_knows_each_slot(added: set[tuple[int, int]], asked: set[tuple[int, int]]) -> None:
    kept = Kept(SLOTS)
    for segment, slot in sorted(added):
        kept.add(segment, np.array([slot]))
    assert kept.among(array("Q", [pointer(*place) for place in asked])) is bool(added & asked)


def test_no_pointers_are_in_no_segment() -> None:
    assert list(by_segment(np.array([], np.uint64))) == []


# -- against a count over all tables


def shared(pool: Pool) -> set[int]:
    """Pointers that more than one block of any table has, pool-wide."""
    forest, passing = pool.state.forest, pool.state.passing()
    counts: Counter[int] = Counter()
    for id, table in pool.state.tables.items():
        if id not in passing:
            counts.update(forest.row(table, 0, BLOCKS)[0])
    return {p for p, count in counts.items() if p and count > 1}


def compare(pool: Pool, *, exactly: bool) -> None:
    found = shared(pool)
    for id, table in pool.state.tables.items():
        row = pool.state.forest.row(table, 0, BLOCKS)[0]
        for n, p in enumerate(row):
            if p:
                said = pool.space.keeps(table, row[n : n + 1])
                assert said or p not in found, (id, n)
                assert not (exactly and said) or p in found, (id, n)


def change(pool: Pool, dice: Random, step: int) -> None:
    """One change of any kind; what is refused changes nothing."""
    state = pool.state
    names = sorted(state.names)
    one, other = dice.choice(names), dice.choice("abc")
    match dice.randrange(9):
        case 0:
            copies.take(pool, [one], name=f"c{step}", writable=dice.random() < 0.7)
        case 1 if state.copies:
            copies.delete(pool, dice.choice(sorted(state.copies)))
        case 2 | 3:
            tracks = BLOCKS * BLOCK // TRACK
            length = dice.randint(1, 20)
            at = [dice.choice([0, 1, 20, tracks - length]) * TRACK for _ in range(2)]
            wish = Wish(one, other, (Span(at[0], at[1], length * TRACK),))
            relations.establish(pool, [wish], once=dice.random() < 0.6)
        case 4 if state.relations:
            found = [state.relations[dice.choice(sorted(state.relations))]]
            act = dice.choice([relations.refresh, relations.restore, withdraw])
            act(pool, found)
        case 5 if state.copies:
            revert.revert(pool, dice.choice(sorted(state.copies)))
        case 6:
            device(pool, other).discard(dice.randrange(64) * 16 * BLOCK, 40 * BLOCK)
            pool.commit()
        case _:
            at = dice.randrange(BLOCKS - 16)
            device(pool, one).write(at * BLOCK, memoryview(pattern(step, 16 * BLOCK)))
            pool.commit()


def withdraw(pool: Pool, found: list[relations.Relation]) -> None:
    relations.withdraw(pool, found, discard=found[0].id % 2 == 0)


@pytest.mark.parametrize("seed", range(6))
def test_what_another_table_has_is_never_missed(seed: int) -> None:
    """Copies, clones, relations at any place, reverts, restarts: against the plain truth."""
    dice = Random(seed)
    rig = Rig(seed)
    pool = rig.open()
    for name in "abc":
        volumes.create(pool, name, BLOCKS * BLOCK)
        device(pool, name).write(0, memoryview(pattern(ord(name), BLOCKS * BLOCK // 2)))
    pool.commit()
    settle(Cleaner(pool).round())
    done: Counter[bool] = Counter()
    for step in range(40):
        try:
            change(pool, dice, step)
            done[True] += 1
        except IsochroneError:
            done[False] += 1
        compare(pool, exactly=False)
        if dice.random() < 0.2:
            if dice.random() < 0.4:
                pool = rig.kill()
            settle(Cleaner(pool).round())
            compare(pool, exactly=True)
    assert done[True] > done[False]
