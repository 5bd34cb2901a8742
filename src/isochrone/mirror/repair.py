"""Damage is healed from the other site, by itself, for as long as there is one.

Whatever finds a block that cannot be read, a client, a scrub or a comparison, leaves it here. Now
and then all that was left is looked up together: who has these blocks, and where they were in
volumes of mirrored groups. Those places are asked for at the other sites, by checksum, and what
comes is put in the place of what was damaged. A block that was overwritten at the other site, in
the volume and in all its copies, cannot be had from there; that is told and tried again later.

The primary asks over the connections on which it is followed, a secondary over one of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final

import msgspec
import structlog

from isochrone.errors import Conflict, IsochroneError, PeerFault, Unavailable
from isochrone.mirror import fetching
from isochrone.mirror.bandwidth import Urgency
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import FETCH_BLOCKS_MAX, Fetch, Fetched
from isochrone.mirror.mover import greet
from isochrone.mirror.source import SourceSession
from isochrone.store import mend
from isochrone.store.catalogue import Group
from isochrone.store.mend import Lost, Spot
from isochrone.store.pool import Pool
from isochrone.types import BLOCK

CAPABILITY: Final = "verify"
QUEUE_MAX: Final = 16384  # blocks that wait: 64 MiB; the next scrub finds the others again
NOTICE_MAX: Final = 4096  # blocks of one notice: more is a table that is lost, not blocks
ROUND_BLOCKS: Final = 256  # looked up together
GATHER_SECONDS: Final = 1.0  # damage comes in neighbours
REST: Final = 9  # times as long as a look-up took, before the next: a tenth of a thread
RETRY_SECONDS_MIN: Final = 60.0  # before what could not be had is asked for again; doubles
RETRY_SECONDS_MAX: Final = 3600.0
ANSWER_SECONDS_MAX: Final = 30.0  # for 64 blocks of a disk that may be rotting
CONNECT_SECONDS_MAX: Final = 6.0  # a secondary that lost us comes back within five
LOOK_SECONDS: Final = 0.05  # between looks whether it is there
OUTCOMES_KEPT: Final = 100

log = structlog.get_logger("isochrone.repair")

Live = Callable[[str], Mapping[str, SourceSession]]  # of a group: those who follow it, by peer


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a damaged block."""

    stamp: int  # ns since 1970
    owners: list[str]  # exports that read it
    offset: int  # in each of them, bytes
    healed: bool
    why: str = ""  # it is not


