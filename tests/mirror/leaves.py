"""Leaves of track tables, by hand."""

from __future__ import annotations

from array import array

from isochrone.store.tracks import LEAF_BLOCKS


def leaf(blocks: dict[int, tuple[int, int]]) -> array[int]:
    """A leaf with these blocks: place in the leaf -> (pointer, checksum)."""
    words = array("Q", bytes(16 * LEAF_BLOCKS))
    for at, (pointer, sum) in blocks.items():
        words[at], words[LEAF_BLOCKS + at] = pointer, sum
    return words
