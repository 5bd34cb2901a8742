"""Whose each block is: always what a plain list of references says."""

from __future__ import annotations

from collections import Counter as Tally
from random import Random

import numpy as np
import pytest

from isochrone.store import capacity
from isochrone.store.capacity import Counter, Holder, Pin, Root, Segment, Usage, holders, pins
from isochrone.store.catalogue import Copy, Group, Incoming, Mark, Session, Volume
from isochrone.store.format import SLOT_BITS, pointer
from isochrone.store.forward import Forwarding
from isochrone.store.records import IncomingVolume
from isochrone.store.tracks import CHUNK_LEAVES, LEAF_BLOCKS, Forest, Table
from isochrone.types import BLOCK
from tests.store.sweeps import Reader

SLOTS = 64
SEGMENTS = range(1, 40)


def build(random: Random, tables: int) -> tuple[Forest, list[Table]]:
    """Tables that were copied, written and overlaid at random; also at other places."""
    forest = Forest(lambda id: b"")
    found = [forest.table()]
    births = iter([pointer(segment, slot) for segment in SEGMENTS for slot in range(1, SLOTS)])
    places = [0, 1, LEAF_BLOCKS, LEAF_BLOCKS * CHUNK_LEAVES, LEAF_BLOCKS * CHUNK_LEAVES + 5]
    for _ in range(200):
        table = random.choice(found)
        what = random.random()
        block = random.choice(places) + random.randrange(8)
        if what < 0.7:
            birth = next(births)
            forest.map(table, block, birth, sums(birth))
        elif what < 0.8:
            forest.unmap(table, block, random.choice([1, 4, LEAF_BLOCKS]))
        elif what < 0.9 and len(found) < tables:
            found.append(forest.clone(table))
        else:  # an extent of another volume, at another place
            seen, sum = forest.at(random.choice(found), random.choice(places))
            if seen:
                forest.map(table, block, seen, sums(sum))
    return forest, found


def sums(value: int) -> object:
    from array import array

    return array("Q", [value])


def reached(forest: Forest, table: Table) -> list[int]:
    return [w for _, words in forest.leaves(table) for w in words[:LEAF_BLOCKS] if w]


@pytest.mark.parametrize("window", [1, SLOTS, 7 * SLOTS, 1 << 20])
@pytest.mark.parametrize("seed", range(12))
def test_shares_are_those_of_the_model(
    seed: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "WINDOW_SLOTS", window)
    random = Random(seed)
    forest, tables = build(random, 7)
    whose = [random.randrange(4) for _ in tables]
    roots = [Root(holder, t.root.tobytes()) for holder, t in zip(whose, tables, strict=True)]
    reader = Reader(forest)
    usage = Counter(reader, SEGMENTS, SLOTS).count(roots, 4)
    references = [reached(forest, table) for table in tables]
    owners: dict[int, set[int]] = {}
    for holder, blocks in zip(whose, references, strict=True):
        for block in blocks:
            owners.setdefault(block, set()).add(holder)
    assert usage.mapped == [len(blocks) for blocks in references]
    assert usage.living == len(owners)
    alone = Tally(next(iter(them)) for them in owners.values() if len(them) == 1)
    assert usage.own == [alone[holder] for holder in range(4)]
    assert sum(usage.own) < usage.living  # the seeds do share something
    marked = {
        pointer(segment, slot)
        for segment, bits in usage.by_segment.items()
        for slot in np.flatnonzero(np.unpackbits(bits)).tolist()
    }
    assert marked == set(owners)


def test_many_copies_cost_what_one_costs() -> None:
    forest = Forest(lambda id: b"")
    table = forest.table()
    for n in range(20):
        forest.map(table, n * LEAF_BLOCKS, pointer(1, 1 + n), sums(7))
    copies = [forest.clone(table) for _ in range(300)]
    reader = Reader(forest)
    roots = [Root(n, t.root.tobytes()) for n, t in enumerate([table, *copies])]
    usage = Counter(reader, [1], SLOTS).count(roots, len(roots))
    assert usage.living == 20
    assert usage.own == [0] * 301
    assert reader.count <= 20 + 2  # each leaf once, the chunk twice


