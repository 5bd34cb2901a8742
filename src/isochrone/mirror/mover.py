"""The data mover: the secondary's end of a mirror session.

It pulls one consistency group after the other, collects each in the log and commits it. Whatever
goes wrong, the last committed cut stands, and the next connection goes on from it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from isochrone.errors import Conflict, IsochroneError, PeerFault, StaleEpoch, Unavailable
from isochrone.mirror.apply import Receiver, check_volume
from isochrone.mirror.conversation import HEARTBEAT_SECONDS, Conversation
from isochrone.mirror.messages import (
    Begin,
    Command,
    Credit,
    Cut,
    Data,
    Heartbeat,
    Hello,
    Holes,
    Leave,
    Pull,
    Refuse,
    Sync,
    Welcome,
)
from isochrone.mirror.pairs import Event, Pair, move
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool
from isochrone.types import MIB, Lineage

CREDIT_BYTES: Final = 16 * MIB  # on the way or waiting here; two seconds of a 64 Mbit/s link
RETRY_SECONDS_MIN: Final = 0.2
RETRY_SECONDS_MAX: Final = 5.0  # a link that is back is noticed within seconds

log = structlog.get_logger()


class Mover:
    """Follows one group. `run` never returns by itself."""

    def __init__(self, pool: Pool, group: str) -> None:
        self._pool = pool
        self.group_name = group
        self.state = move(Pair.SIMPLEX, Event.ADDED)
        self.cause = ""
        self.bytes_received = 0
        self.bytes_commands = 0
        self.bytes_incoming = 0  # collected for the next cut
        self.bytes_incoming_at_end = 0  # what was collected when the last session ended
        self.last_heard = 0  # stamp of the primary's last word, ns, by its clock
        self.behind_bytes = -1  # what it then had that is not here; -1 unknown
        self.clean_stamp = 0  # the primary said that nothing had changed up to then
        self.changed = asyncio.Event()  # set and replaced whenever a status line would change
        self._skew_ns: int | None = None  # our clock less the primary's, at most
        self._token = 0
        self._token_done = 0
        self._talk: Conversation | None = None

    # -- what others see

    @property
    def group(self) -> Group:
        return self._pool.state.groups[self.group_name]

    @property
    def recovery_point(self) -> int:
        """The instant, by the primary's clock, up to which everything is here; 0 if none."""
        return max(self.group.cut_stamp, self.clean_stamp) if self.group.cut else 0

    @property
    def recovery_point_age(self) -> float:
        """Seconds since that instant; the primary's clock is corrected by what it last said."""
        if not self.recovery_point:
            return -1.0
        now = self._pool.world.clock.wall_ns() - (self._skew_ns or 0)
        return max(0.0, (now - self.recovery_point) / 1e9)

    async def sync(self) -> int:
        """Ask for a cut now; a token that `covered` answers for."""
        self._token += 1
        if self._talk is not None:
            with suppress(Unavailable):  # it is asked again with the next connection
                await self._talk.send(Sync(token=self._token))
        return self._token

    def covered(self, token: int) -> bool:
        """Whether everything the primary had when it saw the token is here."""
        return self._token_done >= token

    def _enter(self, event: Event, cause: str = "") -> None:
        before, self.state = self.state, move(self.state, event)
        self.cause = cause
        if before is not self.state or cause:
            log.info(
                f"pair {before.value} -> {self.state.value}",
                group=self.group_name,
                why=event.value,
                cause=cause,
            )
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    # -- the life of a mover

    async def run(self) -> None:
        """Connect, follow, and start again until cancelled."""
        wait = RETRY_SECONDS_MIN
        while True:
            cut = self.group.cut
            try:
                await self._session()
            except IsochroneError as e:
                if str(e) != self.cause or self.state is not Pair.SUSPENDED:
                    self._enter(Event.LOST, str(e))
            except Exception as e:
                # A broken invariant: the session stops rather than going on with wrong data.
                self._enter(Event.LOST, f"internal error: {e!r}; restart the controller")
                raise
            if self.group.cut > cut:
                wait = RETRY_SECONDS_MIN
            await self._pool.world.clock.sleep(self._pool.world.dice.between(wait / 2, wait))
            wait = min(2 * wait, RETRY_SECONDS_MAX)

    async def _session(self) -> None:
        world = self._pool.world
        talk = Conversation(await world.net.connect(self.group.source))
        beat: asyncio.Task[None] | None = None
        try:
            welcome = await greet(self._pool, talk, self.group)
            self._talk = talk
            if welcome.resume and not self.group.cut:
                raise PeerFault(f"{talk.peer} would resume a group of which nothing is here")
            if welcome.resume:
                self._enter(Event.RESUMED)
            if self._token > self._token_done:
                await talk.send(Sync(token=self._token))
            beat = asyncio.get_running_loop().create_task(self._beat(talk))
            await self._follow(talk, welcome)
        finally:
            self._talk = None
            if beat is not None:
                beat.cancel()
                await asyncio.gather(beat, return_exceptions=True)
            talk.close()
            self.bytes_incoming_at_end, self.bytes_incoming = self.bytes_incoming, 0

    async def _beat(self, talk: Conversation) -> None:
        while True:
            await self._pool.world.clock.sleep(HEARTBEAT_SECONDS)
            await talk.send(Heartbeat(stamp=self._pool.world.clock.wall_ns()))

    async def _follow(self, talk: Conversation, welcome: Welcome) -> None:
        lineage = Lineage(welcome.lineage, welcome.epoch)
        base = self.group.cut if welcome.resume else 0
        counted = (talk.link.bytes_received, talk.link.bytes_commands)
        receiver = Receiver(self._pool, self.group, lineage)
        await talk.send(Pull(cut=base, credit=CREDIT_BYTES))
        while True:
            message = await talk.receive()
            link = talk.link
            self.bytes_received += link.bytes_received - counted[0]
            self.bytes_commands += link.bytes_commands - counted[1]
            counted = (link.bytes_received, link.bytes_commands)
            match message:
                case Data():
                    receiver.data(message)
                    self.bytes_incoming = receiver.bytes_collected
                    await talk.send(Credit(bytes=len(message.payload)))
                case Heartbeat():
                    self._heard(message)
                case Begin():
                    receiver.begin(message)
                    if not message.base:
                        self._enter(Event.COPY_BEGUN)
                case Holes():
                    receiver.holes(message)
                case Command():
                    receiver.command(message)
                case Cut():
                    await self._commit(receiver, message)
                    await talk.send(Pull(cut=message.cut, credit=CREDIT_BYTES))
                case Refuse():
                    raise PeerFault(f"the other side refuses: {message.message}")
                case other:
                    raise PeerFault(f"a primary does not send {type(other).__name__}")

    async def _commit(self, receiver: Receiver, message: Cut) -> None:
        receiver.commit(message)
        await self._pool.flush()
        self.bytes_incoming = 0
        # As of the cut; a heartbeat follows it and tells how much more there is by now.
        self.behind_bytes, self.last_heard = 0, message.stamp
        self.clean_stamp = 0
        self._token_done = max(self._token_done, message.token)
        self._enter(Event.COMMITTED)

    def _heard(self, message: Heartbeat) -> None:
        skew = self._pool.world.clock.wall_ns() - message.stamp
        self._skew_ns = skew if self._skew_ns is None else min(skew, self._skew_ns)
        self.last_heard = message.stamp
        if message.clean and message.clean == self.group.cut:
            self.clean_stamp = message.stamp
            self.behind_bytes = 0
            self._token_done = max(self._token_done, message.token)
        else:
            self.behind_bytes = message.behind_bytes
        self._tell()


