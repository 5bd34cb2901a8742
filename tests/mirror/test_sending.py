"""What a primary sends, within the credit it has."""

from __future__ import annotations

from isochrone.mirror.sending import _leaf_items
from isochrone.mirror.wire import DATA_BLOCKS_MAX
from isochrone.store.tracks import LEAF_BLOCKS
from tests.mirror.leaves import leaf


def test_a_leaf_is_sent_in_frames_of_mapped_blocks() -> None:
    words = leaf({at: (100 + at, 7 * at + 1) for at in range(0, LEAF_BLOCKS, 2)})
    items = list(_leaf_items(5, 1 << 20, words))
    assert max(len(item.blocks) for item in items) <= DATA_BLOCKS_MAX
    found = [row for i in items for row in zip(i.blocks, i.pointers, i.sums, strict=True)]
    assert found == [((1 << 20) + at, 100 + at, 7 * at + 1) for at in range(0, LEAF_BLOCKS, 2)]


def test_a_part_of_a_leaf() -> None:
    words = leaf({3: (9, 1), 4: (10, 2), 8: (11, 3)})
    (item,) = _leaf_items(5, 64, words, 4, 8)
    assert (list(item.blocks), list(item.pointers), list(item.sums)) == ([68], [10], [2])
    assert list(_leaf_items(5, 64, words, 5, 8)) == []
