"""The data mover: the secondary's end of a mirror session.

It pulls one consistency group after the other, collects each in the log and commits it. Whatever
goes wrong, the last committed cut stands, and the next connection goes on from it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from pyroaring import BitMap

from isochrone.errors import Conflict, IsochroneError, PeerFault, StaleEpoch, Unavailable
from isochrone.mirror import admission, cascade, fetching, inventory, orphans
from isochrone.mirror.apply import Receiver, check_volume
from isochrone.mirror.conversation import HEARTBEAT_SECONDS, Conversation
from isochrone.mirror.messages import (
    AnyMessage,
    Begin,
    Command,
    Compare,
    CopyQuestion,
    Credit,
    Cut,
    Data,
    Fetch,
    Heartbeat,
    Hello,
    Holes,
    Inventory,
    Leave,
    Pull,
    Query,
    Reached,
    Refuse,
    Relayed,
    Release,
    Requests,
    Sync,
    Welcome,
)
from isochrone.mirror.pairs import Cause, Event, Pair, cause_of, move
from isochrone.mirror.partial import part_of, seeded
from isochrone.mirror.patience import STUCK_SECONDS, Patience
from isochrone.mirror.reservations import Replies
from isochrone.mirror.roles import begun_by
from isochrone.mirror.sessions import Trail
from isochrone.mirror.tally import Shipped
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, MIB, Lineage

CREDIT_BYTES: Final = 16 * MIB  # on the way or waiting here; two seconds of a 64 Mbit/s link
CREDIT_STEP_BYTES: Final = MIB  # given back at once: each word of it wakes the other side
RETRY_SECONDS_MIN: Final = 0.2
RETRY_SECONDS_MAX: Final = 5.0  # a link that is back is noticed within seconds


class Mover:
    """Follows one group. `run` never returns by itself."""

    def __init__(self, pool: Pool, group: str) -> None:
        self._pool = pool
        self.group_name = group
        self.state = move(Pair.SIMPLEX, Event.ADDED)
        self.cause = ""
        self.kind: Cause | None = None  # of the cause, while it is suspended
        self.trail = Trail("pair", group=group)
        self.shipped = Shipped()
        self.phase = ""  # "first copy" or "resend" while one is received
        self.todo_bytes = 0  # of that phase, in all; 0: not known
        self.done_bytes = 0
        self._caught_up = False  # a group was committed in this connection
        self.bytes_received = 0
        self.bytes_commands = 0
        self.bytes_incoming = 0  # collected for the next cut
        self.bytes_incoming_at_end = 0  # what was collected when the last session ended
        self.last_heard = 0  # stamp of the primary's last word, ns, by its clock
        self.behind_bytes = -1  # what it then had that is not here; -1 unknown
        self.clean_stamp = 0  # the primary said that nothing had changed up to then
        self.telling = False  # the primary is being told that its epoch is over
        self.changed = asyncio.Event()  # set and replaced whenever a status line would change
        self._skew_ns: int | None = None  # our clock less the primary's, at most
        self._token = 0
        self._token_done = 0
        self._talk: Conversation | None = None
        self._replies = Replies(pool, group)
        self._at_work = False  # on a message that arrived whole
        self._counted = (0, 0)  # bytes received, and of them commands, in this connection
        self._patience = Patience()
        self.differing: dict[int, BitMap] = {}  # by volume of the primary: not what it has

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

    @property
    def primary_now(self) -> int:
        """The primary's clock, as far as is known here, in ns."""
        return self._pool.world.clock.wall_ns() - (self._skew_ns or 0)

    async def sync(self) -> int:
        """Ask for a cut now; a token that `covered` answers for."""
        self._token += 1
        if self._talk is not None:
            with suppress(Unavailable):  # it is asked again with the next connection
                await self._talk.send(Sync(token=self._token))
        return self._token

    def resend(self, tracks: dict[int, BitMap]) -> None:
        """Have the primary send these tracks, by its volumes, with the next group."""
        for volume, bits in tracks.items():
            self.differing[volume] = self.differing.get(volume, BitMap()) | bits
        if self._talk is not None:
            self._talk.close()  # it is told before the first PULL

    def covered(self, token: int) -> bool:
        """Whether everything the primary had when it saw the token is here."""
        return self._token_done >= token

    def _enter(self, event: Event, cause: str = "", kind: Cause = Cause.ERROR) -> None:
        before, self.state = self.state, move(self.state, event)
        self.cause, self.kind = cause, kind if self.state is Pair.SUSPENDED else None
        now = self._pool.world.clock.wall_ns()
        if before is not self.state:
            self.trail.note(before, self.state, event, now)
        if self.kind is not None:
            self.trail.suspended(self.kind, cause, now)
        else:
            self.trail.mended(now)
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
                # Who says no at once costs nothing; what a bad link breaks comes right by itself.
                cause = self._patience.failed(e, cut) if self._at_work else str(e)
                if cause != self.cause or self.state is not Pair.SUSPENDED:
                    self._enter(Event.LOST, cause, cause_of(e))
            except Exception as e:
                # A broken invariant: the session stops rather than going on with wrong data.
                self._enter(Event.LOST, f"internal error: {e!r}; restart the controller")
                raise
            if self.group.cut > cut:
                wait = RETRY_SECONDS_MIN
            wait = STUCK_SECONDS if self._patience.ended else min(wait, RETRY_SECONDS_MAX)
            await self._pool.world.clock.sleep(self._pool.world.dice.between(wait / 2, wait))
            wait = min(2 * wait, RETRY_SECONDS_MAX)

    async def _session(self) -> None:
        world, self._at_work = self._pool.world, False
        talk = Conversation(await world.net.connect(self.group.source))
        beat: asyncio.Task[None] | None = None
        try:
            welcome = await greet(self._pool, talk, self.group)
            self._talk, self._caught_up = talk, False
            talk.link.shipped = self.shipped
            if welcome.resume and not self.group.cut:
                raise PeerFault(f"{talk.peer} would resume a group of which nothing is here")
            if welcome.resume and not self._patience.ended:
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
            self._end_phase()
            self.bytes_incoming_at_end, self.bytes_incoming = self.bytes_incoming, 0

    async def _beat(self, talk: Conversation) -> None:
        while True:
            await self._pool.world.clock.sleep(HEARTBEAT_SECONDS)
            await talk.send(Heartbeat(stamp=self._pool.world.clock.wall_ns()))

    async def _follow(self, talk: Conversation, welcome: Welcome) -> None:
        lineage = Lineage(welcome.lineage, welcome.epoch)
        base = self.group.cut if welcome.resume else 0
        self._counted = (talk.link.bytes_received, talk.link.bytes_commands)
        receiver = Receiver(self._pool, self.group, lineage, welcome.pool)
        admission.note_welcome(self._pool, self.group, welcome)
        there = {volume.id for volume in welcome.volumes}  # others have left the group
        for told in orphans.tell(self._pool.state, self.group) if base else ():
            if told.volume in there:
                await talk.send(told)
        self.differing = {v: bits for v, bits in self.differing.items() if v in there}
        resent = dict(self.differing) if base else {}
        for told in orphans.messages(resent):
            await talk.send(told)
        tells = inventory.CAPABILITY in welcome.capabilities
        telling = inventory.Telling(self._pool, self.group)
        if tells and (news := telling.due()) is not None:
            await talk.send(news)
        whole = not base and seeded(self.group)
        await talk.send(Pull(cut=base, credit=CREDIT_BYTES, seeded=whole))
        taken = 0  # bytes since the last credit
        while True:
            match message := await self._next(talk):
                case Data():
                    receiver.data(message)
                    self.bytes_incoming = self.done_bytes = receiver.bytes_collected
                    taken += len(message.payload)
                    if taken >= CREDIT_STEP_BYTES:
                        await talk.send(Credit(bytes=taken))
                        taken = 0
                case Heartbeat():
                    self._heard(message)
                case Relayed():
                    self._heard_of(message)
                case Begin():
                    receiver.begin(message)
                    self._begun(message)
                case Reached():
                    receiver.reached(message)
                    self.todo_bytes = self.done_bytes + message.left * BLOCK
                    self._tell()
                case (Query() | Release() | CopyQuestion() | Requests()) as question:
                    if (reply := await self._replies.to(question)) is not None:
                        await talk.send(reply)
                case Fetch() as wanted:
                    ids = dict(self.group.remote_ids)
                    await talk.send(await fetching.answer(self._pool, ids, wanted))
                case Compare():
                    await talk.send(receiver.compare(message))
                case Holes():
                    receiver.holes(message)
                case Command():
                    receiver.command(message)
                case Inventory():
                    receiver.inventory(message)
                    telling.listed()
                case Cut():
                    await self._commit(receiver, message)
                    if resent and self.differing == resent:  # else there is more by now
                        self.differing, resent = {}, {}
                        self._tell()
                    if tells and (news := telling.due()) is not None:
                        await talk.send(news)
                    await talk.send(Pull(cut=message.cut, credit=CREDIT_BYTES))
                    taken = 0
                case Refuse():
                    raise PeerFault(f"the other side refuses: {message.message}")
                case other:
                    raise PeerFault(f"a primary does not send {type(other).__name__}")

    async def _next(self, talk: Conversation) -> AnyMessage:
        self._at_work = False
        message = await talk.receive()
        self._at_work = True
        link = talk.link
        self.bytes_received += link.bytes_received - self._counted[0]
        self.bytes_commands += link.bytes_commands - self._counted[1]
        self._counted = (link.bytes_received, link.bytes_commands)
        return message

    def _begun(self, message: Begin) -> None:
        """A group that is sent from images is a state of its own, unless it is one in a row."""
        if not message.images and message.base:
            return
        self.phase = "resend" if message.base else "first copy"
        self.todo_bytes, self.done_bytes = message.todo * BLOCK, 0
        if not self._patience.ended and (not message.base or not self._caught_up):
            self._enter(Event.COPY_BEGUN)

    async def _commit(self, receiver: Receiver, message: Cut) -> None:
        receiver.commit(message)
        await self._pool.flush()
        self._caught_up = True
        self._end_phase()
        self.bytes_incoming = 0
        # As of the cut; a heartbeat follows it and tells how much more there is by now.
        self.behind_bytes, self.last_heard = 0, message.stamp
        self.clean_stamp = 0
        self._token_done = max(self._token_done, message.token)
        self._patience.advanced()
        if self.state is Pair.SUSPENDED:
            self._enter(Event.RESUMED)
        self._enter(Event.COMMITTED)

    def _end_phase(self) -> None:
        self.phase, self.todo_bytes, self.done_bytes = "", 0, 0

    def _heard_of(self, message: Relayed) -> None:
        """What a secondary that is followed knows of the primary, by the primary's clock."""
        known = message.cut == self.group.cut
        self._heard(
            Heartbeat(stamp=message.stamp, behind_bytes=message.behind_bytes if known else -1)
        )
        if known:
            self.clean_stamp = max(self.clean_stamp, message.point)
            self._token_done = max(self._token_done, message.token)
            self._tell()

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
    await talk.send(_hello(pool, group, purpose))
    welcome = await talk.expect(Welcome)
    cascade.check_way(pool, group, welcome.way)
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
            hint=f"follow it on purpose: isochrone mirror repoint {group.name} {group.source}",
        )
    if group.lineage not in ("", theirs.id):
        raise Conflict(f"{talk.peer} offers group {group.name} with another history")
    if not welcome.volumes:
        raise PeerFault(f"group {group.name} has no volumes at {talk.peer}")
    for volume in welcome.volumes:
        check_volume(pool, group, volume)
    return welcome


def _hello(pool: Pool, group: Group, purpose: str) -> Hello:
    return Hello(
        pool=pool.identity,
        group=group.name,
        lineage=group.lineage,
        epoch=group.epoch,
        cut=group.cut,
        purpose=purpose,
        partial=part_of(pool, group) if purpose == "follow" else None,
        branch=begun_by(group.takeovers, group.epoch),
    )


async def leave(pool: Pool, group: Group) -> None:
    """Tell the primary that nobody follows from here any more. Raises if it cannot be told."""
    try:
        talk = Conversation(await pool.world.net.connect(group.source))
        try:
            await talk.send(_hello(pool, group, "leave"))
            await talk.expect(Welcome)
            return
        finally:
            talk.close()
    except PeerFault:  # an older one does not know the word: only whom it serves can leave it
        talk = Conversation(await pool.world.net.connect(group.source))
        try:
            await greet(pool, talk, group)
            await talk.send(Leave())
        finally:
            talk.close()