async def greet(
    pool: Pool, talk: Conversation, group: Group, *, purpose: str = "follow"
) -> Welcome:
    """Say who we are; check what the primary answers.

    Raises `PeerFault`, `StaleEpoch`, `Conflict` or `Unavailable`.
    """
    await talk.send(
        Hello(
            pool=pool.identity,
            group=group.name,
            lineage=group.lineage,
            epoch=group.epoch,
            cut=group.cut,
            purpose=purpose,
        )
    )
    welcome = await talk.expect(Welcome)
    theirs = Lineage(welcome.lineage, welcome.epoch)
    if group.identity.supersedes(theirs):
        raise StaleEpoch(
            f"{talk.peer} offers group {group.name} at epoch {theirs.epoch};"
            f" epoch {group.epoch} is known here"
        )
    if group.cut and theirs.supersedes(group.identity):
        # Another site took over: its volumes have other ids, and its cuts other numbers.
        raise Conflict(
            f"{talk.peer} offers group {group.name} at epoch {theirs.epoch}, after a failover;"
            f" epoch {group.epoch} is here",
            hint=f"end this mirror and begin it anew: isochrone mirror remove {group.name}",
        )
    if group.lineage not in ("", theirs.id):
        raise Conflict(f"{talk.peer} offers group {group.name} with another history")
    if not welcome.volumes:
        raise PeerFault(f"group {group.name} has no volumes at {talk.peer}")
    for volume in welcome.volumes:
        check_volume(pool, group, volume)
    return welcome


async def leave(pool: Pool, group: Group) -> None:
    """Tell the primary that nobody follows from here any more. Raises if it cannot be told."""
    talk = Conversation(await pool.world.net.connect(group.source))
    try:
        await greet(pool, talk, group)
        await talk.send(Leave())
    finally:
        talk.close()
