"""Virtual track tables: which place in the log holds which block of a volume.

A table is a list of *leaves*, kept in *chunks*; a leaf is a row of 256 block pointers with their
checksums, 1 MiB of volume; a chunk is a row of 512 leaf ids, 512 MiB. Copies share both.

    table root   array of chunk ids, one for each 512 MiB
    chunk        words[0..511]     leaf ids
    leaf         words[0..255]     pointers, words[256..511] checksums

Chunks and leaves are *nodes*: numbered, and immutable once shared. Sharing is known by epochs: a
node may be changed in place only if it was made after the last copy of its table. So a copy costs
the root (16 KiB for 1 TiB) and nothing is ever counted.

Nodes are loaded from the metadata store on demand and dropped above a budget if a checkpoint has
them. Nothing here does IO: the loader is handed in.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isochrone.types import BLOCK, MIB

LEAF_BLOCKS: Final = 256  # 4 KiB to copy at the first write after a copy
LEAF_SHIFT: Final = 8
LEAF_MASK: Final = LEAF_BLOCKS - 1
CHUNK_LEAVES: Final = 512  # a root of 2,048 words for 1 TiB, 131,072 for 64 TiB
CHUNK_SHIFT: Final = 9
CHUNK_MASK: Final = CHUNK_LEAVES - 1
NODE_BYTES_BUDGET: Final = 512 * MIB  # maps 128 GiB of hot blocks; more is loaded on demand

_EMPTY_LEAF: Final = array("Q", bytes(16 * LEAF_BLOCKS))
_EMPTY_CHUNK: Final = array("Q", bytes(8 * CHUNK_LEAVES))
_ZEROS: Final = array("Q", bytes(8 * LEAF_BLOCKS))

Loader = Callable[[int], bytes]
Words = NDArray[np.uint64]


class Node:
    __slots__ = ("epoch", "id", "words")

    def __init__(self, id: int, epoch: int, words: array[int]) -> None:
        self.id = id
        self.epoch = epoch
        self.words = words


class Table:
    """The mapping of one volume.

    `changed`: the root differs from the last checkpoint's. Only then may any node be changed in
    place: the first change of a node makes a chunk. `shared`: others hold the root, too.
    `lent`: what was born before this place may be another table's, too, since it was loaded.
    """

    __slots__ = ("changed", "epoch", "lent", "root", "shared")

    def __init__(self, root: array[int], epoch: int, *, shared: bool = False) -> None:
        self.root = root
        self.epoch = epoch
        self.changed = True
        self.shared = shared
        self.lent = 0

    def put_chunk(self, at: int, id: int) -> None:
        """Change the root, which grows as needed; it is copied first if others hold it."""
        if self.shared:
            self.root = array("Q", self.root)
            self.shared = False
        if at >= len(self.root):
            self.root.extend(bytes(at + 1 - len(self.root)))
        self.root[at] = id
        self.changed = True


class Run(NamedTuple):
    """Blocks that lie one after the other in the log; pointer 0 is a hole."""

    block: int
    blocks: int
    pointer: int
    sums: array[int]  # one a block; empty for a hole


class Forest:
    """All nodes of a pool."""

    def __init__(self, load: Loader, *, next_id: int = 1, budget: int = NODE_BYTES_BUDGET) -> None:
        self._load = load
        self._nodes: dict[int, Node] = {}
        self.fresh: dict[int, Node] = {}  # made since the last freeze; a checkpoint has the others
        self._saving: dict[int, Node] = {}  # handed to a checkpoint that is not committed yet
        self.next_id = next_id
        self.epoch = 1
        self.budget = budget
        self.newly_mapped = 0  # blocks that had no data before, so far
        self.place = 0  # in the log, of the record that is being applied

    # -- nodes

    def node(self, id: int) -> Node:
        found = self._nodes.get(id)
        return found if found is not None else self._loaded(id)

    @property
    def held_bytes(self) -> int:
        return len(self._nodes) * 16 * LEAF_BLOCKS

    @property
    def fresh_bytes(self) -> int:
        """Of nodes that no checkpoint has, and which must stay until one does."""
        return len(self.fresh) * 16 * LEAF_BLOCKS

    def _loaded(self, id: int) -> Node:
        words = array("Q")
        words.frombytes(self._load(id))
        node = Node(id, 0, words)  # epoch 0: whoever changes it must copy it first
        self._nodes[id] = node
        self._evict()
        return node

    def _evict(self) -> None:
        """Keep those that a checkpoint has within the budget: the longest-held go first.

        The others, which must stay, are bounded by the log between two checkpoints.
        """
        clean = len(self._nodes) - len(self.fresh) - len(self._saving)
        if clean * 16 * LEAF_BLOCKS <= self.budget:
            return
        excess = clean - self.budget * 9 // 10 // (16 * LEAF_BLOCKS)
        droppable = (id for id in self._nodes if id not in self.fresh and id not in self._saving)
        for id in list(islice(droppable, excess)):
            del self._nodes[id]

    def _make(self, words: array[int]) -> Node:
        node = Node(self.next_id, self.epoch, words)
        self.next_id += 1
        self._nodes[node.id] = self.fresh[node.id] = node
        return node

    def _forget(self, node: Node) -> None:
        """Drop a node that no table can reach: one that was made and replaced in one epoch."""
        if self.fresh.pop(node.id, None) is not None:
            del self._nodes[node.id]

    # -- tables

    def table(self) -> Table:
        return Table(array("Q"), self.epoch)

    def clone(self, table: Table, *, passing: bool = False) -> Table:
        """A table with the same content; both go their own ways from here on.

        `passing`: one of them is soon to be gone, so what it holds is not counted as kept by it.
        """
        self.epoch += 1
        table.epoch = self.epoch
        table.shared = True
        if not passing:
            table.lent = self.place
        made = Table(table.root, self.epoch, shared=True)
        made.lent = table.lent
        return made

    def seal(self, tables: Iterable[Table]) -> None:
        """From here on the tables copy each node they have before they change it."""
        self.epoch += 1
        for table in tables:
            table.epoch = self.epoch

    def freeze(self, tables: Iterable[Table]) -> dict[int, Node]:
        """Make every node immutable and return those made since the last freeze.

        They must reach the metadata store before `saved` is called. Of the tables those are enough
        that changed since the last checkpoint.
        """
        assert not self._saving, "two checkpoints at once"
        self.seal(tables)
        self._saving, self.fresh = self.fresh, {}
        return self._saving

    def not_saved(self) -> None:
        """The checkpoint failed: its nodes belong to the next one."""
        self.fresh = {**self._saving, **self.fresh}
        self._saving = {}

    def saved(self) -> None:
        """The nodes of the last freeze are in the metadata store."""
        self._saving = {}
        self._evict()

    # -- reading

    def leaf(self, table: Table, index: int) -> array[int] | None:
        """Words of a leaf for reading, or None where nothing is mapped."""
        root = table.root
        at = index >> CHUNK_SHIFT
        if at >= len(root) or not (chunk_id := root[at]):
            return None
        nodes = self._nodes  # and not `node`: this is asked for every block read
        chunk = nodes.get(chunk_id) or self._loaded(chunk_id)
        leaf_id = chunk.words[index & CHUNK_MASK]
        if not leaf_id:
            return None
        return (nodes.get(leaf_id) or self._loaded(leaf_id)).words

    def at(self, table: Table, block: int) -> tuple[int, int]:
        """Pointer and checksum of a block; (0, 0) for a hole."""
        words = self.leaf(table, block >> LEAF_SHIFT)
        if words is None:
            return 0, 0
        at = block & LEAF_MASK
        return words[at], words[LEAF_BLOCKS + at]

    def row(self, table: Table, block: int, count: int) -> tuple[array[int], array[int]]:
        """Pointers and checksums of a range; zeros for holes."""
        pointers, sums = array("Q"), array("Q")
        end = block + count
        while block < end:
            at = block & LEAF_MASK
            n = min(end - block, LEAF_BLOCKS - at)
            words = self.leaf(table, block >> LEAF_SHIFT)
            if words is None:
                words = _EMPTY_LEAF
            pointers += words[at : at + n]
            sums += words[LEAF_BLOCKS + at : LEAF_BLOCKS + at + n]
            block += n
        return pointers, sums

    def runs(self, table: Table, block: int, count: int) -> Iterator[Run]:
        """The range as runs that can each be read by one call; holes are runs too."""
        end = block + count
        while block < end:
            here = min(end, (block | LEAF_MASK) + 1)
            words = self.leaf(table, block >> LEAF_SHIFT)
            if words is None:
                yield Run(block, here - block, 0, _NONE)
                block = here
                continue
            at = block & LEAF_MASK
            stop = at + here - block
            while at < stop:
                first = words[at]
                n = _run_length(words, at, stop)
                sums = words[LEAF_BLOCKS + at : LEAF_BLOCKS + at + n] if first else _NONE
                yield Run(block, n, first, sums)
                at += n
                block += n

    def leaf_ids(self, table: Table) -> Iterator[tuple[int, int]]:
        """(index, id) of every leaf that exists."""
        for at, chunk_id in enumerate(table.root):
            if chunk_id:
                for low, leaf_id in enumerate(self.node(chunk_id).words):
                    if leaf_id:
                        yield at << CHUNK_SHIFT | low, leaf_id

    def leaves(self, table: Table) -> Iterator[tuple[int, array[int]]]:
        """(index, words) of every leaf that exists."""
        for index, leaf_id in self.leaf_ids(table):
            yield index, self.node(leaf_id).words

    def reachable(self, tables: Iterable[Table]) -> set[int]:
        """Ids of all nodes the tables reach."""
        chunks = {id for table in tables for id in table.root if id}
        found = set(chunks)
        for id in chunks:
            found.update(self.node(id).words)
        found.discard(0)
        return found

    # -- changing

    def own_chunk(self, table: Table, at: int) -> array[int]:
        """Words of a chunk that only this table reaches."""
        return self._own_chunk(table, at, self._chunk(table, at)).words

    def _chunk(self, table: Table, at: int) -> Node | None:
        id = table.root[at] if at < len(table.root) else 0
        return self.node(id) if id else None

    def _own_chunk(self, table: Table, at: int, chunk: Node | None) -> Node:
        """The chunk, or a copy of it in its place."""
        if chunk is not None and chunk.epoch >= table.epoch:
            return chunk
        chunk = self._make((chunk.words if chunk is not None else _EMPTY_CHUNK)[:])
        table.put_chunk(at, chunk.id)
        return chunk

    def own_leaf(self, table: Table, index: int) -> array[int]:
        """Words of a leaf that only this table reaches."""
        root = table.root  # and not `_chunk`: this is asked for every block written
        at = index >> CHUNK_SHIFT
        chunk = self.node(root[at]) if at < len(root) and root[at] else None
        low = index & CHUNK_MASK
        leaf_id = chunk.words[low] if chunk is not None else 0
        leaf = self.node(leaf_id) if leaf_id else None
        if leaf is not None and leaf.epoch >= table.epoch:
            return leaf.words
        chunk = self._own_chunk(table, at, chunk)
        leaf = self._make((leaf.words if leaf is not None else _EMPTY_LEAF)[:])
        chunk.words[low] = leaf.id
        return leaf.words

    def map(self, table: Table, block: int, first: int, sums: array[int]) -> None:
        """Point `len(sums)` blocks at consecutive places from `first` on."""
        if len(sums) == 1:  # the common case of random writes
            words = self.own_leaf(table, block >> LEAF_SHIFT)
            at = block & LEAF_MASK
            if not words[at]:
                self.newly_mapped += 1
            words[at] = first
            words[LEAF_BLOCKS + at] = sums[0]
            return
        done = 0
        while done < len(sums):
            words = self.own_leaf(table, block >> LEAF_SHIFT)
            at = block & LEAF_MASK
            n = min(len(sums) - done, LEAF_BLOCKS - at)
            pointers = np.frombuffer(words, np.uint64)[at : at + n]
            self.newly_mapped += n - int(np.count_nonzero(pointers))
            pointers[:] = np.arange(first + done, first + done + n, dtype=np.uint64)
            words[LEAF_BLOCKS + at : LEAF_BLOCKS + at + n] = sums[done : done + n]
            done += n
            block += n

    def map_many(self, table: Table, blocks: Words, pointers: Words, sums: Words) -> None:
        """Point blocks, ascending and each only once, at any places."""
        leaves = blocks >> np.uint64(LEAF_SHIFT)
        places = (blocks & np.uint64(LEAF_MASK)).astype(np.int64)
        edges = np.append(np.flatnonzero(np.append(True, leaves[1:] != leaves[:-1])), len(blocks))
        for leaf, start, stop in zip(
            leaves[edges[:-1]].tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True
        ):
            words = np.frombuffer(self.own_leaf(table, leaf), np.uint64)
            at = places[start:stop]
            words[at] = pointers[start:stop]
            words[at + LEAF_BLOCKS] = sums[start:stop]

    def unmap(self, table: Table, block: int, count: int) -> None:
        """Make a range a hole. Whole leaves and chunks are let go: a huge discard stays cheap."""
        end = min(block + count, len(table.root) << (CHUNK_SHIFT + LEAF_SHIFT))
        while block < end:
            at = block >> (CHUNK_SHIFT + LEAF_SHIFT)
            next_chunk = (at + 1) << (CHUNK_SHIFT + LEAF_SHIFT)
            if not table.root[at]:
                block = next_chunk
            elif block == at << (CHUNK_SHIFT + LEAF_SHIFT) and end >= next_chunk:
                table.put_chunk(at, 0)
                block = next_chunk
            else:
                block = self._unmap_in_chunk(table, block, min(end, next_chunk))

    def _unmap_in_chunk(self, table: Table, block: int, end: int) -> int:
        while block < end:
            index = block >> LEAF_SHIFT
            stop = min(end, (index + 1) << LEAF_SHIFT)
            if self.leaf(table, index) is not None:
                words = self.own_leaf(table, index)
                at, n = block & LEAF_MASK, stop - block
                if n == LEAF_BLOCKS:
                    self._drop_leaf(table, index)
                else:
                    words[at : at + n] = _ZEROS[:n]
                    words[LEAF_BLOCKS + at : LEAF_BLOCKS + at + n] = _ZEROS[:n]
            block = stop
        return block

    def _drop_leaf(self, table: Table, index: int) -> None:
        """Take out a leaf that `own_leaf` has made our own."""
        words = self.node(table.root[index >> CHUNK_SHIFT]).words
        self._forget(self.node(words[index & CHUNK_MASK]))
        words[index & CHUNK_MASK] = 0


_NONE: Final = array("Q")


def _run_length(words: array[int], at: int, stop: int) -> int:
    """How many blocks from `at` on lie one after the other, or are holes together."""
    first = words[at]
    n = 1
    if not first:
        while at + n < stop and not words[at + n]:
            n += 1
    elif (
        stop - at > 1
        and words[stop - 1] == first + stop - 1 - at
        and words[at:stop] == array("Q", range(first, first + stop - at))
    ):
        n = stop - at  # the common case of data that was written in one go
    else:
        while at + n < stop and words[at + n] == first + n:
            n += 1
    return n


def blocks_of(size: int) -> int:
    """Blocks that cover so many bytes."""
    return -(-size // BLOCK)
