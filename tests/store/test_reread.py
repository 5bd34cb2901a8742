"""Reading a range again: what rotted is found; what is overwritten meanwhile is no damage."""

from __future__ import annotations

import pytest

from isochrone.store import copies, reread, volumes
from isochrone.store.cleaner import Cleaner
from isochrone.store.format import SLOT_BITS, SLOT_MASK, segment_name
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, device, pattern


def spoil(pool: Pool, name: str, *blocks: int) -> None:
    """Change bytes where blocks of a volume lie, in the file."""
    table = pool.state.tables[pool.state.names[name]]
    for block in blocks:
        place = pool.log.forwarding.place(pool.state.forest.at(table, block)[0])
        file = pool.disk.open(segment_name(place >> SLOT_BITS))
        file.write_at([b"rotten"], (place & SLOT_MASK) * BLOCK + 1000)
        file.sync()
        file.close()


@pytest.fixture
def filled() -> Pool:
    pool = Rig().open()
    volumes.create(pool, "a", 16 * MIB)
    for block in (0, 1, 2, 500, 1023, 1024, 3000):
        device(pool, "a").write(block * BLOCK, memoryview(pattern(block)))
        pool.commit()
    return pool


async def test_what_is_well_and_what_is_not(filled: Pool) -> None:
    id = filled.state.names["a"]
    await filled.flush()
    assert await reread.damaged(filled, id, 0, 4096) == ([], 7 * BLOCK)
    spoil(filled, "a", 1, 1023, 3000)
    assert await reread.damaged(filled, id, 0, 4096) == ([1, 1023, 3000], 7 * BLOCK)
    assert await reread.damaged(filled, id, 2, 1021) == ([], 2 * BLOCK)
    assert await reread.damaged(filled, 12345, 0, 10) == ([], 0)


async def test_what_was_overwritten_meanwhile() -> None:
    rig = Rig()
    pool = rig.open()
    volumes.create(pool, "a", MIB)
    for block in range(4):
        device(pool, "a").write(block * BLOCK, memoryview(pattern(block)))
        pool.commit()
    await pool.flush()
    spoil(pool, "a", 1, 2)

    def overwrite() -> None:
        device(pool, "a").write(BLOCK, memoryview(pattern(9)))
        pool.commit()

    rig.work.after = overwrite
    assert (await reread.damaged(pool, pool.state.names["a"], 0, 8))[0] == [2]


async def test_moved_blocks_and_a_missing_segment(filled: Pool) -> None:
    copies.take(filled, ["a"], name="c")
    await filled.flush()
    await Cleaner(filled).round()
    id = filled.state.names["a"]
    assert (await reread.damaged(filled, id, 0, 4096))[0] == []
    table = filled.state.tables[id]
    place = filled.log.forwarding.place(filled.state.forest.at(table, 0)[0])
    await filled.checkpoint()
    filled.disk.remove(segment_name(place >> SLOT_BITS))
    filled.log._files.clear()
    assert 0 in (await reread.damaged(filled, id, 0, 4096))[0]
