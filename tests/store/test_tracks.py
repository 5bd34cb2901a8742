"""Track tables against plain dictionaries, with a store that keeps what a checkpoint was given."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from isochrone.store.tracks import (
    CHUNK_LEAVES,
    LEAF_BLOCKS,
    Forest,
    Table,
    blocks_of,
)
from isochrone.types import BLOCK, GIB, TIB, VOLUME_BYTES_MAX
from tests.store.pools import mapped_blocks

CHUNK_BLOCKS = LEAF_BLOCKS * CHUNK_LEAVES
SPAN = CHUNK_BLOCKS + 8 * LEAF_BLOCKS  # what the machine uses of a table
# Where something changes: near the edges of leaves and chunks.
EDGES = [0, LEAF_BLOCKS, CHUNK_BLOCKS, CHUNK_BLOCKS + LEAF_BLOCKS]
BLOCKS = st.builds(lambda edge, by: max(0, edge + by), st.sampled_from(EDGES), st.integers(-3, 3))


def no_store(id: int) -> bytes:
    raise AssertionError(f"node {id} is not in any store")


def sums_of(first: int, count: int) -> array[int]:
    return array("Q", [n * 31 for n in range(first, first + count)])


def lookup(forest: Forest, table: Table, block: int) -> int:
    (run,) = forest.runs(table, block, 1)
    return run.pointer


class Twin:
    """A table and what it must hold."""

    def __init__(self, table: Table, model: dict[int, int]) -> None:
        self.table = table
        self.model = model  # block -> pointer
        self.saved: tuple[array[int], dict[int, int]] | None = None  # at the last freeze


class Machine(RuleBasedStateMachine):
    tables = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[int, bytes] = {}
        self.loads = 0
        # Two nodes: nearly everything that a checkpoint has is dropped and loaded again.
        self.forest = Forest(self.load, budget=2 * 16 * LEAF_BLOCKS)
        self.twins: list[Twin] = []
        self.pointer = 1 << 24
        self.saving: dict[int, bytes] = {}

    def load(self, id: int) -> bytes:
        self.loads += 1
        return self.store[id]

    def add(self, table: Table, model: dict[int, int]) -> Twin:
        twin = Twin(table, model)
        self.twins.append(twin)
        return twin

    @rule(target=tables)
    def create(self) -> Twin:
        return self.add(self.forest.table(), {})

    @rule(twin=tables, block=BLOCKS, count=st.integers(1, 5))
    def map(self, twin: Twin, block: int, count: int) -> None:
        self.forest.map(twin.table, block, self.pointer, sums_of(self.pointer, count))
        for at in range(count):
            twin.model[block + at] = self.pointer + at
        self.pointer += count + 1  # never adjacent to the next one

    @rule(
        twin=tables,
        block=BLOCKS,
        count=st.integers(1, 5) | st.sampled_from([LEAF_BLOCKS, CHUNK_BLOCKS + 3, SPAN, 1 << 34]),
    )
    def unmap(self, twin: Twin, block: int, count: int) -> None:
        self.forest.unmap(twin.table, block, count)
        for at in [at for at in twin.model if block <= at < block + count]:
            del twin.model[at]

    @rule(target=tables, twin=tables)
    def clone(self, twin: Twin) -> Twin:
        return self.add(self.forest.clone(twin.table), dict(twin.model))

    @rule(twin=consumes(tables))
    def drop(self, twin: Twin) -> None:
        self.twins.remove(twin)

    @rule()
    def freeze(self) -> None:
        """The first half of a checkpoint; what is changed from here on is not in it."""
        if self.saving:
            return
        nodes = self.forest.freeze([twin.table for twin in self.twins])
        self.saving = {id: node.words.tobytes() for id, node in nodes.items()}
        self.frozen = nodes
        for twin in self.twins:
            twin.saved = array("Q", twin.table.root), dict(twin.model)

    @rule()
    def save(self) -> None:
        """The second half: the nodes are as they were at the freeze."""
        if self.saving:
            assert self.saving == {id: node.words.tobytes() for id, node in self.frozen.items()}
            self.store.update(self.saving)
            self.saving = {}
            self.forest.saved()
            self.check_what_was_saved()

    @rule()
    def fail_to_save(self) -> None:
        """The transaction failed: the next checkpoint must have those nodes too."""
        if self.saving:
            self.saving = {}
            self.forest.not_saved()

    def check_what_was_saved(self) -> None:
        """A crash now: another process loads the roots of the freeze."""
        other = Forest(self.load, next_id=self.forest.next_id)
        for twin in self.twins:
            if twin.saved is not None:
                root, model = twin.saved
                self.check(other, Table(root, 1), model)

    def check(self, forest: Forest, table: Table, model: dict[int, int]) -> None:
        found = {}
        at = 0
        for run in forest.runs(table, 0, SPAN):
            assert run.block == at and run.blocks > 0
            at += run.blocks
            if run.pointer:
                assert run.sums == sums_of(run.pointer, run.blocks)
                for n in range(run.blocks):
                    found[run.block + n] = run.pointer + n
        assert at == SPAN
        assert found == model
        self.check_rows(forest, table, model)
        assert mapped_blocks(forest, table) == len(model)

    def check_rows(self, forest: Forest, table: Table, model: dict[int, int]) -> None:
        """`row` and `at` say what `runs` says; a row of 2.5 leaves, so that it crosses borders."""
        for first in (0, LEAF_BLOCKS // 2, SPAN - 5):
            count = min(LEAF_BLOCKS * 5 // 2, SPAN - first)
            pointers, sums = forest.row(table, first, count)
            assert pointers.tolist() == [model.get(first + n, 0) for n in range(count)]
            assert all(s == sums_of(p, 1)[0] for p, s in zip(pointers, sums, strict=True) if p)
        for block in (0, 7, LEAF_BLOCKS, SPAN - 1):
            pointer, expected = forest.at(table, block)
            assert pointer == model.get(block, 0)
            assert not pointer or expected == sums_of(pointer, 1)[0]

    @invariant()
    def every_table_is_its_model(self) -> None:
        for twin in self.twins:
            self.check(self.forest, twin.table, twin.model)

    @invariant()
    def memory_is_bounded(self) -> None:
        dirty = {**self.forest.fresh, **self.forest._saving}
        assert len(self.forest._nodes.keys() - dirty.keys()) <= 2

    @invariant()
    def what_is_reachable_can_be_had(self) -> None:
        for id in self.forest.reachable(twin.table for twin in self.twins):
            assert self.forest.node(id).id == id


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


# -- by hand


def test_an_empty_table_is_one_hole_a_leaf() -> None:
    forest = Forest(no_store)
    runs = list(forest.runs(forest.table(), LEAF_BLOCKS - 1, 3))
    assert [(run.block, run.blocks, run.pointer, len(run.sums)) for run in runs] == [
        (LEAF_BLOCKS - 1, 1, 0, 0),
        (LEAF_BLOCKS, 2, 0, 0),
    ]


def test_neighbours_in_the_log_are_one_run() -> None:
    forest = Forest(no_store)
    table = forest.table()
    forest.map(table, 10, 100, sums_of(100, 4))
    forest.map(table, 14, 104, sums_of(104, 1))
    forest.map(table, 15, 200, sums_of(200, 2))
    runs = [(run.block, run.blocks, run.pointer) for run in forest.runs(table, 9, 10)]
    assert runs == [(9, 1, 0), (10, 5, 100), (15, 2, 200), (17, 2, 0)]


@pytest.mark.parametrize("size", [64 * TIB, 64 * TIB - BLOCK, 64 * TIB - 512])
def test_the_last_block_of_the_largest_volume(size: int) -> None:
    assert size <= VOLUME_BYTES_MAX
    forest = Forest(no_store)
    table = forest.table()
    last = blocks_of(size) - 1
    forest.map(table, last, 77, sums_of(77, 1))
    forest.map(table, 0, 78, sums_of(78, 1))
    assert lookup(forest, table, last) == 77
    assert lookup(forest, table, 0) == 78
    assert mapped_blocks(forest, table) == 2
    assert len(table.root) * GIB // 2 <= 64 * TIB
    twin = forest.clone(table)
    forest.unmap(table, 0, blocks_of(size))
    assert mapped_blocks(forest, table) == 0
    assert lookup(forest, twin, last) == 77
    assert not any(run.pointer for run in forest.runs(table, last - 5, 6))


def test_a_run_over_the_border_of_two_chunks() -> None:
    forest = Forest(no_store)
    table = forest.table()
    first = CHUNK_BLOCKS - LEAF_BLOCKS - 7
    count = 3 * LEAF_BLOCKS
    forest.map(table, first, 5000, sums_of(5000, count))
    found = [run for run in forest.runs(table, 0, 2 * CHUNK_BLOCKS) if run.pointer]
    assert sum(run.blocks for run in found) == count
    for run in found:
        assert run.pointer == 5000 + run.block - first
        assert run.sums == sums_of(run.pointer, run.blocks)


def test_a_copy_costs_no_node_and_no_root() -> None:
    """Also of a table with every chunk of 64 TiB; the first that changes copies the root."""
    forest = Forest(no_store)
    table = forest.table()
    for chunk in range(64 * TIB // (2 * GIB)):
        forest.map(table, chunk * CHUNK_BLOCKS, 1000 + chunk, sums_of(1000 + chunk, 1))
        if chunk == 20:  # 64 TiB of chunks would take long to fill; the root may share
            break
    template = table.root[0]
    table.root.extend([template] * (64 * TIB // (2 * GIB) - len(table.root)))
    nodes, next_id = len(forest._nodes), forest.next_id
    copy = forest.clone(table)
    assert (len(forest._nodes), forest.next_id) == (nodes, next_id)
    assert copy.root is table.root
    assert forest.reachable([copy]) == forest.reachable([table])
    assert len(forest.reachable([table])) == 2 * 21
    before = array("Q", table.root)
    forest.map(copy, 0, 5, sums_of(5, 1))
    forest.unmap(table, CHUNK_BLOCKS, CHUNK_BLOCKS)
    assert copy.root[1:] == before[1:] and copy.root[0] != before[0]
    assert table.root[0] == before[0] and not table.root[1] and table.root[2:] == before[2:]


def test_the_first_write_after_a_copy_makes_a_chunk_and_a_leaf() -> None:
    forest = Forest(no_store)
    table = forest.table()
    for block in range(0, 8 * LEAF_BLOCKS, LEAF_BLOCKS):
        forest.map(table, block, 1 + block, sums_of(1 + block, 1))
    copy = forest.clone(table)
    before = forest.next_id
    forest.map(table, 0, 99, sums_of(99, 1))
    assert forest.next_id == before + 2
    forest.map(table, LEAF_BLOCKS, 100, sums_of(100, 1))
    assert forest.next_id == before + 3
    forest.map(table, LEAF_BLOCKS + 1, 101, sums_of(101, 1))
    assert forest.next_id == before + 3  # its own by now
    assert (lookup(forest, copy, 0), lookup(forest, table, 0)) == (1, 99)


def test_a_copy_of_a_copy_that_nobody_wrote() -> None:
    forest = Forest(no_store)
    table = forest.table()
    forest.map(table, 3, 50, sums_of(50, 1))
    copies = [table]
    for _ in range(10):
        copies.append(forest.clone(copies[-1]))
    for at, each in enumerate(copies):
        forest.map(each, 4, 1000 + at, sums_of(1000 + at, 1))
    for at, each in enumerate(copies):
        assert (lookup(forest, each, 3), lookup(forest, each, 4)) == (50, 1000 + at)


def test_discarding_everything_loads_nothing_but_its_edges() -> None:
    """A discard of 64 TiB stays cheap: whole chunks are let go unseen."""
    store: dict[int, bytes] = {}
    loads: list[int] = []

    def load(id: int) -> bytes:
        loads.append(id)
        return store[id]

    forest = Forest(load, budget=0)
    table = forest.table()
    for chunk in range(8):
        forest.map(table, chunk * CHUNK_BLOCKS + 5, 1 + chunk, sums_of(1 + chunk, 1))
    store.update({id: node.words.tobytes() for id, node in forest.freeze([table]).items()})
    forest.saved()
    other = Forest(load, next_id=forest.next_id)
    again = Table(array("Q", table.root), 1)
    loads.clear()
    other.unmap(again, 0, 1 << 34)
    assert loads == []
    assert mapped_blocks(other, again) == 0


def test_a_checkpoint_lets_go_of_what_is_over_the_budget() -> None:
    store: dict[int, bytes] = {}
    forest = Forest(store.__getitem__, budget=100 * 16 * LEAF_BLOCKS)
    table = forest.table()
    for leaf in range(400):
        forest.map(table, leaf * LEAF_BLOCKS, 1 + leaf, sums_of(1 + leaf, 1))
    assert len(forest._nodes) == 401  # none of them is anywhere else yet
    store.update({id: node.words.tobytes() for id, node in forest.freeze([table]).items()})
    forest.saved()
    assert 80 <= len(forest._nodes) <= 100
    assert [lookup(forest, table, leaf * LEAF_BLOCKS) for leaf in range(400)] == list(range(1, 401))
    assert len(forest._nodes) <= 100


def test_changed_says_whether_the_root_differs() -> None:
    forest = Forest(no_store)
    table = forest.table()
    forest.map(table, 0, 1, sums_of(1, 1))
    forest.freeze([table])
    forest.saved()
    table.changed = False
    list(forest.runs(table, 0, 10))
    forest.unmap(table, 50 * LEAF_BLOCKS, 10)
    assert not table.changed
    forest.map(table, 0, 2, sums_of(2, 1))
    assert table.changed
    table.changed = False
    forest.map(table, 1, 3, sums_of(3, 1))
    assert not table.changed  # in a chunk and a leaf that are new already
    forest.unmap(table, 0, CHUNK_BLOCKS)
    assert table.changed


def test_blocks_of() -> None:
    assert [blocks_of(size) for size in (0, 1, BLOCK, BLOCK + 1)] == [0, 1, 1, 2]
