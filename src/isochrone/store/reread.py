"""Reading a range of a volume from the medium, to see whether all of it is what was written.

The blocks are read in a thread, past the page cache, from files opened for it alone. Meanwhile
they may be overwritten, and their segments emptied and used again. So what is wrong in the file is
only a suspect: it is damaged if the volume still has that block, and it is wrong again.
"""

from __future__ import annotations

from array import array
from functools import partial
from typing import Final

from isochrone.errors import Damaged
from isochrone.store.format import SLOT_BITS, SLOT_MASK, checksum, segment_name
from isochrone.store.pool import Pool
from isochrone.types import BLOCK
from isochrone.world.disk import Disk

PIECE_BLOCKS: Final = 1024  # looked up and read in one go: 4 MiB, a few milliseconds

Wanted = tuple[int, int, int]  # place, checksum, number of the block in its piece


async def damaged(pool: Pool, volume: int, block: int, count: int) -> tuple[list[int], int]:
    """Blocks of a range that cannot be read, and how many bytes were read.

    A volume that is gone by then has no damage.
    """
    found: list[int] = []
    read = 0
    for start in range(block, block + count, PIECE_BLOCKS):
        table = pool.state.tables.get(volume)
        if table is None:
            break
        n = min(PIECE_BLOCKS, block + count - start)
        pointers, sums = pool.state.forest.row(table, start, n)
        place = pool.log.forwarding.place
        wanted = [(place(p), sums[at], at) for at, p in enumerate(pointers) if p]
        suspects = await pool.world.work.run(partial(_suspects, pool.disk, wanted))
        read += len(wanted) * BLOCK
        found += [start + at for at in suspects if still(pool, volume, start + at, pointers[at])]
    return found, read


def still(pool: Pool, volume: int, block: int, birth: int) -> bool:
    """Whether a volume still has the block that was born there, and it cannot be read."""
    table = pool.state.tables.get(volume)
    if table is None:
        return False
    pointer, sum = pool.state.forest.at(table, block)
    return pointer == birth and not readable(pool, pointer, sum)


def readable(pool: Pool, birth: int, sum: int) -> bool:
    """Whether a block is what was written."""
    try:
        pool.log.read(birth, array("Q", [sum]))
    except (Damaged, OSError):
        return False
    return True


def _suspects(disk: Disk, wanted: list[Wanted]) -> list[int]:
    """Numbers of blocks that are not what was written, or not there. In a thread."""
    bad: list[int] = []
    by_segment: dict[int, list[Wanted]] = {}
    for each in sorted(wanted):
        by_segment.setdefault(each[0] >> SLOT_BITS, []).append(each)
    for segment, blocks in by_segment.items():
        try:
            file = disk.open_uncached(segment_name(segment))
        except OSError:
            bad += [at for _, _, at in blocks]
            continue
        try:
            for run in _runs(blocks):
                first = (run[0][0] & SLOT_MASK) * BLOCK
                try:
                    data = memoryview(file.read_at(len(run) * BLOCK, first))
                except OSError:  # one of them: each is looked at again
                    bad += [at for _, _, at in run]
                    continue
                for n, (_, sum, at) in enumerate(run):
                    if checksum(data[n * BLOCK : (n + 1) * BLOCK]) != sum:
                        bad.append(at)
        finally:
            file.close()
    return sorted(bad)


def _runs(blocks: list[Wanted]) -> list[list[Wanted]]:
    """Blocks that lie one after the other."""
    runs: list[list[Wanted]] = []
    for each in blocks:
        if runs and runs[-1][-1][0] + 1 == each[0]:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs
