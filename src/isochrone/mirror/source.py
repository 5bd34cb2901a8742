"""The primary's end of a mirror session: it answers a secondary that pulls.

One `SourceSession` a connection. Nothing is remembered that the log and the group do not hold: a
secondary that comes back says which cut it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from isochrone.errors import Conflict, IsochroneError, PeerFault
from isochrone.mirror import admission, cascade, handover, orphans, terms
from isochrone.mirror.capabilities import check_secondary
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.groups import find_group
from isochrone.mirror.inventory import note_holdings
from isochrone.mirror.messages import (
    TEXT_CHARS_MAX,
    Answer,
    CopyAnswer,
    Credit,
    Digests,
    Diverged,
    Fence,
    Fenced,
    Fetched,
    Heartbeat,
    Hello,
    Holdings,
    Leave,
    Noted,
    Pull,
    Refuse,
    Switch,
    Sync,
    Welcome,
)
from isochrone.mirror.peers import Act
from isochrone.mirror.serving import Serving, volumes_of
from isochrone.mirror.shipment import Shipment
from isochrone.mirror.tally import Shipped
from isochrone.mirror.witness import Witness
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, Caller, Lineage, Proof

PURPOSES: Final = ("follow", "probe", "verify")


class SourceSession:
    """Serves one secondary until the connection ends."""

    def __init__(
        self,
        pool: Pool,
        conversation: Conversation,
        interval: float,
        progress_bytes: int = 0,
    ) -> None:
        self._pool = pool
        self._progress_bytes = progress_bytes
        self._talk = conversation
        self._interval = interval
        self._group: Group | None = None
        self.peer = ""  # pool identity of the secondary
        self.group_name = ""
        self._serving: Serving | None = None  # once the secondary is welcome
        self.upstream: cascade.Find = lambda group: None  # where a group here comes from
        self.on_answer: Callable[[str, str, Answer | CopyAnswer | Noted], None] | None = None
        self.on_fetched: Callable[[str, str, Fetched], None] | None = None
        self.on_follow: Callable[[SourceSession], None] | None = None
        self.on_leave: Callable[[SourceSession], None] | None = None
        self.on_first: Callable[[], None] | None = None  # may refuse whoever has said something
        self.following = False  # welcomed, and neither a probe nor at its end

    @property
    def acked(self) -> int:
        """Newest cut that the secondary said it has."""
        return self._serving.acked if self._serving is not None else 0

    @property
    def copies_left_out(self) -> int:
        """Copies that a resend of this connection did not bring: there were too many."""
        return self._serving.copies_left_out if self._serving is not None else 0

    @property
    def interval(self) -> float:
        """Seconds between cuts; it can be changed while this runs."""
        return (self._group.interval if self._group else 0.0) or self._interval

    @property
    def phase(self) -> str:
        """ "first copy" or "resend" while one is sent."""
        return self._shipment.phase if self._shipment is not None else ""

    @property
    def _shipment(self) -> Shipment | None:
        return self._serving.shipment if self._serving is not None else None

    @property
    def todo_bytes(self) -> int:
        """Of that phase, in all, at most."""
        return self.done_bytes + (self._shipment.todo * BLOCK if self._shipment else 0)

    @property
    def done_bytes(self) -> int:
        return self._shipment.sent * BLOCK if self._shipment is not None else 0

    @property
    def shipped(self) -> Shipped:
        return self._talk.link.shipped

    @property
    def bytes_sent(self) -> int:
        return self._talk.link.bytes_sent

    @property
    def talk(self) -> Conversation:
        return self._talk

    def close(self) -> None:
        """Hang up; `run` ends."""
        self.following = False
        self._talk.close()

    # -- the conversation

    async def run(self) -> None:
        """Raises `Unavailable` when the other side is gone, `PeerFault` when it makes no sense."""
        first = await self._talk.receive()
        try:
            if self.on_first is not None:
                self.on_first()
            match first:
                case Fence():
                    await self._fence(first)
                    return
                case Switch():
                    self._talk.check_may(Act.FENCE, (first.pool,))
                    await self._talk.last_word(await handover.answer(self._pool, first))
                    return
                case Hello(purpose="leave"):
                    await self._talk.last_word(await self._let_go(first))
                    return
                case Hello():
                    welcome = await self._accept(first)
                case _:
                    raise PeerFault(f"{self._talk.peer} began with {type(first).__name__}")
        except IsochroneError as e:
            message, hint = e.message[:TEXT_CHARS_MAX], e.hint[:TEXT_CHARS_MAX]
            await self._talk.last_word(Refuse(code=e.code, message=message, hint=hint))
            raise
        if first.purpose == "probe":
            await self._talk.last_word(welcome)
            return
        await self._talk.send(welcome)
        if first.purpose == "verify":
            assert self._group is not None
            await Witness(self._pool, self._talk, self._group, self.peer).run()
            return
        assert self._serving is not None
        with self._attached():
            await self._converse(self._serving)

    async def _converse(self, serving: Serving) -> None:
        reader = asyncio.get_running_loop().create_task(self._read(serving))
        sender = asyncio.get_running_loop().create_task(serving.run())
        try:
            await asyncio.wait({reader, sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, sender):
                task.cancel()
            results = await asyncio.gather(reader, sender, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """While it runs everybody can see that a mover reads the group's volumes."""
        assert self._group is not None
        table, ids = self._pool.attached, list(self._group.volumes)
        mover = Caller(Proof.ADDRESS, self.peer, self._talk.peer)
        for id in ids:
            table.attach(id, mover, role="mover", read_only=True)
        self.following = True
        if self.on_follow is not None:
            self.on_follow(self)
        try:
            yield
        finally:
            self.following = False
            for id in ids:
                table.detach(id, mover, role="mover")

    async def _accept(self, hello: Hello) -> Welcome:
        pool = self._pool
        if hello.purpose not in PURPOSES:
            raise PeerFault(f"the other side wants to {hello.purpose!r}, which is unknown here")
        if not hello.pool.isalnum():  # other secondaries are told of it, and would not believe it
            raise PeerFault("the other side's pool has no identity")
        group = find_group(pool, hello.group)
        theirs = Lineage(hello.lineage, hello.epoch)
        if theirs.supersedes(group.identity):
            self._talk.check_may(Act.FENCE, (*group.sessions, group.handover))
            await admission.give_way(pool, group, theirs.epoch)
        admission.check_serves(group)
        check_secondary(hello.capabilities, pool.state, group)
        if hello.pool == pool.identity:
            raise Conflict("a controller cannot mirror itself")
        if hello.lineage not in ("", group.lineage):
            raise Conflict(
                f"group {group.name} there has another history",
                hint="remove that mirror first: isochrone mirror remove GROUP",
            )
        admission.check_branch(group, hello)
        same = theirs == group.identity
        if same and hello.cut > group.cut and group.role == "secondary":
            raise Conflict(
                f"the secondary has cut {hello.cut} of group {group.name}; this one, which it"
                f" follows, is not as far: it has cut {group.cut}",
                hint="it goes on by itself once that cut has come there, too",
            )
        if same and hello.cut > group.cut:
            raise Conflict(
                f"the secondary has cut {hello.cut} of group {group.name}, newer than cut"
                f" {group.cut} here: this primary has lost history",
                hint="promote the secondary, or remove its mirror to copy everything again",
            )
        if hello.purpose == "follow":
            terms.admit(pool, group, hello.pool)
        self._group, self.group_name, self.peer = group, group.name, hello.pool
        relay = cascade.Relay(pool, group, self.upstream)
        serving = Serving(
            pool, self._talk, group, hello, lambda: self.interval, relay, self._progress_bytes
        )
        self._serving = serving
        self._talk.while_waiting = serving.heartbeat  # for its turn, when the link is limited
        if hello.purpose == "follow" and admission.is_new(group, hello):
            pool.record(r.SessionOpened(group=group.name, peer=hello.pool, site=hello.site))
        return Welcome(
            pool=pool.identity,
            lineage=group.lineage,
            epoch=group.epoch,
            cut=group.cut,
            resume=same and serving.leads_on(hello.cut),
            volumes=volumes_of(pool, group),
            takeovers=admission.history(group),
            way=cascade.way(pool, group),
            cuts=admission.cuts_known(group),
        )

    async def _let_go(self, hello: Hello) -> Welcome:
        """Forget a secondary that follows no more, also one that is suspended or not served."""
        group = find_group(self._pool, hello.group)
        if hello.lineage not in ("", group.lineage):
            raise Conflict(f"group {group.name} there has another history")
        if hello.pool in group.sessions:
            self.peer, self.group_name = hello.pool, group.name
            if self.on_leave is not None:
                self.on_leave(self)
            self._pool.record(r.SessionClosed(group=group.name, peer=hello.pool))
            await self._pool.flush()
        return Welcome(
            pool=self._pool.identity, lineage=group.lineage, epoch=group.epoch, cut=group.cut,
            resume=False, volumes=(),
        )  # fmt: skip

    async def _fence(self, message: Fence) -> None:
        group = self._pool.state.groups.get(message.group)
        if group is not None and Lineage(message.lineage, message.epoch).supersedes(group.identity):
            self._talk.check_may(Act.FENCE, (*group.sessions, group.handover))
            await admission.give_way(self._pool, group, message.epoch, message)
            upstream = self.upstream(group.name)
            await cascade.pass_on(self._pool, group, message, upstream)
        await self._talk.last_word(Fenced(epoch=message.epoch))

    async def _read(self, serving: Serving) -> None:
        while not serving.left:
            match await self._talk.receive():
                case Pull() as pull:
                    serving.pulled(pull)
                case Credit(bytes=more):
                    serving.out.credit += more
                case Digests() as answer:
                    serving.digests(answer)
                case Holdings() as told:
                    group = serving.live_group()
                    note_holdings(self._pool, group, self.peer, told, listed=serving.listed)
                case Sync(token=token):
                    serving.token = max(serving.token, token)
                case Heartbeat():
                    pass
                case (Answer() | CopyAnswer() | Noted()) as said:
                    if self.on_answer is not None:
                        self.on_answer(self.group_name, self.peer, said)
                case Fetched() as found:
                    if self.on_fetched is not None:
                        self.on_fetched(self.group_name, self.peer, found)
                case Diverged() as message:
                    orphans.take(self._pool, serving.live_group(), serving.diverged, message)
                case Leave():
                    serving.left = True
                    self._forget(serving)
                case other:
                    raise PeerFault(f"a secondary does not send {type(other).__name__}")
            serving.out.news.set()

    def _forget(self, serving: Serving) -> None:
        group = serving.live_group()
        if self.peer in group.sessions:
            self._pool.record(r.SessionClosed(group=group.name, peer=self.peer))
