"""The primary's end of a mirror session: it answers a secondary that pulls.

One `SourceSession` a connection. Nothing is remembered that the log and the group do not hold: a
secondary that comes back says which cut it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from isochrone.errors import Conflict, IsochroneError, PeerFault, StaleEpoch
from isochrone.mirror import cuts
from isochrone.mirror.conversation import HEARTBEAT_SECONDS, Conversation
from isochrone.mirror.groups import find_group
from isochrone.mirror.messages import (
    TEXT_CHARS_MAX,
    Begin,
    Credit,
    Cut,
    Fence,
    Fenced,
    Heartbeat,
    Hello,
    Leave,
    Pull,
    Refuse,
    RemoteVolume,
    Sync,
    Welcome,
)
from isochrone.mirror.sending import Sender
from isochrone.store import records as r
from isochrone.store.catalogue import Group, Mark
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, Caller, Lineage, Proof

PURPOSES: Final = ("follow", "probe")


class SourceSession:
    """Serves one secondary until the connection ends."""

    def __init__(self, pool: Pool, conversation: Conversation, interval: float) -> None:
        self._pool = pool
        self._talk = conversation
        self._interval = interval
        self._group: Group | None = None
        self.peer = ""  # pool identity of the secondary
        self.group_name = ""
        self.acked = 0
        self._has: Mark | None = None  # what is there once all that was sent has been taken
        self._cut_here = False  # a cut was placed in this connection
        self._pull: Pull | None = None
        self._out = Sender(pool, conversation, self._heartbeat)
        self._token = 0  # newest SYNC; a cut placed or found unnecessary from then on covers it
        self._token_done = 0
        self._left = False
        self._last_cut_at = -1e9

    @property
    def bytes_sent(self) -> int:
        return self._talk.link.bytes_sent

    def close(self) -> None:
        """Hang up; `run` ends."""
        self._talk.close()

    # -- the conversation

    async def run(self) -> None:
        """Raises `Unavailable` when the other side is gone, `PeerFault` when it makes no sense."""
        first = await self._talk.receive()
        try:
            match first:
                case Fence():
                    await self._fence(first)
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
        with self._attached():
            await self._converse()

    async def _converse(self) -> None:
        reader = asyncio.get_running_loop().create_task(self._read())
        sender = asyncio.get_running_loop().create_task(self._serve())
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
        try:
            yield
        finally:
            for id in ids:
                table.detach(id, mover, role="mover")

    async def _accept(self, hello: Hello) -> Welcome:
        pool = self._pool
        if hello.purpose not in PURPOSES:
            raise PeerFault(f"the other side wants to {hello.purpose!r}, which is unknown here")
        group = find_group(pool, hello.group)
        theirs = Lineage(hello.lineage, hello.epoch)
        if theirs.supersedes(group.identity):
            await self._give_way(group, theirs.epoch)
        if group.role == "fenced":
            raise StaleEpoch(
                f"group {group.name} was taken over by epoch {group.superseded_by};"
                f" epoch {group.epoch} here is no longer served"
            )
        if group.role != "primary":
            raise Conflict(
                f"group {group.name} is a secondary here", hint=f"mirror it from {group.source}"
            )
        if hello.pool == pool.identity:
            raise Conflict("a controller cannot mirror itself")
        if hello.lineage not in ("", group.lineage):
            raise Conflict(
                f"group {group.name} there has another history",
                hint="remove that mirror first: isochrone mirror remove GROUP",
            )
        same = theirs == group.identity
        if same and hello.cut > group.cut:
            raise Conflict(
                f"the secondary has cut {hello.cut} of group {group.name}, newer than cut"
                f" {group.cut} here: this primary has lost history",
                hint="promote the secondary, or remove its mirror to copy everything again",
            )
        self._group, self.group_name, self.peer = group, group.name, hello.pool
        if hello.purpose == "follow" and hello.pool not in group.sessions:
            pool.record(r.SessionOpened(group=group.name, peer=hello.pool, site=hello.site))
        return Welcome(
            pool=pool.identity,
            lineage=group.lineage,
            epoch=group.epoch,
            cut=group.cut,
            resume=same and group.mark(hello.cut) is not None,
            volumes=self._volumes(group),
        )

    async def _fence(self, message: Fence) -> None:
        group = self._pool.state.groups.get(message.group)
        if group is not None and Lineage(message.lineage, message.epoch).supersedes(group.identity):
            await self._give_way(group, message.epoch)
        await self._talk.last_word(Fenced(epoch=message.epoch))

    async def _give_way(self, group: Group, epoch: int) -> None:
        """Be read-only from now on: another site has taken the group over."""
        if group.role == "primary":
            self._pool.record(r.Fenced(group=group.name, epoch=epoch))
            await self._pool.flush()

    def _volumes(self, group: Group) -> tuple[RemoteVolume, ...]:
        found = (self._pool.state.volumes[id] for id in group.volumes)
        return tuple(RemoteVolume(v.id, v.name, v.size) for v in found)

    async def _read(self) -> None:
        while not self._left:
            match await self._talk.receive():
                case Pull() as pull:
                    if self._pull is not None:
                        raise PeerFault("a PULL came before the last one was answered")
                    if pull.cut > self._live_group().cut:
                        raise PeerFault(f"a PULL says that cut {pull.cut} is there; it is not here")
                    self._pull, self._out.credit = pull, pull.credit
                case Credit(bytes=more):
                    self._out.credit += more
                case Sync(token=token):
                    self._token = max(self._token, token)
                case Heartbeat():
                    pass
                case Leave():
                    self._left = True
                    self._forget()
                case other:
                    raise PeerFault(f"a secondary does not send {type(other).__name__}")
            self._out.news.set()

    def _forget(self) -> None:
        group = self._live_group()
        if self.peer in group.sessions:
            self._pool.record(r.SessionClosed(group=group.name, peer=self.peer))

    def _live_group(self) -> Group:
        """The group, still served here. Raises `StaleEpoch` or `NotFound`."""
        group = find_group(self._pool, self.group_name)
        if group is not self._group or group.role != "primary":
            raise StaleEpoch(f"group {group.name} is no longer served here")
        return group

    # -- serving

    async def _serve(self) -> None:
        while True:
            while self._pull is None:
                await self._out.wait(HEARTBEAT_SECONDS)
            pull = self._pull
            group = self._live_group()
            self.acked = max(self.acked, pull.cut)
            base = self._has = self._base(group, pull.cut)
            if base is not None:
                await self._until_due(group, base)
                group = self._live_group()
            await self._send_group(group, base)

    def _base(self, group: Group, cut: int) -> Mark | None:
        """Where a cut that the secondary has lies in the log; None if it must copy everything.

        The group remembers few cuts, and another secondary may have caused many meanwhile.
        """
        if self._has is not None and self._has.cut == cut:
            return self._has
        return group.mark(cut) if cut else None

    async def _until_due(self, group: Group, base: Mark) -> None:
        """Wait until there is something to cut and the interval has passed, or a SYNC came."""
        clock = self._pool.world.clock
        while not self._left:
            token = self._token
            due = self._last_cut_at + self._interval
            # The deletion of a copy is remembered by the log alone once the process was restarted,
            # so the first cut of a connection is placed in any case.
            if not self._cut_here or cuts.changed_since(self._pool, group, base):
                if token > self._token_done or clock.monotonic() >= due:
                    return
                await self._out.wait(min(HEARTBEAT_SECONDS, due - clock.monotonic()))
            else:
                await self._tell_clean(group, base, token)
                await self._out.wait(min(HEARTBEAT_SECONDS, self._interval))
            self._live_group()

    async def _tell_clean(self, group: Group, base: Mark, token: int) -> None:
        """Nothing happened since the cut: it is as good as one placed now."""
        stamp = self._pool.world.clock.wall_ns()
        self._token_done = token
        await self._talk.send(Heartbeat(stamp=stamp, clean=base.cut, token=token))

    async def _heartbeat(self) -> None:
        """Say that we are alive, and what a failover would lose by now."""
        behind = -1
        if self._has is not None and self._group is not None:
            changed = self._pool.state.blocks_changed(self._group)
            behind = (changed - self._has.blocks_changed) * BLOCK
        stamp = self._pool.world.clock.wall_ns()
        self._out.spoke_at = self._pool.world.clock.monotonic()
        await self._talk.send(Heartbeat(stamp=stamp, behind_bytes=behind, token=self._token_done))

    async def _send_group(self, group: Group, base: Mark | None) -> None:
        """Place a cut, make it durable, and send everything between it and the base."""
        pool = self._pool
        token = self._token
        mark = cuts.place(pool, group, {self.peer: self.acked})
        volumes = self._volumes(group)
        forest, tables = pool.state.forest, pool.state.tables
        frozen = (
            [] if base else [(id, forest.clone(tables[id], passing=True)) for id in group.volumes]
        )
        pins = [table for _, table in frozen]
        pool.state.pins.extend(pins)
        self._last_cut_at = pool.world.clock.monotonic()
        try:
            await self._flush()
            await self._talk.send(
                Begin(base=base.cut if base else 0, cut=mark.cut, volumes=volumes)
            )
            if base is None:
                blocks = await self._out.image(frozen)
            else:
                blocks = await self._out.window(group, base, mark)
        finally:
            for pin in pins:
                pool.state.pins.remove(pin)
        self._pull, self._has, self._cut_here = None, mark, True
        self._token_done = token
        await self._talk.send(Cut(cut=mark.cut, stamp=mark.stamp, blocks=blocks, token=token))
        await self._heartbeat()

    async def _flush(self) -> None:
        """Make the cut durable; a slow disk is no reason to fall silent."""
        flush = asyncio.get_running_loop().create_task(self._pool.flush())
        try:
            while not (await asyncio.wait({flush}, timeout=HEARTBEAT_SECONDS))[0]:
                await self._heartbeat()
            flush.result()
        finally:
            flush.cancel()
