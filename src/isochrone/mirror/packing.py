"""Whether blocks are worth packing: tried, remembered, and tried again now and then. Pure."""

from __future__ import annotations

from typing import Final

import lz4.block

from isochrone.types import BLOCK, Buffer

WORTH: Final = (7, 8)  # packed to plain; less is not worth the work at the other end
SKIPPED_MAX: Final = 16  # frames between two tries: 16 MiB until other data is noticed
# Of a long frame some blocks are tried first: all of one that does not shrink take a millisecond.
SAMPLE_BLOCKS: Final = 8
SAMPLE_WORTH: Final = (15, 16)  # easier to meet than by the whole: a few blocks may mislead


class Packing:
    """What one direction of a connection has learnt about its data."""

    def __init__(self) -> None:
        self._skip = 0  # frames that still go as they are
        self._gap = 0  # how many the next failure skips, less one
        self.tried = 0
        self.skipped = 0

    @property
    def due(self) -> bool:
        """Whether the next frame is tried, which takes a while."""
        return not self._skip

    def pack(self, blocks: Buffer) -> bytes | None:
        """One LZ4 block, or None where that is not worth it."""
        if self._skip:
            self._skip -= 1
            self.skipped += 1
            return None
        self.tried += 1
        if _promises(memoryview(blocks)):
            packed = bytes(lz4.block.compress(blocks, store_size=False))
            if len(packed) * WORTH[1] < len(blocks) * WORTH[0]:
                self._gap = 0
                return packed
        self._skip = self._gap
        self._gap = min(2 * self._gap + 1, SKIPPED_MAX)
        return None


def _promises(blocks: memoryview) -> bool:
    """Whether some blocks, spread over a long frame, shrink. A short one is tried as it is."""
    step = len(blocks) // BLOCK // SAMPLE_BLOCKS * BLOCK
    if step <= BLOCK:
        return True
    sample = b"".join(blocks[at : at + BLOCK] for at in range(0, SAMPLE_BLOCKS * step, step))
    packed = lz4.block.compress(sample, store_size=False)
    return len(packed) * SAMPLE_WORTH[1] < len(sample) * SAMPLE_WORTH[0]
