"""The primary's end of a comparison: it tells what it has in ranges of tracks, as of a cut.

A track that did not change since the cut is now what it was then, so the tables as they are now
answer for it, and nothing is kept. The others are *unstable*: the asker asks again at a newer cut,
and for that it has the images kept that the next cuts stand for. The newest two are; how long they
are kept is bounded, for they keep blocks that are dead.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

import numpy as np
from pyroaring import BitMap

from isochrone.errors import PeerFault, StaleEpoch
from isochrone.mirror import digests, fetching
from isochrone.mirror.bandwidth import Urgency
from isochrone.mirror.conversation import HEARTBEAT_SECONDS, Conversation
from isochrone.mirror.images import TRACK_BLOCKS
from isochrone.mirror.messages import (
    DAMAGED_TOLD_MAX,
    VERIFY_SUMS_MAX,
    Fetch,
    Heartbeat,
    Verified,
    Verify,
)
from isochrone.store import changes, reread
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.format import checksum
from isochrone.store.pool import Pool
from isochrone.store.tracks import Table, blocks_of
from isochrone.types import TRACK, VOLUME_BYTES_MAX

TRACKS_MAX: Final = VOLUME_BYTES_MAX // TRACK  # of a volume
FROZEN_CUTS: Final = 2  # the asker may have one while the next is placed
FROZEN_SECONDS: Final = 60.0  # without a question that wants images: then they are let go


class _Image(NamedTuple):
    table: Table
    size: int


class Witness:
    """Answers on one connection until it ends."""

    def __init__(self, pool: Pool, talk: Conversation, group: Group, peer: str) -> None:
        self._pool = pool
        self._talk = talk
        self._group = group
        self._identity = group.identity
        self._peer = peer  # pool of the asker
        self._frozen: dict[int, dict[int, _Image]] = {}  # cut -> volume -> what it was
        self._wanted_until = 0.0

    async def run(self) -> None:
        """Raises `Unavailable` when the asker is gone, `PeerFault` when it makes no sense."""
        self._talk.urgency = Urgency.BACKGROUND
        self._talk.while_waiting = self._beat
        beat = asyncio.get_running_loop().create_task(self._beats())
        self._pool.on_change.append(self._noticed)
        try:
            while True:
                match await self._talk.receive():
                    case Verify() as question:
                        await self._talk.send(await self._look(question))
                    case Fetch() as wanted:
                        ids = {id: id for id in self._live().volumes}
                        await self._talk.send(await fetching.answer(self._pool, ids, wanted))
                    case Heartbeat():
                        pass
                    case other:
                        raise PeerFault(f"who compares does not send {type(other).__name__}")
        finally:
            self._pool.on_change.remove(self._noticed)
            self._let_go(0)
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)

    async def _beats(self) -> None:
        while True:
            await self._pool.world.clock.sleep(HEARTBEAT_SECONDS)
            await self._beat()

    async def _beat(self) -> None:
        if self._frozen and self._pool.world.clock.monotonic() > self._wanted_until:
            self._let_go(0)
        await self._talk.send(Heartbeat(stamp=self._pool.world.clock.wall_ns()))

    def _live(self) -> Group:
        """The group, with the history that the asker was welcomed to. Raises `StaleEpoch`."""
        group = self._pool.state.groups.get(self._group.name)
        if group is not self._group or group.identity != self._identity or group.role == "fenced":
            raise StaleEpoch(f"group {self._group.name} is no longer what it was here")
        return group

    # -- images of cuts

    def _noticed(self, lsn: int, record: r.AnyRecord) -> None:
        """Called in the step that places a cut, or commits one that others follow from here."""
        match record:
            case r.CutPlaced() if record.group == self._group.name and self._peer in record.acked:
                self._freeze(record.cut)
            case r.IncomingCommitted() if record.group == self._group.name:
                self._freeze(record.cut)

    def _freeze(self, cut: int) -> None:
        state = self._pool.state
        if self._pool.world.clock.monotonic() > self._wanted_until:
            return
        images = {
            id: _Image(state.forest.clone(state.tables[id], passing=True), state.volumes[id].size)
            for id in self._group.volumes
        }
        self._frozen[cut] = images
        state.pins.extend(image.table for image in images.values())
        self._let_go(FROZEN_CUTS)

    def _let_go(self, keep: int) -> None:
        """Of all images but those of the newest cuts."""
        pins = self._pool.state.pins
        for cut in sorted(self._frozen)[: len(self._frozen) - keep]:
            mine = {id(image.table) for image in self._frozen.pop(cut).values()}
            pins[:] = [pin for pin in pins if id(pin) not in mine]

    # -- answering

    async def _look(self, asked: Verify) -> Verified:
        group = self._live()
        if asked.volume not in group.volumes:
            raise PeerFault(f"volume {asked.volume} is not part of group {group.name}")
        if asked.track + asked.count > TRACKS_MAX:  # bitmaps do not go so far, either
            raise PeerFault(f"track {asked.track} is behind the end of any volume")
        if asked.sums and asked.count > VERIFY_SUMS_MAX:
            raise PeerFault(f"the blocks of {asked.count} tracks are asked for at once")
        if asked.freeze:
            now = self._pool.world.clock.monotonic()
            self._wanted_until = now + FROZEN_SECONDS
        state = self._pool.state
        image = self._frozen.get(asked.cut, {}).get(asked.volume)
        unstable: BitMap | None = BitMap()
        if image is None:
            image = _Image(state.tables[asked.volume], state.volumes[asked.volume].size)
            changed = changes.since(state, group, asked.cut)
            unstable = None if changed is None else changed.get(asked.volume, BitMap())
        # Without an await since the tables were chosen: they may be those of now.
        found = row(self._pool, image.table, asked.track, asked.count, sums=asked.sums)
        same = checksum(found).to_bytes(8, "little") == asked.whole
        first = asked.track
        bits = b"" if unstable is None else pack(unstable, first, asked.count)
        damaged: list[int] = []
        if asked.read:
            damaged = await self._read(asked, min(image.size, first * TRACK + asked.count * TRACK))
        return Verified(
            volume=asked.volume,
            track=first,
            size=image.size,
            known=unstable is not None,
            same=same,
            digests=b"" if same else found,
            unstable=bits,
            damaged=tuple(damaged[:DAMAGED_TOLD_MAX]),
        )

    async def _read(self, asked: Verify, end: int) -> list[int]:
        """Blocks of a range that cannot be read here; they are to be healed from the asker."""
        pool, first = self._pool, asked.track * TRACK_BLOCKS
        count = max(0, blocks_of(end) - first)
        damaged, _ = await reread.damaged(pool, asked.volume, first, count)
        pool.met_damage(asked.volume, damaged)
        return damaged


def row(pool: Pool, table: Table, track: int, count: int, *, sums: bool) -> bytes:
    """Digests of tracks, or the checksums of their blocks; nothing if there is no data in them."""
    forest = pool.state.forest
    if not sums:
        return digests.of_range(forest, table, track, count)
    _, found = forest.row(table, track * TRACK_BLOCKS, count * TRACK_BLOCKS)
    return np.array(found, "<u8").tobytes() if any(found) else b""


def pack(tracks: BitMap, first: int, count: int) -> bytes:
    """Which of a range are in a set, a bit a track; nothing if none is."""
    part = tracks.intersection(BitMap(range(first, first + count)))
    if not part:
        return b""
    flags = np.zeros(count, np.uint8)
    flags[np.array(part.to_array(), np.int64) - first] = 1
    return np.packbits(flags).tobytes()


def unpack(bits: bytes, first: int, count: int) -> BitMap:
    """The set again. Raises `PeerFault` if it cannot be one of so many tracks."""
    if not bits:
        return BitMap()
    if len(bits) != -(-count // 8):
        raise PeerFault(f"{len(bits)} bytes tell which of {count} tracks have changed")
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), count=count)
    return BitMap((np.flatnonzero(flags) + first).tolist())
