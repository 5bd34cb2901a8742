"""Which blocks of a track table are mapped, and which differ from an earlier copy.

Both are answered as runs of equal blocks, from the first on. An answer may end early: at a number
of runs, or after so many leaves, so that one call never holds up the loop. It always has a run.

Two tables are compared top-down: equal chunk ids mean 512 MiB without a change, equal leaf ids
1 MiB, and only leaves that differ are compared pointer by pointer. A pointer is a birth place,
never used again: equal pointers are equal data, and the work follows the difference, not the size.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from isochrone.store.tracks import (
    CHUNK_MASK,
    CHUNK_SHIFT,
    LEAF_BLOCKS,
    LEAF_MASK,
    LEAF_SHIFT,
    Forest,
    Table,
)

LEAVES_MAX: Final = 1024  # looked at in one call: 1 GiB of volume, a few milliseconds

Run = tuple[int, bool]  # blocks, and whether they are what was asked for
Row = npt.NDArray[np.bool_]  # one a block of a leaf
Pointers = npt.NDArray[np.uint64]

_NOTHING: Final = np.zeros(LEAF_BLOCKS, np.uint64)


def mapped(forest: Forest, table: Table, block: int, count: int, limit: int) -> list[Run]:
    """Runs of blocks that have data, or none, in at most `limit` runs."""

    def leaf(index: int) -> Row | None:
        words = forest.leaf(table, index)
        return None if words is None else _differs(_pointers(words), _NOTHING)

    return _merged(_spans(block, block + count, lambda at: _at(table.root, at) != 0, leaf), limit)


def changed(
    forest: Forest, table: Table, base: Table, block: int, count: int, limit: int
) -> list[Run]:
    """Runs of blocks that are, or are not, what they were in `base`, in at most `limit` runs.

    `base` must not have been written since it was copied: two holes made independently are equal.
    """

    def chunk(at: int) -> bool:
        return _at(table.root, at) != _at(base.root, at)

    def leaf(index: int) -> Row | None:
        one, other = _leaf_id(forest, table, index), _leaf_id(forest, base, index)
        if one == other:
            return None
        old = _pointers(forest.node(other).words) if other else _NOTHING
        return _differs(_pointers(forest.node(one).words) if one else _NOTHING, old)

    return _merged(_spans(block, block + count, chunk, leaf), limit)


def _at(root: array[int], at: int) -> int:
    return root[at] if at < len(root) else 0


def _leaf_id(forest: Forest, table: Table, index: int) -> int:
    chunk_id = _at(table.root, index >> CHUNK_SHIFT)
    return forest.node(chunk_id).words[index & CHUNK_MASK] if chunk_id else 0


def _pointers(words: array[int]) -> Pointers:
    return np.frombuffer(words, np.uint64, LEAF_BLOCKS)


def _differs(one: Pointers, other: Pointers) -> Row:
    return np.not_equal(one, other)


def _spans(
    block: int, end: int, chunk: Callable[[int], bool], leaf: Callable[[int], Row | None]
) -> Iterator[Run]:
    """Runs in order, neighbours not yet joined. `chunk` says where nothing can be found."""
    shift = CHUNK_SHIFT + LEAF_SHIFT
    leaves = 0
    while block < end and leaves < LEAVES_MAX:
        at = block >> shift
        if not chunk(at):
            stop = min(end, (at + 1) << shift)
            yield stop - block, False
            block = stop
            continue
        leaves += 1
        stop = min(end, (block | LEAF_MASK) + 1)
        row = leaf(block >> LEAF_SHIFT)
        if row is None:
            yield stop - block, False
        else:
            low = block & LEAF_MASK
            yield from _runs(row[low : low + stop - block])
        block = stop


def _runs(row: Row) -> Iterator[Run]:
    mark, start = bool(row[0]), 0
    for edge in chain((np.flatnonzero(row[1:] != row[:-1]) + 1).tolist(), (len(row),)):
        yield edge - start, mark
        mark, start = not mark, edge


def _merged(spans: Iterator[Run], limit: int) -> list[Run]:
    found: list[Run] = []
    length, mark = 0, False
    for blocks, here in spans:
        if length and here is not mark:
            found.append((length, mark))
            if len(found) >= limit:
                return found
            length = 0
        length, mark = length + blocks, here
    if length:
        found.append((length, mark))
    return found
