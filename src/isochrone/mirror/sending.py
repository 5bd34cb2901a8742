"""What a primary sends of a group, within the credit it has: a part of the log, or any items."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final

import structlog

from isochrone.errors import Conflict, Damaged
from isochrone.mirror import sidefile
from isochrone.mirror.conversation import HEARTBEAT_SECONDS, Conversation
from isochrone.mirror.images import leaf_items
from isochrone.mirror.messages import HOLES_MAX, AnyMessage, Command, Data, Holes
from isochrone.mirror.sidefile import Barrier, Became, Blocks, HoleRanges, Item, read_blocks
from isochrone.store import records as r
from isochrone.store.catalogue import Group, Image, Mark
from isochrone.store.cursor import Cursor
from isochrone.store.pool import Pool
from isochrone.store.ranges import CHUNK_BLOCKS
from isochrone.store.tracks import LEAF_BLOCKS

# Of a frame from the log. They lie scattered: to read, check and send so many takes a few tenths
# of a millisecond, for which nobody else is served.
WINDOW_BLOCKS: Final = 64


log = structlog.get_logger("isochrone.mirror")


class _UnreadableError(Exception):
    """What the log should hold cannot be read; blocks that are damaged are another matter."""


def _readable(items: Iterator[Item | None]) -> Iterator[Item | None]:
    try:
        yield from items
    except (Damaged, OSError) as e:
        raise _UnreadableError(e) from e


class Sender:
    """Sends what it is told to, within the credit that the other side gave."""

    def __init__(self, pool: Pool, talk: Conversation, beat: Callable[[], Awaitable[None]]) -> None:
        self._pool = pool
        self._talk = talk
        self._beat = beat  # says that we are alive
        self.credit = 0  # bytes of payload that may still be sent
        self.news = asyncio.Event()  # a message came in that the sender may wait for
        self.spoke_at = -1e9
        self._cursor = Cursor(pool.log)
        self.log_unreadable = False  # for the rest of this connection

    async def wait(self, seconds: float) -> None:
        """Until a message comes or the time is over; then say that we are alive."""
        self.news.clear()
        try:
            async with asyncio.timeout(max(seconds, 0.001)):
                await self.news.wait()
        except TimeoutError:
            await self._beat()

    async def window(
        self,
        group: Group,
        base: Mark,
        mark: Mark,
        volumes: Sequence[int],
        kept: Callable[[], bool],
    ) -> int | None:
        """What happened between two cuts; the number of blocks sent.

        None if it broke off: the group got other volumes, or the log is not `kept` for this any
        more, or it cannot be read, which `log_unreadable` says. What is missing in it then must
        not be taken for nothing; images do without it.
        """
        sent = 0
        items = sidefile.window(
            self._pool.log, volumes, base.lsn, mark.lsn,
            blocks_max=WINDOW_BLOCKS, images=tuple(group.images), cursor=self._cursor,
        )  # fmt: skip
        try:
            for item in _readable(items):
                if group.members_lsn > mark.lsn or not kept():
                    return None
                if item is None:
                    await self.breathe()
                else:
                    sent += await self.item(item)
        except _UnreadableError as e:
            if kept():  # else it was given back while others ran
                self.log_unreadable = True
                log.error("the log cannot be read for a mirror: images are sent", reason=str(e))
            return None
        return sent

    async def send(self, message: AnyMessage) -> None:
        """Say something that needs no credit."""
        await self._talk.send(message)

    async def item(self, item: Item) -> int:
        """Send it; the number of blocks."""
        match item:
            case Blocks():
                try:
                    payload = read_blocks(self._pool.log, item)
                except Damaged:  # the mirror stands until it is healed, perhaps from there
                    self._pool.met_damage(item.volume, item.blocks)
                    raise
                return await self.blocks(item.volume, item.blocks, item.sums, payload)
            case HoleRanges(ranges=ranges):
                await self._talk.send(Holes(ranges=ranges))
            case Barrier(record=record):
                await self._talk.send(Command(body=r.encode(record)))
            case Became(image=image):
                return await self._became(image)
        return 0

    async def _became(self, image: Image) -> int:
        """What a record without data made of a volume; the number of blocks sent."""
        state = self._pool.state
        table = state.tables.get(image.image)
        if table is None:
            raise Conflict("the group is not mirrored to this secondary any more")
        resized = r.VolumeResized(id=image.volume, size=image.size)
        await self._talk.send(Command(body=r.encode(resized)))
        sent = 0
        for at in range(0, len(image.ranges), HOLES_MAX):
            ranges = [(image.volume, *range) for range in image.ranges[at : at + HOLES_MAX]]
            await self._talk.send(Holes(ranges=tuple(ranges)))
        for block, count in image.ranges:
            end = block + count
            while block < end:
                if image.image not in state.tables:  # let go of while this was sent
                    raise Conflict(f"the image of {image.volume} is not kept any more")
                stop = min(end, (block // LEAF_BLOCKS + 1) * LEAF_BLOCKS)
                words = state.forest.leaf(table, block // LEAF_BLOCKS)
                if words is not None:
                    low = block % LEAF_BLOCKS
                    for item in leaf_items(
                        image.volume, block - low, words, low, low + stop - block
                    ):
                        sent += await self.item(item)
                if words is not None or not stop % CHUNK_BLOCKS:
                    await self.breathe()
                block = stop
        return sent

    async def blocks(
        self, volume: int, blocks: array[int], sums: array[int], payload: bytes
    ) -> int:
        while self.credit <= 0:
            await self.wait(HEARTBEAT_SECONDS)
        self.credit -= len(payload)
        packing = self._talk.packing
        if packing.due:  # as long as all the rest; meanwhile the loop is for others
            packed = await self._pool.world.work.run(partial(packing.pack, payload))
            await self._talk.send(Data(volume, blocks, sums, payload, packed or b""))
            await self._keep_talking()
        else:
            await self._talk.send(Data(volume, blocks, sums, payload))
            await self.breathe()
        return len(blocks)

    async def flush(self) -> None:
        """Make what is in the log durable; a slow disk is no reason to fall silent."""
        flush = asyncio.get_running_loop().create_task(self._pool.flush())
        try:
            while not (await asyncio.wait({flush}, timeout=HEARTBEAT_SECONDS))[0]:
                await self._beat()
            flush.result()
        finally:
            flush.cancel()

    async def breathe(self) -> None:
        """Let block clients run in the middle of long work, and do not fall silent over it."""
        clock = self._pool.world.clock
        await clock.sleep(0)  # the loop reads what has arrived; the turn for it comes behind us
        await clock.sleep(0)  # now it is served
        await self._keep_talking()

    async def _keep_talking(self) -> None:
        if self._pool.world.clock.monotonic() - self.spoke_at > HEARTBEAT_SECONDS:
            await self._beat()
