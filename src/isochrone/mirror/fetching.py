"""Blocks that the other site has lost: found here by their checksums, and told.

Both sides of a mirror may ask. What comes is taken only if it has the checksum that was asked for,
so a wrong answer costs a connection and nothing else.
"""

from __future__ import annotations

import numpy as np

from isochrone.errors import PeerFault
from isochrone.mirror.messages import Fetch, Fetched
from isochrone.store import mend
from isochrone.store.format import checksum
from isochrone.store.pool import Pool
from isochrone.types import BLOCK


def question(request: int, volume: int, wanted: list[tuple[int, int]]) -> Fetch:
    """FETCH for (block, checksum) of one volume, by its id at the primary."""
    sums = np.array([sum for _, sum in wanted], "<u8").tobytes()
    return Fetch(request=request, volume=volume, blocks=tuple(b for b, _ in wanted), sums=sums)


async def answer(pool: Pool, ids: dict[int, int], message: Fetch) -> Fetched:
    """What is here of it. `ids`: volume as the asker names it -> volume here.

    Raises `PeerFault` for a question that nobody sane asks.
    """
    if len(message.sums) != 8 * len(message.blocks):
        raise PeerFault(f"FETCH has {len(message.blocks)} blocks and {len(message.sums)} bytes")
    local = ids.get(message.volume)
    if local is None or local not in pool.state.volumes:
        raise PeerFault(f"FETCH names volume {message.volume}, which is not of this group")
    end = -(-pool.state.volumes[local].size // BLOCK)
    found: dict[int, bytes] = {}
    sums = np.frombuffer(message.sums, "<u8").tolist()
    for block, sum in zip(message.blocks, sums, strict=True):
        data = mend.search(pool, local, block, sum) if block < end else None
        if data is not None:
            found[block] = data
        await pool.world.clock.sleep(0)  # each may be a read of the disk
    return Fetched(request=message.request, found=tuple(found), data=b"".join(found.values()))


def take(asked: Fetch, told: Fetched) -> dict[int, bytes]:
    """Block -> data of an answer. Raises `PeerFault` if it is not what was asked for."""
    if told.request != asked.request:
        raise PeerFault("blocks came that nobody asked for")
    if len(told.data) != BLOCK * len(told.found) or len(set(told.found)) != len(told.found):
        raise PeerFault(f"FETCHED has {len(told.found)} blocks and {len(told.data)} bytes")
    sums = dict(zip(asked.blocks, np.frombuffer(asked.sums, "<u8").tolist(), strict=True))
    found: dict[int, bytes] = {}
    for n, block in enumerate(told.found):
        data = told.data[n * BLOCK : (n + 1) * BLOCK]
        if block not in sums or checksum(data) != sums[block]:
            raise PeerFault(f"block {block} came, and is not what was asked for")
        found[block] = data
    return found
