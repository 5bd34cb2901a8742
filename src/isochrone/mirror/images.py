"""What is sent of frozen images: blocks, holes, and what differs between two of them.

Nothing here waits or sends. A generator yields None after each piece of work, so that the caller
can let others run.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from isochrone.mirror.messages import HOLES_MAX
from isochrone.mirror.sidefile import Blocks, HoleRanges
from isochrone.mirror.wire import DATA_BLOCKS_MAX
from isochrone.store import extents
from isochrone.store.ranges import CHUNK_BLOCKS
from isochrone.store.tracks import CHUNK_MASK, CHUNK_SHIFT, LEAF_BLOCKS, Forest, Table
from isochrone.types import BLOCK, TRACK

TRACK_BLOCKS: Final = TRACK // BLOCK
LEAF_TRACKS: Final = LEAF_BLOCKS // TRACK_BLOCKS
CHUNK_TRACKS: Final = CHUNK_BLOCKS // TRACK_BLOCKS  # looked at together
RUNS_MAX: Final = 4096  # of a comparison in one go

Item = Blocks | HoleRanges
Rows = NDArray[np.uint64]


def everything(
    forest: Forest, volume: int, table: Table, start: int, stop: int
) -> Iterator[Item | None]:
    """Every mapped block of a range of blocks."""
    index, end = start // LEAF_BLOCKS, -(-stop // LEAF_BLOCKS)
    while index < end:
        at = index * LEAF_BLOCKS
        if not _chunk_mapped(table, index):
            index = (index | CHUNK_MASK) + 1  # a thin volume may have millions of leaves
            yield None
            continue
        words = forest.leaf(table, index)
        if words is not None:
            low, high = max(start - at, 0), min(stop - at, LEAF_BLOCKS)
            yield from leaf_items(volume, at, words, low, high)
        index += 1
        yield None


def _chunk_mapped(table: Table, leaf: int) -> bool:
    at = leaf >> CHUNK_SHIFT
    return at < len(table.root) and table.root[at] != 0


def leaf_items(
    volume: int, first: int, words: array[int], low: int = 0, high: int = LEAF_BLOCKS
) -> Iterator[Blocks]:
    """The mapped blocks of a part of a leaf, in items of at most one frame."""
    pointers = np.frombuffer(words, np.uint64, LEAF_BLOCKS)
    mapped = np.flatnonzero(pointers[low:high]) + low
    yield from _frames(volume, first, words, mapped)


def _frames(
    volume: int, first: int, words: array[int], places: NDArray[np.int64]
) -> Iterator[Blocks]:
    rows = np.frombuffer(words, np.uint64)
    for start in range(0, len(places), DATA_BLOCKS_MAX):
        part = places[start : start + DATA_BLOCKS_MAX]
        low, high = int(part[0]), int(part[-1]) + 1
        if high - low == len(part):  # no hole in between: the usual leaf
            yield Blocks(
                volume,
                array("Q", range(first + low, first + high)),
                words[low:high],
                words[LEAF_BLOCKS + low : LEAF_BLOCKS + high],
            )
            continue
        yield Blocks(
            volume,
            array("Q", (part + first).astype(np.uint64).tobytes()),
            array("Q", rows[part].tobytes()),
            array("Q", rows[LEAF_BLOCKS + part].tobytes()),
        )


def of_tracks(
    forest: Forest,
    volume: int,
    table: Table,
    marked: BitMap,
    blocks: int,
    *,
    data: bool = True,
) -> Iterator[Item | None]:
    """Marked tracks, whole: what is mapped, and what is not as holes; up to the volume's end.

    Without `data` only the holes. They come in the order of the volume, each chunk's holes first.
    """
    end = -(-blocks // TRACK_BLOCKS)
    last = min(end - 1, marked.max()) if marked else -1
    low = 0
    while low <= last:
        low = marked.next_set_bit(low) // CHUNK_TRACKS * CHUNK_TRACKS
        tracks = _part(marked, low, min(end, low + CHUNK_TRACKS))
        if not len(tracks):
            return  # what is marked lies behind the end
        yield from _chunk_items(forest, volume, table, tracks, blocks, data=data)
        yield None
        low += CHUNK_TRACKS


def _part(marked: BitMap, low: int, high: int) -> NDArray[np.int64]:
    part = marked.intersection(BitMap(range(low, high)))
    return np.array(part.to_array(), np.int64)


def _chunk_items(
    forest: Forest,
    volume: int,
    table: Table,
    tracks: NDArray[np.int64],
    blocks: int,
    *,
    data: bool,
) -> Iterator[Item | None]:
    """Of one chunk: holes, joined where they touch, then blocks."""
    holes = _Holes(volume, blocks)
    found: list[Blocks] = []
    leaves = tracks // LEAF_TRACKS
    edges = np.flatnonzero(np.diff(leaves)) + 1
    for part in np.split(tracks, edges):
        index = int(part[0]) // LEAF_TRACKS
        words = forest.leaf(table, index)
        if words is None:
            holes.tracks(part)
            continue
        at = (part - index * LEAF_TRACKS) * TRACK_BLOCKS
        places = (at[:, None] + np.arange(TRACK_BLOCKS)).ravel()
        mapped = np.frombuffer(words, np.uint64, LEAF_BLOCKS)[places] != 0
        holes.blocks(places[~mapped] + index * LEAF_BLOCKS)
        if data:
            found.extend(_frames(volume, index * LEAF_BLOCKS, words, places[mapped]))
    yield from holes.items()
    yield from _joined(found)


class _Holes:
    """Ranges of holes of one volume, ascending."""

    def __init__(self, volume: int, end: int) -> None:
        self._volume = volume
        self._end = end
        self._ranges: list[tuple[int, int]] = []  # first block, block behind

    def tracks(self, tracks: NDArray[np.int64]) -> None:
        self._runs(tracks, TRACK_BLOCKS)

    def blocks(self, blocks: NDArray[np.int64]) -> None:
        self._runs(blocks, 1)

    def _runs(self, found: NDArray[np.int64], unit: int) -> None:
        if not len(found):
            return
        edges = np.flatnonzero(np.diff(found) != 1)
        starts = found[np.append(0, edges + 1)] * unit
        stops = (found[np.append(edges, len(found) - 1)] + 1) * unit
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            if self._ranges and self._ranges[-1][1] == start:
                self._ranges[-1] = (self._ranges[-1][0], stop)
            else:
                self._ranges.append((start, stop))

    def items(self) -> Iterator[HoleRanges]:
        ranges = [
            (self._volume, start, min(stop, self._end) - start)
            for start, stop in self._ranges
            if start < self._end
        ]
        for at in range(0, len(ranges), HOLES_MAX):
            yield HoleRanges(tuple(ranges[at : at + HOLES_MAX]))


def _joined(found: list[Blocks]) -> Iterator[Blocks]:
    """The same blocks in as few frames as they need: marks may be far apart."""
    held: list[Blocks] = []
    count = 0
    for item in found:
        if count + len(item.blocks) > DATA_BLOCKS_MAX:
            yield _join(held)
            held, count = [], 0
        held.append(item)
        count += len(item.blocks)
    if held:
        yield _join(held)


def _join(items: list[Blocks]) -> Blocks:
    if len(items) == 1:
        return items[0]
    blocks, pointers, sums = array("Q"), array("Q"), array("Q")
    for item in items:
        blocks += item.blocks
        pointers += item.pointers
        sums += item.sums
    return Blocks(items[0].volume, blocks, pointers, sums)


def difference(
    forest: Forest, table: Table, before: Table, blocks: int
) -> Generator[None, None, BitMap]:
    """The tracks in which a table is not what an earlier one was; neither changes any more."""
    found, block = BitMap(), 0
    while block < blocks:
        for count, differs in extents.changed(
            forest, table, before, block, blocks - block, RUNS_MAX
        ):
            if differs:
                found.add_range(block // TRACK_BLOCKS, -(-(block + count) // TRACK_BLOCKS))
            block += count
        yield None
    return found


def leaves_mapped(forest: Forest, table: Table) -> int:
    """Leaves that a table has: what a whole copy of it may send at most."""
    return sum(
        int(np.count_nonzero(np.frombuffer(forest.node(id).words, np.uint64)))
        for id in table.root
        if id
    )
