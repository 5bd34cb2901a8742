"""Ranges of track tables against plain dictionaries."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from isochrone.store import ranges
from isochrone.store.ranges import CHUNK_BLOCKS, TRACK_BLOCKS
from isochrone.store.tracks import CHUNK_LEAVES, LEAF_BLOCKS, Forest, Table

SPAN = 2 * CHUNK_BLOCKS + 4 * LEAF_BLOCKS
EDGES = [0, LEAF_BLOCKS, 2 * LEAF_BLOCKS, CHUNK_BLOCKS, CHUNK_BLOCKS + LEAF_BLOCKS]
NEAR = st.builds(
    lambda edge, by: max(0, edge + by),
    st.sampled_from(EDGES),
    st.sampled_from([0, 0, 0, 1, 3, -1, 16, 32, -16, 100]),
)
LONG = CHUNK_BLOCKS + 3 * LEAF_BLOCKS
COUNTS = st.sampled_from(
    [1, 2, 16, 48, LEAF_BLOCKS, LEAF_BLOCKS + 16, 3 * LEAF_BLOCKS, CHUNK_BLOCKS, LONG]
)
TABLES = st.integers(0, 2)


def sums_of(first: int, count: int) -> array[int]:
    return array("Q", [n * 31 for n in range(first, first + count)])


def content(forest: Forest, table: Table) -> dict[int, int]:
    found = {}
    for index, words in forest.leaves(table):
        for at in range(LEAF_BLOCKS):
            if words[at]:
                assert words[LEAF_BLOCKS + at] == words[at] * 31
                found[index * LEAF_BLOCKS + at] = words[at]
    return found


class Machine(RuleBasedStateMachine):
    """Three tables that copy from one another; each must keep what it has until it is changed."""

    @initialize()
    def begin(self) -> None:
        self.stored: dict[int, bytes] = {}
        self.forest = Forest(lambda id: self.stored[id], budget=4 * 16 * LEAF_BLOCKS)
        self.tables = [self.forest.table() for _ in range(3)]
        self.models: list[dict[int, int]] = [{}, {}, {}]
        self.next = 1
        self.since: dict[int, tuple[int, int]] = {}  # table -> born, first node

    @rule(which=TABLES, block=NEAR, count=st.sampled_from([1, 1, 2, 20, LEAF_BLOCKS]))
    def write(self, which: int, block: int, count: int) -> None:
        first, self.next = self.next, self.next + count
        self.forest.map(self.tables[which], block, first, sums_of(first, count))
        self.models[which] |= {block + n: first + n for n in range(count)}

    @rule(which=TABLES, block=NEAR, count=COUNTS)
    def empty(self, which: int, block: int, count: int) -> None:
        ranges.empty(self.forest, self.tables[which], block, count)
        model = self.models[which]
        self.models[which] = {b: p for b, p in model.items() if not block <= b < block + count}

    @rule(pairs=st.lists(st.tuples(TABLES, NEAR, TABLES, NEAR, COUNTS), min_size=1, max_size=3))
    def copy(self, pairs: list[tuple[int, int, int, int, int]]) -> None:
        """One command: every source as it was before any target changed."""
        forest = self.forest
        before = [(forest.clone(table), dict(model)) for table, model in self.both()]
        targets = [self.tables[target] for _, _, target, _, _ in pairs]
        forest.seal(targets)
        for source, first, target, at, count in pairs:
            image, model = before[source]
            ranges.copy_range(forest, image, first, self.tables[target], at, count)
            inside = {at + b - first: p for b, p in model.items() if first <= b < first + count}
            kept = self.models[target].items()
            self.models[target] = {b: p for b, p in kept if not at <= b < at + count} | inside
        forest.seal(targets)
        for _, _, target, _, _ in pairs:
            self.since[target] = (self.next, forest.next_id)

    def both(self) -> list[tuple[Table, dict[int, int]]]:
        return list(zip(self.tables, self.models, strict=True))

    @rule(which=TABLES, block=NEAR, count=COUNTS)
    def withdraw(self, which: int, block: int, count: int) -> None:
        """Tracks that were not written since the last copy onto this table become holes."""
        if which not in self.since:
            return
        block -= block % TRACK_BLOCKS
        born, first_node = self.since.pop(which)
        ranges.empty_old_tracks(
            self.forest, self.tables[which], block, count, born=born, first_node=first_node
        )
        model, end = self.models[which], block + count
        new = {b // TRACK_BLOCKS for b, p in model.items() if p >= born and block <= b < end}
        self.models[which] = {
            b: p for b, p in model.items() if not block <= b < end or b // TRACK_BLOCKS in new
        }

    @rule(one=TABLES, first=NEAR, other=TABLES, at=NEAR, count=COUNTS)
    def compare(self, one: int, first: int, other: int, at: int, count: int) -> None:
        found, left = ranges.tracks_that_differ(
            self.forest, self.tables[one], first, self.tables[other], at - at % 16, count, 10_000
        )
        at -= at % TRACK_BLOCKS
        a = {b - first: p for b, p in self.models[one].items() if first <= b < first + count}
        b = {b - at: p for b, p in self.models[other].items() if at <= b < at + count}
        expected = {n // TRACK_BLOCKS for n in a.keys() | b.keys() if a.get(n) != b.get(n)}
        assert left > 0
        assert found == len(expected)

    @rule()
    def checkpoint(self) -> None:
        nodes = self.forest.freeze(self.tables)
        self.stored |= {id: node.words.tobytes() for id, node in nodes.items()}
        self.forest.saved()

    @invariant()
    def holds(self) -> None:
        for table, model in self.both() if hasattr(self, "tables") else []:
            assert content(self.forest, table) == model


TestRanges = Machine.TestCase
TestRanges.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def forest_of(stored: dict[int, bytes] | None = None) -> Forest:
    store = stored if stored is not None else {}
    return Forest(store.__getitem__)


def copied(forest: Forest, source: Table, first: int, target: Table, at: int, count: int) -> None:
    image = forest.clone(source)
    forest.seal([target])
    ranges.copy_range(forest, image, first, target, at, count)
    forest.seal([target])


def test_whole_chunks_are_shared_by_their_ids() -> None:
    forest = forest_of()
    source, target = forest.table(), forest.table()
    for chunk in range(8):
        forest.map(source, chunk * CHUNK_BLOCKS + 5, 100 + chunk, sums_of(100 + chunk, 1))
    nodes = forest.next_id
    copied(forest, source, 0, target, 0, 8 * CHUNK_BLOCKS)
    assert forest.next_id == nodes, "a node was made"
    assert target.root == source.root


def test_leaves_are_shared_where_only_chunks_lie_apart() -> None:
    forest = forest_of()
    source, target = forest.table(), forest.table()
    for leaf in range(CHUNK_LEAVES):
        forest.map(source, leaf * LEAF_BLOCKS, 100 + leaf, sums_of(100 + leaf, 1))
    nodes = forest.next_id
    copied(forest, source, 0, target, 7 * LEAF_BLOCKS, CHUNK_BLOCKS)
    assert forest.next_id - nodes == 2, "more than the two chunks of the target were made"


def test_a_copy_of_what_is_there_already_makes_nothing() -> None:
    forest = forest_of()
    source, target = forest.table(), forest.table()
    forest.map(source, 10, 100, sums_of(100, 40))
    copied(forest, source, 0, target, 16, 64)
    nodes, target.changed = forest.next_id, False
    copied(forest, source, 0, target, 16, 64)
    assert forest.next_id == nodes
    assert not target.changed


def test_discarding_what_nobody_wrote_looks_at_no_leaf() -> None:
    """After a restart every node is in the store; only those that changed may be loaded."""
    stored: dict[int, bytes] = {}
    first = forest_of(stored)
    source, target = first.table(), first.table()
    for leaf in range(64):
        first.map(source, leaf * LEAF_BLOCKS, 100 + leaf, sums_of(100 + leaf, 1))
    copied(first, source, 0, target, 0, CHUNK_BLOCKS)
    first_node = first.next_id
    first.map(target, 3, 900, sums_of(900, 1))
    for id, node in first.freeze([source, target]).items():
        stored[id] = node.words.tobytes()
    loaded: list[int] = []

    def load(id: int) -> bytes:
        loaded.append(id)
        return stored[id]

    again = Forest(load, next_id=first.next_id)
    table = Table(array("Q", target.root), 1)
    ranges.empty_old_tracks(again, table, 0, CHUNK_BLOCKS, born=900, first_node=first_node)
    assert content(again, table) == {3: 900, 0: 100}
    assert len(loaded) == 2, "the chunk, and the leaf that was written"


def test_a_comparison_ends_with_its_budget() -> None:
    forest = forest_of()
    source, target = forest.table(), forest.table()
    for leaf in range(10):
        forest.map(source, leaf * LEAF_BLOCKS, 100 + leaf, sums_of(100 + leaf, 1))
    whole = ranges.tracks_that_differ(forest, source, 0, target, 0, CHUNK_BLOCKS, 11)
    part = ranges.tracks_that_differ(forest, source, 0, target, 0, CHUNK_BLOCKS, 4)
    assert whole == (10, 1)
    assert part == (4, 0)


@pytest.mark.parametrize(
    ("first", "at", "expected"),
    [(0, 0, False), (LEAF_BLOCKS, 5 * LEAF_BLOCKS, False), (16, 0, True), (16, 16, False)],
)
def test_what_is_misaligned(first: int, at: int, expected: bool) -> None:
    assert ranges.misaligned(first, at) is expected
