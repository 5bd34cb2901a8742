"""The way back from places to volumes: what a walk of each table by itself says."""

from __future__ import annotations

from random import Random

import pytest

from isochrone.errors import Unavailable
from isochrone.store.owners import Nodes, find
from isochrone.store.tracks import LEAF_BLOCKS, Forest, Table
from tests.store.sweeps import Reader
from tests.store.test_capacity import build


def references(forest: Forest, tables: list[Table]) -> dict[tuple[int, int], set[int]]:
    """(pointer, block) -> tables."""
    found: dict[tuple[int, int], set[int]] = {}
    for n, table in enumerate(tables):
        for index, words in forest.leaves(table):
            for at in range(LEAF_BLOCKS):
                if words[at]:
                    found.setdefault((words[at], index * LEAF_BLOCKS + at), set()).add(n)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_all_references_are_found(seed: int) -> None:
    random = Random(seed)
    forest, tables = build(random, 6)
    known = references(forest, tables)
    wanted = set(random.sample(sorted({p for p, _ in known}), 10)) | {1 << 40}
    found = find([t.root.tobytes() for t in tables], Reader(forest), wanted, ())
    assert {(r.pointer, r.block): r.tables for r in found} == {
        key: them for key, them in known.items() if key[0] in wanted
    }
    assert all(r.blocks == 1 and r.sum for r in found)


def test_a_lost_leaf_and_a_lost_chunk() -> None:
    forest, tables = build(Random(3), 4)
    roots = [t.root.tobytes() for t in tables]
    leaves: dict[tuple[int, int], set[int]] = {}
    for n, table in enumerate(tables):
        for index, leaf in forest.leaf_ids(table):
            leaves.setdefault((leaf, index), set()).add(n)
    (leaf, index), whose = max(leaves.items(), key=lambda item: len(item[1]))
    nodes = Nodes(Reader(forest, [leaf]))
    (found,) = find(roots, nodes, [], [leaf])
    assert (found.node, found.block, found.blocks) == (leaf, index * LEAF_BLOCKS, LEAF_BLOCKS)
    assert found.tables == whose
    chunk = tables[0].root[0]
    (found,) = find(roots, Nodes(Reader(forest, [chunk])), [], [chunk])
    assert (found.block, found.blocks) == (0, 512 * LEAF_BLOCKS)
    assert found.tables == {n for n, t in enumerate(tables) if t.root[0] == chunk}


def test_damaged_nodes_are_noted_and_read_past() -> None:
    forest, tables = build(Random(3), 1)
    ids = [leaf for _, leaf in forest.leaf_ids(tables[0])]
    nodes = Nodes(Reader(forest, [ids[1]]))
    words = list(nodes(ids))
    assert list(nodes.damaged) == [ids[1]]
    assert not any(words[1])
    assert all(any(words[n]) for n in range(len(ids)) if n != 1)
    assert nodes.count == len(ids)


def test_a_sweep_can_be_stopped() -> None:
    forest, tables = build(Random(3), 1)
    with pytest.raises(Unavailable):
        find([tables[0].root.tobytes()], Nodes(Reader(forest), lambda: True), [1], ())