def test_nothing_is_there() -> None:
    assert Counter(Reader(Forest(lambda id: b"")), [], SLOTS).count([], 0) == Usage([], [])
    empty = Counter(Reader(Forest(lambda id: b"")), [1], SLOTS).count([Root(0, b"")], 1)
    assert (empty.living, empty.own, empty.mapped) == (0, [0], [0])


def test_moved_blocks_count_where_they_are() -> None:
    bits = np.zeros(SLOTS, bool)
    bits[[3, 4, 5]] = True
    usage = Usage([], [], 3, {2: np.packbits(bits)})
    forwarding = Forwarding()
    forwarding.move(pointer(2, 4), 2, pointer(9, 10))
    forwarding.move(pointer(2, 7), 1, pointer(9, 12))  # dead
    forwarding.move(pointer(3, 7), 1, pointer(9, 13))  # of a segment in which nothing lives
    assert capacity.live_blocks(usage, forwarding, SLOTS) == {2: 1, 9: 2}


def test_whose_a_table_is() -> None:
    arriving = Incoming(
        base=0, lineage="", epoch=1, volumes=[IncomingVolume(1, "w", BLOCK, 5, 6)],
        copies=[Copy(name="x", writable=False, stamp=0, lsn=0, members=[(5, 7)])],
    )  # fmt: skip
    items = [
        Volume(id=1, name="v", size=BLOCK),
        Volume(id=2, name="v@c", size=BLOCK, kind="snapshot"),
        Volume(id=3, name="w@c", size=BLOCK, kind="snapshot"),
        Volume(id=6, name="w", size=BLOCK, kind="shadow"),
        Volume(id=7, name="w@x", size=BLOCK, kind="snapshot"),
        Copy(name="c", writable=False, stamp=0, lsn=0, members=[(1, 2), (9, 3)]),
        Group(name="g", role="secondary", incoming=arriving),
    ]
    found = holders(items, [1, 2, 3, 6, 7], 1)
    kinds = [(h.kind, h.name) for h in found]
    assert kinds[:3] == [("volume", "v"), ("copy", "c"), ("copy", "c")]
    assert kinds[3:5] == [("incoming", "g")] * 2
    assert found[5].kind == "reader"
    assert found[1] == Holder("copy", "c")


class Held:
    """As much of a state as pins need."""

    def __init__(self, *groups: Group) -> None:
        self.groups = {group.name: group for group in groups}


def test_what_holds_garbage() -> None:
    segments = [
        Segment(1, 10, 100 * BLOCK, 40),
        Segment(2, 20, 100 * BLOCK, 100),
        Segment(3, 30, 100 * BLOCK, 0),
        Segment(4, 40, 50 * BLOCK, 30),
    ]
    tail = Pin("recovery", "the log since the last checkpoint", 20 * BLOCK)
    assert pins(segments, 4, Held()) == ([tail], 160 * BLOCK)  # type: ignore[arg-type]
    group = Group(
        name="g", role="primary", sessions={"far": Session(cut=1), "near": Session(cut=2)},
        marks=[Mark(1, 15, 0, 0), Mark(2, 25, 0, 0)],
    )  # fmt: skip
    found, free = pins(segments, 4, Held(group))  # type: ignore[arg-type]
    assert free == 60 * BLOCK  # segment 1 alone ended before the cut
    assert found[1] == Pin("mirror", "group g, for far", 100 * BLOCK)
    alone = Group(name="g", role="primary", marks=[Mark(1, 15, 0, 0)])  # nobody follows it
    assert pins(segments, 4, Held(alone))[1] == 160 * BLOCK  # type: ignore[arg-type]
    assert 1 << SLOT_BITS == pointer(1, 0)
