"""Digests of tracks: what two sites compare instead of sending blocks.

A digest is the xxh3-64 of the checksums of a track's 16 blocks, 128 bytes, little-endian; a block
that is not mapped has checksum 0. So nothing is read but track tables. Equal digests mean equal
tracks by all that a checksum can prove: two tracks that differ have equal ones by chance once in
2**64. Whoever can choose both contents might make them meet; who does not trust the writers of a
seed that much copies without one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from isochrone.mirror.images import LEAF_TRACKS, TRACK_BLOCKS
from isochrone.store.format import checksum
from isochrone.store.tracks import CHUNK_SHIFT, LEAF_BLOCKS, Forest, Table

HOLE = checksum(bytes(8 * TRACK_BLOCKS))  # of a track without data


def of_range(forest: Forest, table: Table, track: int, count: int) -> bytes:
    """The digests of a range of tracks; nothing if there is no data in any of them."""
    found = np.full(count, HOLE, np.uint64)
    for index in range(track // LEAF_TRACKS, -(-(track + count) // LEAF_TRACKS)):
        if (index >> CHUNK_SHIFT) >= len(table.root):
            break
        words = forest.leaf(table, index)
        if words is None:
            continue
        first = index * LEAF_TRACKS
        sums = memoryview(words).cast("B")[8 * LEAF_BLOCKS :]
        for at in range(max(first, track), min(first + LEAF_TRACKS, track + count)):
            low = (at - first) * TRACK_BLOCKS * 8
            found[at - track] = checksum(sums[low : low + TRACK_BLOCKS * 8])
    return b"" if (found == HOLE).all() else found.astype("<u8").tobytes()


def differing(mine: bytes, theirs: bytes, track: int, count: int) -> BitMap:
    """Tracks whose digests are not equal. Both are of the same range."""
    different = np.flatnonzero(_row(mine, count) != _row(theirs, count)) + track
    return BitMap(different.tolist())


def _row(digests: bytes, count: int) -> NDArray[np.uint64]:
    return np.frombuffer(digests, "<u8") if digests else np.full(count, HOLE, np.uint64)
