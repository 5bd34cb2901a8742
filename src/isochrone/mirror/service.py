"""All mirror sessions of a controller: those it serves and those it follows."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Final

import structlog

from isochrone.errors import Conflict, DeadlinePassed, IsochroneError, NotFound
from isochrone.mirror import terms
from isochrone.mirror.admission import fence_of
from isochrone.mirror.asking import Asking
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.followed import Followed
from isochrone.mirror.groups import find_group
from isochrone.mirror.messages import Fenced
from isochrone.mirror.mover import Mover, greet, leave
from isochrone.mirror.pairs import Cause
from isochrone.mirror.partial import find_seeds
from isochrone.mirror.past import SAVE_SECONDS, Past
from isochrone.mirror.probing import Prober
from isochrone.mirror.repair import Repairs
from isochrone.mirror.seats import Seats, host_of
from isochrone.mirror.source import SourceSession
from isochrone.mirror.status import GroupStatus
from isochrone.mirror.telling import add_mover, tell_group, tell_peer
from isochrone.mirror.verify import Verifier
from isochrone.mirror.watch import WATCH_SECONDS, Watch
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.names import check_name
from isochrone.store.pool import Pool
from isochrone.world import World
from isochrone.world.documents import Documents
from isochrone.world.net import Channel, Listener

INTERVAL_SECONDS: Final = 1.0  # between cuts: what a failover may lose when all is well
FENCE_SECONDS: Final = 5.0  # between tries to tell an old primary that it is one
WARN_SECONDS: Final = 10.0  # between lines about who is turned away: that can be often
LEAVE_SECONDS_MAX: Final = 5.0  # a primary that does not answer does not stop a removal

log = structlog.get_logger()


class Mirrors:
    """The mirror of one pool."""

    def __init__(
        self,
        pool: Pool,
        world: World,
        *,
        interval: float = INTERVAL_SECONDS,
        progress_bytes: int = 0,
        documents: Documents | None = None,
    ) -> None:
        self._pool = pool
        self._world = world
        self._interval = interval
        self._progress_bytes = progress_bytes  # that a broken copy sends again; 0: the usual
        self._listeners: list[Listener] = []
        self._sessions: set[SourceSession] = set()
        self._seats = Seats()
        self._warn_at = 0.0
        self._turned_away = 0  # since the last warning
        self._movers: dict[str, Mover] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watch = Watch(pool, lambda: self._sessions)
        self._figures: dict[str, Followed] = {}  # of each mover
        self._past = Past(documents, world)
        self._watch.remembered = self._past.of_session
        self._released: set[str] = set()  # groups that a command is at work on
        self._cuts_placed: Counter[str] = Counter()  # in this life of the controller
        self.pace = self._watch.pace  # seconds that changes of an export wait
        self.asking = Asking(pool, self._live)
        self.repairs = Repairs(pool, self._live)
        self.prober = Prober(pool)
        self.verifier = Verifier(pool, self._movers.get, self.repairs)
        pool.on_change.append(self._count)
        pool.on_change.append(self._role_changed)

    def _role_changed(self, lsn: int, record: r.AnyRecord) -> None:
        """This site has become the secondary of another one: begin to follow it."""
        if isinstance(record, r.Rejoined) and record.group not in self._movers:
            self._follow(self._pool.state.groups[record.group])

    @property
    def address(self) -> str:
        """Where other sites can follow this one; empty if they cannot, or it is not known."""
        found = [listener.address for listener in self._listeners]
        ports = [address for address in found if not address.startswith("/")]
        return next(
            (a for a in ports if not a.startswith(("0.0.0.0:", "[::]:", ":::"))), ""
        ) or next((a for a in found if a not in ports), "")

    # -- life

    async def listen(self, address: str) -> str:
        """Serve secondaries at an address; the one that was bound."""
        listener = await self._world.net.listen(address, self._serve)
        self._listeners.append(listener)
        return listener.address

    async def start(self) -> None:
        """Follow every group this pool is secondary of, fence old primaries, watch the others."""
        self._spawn("watch", self._look())
        if self._past.kept:
            self._spawn("past", self._save_each_minute())
        self._spawn("promises", self.asking.run())
        self._spawn("repairs", self.repairs.run())
        self._spawn("comparisons", self.verifier.run())
        self._spawn("probes", self.prober.run())
        for group in list(self._pool.state.groups.values()):
            if group.role == "secondary":
                self._follow(group)
            if group.to_fence:
                self.fence(group.name)

    async def stop(self) -> None:
        await self._save()  # as it was before we hung up
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for session in self._sessions:
            session.close()
        await self.verifier.close()
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
        try:
            seat = self._seats.enter(talk.site or host_of(channel.peer))
        except IsochroneError as e:
            self._turn_away(channel.peer, e.message)
            return
        session = SourceSession(self._pool, talk, self._interval, self._progress_bytes)
        session.on_answer = self.asking.hear
        session.on_fetched = self.repairs.hear
        session.upstream = self._movers.get
        session.on_follow = self._replace
        session.on_first = seat.sit
        session.on_leave = self._hang_up
        self._sessions.add(session)
        try:
            await session.run()
        except IsochroneError as e:
            log.info("a secondary's connection ended", peer=channel.peer, reason=e.message)
        except Exception:
            # A broken invariant: it ends this connection; the secondary will come again.
            log.exception("a secondary's connection broke", peer=channel.peer)
        finally:
            seat.leave()
            self._sessions.discard(session)
            self._watch.ended(session)

    def _turn_away(self, peer: str, reason: str) -> None:
        now = self._world.clock.monotonic()
        self._turned_away += 1
        if now >= self._warn_at:
            log.warning("a connection was turned away", peer=peer, reason=reason,
                        connections=self._turned_away)  # fmt: skip
            self._warn_at, self._turned_away = now + WARN_SECONDS, 0

    def _replace(self, session: SourceSession) -> None:
        """A secondary is here again before its last connection was found to be dead: that one goes.

        Two would place cuts for one secondary, and only one of them would be suspended.
        """
        self._hang_up(session)
        self.asking.followed(session, session.group_name)

    def _hang_up(self, session: SourceSession) -> None:
        """End the other connections on which a secondary follows a group."""
        for other in self._sessions - {session}:
            same = (other.peer, other.group_name) == (session.peer, session.group_name)
            if same and other.following:
                other.close()

    def _live(self, group: str) -> dict[str, SourceSession]:
        """The connections on which secondaries follow a group, by peer."""
        return {s.peer: s for s in self._sessions if s.following and s.group_name == group}

    # -- following

    def _follow(self, group: Group) -> None:
        mover = self._movers[group.name] = Mover(self._pool, group.name)
        figures = self._figures[group.name] = Followed(mover)
        self._past.take_up(group.name, group.lineage, figures.history, mover.trail)
        self._spawn(f"mover of {group.name}", mover.run())

    async def add(
        self, group: str, source: str, *, seeds: Mapping[str, str] | None = None
    ) -> GroupStatus:
        """Begin to mirror a group of another controller here.

        Asks the other side first, so that a wrong address or name changes nothing. `seeds` names
        volumes here that the first copy starts from, by the names of the volumes there.
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
            asked = Group(name=group, role="secondary")
            welcome = await greet(self._pool, talk, asked, purpose="probe")
        finally:
            talk.close()
        if group in self._pool.state.groups:
            raise Conflict(f"there is a group {group!r} here already")
        found = find_seeds(self._pool, welcome, seeds or {})
        self._pool.record(r.MirrorAdded(group=group, source=source, seeds=found))
        self._follow(self._pool.state.groups[group])
        return self.status(group)

    async def remove(self, group: str) -> None:
        """End the mirror of a group here; its volumes stay, at their last cut, as plain volumes."""
        found = self._followed(group)
        async with self.released(group):
            with contextlib.suppress(IsochroneError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS_MAX):
                    await leave(self._pool, found)
            self._followed(group)
            self._pool.record(r.GroupDeleted(name=group))

    def _followed(self, group: str) -> Group:
        found = find_group(self._pool, group)
        if found.role != "secondary":
            raise Conflict(f"group {group!r} is not mirrored to this controller")
        return found

    @contextlib.asynccontextmanager
    async def released(self, group: str) -> AsyncIterator[Mover | None]:
        """In here nobody follows a group; gives the mover as it was at the end.

        A group that is a secondary afterwards is followed again, also if a command failed or was
        cancelled. Raises `Conflict` while another command is at work on the group: each would start
        or stop what the other relies on.
        """
        if group in self._released:
            raise Conflict(
                f"another command is changing who follows whom in group {group!r}",
                hint=f"see what came of it: isochrone group show {group}",
            )
        self._released.add(group)
        try:
            await self._end(f"mover of {group}")
            self._figures.pop(group, None)
            yield self._movers.pop(group, None)
        finally:
            self._released.discard(group)
            found = self._pool.state.groups.get(group)
            followed = f"mover of {group}" in self._tasks
            if found is not None and found.role == "secondary" and not followed:
                self._follow(found)

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
        """Keep telling old primaries of a group that their epoch is over, until they know."""
        self._spawn(f"fence of {group}", self._fence(group))

    async def _fence(self, name: str) -> None:
        while True:
            group = self._pool.state.groups.get(name)
            if group is None or not group.to_fence:
                return
            for address in group.to_fence:
                await self._tell_old(group, address)
            if group.to_fence:
                await self._world.clock.sleep(FENCE_SECONDS)

    async def _tell_old(self, group: Group, address: str) -> None:
        name, epoch = group.name, group.epoch
        here = self.address if group.role == "primary" else group.source
        try:
            talk = Conversation(await self._world.net.connect(address))
            try:
                await talk.send(fence_of(group, here))
                await talk.expect(Fenced)
            finally:
                talk.close()
        except IsochroneError as e:
            log.debug("an old primary cannot be told yet", group=name, reason=e.message)
            return
        # Meanwhile it may be deleted, or have begun another epoch, of which the other must hear.
        if self._pool.state.groups.get(name) is group and group.epoch == epoch:
            last = group.fence_pending and address == group.source
            self._pool.record(r.PeerFenced(group=name, source="" if last else address))
            log.info("an old primary is fenced", group=name, epoch=epoch, address=address)

    # -- watching

    async def _look(self) -> None:
        """Look at all sessions and movers once a second, until cancelled."""
        while True:
            await self._world.clock.sleep(WATCH_SECONDS)
            self._watch.look()
            now = self._world.clock.monotonic()
            for followed in self._figures.values():
                followed.sample(now)

    async def _save_each_minute(self) -> None:
        while True:
            await self._world.clock.sleep(SAVE_SECONDS)
            await self._save()

    async def _save(self) -> None:
        """Keep what was seen beyond this life."""
        followed = {
            name: (self._figures[name].history, mover.trail)
            for name, mover in self._movers.items()
            if name in self._figures
        }
        await self._past.save(self._pool.state, followed, self._watch.trails())

    def _count(self, lsn: int, record: r.AnyRecord) -> None:
        match record:
            case r.CutPlaced(group=group):
                self._cuts_placed[group] += 1
            case r.IncomingBegun(group=group) if group in self._figures:
                self._figures[group].begun += 1
            case r.IncomingCommitted(group=group) if group in self._figures:
                self._figures[group].committed += 1

    def suspend(self, group: str, peer: str = "") -> None:
        """Serve the secondaries of a group, or one of them, no more until they are resumed."""
        for each in terms.served(self._pool, group, peer):
            self._watch.suspend(group, each, Cause.COMMAND, "suspended by a command")

    def resume(self, group: str, peer: str = "") -> None:
        """Serve them again; each gets what changed when it connects, within seconds."""
        for each in terms.served(self._pool, group, peer):
            terms.resume(self._pool, group, each)
        self._watch.look()

    def forget(self, group: str, peer: str) -> None:
        """Let go of a secondary that does not come back. Raises `Conflict` while it is here."""
        (each,) = terms.served(self._pool, group, peer)
        if any(s.peer == each and s.group_name == group and s.following for s in self._sessions):
            raise Conflict(
                f"{peer} follows group {group!r} at this moment",
                hint=f"end it there: isochrone mirror remove {group}",
            )
        terms.forget(self._pool, group, each)
        self._watch.look()

    # -- telling

    def status(self, group: str) -> GroupStatus:
        found = find_group(self._pool, group)
        live = {s.peer: s for s in self._sessions if s.group_name == group and s.following}
        peers = [
            tell_peer(self._pool, found, peer, self._watch, live.get(peer))
            for peer in sorted(found.sessions)
        ]
        status = tell_group(self._pool, found, peers, self._interval, self._watch.delay(group))
        status.verified_age = self.verifier.age(group)
        status.verified_unhealed = self.verifier.unhealed(group)
        status.probe_age = self.prober.age(group)
        status.probe_failed = self.prober.failed(group)
        mover = self._movers.get(group)
        if mover is not None:
            add_mover(status, mover, self._figures[group], self._world.clock.monotonic())
        else:
            status.cuts = self._cuts_placed[group]
        return status

    def statuses(self) -> list[GroupStatus]:
        return [self.status(name) for name in sorted(self._pool.state.groups)]

    def mover(self, group: str) -> Mover:
        """The mover of a group that is followed here. Raises `NotFound`."""
        try:
            return self._movers[group]
        except KeyError:
            raise NotFound(f"group {group!r} is not followed here") from None