class Repairs:
    """Of one pool. `run` never returns by itself."""

    def __init__(self, pool: Pool, live: Live) -> None:
        self._pool = pool
        self._live = live
        self._queue: dict[Spot, None] = {}
        self._news = asyncio.Event()
        self._kept: dict[int, Outcome] = {}  # birth -> why it is not healed
        self._again: dict[Spot, int] = {}  # where these were met
        self._round_spots: list[Spot] = []
        self._looked_seconds = 0.0  # in this round: work, and not waiting for others
        self._retry_at = 0.0
        self._retry_seconds = RETRY_SECONDS_MIN
        self._asked: dict[int, tuple[str, asyncio.Future[Fetched]]] = {}  # request -> peer
        self._number = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.healed = 0  # blocks
        self.outcomes: deque[Outcome] = deque(maxlen=OUTCOMES_KEPT)
        pool.on_damage.append(self.notice)

    @property
    def waiting(self) -> int:
        """Blocks that have not been looked up yet."""
        return len(self._queue)

    @property
    def unhealed(self) -> list[Outcome]:
        """Of blocks that could not be had so far."""
        return list(self._kept.values())

    def notice(self, volume: int, block: int, count: int) -> None:
        """Blocks of a volume or copy may not be readable."""
        if not self._pool.state.groups:
            return  # there is no other site
        for n in range(min(count, NOTICE_MAX)):
            if len(self._queue) < QUEUE_MAX:
                self._queue[volume, block + n] = None
        self._wake()

    def retry(self) -> None:
        """Ask at once for what could not be had so far."""
        self._queue.update(dict.fromkeys(self._again))
        self._retry_seconds = RETRY_SECONDS_MIN
        self._wake()

    def _wake(self) -> None:
        if self._queue:
            self.idle.clear()
            self._news.set()

    async def run(self) -> None:
        clock = self._pool.world.clock
        while True:
            await self._wait()
            await clock.sleep(GATHER_SECONDS)
            self._looked_seconds = 0.0
            try:
                await self._round()
            except (IsochroneError, OSError) as e:
                log.error("damage could not be looked up", reason=str(e))
                self._put_back()
            if not self._queue:
                self.idle.set()
            await clock.sleep(REST * self._looked_seconds)

    def _put_back(self) -> None:
        """The round has failed, for want of space perhaps: try its blocks again later."""
        self._again.update({spot: self._again.get(spot, 0) for spot in self._round_spots})
        self._retry_at = self._pool.world.clock.monotonic() + self._retry_seconds

    async def _wait(self) -> None:
        """Until there is damage, or time to ask again for what could not be had."""
        clock = self._pool.world.clock
        while not self._queue:
            self._news.clear()
            left = max(0.01, self._retry_at - clock.monotonic()) if self._again else None
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                self._queue.update(dict.fromkeys(self._again))
                self._retry_seconds = min(2 * self._retry_seconds, RETRY_SECONDS_MAX)
                self._retry_at = clock.monotonic() + self._retry_seconds

    # -- a round

    async def _round(self) -> None:
        spots = self._round_spots = list(islice(self._queue, ROUND_BLOCKS))
        damaged = mend.births(self._pool, spots)
        for spot in spots:
            del self._queue[spot]
            before = self._again.pop(spot, None)
            if before is not None and before not in damaged:
                self._kept.pop(before, None)  # it is healed, or nobody has it any more
        found = {birth: sum for birth, (sum, _) in damaged.items()}
        began = self._pool.world.clock.monotonic()
        lost = await mend.look_up(self._pool, found)
        self._looked_seconds = self._pool.world.clock.monotonic() - began
        good: dict[int, tuple[int, bytes]] = {}
        why: dict[int, str] = {}
        for each in lost:  # a copy of it may have been written here twice
            for volume, block in each.spots:
                if (data := mend.search(self._pool, volume, block, each.sum)) is not None:
                    good[each.birth] = each.sum, data
                    break
        groups = {self._pool.state.volumes[v].group for each in lost for v, _ in each.spots}
        for name in sorted(groups):
            await self._from_others(name, lost, good, why)
        healed = await mend.heal(self._pool, good)
        for each in lost:
            _, spot = damaged[each.birth]
            self._tell(each, spot, each.birth in healed, why.get(each.birth, ""))

    def _tell(self, lost: Lost, spot: Spot, healed: bool, why: str) -> None:
        if not healed and not why:
            why = "no mirrored volume has, or had, this block"
            if lost.spots:
                why = "the other site has something else in its place by now"
        stamp = self._pool.world.clock.wall_ns()
        outcome = Outcome(
            stamp=stamp, owners=lost.owners, offset=lost.block * BLOCK, healed=healed, why=why
        )
        words = {"exports": " ".join(lost.owners) or "-", "offset": outcome.offset}
        if healed:
            self.healed += 1
            self._kept.pop(lost.birth, None)
            self.outcomes.append(outcome)
            log.warning("damage was healed from the other site", **words)
            return
        before = self._kept.get(lost.birth)
        if before is None or before.why != why:
            log.error("damage is not healed", reason=why, **words)
            self.outcomes.append(outcome)
        if before is not None or len(self._kept) < QUEUE_MAX:
            self._kept[lost.birth] = outcome
            self._again[spot] = lost.birth
        if not self._retry_at or self._retry_at < self._pool.world.clock.monotonic():
            self._retry_at = self._pool.world.clock.monotonic() + self._retry_seconds

    # -- asking others

    async def _from_others(
        self, name: str, lost: list[Lost], good: dict[int, tuple[int, bytes]], why: dict[int, str]
    ) -> None:
        """Ask the other sites of a group, one after the other, for what is still missing."""
        group = self._pool.state.groups.get(name)
        if group is None:
            return
        peers = await self._peers(group)
        sources = ["", *peers] if group.role == "secondary" else peers
        if not sources:
            reason = f"no other site of group {name} is connected that could be asked"
            why.update({each.birth: reason for each in lost if self._of(group, each)})
        for peer in sources:
            missing = [e for e in lost if e.birth not in good and self._of(group, e)]
            try:
                if missing and peer:
                    await self._ask_follower(group, peer, missing, good)
                elif missing:
                    await self._ask_primary(group, missing, good)
            except IsochroneError as e:
                why.update({each.birth: f"the other site did not help: {e}" for each in missing})

    async def _peers(self, group: Group) -> list[str]:
        """Who follows and can be asked. Damage may be why nobody does for more than a moment."""
        clock = self._pool.world.clock
        end = clock.monotonic() + CONNECT_SECONDS_MAX
        while True:
            live = self._live(group.name).items()
            found = [peer for peer, s in live if CAPABILITY in s.talk.capabilities]
            if found or not group.sessions or clock.monotonic() >= end:
                return found
            await clock.sleep(LOOK_SECONDS)

    def _of(self, group: Group, lost: Lost) -> list[Spot]:
        return [spot for spot in lost.spots if spot[0] in group.volumes]

    async def _ask_primary(
        self, group: Group, missing: list[Lost], good: dict[int, tuple[int, bytes]]
    ) -> None:
        remote = {local: remote for remote, local in group.remote_ids.items()}
        talk = Conversation(await self._pool.world.net.connect(group.source))
        talk.urgency = Urgency.BACKGROUND
        try:
            welcome = await greet(self._pool, talk, group, purpose="verify")
            if CAPABILITY not in welcome.capabilities:
                raise Conflict("the primary is too old to be asked for blocks")
            for asked, births in self._questions(group, missing, remote):
                await talk.send(asked)
                _keep(asked, births, await _fetched(talk), good)
        finally:
            talk.close()

    async def _ask_follower(
        self, group: Group, peer: str, missing: list[Lost], good: dict[int, tuple[int, bytes]]
    ) -> None:
        for asked, births in self._questions(group, missing, {id: id for id in group.volumes}):
            session = self._live(group.name).get(peer)
            if session is None:
                raise Unavailable("its connection has ended")
            answer: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()
            self._asked[asked.request] = peer, answer
            try:
                await session.talk.send(asked)
                told = await self._answer(session, answer)
            finally:
                del self._asked[asked.request]
            try:
                _keep(asked, births, told, good)
            except PeerFault:
                session.close()
                raise

    async def _answer(self, session: SourceSession, answer: asyncio.Future[Fetched]) -> Fetched:
        """Raises `Unavailable` if it does not come in time, or its connection ends."""
        clock = self._pool.world.clock
        end = clock.monotonic() + ANSWER_SECONDS_MAX
        while not (await asyncio.wait({answer}, timeout=LOOK_SECONDS))[0]:
            if not session.following:
                raise Unavailable("its connection has ended")
            if clock.monotonic() >= end:
                raise Unavailable("it did not answer in time")
        return answer.result()

    def hear(self, group: str, peer: str, told: Fetched) -> None:
        """A secondary answers. One that nobody waits for any more is late, and ignored."""
        asked = self._asked.get(told.request)
        if asked is not None and asked[0] == peer and not asked[1].done():
            asked[1].set_result(told)

    def _questions(
        self, group: Group, missing: list[Lost], ids: Mapping[int, int]
    ) -> list[tuple[Fetch, dict[int, Lost]]]:
        """FETCH messages for all places of what is missing, and which block of each is which."""
        by_volume: dict[int, dict[int, Lost]] = {}
        for each in missing:
            for volume, block in self._of(group, each):
                if volume in ids:
                    by_volume.setdefault(ids[volume], {})[block] = each
        found = []
        for volume, blocks in sorted(by_volume.items()):
            todo = iter(sorted(blocks.items()))
            while part := dict(islice(todo, FETCH_BLOCKS_MAX)):
                self._number += 1
                wanted = [(block, each.sum) for block, each in part.items()]
                found.append((fetching.question(self._number, volume, wanted), part))
        return found

    async def settled(self, seconds: float) -> None:
        """Wait until all that was noticed has been looked at, but not for longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.idle.wait()


def _keep(
    asked: Fetch, births: Mapping[int, Lost], told: Fetched, good: dict[int, tuple[int, bytes]]
) -> None:
    for block, data in fetching.take(asked, told).items():
        good[births[block].birth] = births[block].sum, data


async def _fetched(talk: Conversation) -> Fetched:
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            return await talk.answer(Fetched)
    except TimeoutError:
        raise Unavailable(f"{talk.peer} did not answer in time") from None
