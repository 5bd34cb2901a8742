"""From a place in the log back to the volumes: who reads these blocks, and where in them.

Tables lead from volumes to places only. The way back is a sweep over all of them, as dear as
marking; it is made when something was found, for all places at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.errors import Damaged, Unavailable
from isochrone.store.mark import Read
from isochrone.store.tracks import CHUNK_SHIFT, LEAF_BLOCKS, LEAF_SHIFT

_NO_WORDS: Final = bytes(16 * LEAF_BLOCKS)  # a leaf, or more than a chunk, that maps nothing


class Nodes:
    """Nodes of the metadata store, read past those that are damaged.

    Raises `Unavailable` in the middle once it is `stopped`: a sweep of a large pool takes long.
    """

    def __init__(self, read: Read, stopped: Callable[[], bool] = lambda: False) -> None:
        self._read = read
        self._stopped = stopped
        self.damaged: dict[int, str] = {}
        self.count = 0

    def __call__(self, ids: Iterable[int]) -> Iterator[bytes]:
        for id in ids:
            if self._stopped():
                raise Unavailable("the sweep over the tables was told to stop")
            self.count += 1
            try:
                (words,) = self._read((id,))
            except Damaged as e:
                self.damaged[id] = e.message
                words = _NO_WORDS
            yield words


@dataclass(slots=True)
class Reference:
    """Blocks of volumes: where they were born, or which node should lead to them."""

    pointer: int  # 0: a node
    sum: int  # what the blocks should be; 0 for a node
    node: int
    block: int  # in each of the volumes
    blocks: int
    tables: set[int] = field(default_factory=set)  # by their numbers among the roots


Chunks = dict[int, dict[int, set[int]]]  # chunk -> place in the roots -> numbers of the tables


def find(
    roots: Sequence[bytes], read: Read, pointers: Iterable[int], nodes: Iterable[int]
) -> list[Reference]:
    """Who reaches these blocks, or needs these nodes; in order of place."""
    wanted = np.unique(np.fromiter(pointers, np.uint64))
    lost = set(nodes)
    chunks: Chunks = {}
    for table, root in enumerate(roots):
        row = np.frombuffer(root, np.uint64)
        for at in np.flatnonzero(row).tolist():
            chunks.setdefault(int(row[at]), {}).setdefault(at, set()).add(table)
    hits = _leaves_with(wanted, chunks, read) if len(wanted) else {}
    found: dict[tuple[int, int, int], Reference] = {}
    shift = CHUNK_SHIFT + LEAF_SHIFT
    for id in sorted(lost & chunks.keys()):
        for at, tables in chunks[id].items():
            found[0, id, at] = Reference(0, 0, id, at << shift, 1 << shift, set(tables))
    for leaf, index, tables in _places(chunks, {*hits, *(lost - chunks.keys())}, read):
        block = index << LEAF_SHIFT
        if leaf in lost:
            lack = Reference(0, 0, leaf, block, LEAF_BLOCKS)
            found.setdefault((0, leaf, block), lack).tables.update(tables)
        for at, pointer, sum in hits.get(leaf, ()):
            one = Reference(pointer, sum, 0, block + at, 1)
            found.setdefault((pointer, 0, block + at), one).tables.update(tables)
    return [found[key] for key in sorted(found)]


def _places(chunks: Chunks, leaves: set[int], read: Read) -> Iterator[tuple[int, int, set[int]]]:
    """(leaf, index, tables) wherever one of these leaves is."""
    wanted = np.array(sorted(leaves), np.uint64)
    if not len(wanted):
        return
    ids = sorted(chunks)
    for id, words in zip(ids, read(ids), strict=True):
        row = np.frombuffer(words, np.uint64)
        for low in np.flatnonzero(np.isin(row, wanted) & (row != 0)).tolist():
            for at, tables in chunks[id].items():
                yield int(row[low]), at << CHUNK_SHIFT | low, tables


def _leaves_with(
    wanted: NDArray[np.uint64], chunks: Iterable[int], read: Read
) -> dict[int, list[tuple[int, int, int]]]:
    """Leaves that name wanted pointers: (index in the leaf, pointer, checksum)."""
    leaves: set[int] = set()
    for words in read(sorted(chunks)):
        leaves.update(np.frombuffer(words, np.uint64).tolist())
    leaves.discard(0)
    found: dict[int, list[tuple[int, int, int]]] = {}
    order = sorted(leaves)
    for leaf, words in zip(order, read(order), strict=True):
        row = np.frombuffer(words, np.uint64)
        hits = np.flatnonzero(np.isin(row[:LEAF_BLOCKS], wanted))
        if len(hits):
            found[leaf] = [(at, int(row[at]), int(row[LEAF_BLOCKS + at])) for at in hits.tolist()]
    return found
