"""Ranges of track tables: copied onto another table, emptied of what is old, compared.

Nothing here touches a block. Where both sides lie alike, whole chunks (512 MiB) and leaves (1 MiB)
are shared and the cost is that of their ids; elsewhere a leaf of the target is made for each 1 MiB.
"""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np

from isochrone.store.tracks import (
    CHUNK_LEAVES,
    CHUNK_MASK,
    CHUNK_SHIFT,
    LEAF_BLOCKS,
    LEAF_MASK,
    LEAF_SHIFT,
    Forest,
    Table,
)
from isochrone.types import BLOCK, TRACK

CHUNK_BLOCKS: Final = CHUNK_LEAVES * LEAF_BLOCKS
TRACK_BLOCKS: Final = TRACK // BLOCK
COMPARED_MAX: Final = 1024  # leaves compared block by block in one call: a few milliseconds


def copy_range(
    forest: Forest, source: Table, first: int, target: Table, at: int, count: int
) -> None:
    """Let `count` blocks of the target, from `at` on, be those of the source from `first` on.

    What the source does not map becomes a hole. The source must be a table that nobody changes,
    and the target's epoch not older than it: `Forest.clone` makes the one, `Forest.seal` the other.
    """
    ahead = first - at  # from a block of the target to that of the source
    end = at + count
    while at < end:
        stop = min(end, (at // CHUNK_BLOCKS + 1) * CHUNK_BLOCKS)
        if not ahead % CHUNK_BLOCKS and stop - at == CHUNK_BLOCKS:
            _put_chunk(target, at // CHUNK_BLOCKS, _chunk_id(source, (at + ahead) // CHUNK_BLOCKS))
        elif not ahead % LEAF_BLOCKS:
            _share_leaves(forest, source, ahead, target, at, stop)
        else:
            _copy_blocks(forest, source, ahead, target, at, stop)
        at = stop


def misaligned(first: int, at: int) -> bool:
    """Whether a copy costs a leaf of its own for each 1 MiB."""
    return (first - at) % LEAF_BLOCKS != 0


def _chunk_id(table: Table, at: int) -> int:
    return table.root[at] if at < len(table.root) else 0


def _put_chunk(table: Table, at: int, id: int) -> None:
    if _chunk_id(table, at) != id:
        table.put_chunk(at, id)


def _leaf_ids(forest: Forest, table: Table, index: int, count: int) -> array[int]:
    """Ids of consecutive leaves; 0 where there is none."""
    found = array("Q")
    while count:
        low = index & CHUNK_MASK
        n = min(count, CHUNK_LEAVES - low)
        id = _chunk_id(table, index >> CHUNK_SHIFT)
        found += forest.node(id).words[low : low + n] if id else array("Q", bytes(8 * n))
        index, count = index + n, count - n
    return found


def _put_leaves(forest: Forest, table: Table, index: int, ids: array[int]) -> None:
    """Replace leaves of one chunk."""
    if _leaf_ids(forest, table, index, len(ids)) != ids:
        low = index & CHUNK_MASK
        forest.own_chunk(table, index >> CHUNK_SHIFT)[low : low + len(ids)] = ids


def _share_leaves(
    forest: Forest, source: Table, ahead: int, target: Table, at: int, stop: int
) -> None:
    """Copy a range of one chunk of the target; both sides agree modulo the leaf."""
    whole = min(stop, -(-at // LEAF_BLOCKS) * LEAF_BLOCKS)
    rest = max(whole, stop // LEAF_BLOCKS * LEAF_BLOCKS)
    _copy_blocks(forest, source, ahead, target, at, whole)
    if whole < rest:
        index, leaves = (whole + ahead) >> LEAF_SHIFT, (rest - whole) >> LEAF_SHIFT
        ids = _leaf_ids(forest, source, index, leaves)
        _put_leaves(forest, target, whole >> LEAF_SHIFT, ids)
    _copy_blocks(forest, source, ahead, target, rest, stop)


def _copy_blocks(
    forest: Forest, source: Table, ahead: int, target: Table, at: int, stop: int
) -> None:
    """Copy pointers and checksums, a leaf of the target at a time."""
    while at < stop:
        here = min(stop, (at | LEAF_MASK) + 1)
        n = here - at
        pointers, sums = forest.row(source, at + ahead, n)
        if pointers != forest.row(target, at, n)[0]:
            if not any(pointers):
                empty(forest, target, at, n)
            else:
                words, low = forest.own_leaf(target, at >> LEAF_SHIFT), at & LEAF_MASK
                words[low : low + n] = pointers
                words[LEAF_BLOCKS + low : LEAF_BLOCKS + low + n] = sums
        at = here


def empty(forest: Forest, table: Table, block: int, count: int) -> None:
    """Make a range a hole. As `Forest.unmap`, but whole leaves go by their ids alone."""
    end = block + count
    while block < end:
        stop = min(end, (block // CHUNK_BLOCKS + 1) * CHUNK_BLOCKS)
        if not _chunk_id(table, block // CHUNK_BLOCKS):
            pass
        elif stop - block == CHUNK_BLOCKS:
            _put_chunk(table, block // CHUNK_BLOCKS, 0)
        else:
            whole = min(stop, -(-block // LEAF_BLOCKS) * LEAF_BLOCKS)
            rest = max(whole, stop // LEAF_BLOCKS * LEAF_BLOCKS)
            forest.unmap(table, block, whole - block)
            none = array("Q", bytes(8 * ((rest - whole) >> LEAF_SHIFT)))
            if none:
                _put_leaves(forest, table, whole >> LEAF_SHIFT, none)
            forest.unmap(table, rest, stop - rest)
        block = stop


def empty_old_tracks(
    forest: Forest, table: Table, block: int, count: int, *, born: int, first_node: int
) -> None:
    """Make every track of a range a hole that has no block born at `born` or later.

    Nodes below `first_node` must not have changed since: they are let go unseen, so the cost
    follows what was written. The range begins at a track; its last track may be a part of one.
    """
    end = block + count
    while block < end:
        stop = min(end, (block // CHUNK_BLOCKS + 1) * CHUNK_BLOCKS)
        if _chunk_id(table, block // CHUNK_BLOCKS) < first_node:
            empty(forest, table, block, stop - block)
        else:
            _empty_in_chunk(forest, table, block, stop, born, first_node)
        block = stop


def _empty_in_chunk(
    forest: Forest, table: Table, block: int, stop: int, born: int, first_node: int
) -> None:
    first = block >> LEAF_SHIFT
    ids = _leaf_ids(forest, table, first, ((stop - 1) >> LEAF_SHIFT) - first + 1)
    found = np.array(ids, np.uint64)
    new = found >= np.uint64(first_node)
    for n in np.flatnonzero(new).tolist():
        low, high = max(block, (first + n) << LEAF_SHIFT), min(stop, (first + n + 1) << LEAF_SHIFT)
        _empty_in_leaf(forest, table, low, high - low, born)
    # The first and the last leaf may only be touched in part.
    whole = range(-(-block // LEAF_BLOCKS) - first, (stop >> LEAF_SHIFT) - first)
    for n in {0, len(ids) - 1} - set(whole):
        if ids[n] and not new[n]:
            low = max(block, (first + n) << LEAF_SHIFT)
            empty(forest, table, low, min(stop, (first + n + 1) << LEAF_SHIFT) - low)
    inside = slice(whole.start, max(whole.start, whole.stop))
    if (found[inside] * ~new[inside]).any():
        at = (first & CHUNK_MASK) + whole.start
        words = np.frombuffer(forest.own_chunk(table, first >> CHUNK_SHIFT), np.uint64)
        words[at : at + len(whole)][~new[inside]] = 0


def _empty_in_leaf(forest: Forest, table: Table, block: int, count: int, born: int) -> None:
    low = block & LEAF_MASK
    words = forest.leaf(table, block >> LEAF_SHIFT)
    assert words is not None
    pointers = np.frombuffer(words, np.uint64)[low : low + count]
    newest = np.maximum.reduceat(pointers, np.arange(0, count, TRACK_BLOCKS))
    old = np.repeat(newest < np.uint64(born), TRACK_BLOCKS)[:count]
    if not pointers[old].any():
        return
    if count == LEAF_BLOCKS and old.all():
        empty(forest, table, block, count)
        return
    own = np.frombuffer(forest.own_leaf(table, block >> LEAF_SHIFT), np.uint64)
    own[low : low + count][old] = 0
    own[LEAF_BLOCKS + low : LEAF_BLOCKS + low + count][old] = 0


def tracks_that_differ(
    forest: Forest, one: Table, first: int, other: Table, at: int, count: int, budget: int
) -> tuple[int, int]:
    """How many tracks of a range of `other` are not those of `one`; the budget of leaves left.

    The count ends with the budget: it is exact if some is left.
    """
    ahead, end, found = first - at, at + count, 0
    while at < end and budget > 0:
        stop = min(end, (at // CHUNK_BLOCKS + 1) * CHUNK_BLOCKS)
        index, leaves = at >> LEAF_SHIFT, ((stop - 1) >> LEAF_SHIFT) - (at >> LEAF_SHIFT) + 1
        if not ahead % CHUNK_BLOCKS and _chunk_id(other, at // CHUNK_BLOCKS) == _chunk_id(
            one, (at + ahead) // CHUNK_BLOCKS
        ):
            at = stop
            continue
        same = (
            [False] * leaves
            if ahead % LEAF_BLOCKS
            else [
                a == b
                for a, b in zip(
                    _leaf_ids(forest, one, index + (ahead >> LEAF_SHIFT), leaves),
                    _leaf_ids(forest, other, index, leaves),
                    strict=True,
                )
            ]
        )
        for equal in same:
            here = min(stop, (at | LEAF_MASK) + 1)
            if not equal and budget > 0:
                budget -= 1
                found += _tracks(forest, one, at + ahead, other, at, here - at)
            at = here
    return found, budget


def _tracks(forest: Forest, one: Table, first: int, other: Table, at: int, count: int) -> int:
    a = np.array(forest.row(one, first, count)[0], np.uint64)
    b = np.array(forest.row(other, at, count)[0], np.uint64)
    return len(np.unique(np.flatnonzero(a != b) // TRACK_BLOCKS))
