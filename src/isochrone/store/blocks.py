"""Blocks out of the log: from the pointers of a range to its verified bytes.

What was written in order lies in order, and is one system call. After random writes every block of
a range may lie elsewhere; then a call for each is what remains, and all around it is done once for
the range.

Segments are not mapped into memory, although that would halve a scattered read: a disk error would
come as SIGBUS and end the process, where one request is to get EIO. Gaps between blocks are not
read over: those of a volume that was written at random are a thousand times a block.

Anything that is not as it should be gives None: the caller goes through the range again, run by
run, to find out what it was and to tell. So the common case does not pay for good messages.
"""

from __future__ import annotations

from array import array
from typing import Final

from isochrone.errors import Damaged
from isochrone.store.format import SLOT_BITS, SLOT_MASK, checksum
from isochrone.store.forward import neighbours
from isochrone.store.log import Log, verifies
from isochrone.types import BLOCK, MIB, Buffer

ZEROS: Final = memoryview(bytes(4 * MIB))
ZERO_BLOCK: Final = ZEROS[:BLOCK]


def fetch_one(log: Log, pointer: int, expected: int) -> Buffer | None:
    """The block born at a pointer, if it has this checksum; zeros for pointer 0."""
    if not pointer:
        return ZERO_BLOCK
    place = log.forwarding.place(pointer)
    try:
        data = log.file(place >> SLOT_BITS).read_at(BLOCK, (place & SLOT_MASK) * BLOCK)
    except (OSError, Damaged):
        return None
    return data if checksum(data) == expected else None


def fetch(log: Log, pointers: array[int], sums: array[int]) -> list[Buffer] | None:
    """The blocks born at these pointers, in as few pieces as they lie in. Pointer 0 is a hole."""
    runs = neighbours(pointers)
    if log.forwarding:
        runs = [run for first, count in runs for run in log.forwarding.runs(first, count)]
    pieces: list[Buffer] = []
    done = 0
    try:
        for place, count in runs:
            size = count * BLOCK
            if not place:
                pieces += zeros(size)
                done += count
                continue
            data = log.file(place >> SLOT_BITS).read_at(size, (place & SLOT_MASK) * BLOCK)
            if count == 1:  # a scattered megabyte has 256 of them: no row and no call for each
                if checksum(data) != sums[done]:
                    return None
            elif len(data) != size or not verifies(data, sums[done : done + count]):
                return None
            pieces.append(data)
            done += count
    except (OSError, Damaged):
        return None
    return pieces


def zeros(size: int) -> list[Buffer]:
    """So many zeros, without making them."""
    return [ZEROS[: min(size - at, len(ZEROS))] for at in range(0, size, len(ZEROS))]
