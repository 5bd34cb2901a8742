"""All mirror sessions of a controller: those it serves and those it follows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from isochrone.errors import Conflict, DeadlinePassed, IsochroneError, NotFound
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.groups import find_group
from isochrone.mirror.messages import Fence, Fenced
from isochrone.mirror.mover import Mover, greet, leave
from isochrone.mirror.pairs import Pair
from isochrone.mirror.source import SourceSession
from isochrone.mirror.status import GroupStatus, PeerStatus
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.names import check_name
from isochrone.store.pool import Pool
from isochrone.world import World
from isochrone.world.net import Channel, Listener

INTERVAL_SECONDS: Final = 1.0  # between cuts: what a failover may lose when all is well
SESSIONS_MAX: Final = 64  # connections served at once; each may hold a frame or two of memory
FENCE_SECONDS: Final = 5.0  # between tries to tell an old primary that it is one
LEAVE_SECONDS_MAX: Final = 5.0  # a primary that does not answer does not stop a removal

log = structlog.get_logger()


class Mirrors:
    """The mirror of one pool."""

    def __init__(self, pool: Pool, world: World, *, interval: float = INTERVAL_SECONDS) -> None:
        self._pool = pool
        self._world = world
        self._interval = interval
        self._listeners: list[Listener] = []
        self._sessions: set[SourceSession] = set()
        self._movers: dict[str, Mover] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # -- life

    async def listen(self, address: str) -> str:
        """Serve secondaries at an address; the one that was bound."""
        listener = await self._world.net.listen(address, self._serve)
        self._listeners.append(listener)
        return listener.address

    async def start(self) -> None:
        """Follow every group this pool is secondary of, and fence old primaries."""
        for group in list(self._pool.state.groups.values()):
            if group.role == "secondary":
                self._follow(group)
            elif group.fence_pending:
                self.fence(group.name)

    async def stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for session in self._sessions:
            session.close()
        for name in list(self._tasks):
            await self._end(name)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[name] = task
        task.add_done_callback(lambda task: self._ended(name, task))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled() and task.exception() is not None:
            log.error(f"{name} ended", exc_info=task.exception())

    async def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _serve(self, channel: Channel) -> None:
        """One connection of a secondary."""
        talk = Conversation(channel)
        if len(self._sessions) >= SESSIONS_MAX:
            log.warning("a secondary was turned away: too many connections", peer=channel.peer)
            return
        session = SourceSession(self._pool, talk, self._interval)
        self._sessions.add(session)
        try:
            await session.run()
        except IsochroneError as e:
            log.info("a secondary's connection ended", peer=channel.peer, reason=e.message)
        finally:
            self._sessions.discard(session)

    # -- following

    def _follow(self, group: Group) -> None:
        mover = self._movers[group.name] = Mover(self._pool, group.name)
        self._spawn(f"mover of {group.name}", mover.run())

    async def add(self, group: str, source: str) -> GroupStatus:
        """Begin to mirror a group of another controller here.

        Asks the other side first, so that a wrong address or name changes nothing.
        """
        check_name("group", group)
        if group in self._pool.state.groups:
            role = self._pool.state.groups[group].role
            raise Conflict(
                f"there is a group {group!r} here already, as {role}",
                hint=f"see: isochrone mirror status {group}",
            )
        talk = Conversation(await self._world.net.connect(source))
        try:
            await greet(self._pool, talk, Group(name=group, role="secondary"), purpose="probe")
        finally:
            talk.close()
        if group in self._pool.state.groups:
            raise Conflict(f"there is a group {group!r} here already")
        self._pool.record(r.MirrorAdded(group=group, source=source))
        self._follow(self._pool.state.groups[group])
        return self.status(group)

    async def remove(self, group: str) -> None:
        """End the mirror of a group here; its volumes stay, at their last cut, as plain volumes."""
        found = self._followed(group)
        await self.release(group)
        with contextlib.suppress(IsochroneError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS_MAX):
                await leave(self._pool, found)
        self._followed(group)  # it may have been promoted meanwhile
        self._pool.record(r.GroupDeleted(name=group))

    def _followed(self, group: str) -> Group:
        found = find_group(self._pool, group)
        if found.role != "secondary":
            raise Conflict(f"group {group!r} is not mirrored to this controller")
        return found

    async def release(self, group: str) -> Mover | None:
        """Stop following a group; the mover as it was at the end."""
        await self._end(f"mover of {group}")
        return self._movers.pop(group, None)

    async def wait(self, group: str, *, copy: str = "", timeout: float) -> GroupStatus:
        """Until all that the primary has now is here, or a copy has come.

        Raises `DeadlinePassed`.
        """
        find_group(self._pool, group)
        mover = self._movers.get(group)
        if mover is None:
            raise Conflict(
                f"group {group!r} is not mirrored to this controller",
                hint="run `isochrone mirror wait` at the secondary",
            )
        try:
            async with asyncio.timeout(timeout):
                token = await mover.sync()
                while not (self._has_copy(group, copy) if copy else mover.covered(token)):
                    await mover.changed.wait()
        except TimeoutError:
            waited_for = f"copy {copy!r} did not come" if copy else "it did not catch up"
            raise DeadlinePassed(
                f"group {group!r}: {waited_for} within {timeout:g} s ({mover.state.value}"
                + (f": {mover.cause})" if mover.cause else ")"),
                hint=f"see: isochrone mirror status {group}",
            ) from None
        return self.status(group)

    def _has_copy(self, group: str, name: str) -> bool:
        copy = self._pool.state.copies.get(name)
        return copy is not None and copy.group == group

    # -- fencing

    def fence(self, group: str) -> None:
        """Keep telling the old primary of a promoted group that its epoch is over."""
        self._spawn(f"fence of {group}", self._fence(group))

    async def _fence(self, name: str) -> None:
        while True:
            group = self._pool.state.groups.get(name)
            if group is None or not group.fence_pending:
                return
            try:
                talk = Conversation(await self._world.net.connect(group.source))
                try:
                    fence = Fence(group=name, lineage=group.lineage, epoch=group.epoch)
                    await talk.send(fence)
                    await talk.expect(Fenced)
                finally:
                    talk.close()
                self._pool.record(r.PeerFenced(group=name))
                log.info("the old primary is fenced", group=name, epoch=group.epoch)
                return
            except IsochroneError as e:
                log.debug("the old primary cannot be told yet", group=name, reason=e.message)
            await self._world.clock.sleep(FENCE_SECONDS)

    # -- telling

    def status(self, group: str) -> GroupStatus:
        found = find_group(self._pool, group)
        mover = self._movers.get(group)
        volumes = self._pool.state.volumes
        return GroupStatus(
            group=group,
            role=found.role,
            state=(mover.state if mover else self._served_state(found)).value,
            cause=mover.cause if mover else "",
            lineage=found.lineage,
            epoch=found.epoch,
            volumes=[volumes[id].name for id in found.volumes],
            cut=found.cut,
            cut_stamp=found.cut_stamp,
            recovery_point=mover.recovery_point if mover else 0,
            recovery_point_age=mover.recovery_point_age if mover else -1.0,
            source=found.source,
            bytes_received=mover.bytes_received if mover else 0,
            bytes_commands=mover.bytes_commands if mover else 0,
            bytes_incoming=mover.bytes_incoming if mover else 0,
            peers=self._peers(found),
            promoted_stamp=found.promoted_stamp,
            superseded_by=found.superseded_by,
            fence_pending=found.fence_pending,
        )

    def _served_state(self, group: Group) -> Pair:
        """The worst state of the pairs this controller is primary of, as far as it can tell."""
        peers = self._peers(group)
        if group.role != "primary" or not peers:
            return Pair.SIMPLEX
        if not all(peer.connected for peer in peers):
            return Pair.SUSPENDED
        return Pair.DUPLEX if all(peer.acked_cut for peer in peers) else Pair.COPYING

    def _peers(self, group: Group) -> list[PeerStatus]:
        live = {s.peer: s for s in self._sessions if s.group_name == group.name}
        return [
            PeerStatus(
                peer=peer,
                connected=peer in live,
                acked_cut=max(session.cut, live[peer].acked) if peer in live else session.cut,
                bytes_sent=live[peer].bytes_sent if peer in live else 0,
            )
            for peer, session in sorted(group.sessions.items())
        ]

    def statuses(self) -> list[GroupStatus]:
        return [self.status(name) for name in sorted(self._pool.state.groups)]

    def mover(self, group: str) -> Mover:
        """The mover of a group that is followed here. Raises `NotFound`."""
        try:
            return self._movers[group]
        except KeyError:
            raise NotFound(f"group {group!r} is not followed here") from None
