"""Mapped and changed runs against a plain model, and the work they cost."""

from __future__ import annotations

from array import array
from itertools import pairwise
from random import Random

import pytest

from isochrone.store import extents
from isochrone.store.tracks import CHUNK_LEAVES, LEAF_BLOCKS, Forest, Table

CHUNK = CHUNK_LEAVES * LEAF_BLOCKS


class CountingForest(Forest):
    """Counts the nodes that are looked at."""

    looks = 0

    def node(self, id):
        self.looks += 1
        return super().node(id)


def forest() -> CountingForest:
    def load(id: int) -> bytes:
        raise AssertionError("everything is in memory")

    return CountingForest(load)


def write(forest: Forest, table: Table, block: int, count: int = 1, *, at: int) -> None:
    forest.map(table, block, at, array("Q", [1] * count))


def flat(runs: list[tuple[int, bool]]) -> list[bool]:
    return [mark for blocks, mark in runs for _ in range(blocks)]


def test_an_empty_table_is_one_run() -> None:
    f = forest()
    assert extents.mapped(f, f.table(), 5, 10, 9) == [(10, False)]
    assert extents.mapped(f, f.table(), 0, 1 << 34, 9) == [(1 << 34, False)]
    assert extents.changed(f, f.table(), f.table(), 0, 1 << 34, 9) == [(1 << 34, False)]


def test_runs_join_over_leaves_and_chunks() -> None:
    f = forest()
    table = f.table()
    write(f, table, CHUNK - 3, 6, at=100)
    runs = [(CHUNK - 3, False), (6, True), (CHUNK - 3, False)]
    assert extents.mapped(f, table, 0, 2 * CHUNK, 9) == runs
    assert extents.changed(f, table, f.table(), 0, 2 * CHUNK, 9) == runs
    assert extents.changed(f, f.table(), table, 0, 2 * CHUNK, 9) == runs


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_an_answer_ends_at_its_limit(limit) -> None:
    f = forest()
    table = f.table()
    for i in range(0, 20, 2):
        write(f, table, i, at=100 + i)
    assert extents.mapped(f, table, 0, 20, limit) == [(1, i % 2 == 0) for i in range(limit)]


def test_pieces_of_an_answer_end_after_so_many_leaves_and_add_up() -> None:
    f = forest()
    table = f.table()
    whole = 3 * extents.LEAVES_MAX * LEAF_BLOCKS
    write(f, table, 0, at=1)
    write(f, table, whole - 1, at=2)
    for index in range(0, 3 * extents.LEAVES_MAX, CHUNK_LEAVES):  # every chunk exists
        write(f, table, index * LEAF_BLOCKS + 7, at=3 + index)
    f.looks = 0
    (*_, (last, _)) = first = extents.mapped(f, table, 0, whole, 1000)
    assert sum(blocks for blocks, _ in first) == extents.LEAVES_MAX * LEAF_BLOCKS
    assert last > 0
    assert f.looks <= 2 * extents.LEAVES_MAX
    block = marked = 0
    while block < whole:
        runs = extents.mapped(f, table, block, whole - block, 1000)
        marked += sum(blocks for blocks, mark in runs if mark)
        block += sum(blocks for blocks, _ in runs)
    assert block == whole
    assert marked == 2 + 3 * extents.LEAVES_MAX // CHUNK_LEAVES


def test_what_changed_since_a_copy() -> None:
    f = forest()
    table = f.table()
    write(f, table, 0, 50, at=100)
    copy = f.clone(table)
    assert extents.changed(f, table, copy, 0, 100, 9) == [(100, False)]
    write(f, table, 10, 2, at=500)  # overwritten
    f.unmap(table, 20, 3)  # discarded
    write(f, table, 60, 1, at=600)  # new
    write(f, table, 70, 1, at=700)  # new, and gone again
    f.unmap(table, 70, 1)
    want = {10, 11, 20, 21, 22, 60}
    assert flat(extents.changed(f, table, copy, 0, 100, 99)) == [i in want for i in range(100)]
    assert flat(extents.changed(f, table, copy, 11, 10, 99)) == [i in want for i in range(11, 21)]


def test_the_work_follows_the_difference_and_not_the_size() -> None:
    f = forest()
    table = f.table()
    for at in range(64):  # 128 GiB, every chunk and 32 leaves of each exist
        for low in range(0, CHUNK_LEAVES, 16):
            write(f, table, at * CHUNK + low * LEAF_BLOCKS, at=1 + at * 4096 + low)
    copy = f.clone(table)
    write(f, table, 40 * CHUNK + 5, at=10**6)
    f.looks = 0
    runs = extents.changed(f, table, copy, 0, 64 * CHUNK, 99)
    assert [r for r in runs if r[1]] == [(1, True)]
    assert f.looks <= 2 * CHUNK_LEAVES + 2


@pytest.mark.parametrize("seed", range(20))
def test_any_history_agrees_with_a_list(seed) -> None:
    random = Random(seed)
    f, span, place = forest(), 3 * LEAF_BLOCKS, 1
    table, model = f.table(), [0] * span
    copies: list[tuple[Table, list[int]]] = []
    for _ in range(60):
        start = random.randrange(span)
        count = min(random.choice([1, 3, 40, LEAF_BLOCKS]), span - start)
        match random.randrange(5):
            case 0:
                copies.append((f.clone(table), list(model)))
            case 1:
                f.unmap(table, start, count)
                model[start : start + count] = [0] * count
            case _:
                write(f, table, start, count, at=place)
                model[start : start + count] = range(place, place + count)
                place += count
    first = random.randrange(span)
    count = random.randrange(1, span - first + 1)
    here = model[first : first + count]
    assert flat(extents.mapped(f, table, first, count, span)) == [p != 0 for p in here]
    for copy, old in copies:
        runs = extents.changed(f, table, copy, first, count, span)
        before = old[first : first + count]
        assert flat(runs) == [a != b for a, b in zip(here, before, strict=True)]
        assert all(a[1] != b[1] for a, b in pairwise(runs))
