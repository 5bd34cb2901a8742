"""What is sent of a table is what it maps, and of marked tracks what it does not map as well."""

from __future__ import annotations

from array import array
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from isochrone.mirror import images
from isochrone.mirror.images import CHUNK_TRACKS, TRACK_BLOCKS
from isochrone.mirror.messages import HOLES_MAX
from isochrone.mirror.sidefile import Blocks, HoleRanges
from isochrone.mirror.wire import DATA_BLOCKS_MAX
from isochrone.store.ranges import CHUNK_BLOCKS
from isochrone.store.tracks import LEAF_BLOCKS, Forest, Table
from tests.mirror.leaves import leaf

BLOCKS = 3 * LEAF_BLOCKS


def nothing(id: int) -> bytes:
    raise AssertionError(id)


def table_of(mapped: dict[int, int]) -> tuple[Forest, Table]:
    forest = Forest(nothing)
    table = forest.table()

    for block, pointer in mapped.items():
        forest.map(table, block, pointer, array("Q", [pointer + 7]))
    return forest, table


def gathered(items: Any) -> tuple[dict[int, int], set[int]]:
    """(block -> pointer, holes), and each block only once."""
    found: dict[int, int] = {}
    holes: set[int] = set()
    for item in items:
        match item:
            case Blocks():
                assert 0 < len(item.blocks) <= DATA_BLOCKS_MAX
                assert list(item.blocks) == sorted(item.blocks)
                for block, pointer, sum in zip(item.blocks, item.pointers, item.sums, strict=True):
                    assert block not in found
                    assert sum == pointer + 7
                    found[block] = pointer
            case HoleRanges(ranges=ranges):
                assert 0 < len(ranges) <= HOLES_MAX
                for volume, at, count in ranges:
                    assert volume == 5
                    assert holes.isdisjoint(range(at, at + count))
                    holes.update(range(at, at + count))
    return found, holes


maps = st.dictionaries(st.integers(0, BLOCKS - 1), st.integers(1, 1 << 40), max_size=60)


@given(maps, st.integers(0, BLOCKS), st.integers(0, BLOCKS))
def test_everything_of_a_range(mapped: dict[int, int], start: int, stop: int) -> None:
    forest, table = table_of(mapped)
    found, holes = gathered(images.everything(forest, 5, table, start, stop))
    assert found == {at: pointer for at, pointer in mapped.items() if start <= at < stop}
    assert not holes


@given(maps, st.sets(st.integers(0, BLOCKS // TRACK_BLOCKS + 40)), st.integers(1, BLOCKS))
def test_marked_tracks(mapped: dict[int, int], marked: set[int], blocks: int) -> None:
    mapped = {at: pointer for at, pointer in mapped.items() if at < blocks}
    forest, table = table_of(mapped)
    wanted = {
        at
        for track in marked
        for at in range(track * TRACK_BLOCKS, min(blocks, (track + 1) * TRACK_BLOCKS))
    }
    found, holes = gathered(images.of_tracks(forest, 5, table, BitMap(marked), blocks))
    assert found == {at: pointer for at, pointer in mapped.items() if at in wanted}
    assert holes == wanted - mapped.keys()
    found, again = gathered(images.of_tracks(forest, 5, table, BitMap(marked), blocks, data=False))
    assert not found
    assert again == holes


@pytest.mark.parametrize("at", [0, CHUNK_TRACKS - 1, CHUNK_TRACKS, 5 * CHUNK_TRACKS + 3])
def test_far_apart(at: int) -> None:
    block = at * TRACK_BLOCKS + 3
    forest, table = table_of({block: 99})
    marked = BitMap([at, at + 9 * CHUNK_TRACKS])
    found, holes = gathered(images.of_tracks(forest, 5, table, marked, 20 * CHUNK_BLOCKS))
    assert found == {block: 99}
    assert len(holes) == 2 * TRACK_BLOCKS - 1
    assert next(images.everything(forest, 5, table, 0, 10)) is None or at == 0


def test_a_huge_discard_is_few_ranges() -> None:
    forest, table = table_of({})
    marked = BitMap(range(4 * CHUNK_TRACKS))
    items = [i for i in images.of_tracks(forest, 5, table, marked, 1 << 40) if i is not None]
    assert len(items) == 4
    assert all(len(item.ranges) == 1 for item in items if isinstance(item, HoleRanges))


@given(maps, maps)
def test_differences(one: dict[int, int], more: dict[int, int]) -> None:
    forest, table = table_of(one)
    before = forest.clone(table)

    for block, pointer in more.items():
        forest.map(table, block, pointer, array("Q", [pointer + 7]))
    looking = images.difference(forest, table, before, BLOCKS)
    steps = 0
    try:
        while True:
            next(looking)
            steps += 1
    except StopIteration as end:
        found = end.value
    assert steps >= 1
    assert set(found) == {at // TRACK_BLOCKS for at in more if one.get(at) != more[at]}


def test_leaves_that_are_mapped() -> None:
    dice = Random(1)
    blocks = [dice.randrange(CHUNK_BLOCKS * 2) for _ in range(20)]
    forest, table = table_of({at: 1 + at for at in blocks})
    assert images.leaves_mapped(forest, table) == len({at // LEAF_BLOCKS for at in blocks})
    assert images.leaves_mapped(forest, forest.table()) == 0


def test_a_leaf_is_sent_in_frames_of_mapped_blocks() -> None:
    words = leaf({at: (100 + at, 7 * at + 1) for at in range(0, LEAF_BLOCKS, 2)})
    items = list(images.leaf_items(5, 1 << 20, words))
    assert max(len(item.blocks) for item in items) <= DATA_BLOCKS_MAX
    found = [row for i in items for row in zip(i.blocks, i.pointers, i.sums, strict=True)]
    assert found == [((1 << 20) + at, 100 + at, 7 * at + 1) for at in range(0, LEAF_BLOCKS, 2)]


def test_a_part_of_a_leaf() -> None:
    words = leaf({3: (9, 1), 4: (10, 2), 8: (11, 3)})
    (item,) = images.leaf_items(5, 64, words, 4, 8)
    assert (list(item.blocks), list(item.pointers), list(item.sums)) == ([68], [10], [2])
    assert list(images.leaf_items(5, 64, words, 5, 8)) == []
