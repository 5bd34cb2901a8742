"""Marking: exactly what the tables reach, shared leaves once, holes not at all."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isochrone.store.format import pointer
from isochrone.store.mark import BATCH_LEAVES, Marks, mark
from isochrone.store.tracks import LEAF_BLOCKS, LEAF_SHIFT, Forest

SLOTS = 512


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, SLOTS - 1)), max_size=50))
def test_marks_are_a_set_of_places(places: list[tuple[int, int]]) -> None:
    marks = Marks(SLOTS)
    pointers = [pointer(*place) for place in places if place != (0, 0)]
    marks.mark(np.array([*pointers, 0, 0], np.uint64))
    marks.mark(np.array(pointers, np.uint64))
    assert marks.total == len(set(places))
    for segment in range(1, 6):
        assert set(np.flatnonzero(marks.bits(segment))) == {b for a, b in places if a == segment}


def test_unmarking_a_segment_leaves_the_others() -> None:
    marks = Marks(SLOTS)
    marks.mark(np.array([pointer(1, 5), pointer(1, 6), pointer(2, 5)], np.uint64))
    marks.unmark(1, np.array([5], np.uint32))
    marks.unmark(9, np.array([5], np.uint32))
    assert (marks.count(1), marks.count(2), marks.count(9)) == (1, 1, 0)


def test_all_tables_and_only_they_are_marked() -> None:
    forest = Forest(lambda id: b"")
    table = forest.table()
    leaves = BATCH_LEAVES + 3  # more than one batch
    for n in range(leaves):
        forest.map(table, n << LEAF_SHIFT, pointer(1 + n // 400, 1 + n % 400), array("Q", [7]))
    copy = forest.clone(table)
    forest.map(table, 0, pointer(9, 1), array("Q", [7]))  # the copy alone holds the old block
    forest.unmap(table, 1 << LEAF_SHIFT, 1)
    gone = forest.table()
    forest.map(gone, 0, pointer(8, 1), array("Q", [7]))  # not among the roots
    asked: list[int] = []

    def read(ids: Iterable[int]) -> Iterator[bytes]:
        for id in ids:
            asked.append(id)
            yield forest.node(id).words.tobytes()

    marks = mark([t.root.tobytes() for t in (table, copy)], read, SLOTS)
    assert marks.total == leaves + 1
    assert marks.count(9) == 1
    assert marks.count(8) == 0
    assert len(asked) == len(set(asked)), "a shared node was read twice"
    assert len(forest.node(asked[-1]).words) == 2 * LEAF_BLOCKS
