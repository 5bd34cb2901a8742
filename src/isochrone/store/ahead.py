"""Blocks of the newest segment that are written with zeros before they are needed.

A sync of blocks that a file never had makes the file system allocate them, and note that they hold
data now: on ext4 that is more than a third of a small sync, and waits for a worker of the kernel.
A sync of blocks that were written before is only the write. Who syncs little and often gets a
stretch of zeros in front, written with one sync and good for a hundred. Spare segments need none.

Zeros are no batch: for recovery the log ends before them, as it does in a spare segment.
"""

from __future__ import annotations

from typing import Final

from isochrone.types import BLOCK, KIB, MIB

LITTLE_BYTES: Final = 64 * KIB  # between two syncs; more takes the disk longer than the journal
OFTEN: Final = 8  # such syncs in a row
AHEAD_SLOTS: Final = MIB // BLOCK  # written at a time: 100 us, once for a hundred small syncs
LEFT_SLOTS: Final = 16  # when fewer are left, the next stretch is due


class Ahead:
    """How far the newest segment has been written, and how much of it to write now."""

    def __init__(self, segment_slots: int) -> None:
        self._slots = segment_slots
        self._written = segment_slots  # slots of the segment that were written before
        self._often = 0
        self._bytes = 0  # `bytes_appended` at the last sync

    def segment_begun(self, *, spare: bool) -> None:
        self._written = self._slots if spare else 1

    def cut(self, slot: int) -> None:
        """The file now ends before this slot."""
        self._written = slot

    def due(self, slot: int, bytes_appended: int) -> int:
        """At each sync: how many slots from the next free one on to write with it."""
        size, self._bytes = bytes_appended - self._bytes, bytes_appended
        self._often = self._often + 1 if size <= LITTLE_BYTES else 0
        end = min(slot + AHEAD_SLOTS, self._slots)
        if self._often < OFTEN or self._written >= min(slot + LEFT_SLOTS, self._slots):
            return 0
        self._written = end
        return end - slot
