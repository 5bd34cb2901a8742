"""Marking: exactly what the tables reach, shared leaves once, holes not at all."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isochrone.store.format import pointer
from isochrone.store.forward import Forwarding
from isochrone.store.kept import Kept
from isochrone.store.mark import BATCH_LEAVES, Marks, mark
from isochrone.store.tracks import LEAF_BLOCKS, LEAF_SHIFT, Forest, Table

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


def test_counts_follow_every_change() -> None:
    marks = Marks(8)
    marks.mark(np.array([pointer(1, 2), pointer(1, 3), pointer(2, 0)], np.uint64))
    marks.count_all()
    assert (marks.count(1), marks.count(2), marks.count(3), marks.total) == (2, 1, 0, 3)
    marks.mark(np.array([pointer(1, 7), pointer(3, 1)], np.uint64))
    marks.unmark(2, np.array([0], np.uint32))
    assert (marks.count(1), marks.count(2), marks.count(3), marks.total) == (3, 0, 1, 4)


def test_unmarking_a_segment_leaves_the_others() -> None:
    marks = Marks(SLOTS)
    marks.mark(np.array([pointer(1, 5), pointer(1, 6), pointer(2, 5)], np.uint64))
    marks.unmark(1, np.array([5], np.uint32))
    marks.unmark(9, np.array([5], np.uint32))
    assert (marks.count(1), marks.count(2), marks.count(9)) == (1, 1, 0)


def test_resolving_moves_what_lives_to_where_it_is() -> None:
    forwarding = Forwarding()
    forwarding.move(pointer(1, 5), 2, pointer(7, 3))
    forwarding.move(pointer(7, 9), 1, pointer(8, 1))  # born where others were moved to
    marks = Marks(SLOTS)
    marks.mark(np.array([pointer(1, 4), pointer(1, 5), pointer(7, 9)], np.uint64))
    marks.resolve(forwarding)
    places = {(s, int(slot)) for s in (1, 7, 8) for slot in np.flatnonzero(marks.bits(s))}
    assert places == {(1, 4), (7, 3), (8, 1)}
    assert marks.segments() == {1, 7, 8}
    marks.unmark(1, np.array([4], np.uint32))
    assert marks.segments() == {7, 8}


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


def test_what_several_tables_reach_is_kept_and_what_passes_is_not() -> None:
    """By chunk, by leaf, or by a block that lies in two leaves."""
    forest = Forest(lambda id: b"")
    born = [pointer(1, n) for n in range(1, 9)]
    table, other = forest.table(), forest.table()
    for n in range(4):
        forest.map(table, n << LEAF_SHIFT, born[n], array("Q", [7]))
    twin = forest.clone(table)
    forest.map(table, 0, born[4], array("Q", [7]))  # born[0] is the twin's alone now
    forest.map(other, 5, born[1], array("Q", [7]))  # as a relation at another place has it
    forest.map(other, 6, born[5], array("Q", [7]))
    image = forest.clone(other, passing=True)
    forest.map(other, 6, born[6], array("Q", [7]))

    def found(tables: list[Table], passing: list[Table]) -> tuple[list[int], int]:
        kept = Kept(SLOTS)
        roots, others = ([t.root.tobytes() for t in some] for some in (tables, passing))
        marks = mark(roots, read, SLOTS, kept, others)
        return [n for n, p in enumerate(born) if kept.among(array("Q", [p]))], marks.total

    def read(ids: Iterable[int]) -> Iterator[bytes]:
        return (forest.node(id).words.tobytes() for id in ids)

    assert found([table, other], [image]) == ([1], 6)
    assert found([table, twin], []) == ([1, 2, 3], 5)
    assert found([table, twin, other], [image]) == ([1, 2, 3], 7)
    assert found([other], [image]) == ([], 3)
    assert found([table, table], []) == ([1, 2, 3, 4], 4)
