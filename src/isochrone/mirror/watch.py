"""The watch over the sessions that a primary serves: states, side files, and what writers wait.

It looks once a second, and whenever something is told about a session. What it decides is appended
to the log as a record, so that it stands after a restart; what it only observes is forgotten then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import exp
from typing import Final

import structlog

from isochrone.errors import IsochroneError
from isochrone.mirror import cuts, terms
from isochrone.mirror.limits import Action, Backlog, Decision, decide, fill
from isochrone.mirror.pairs import Cause, Pair
from isochrone.mirror.sessions import (
    Event,
    Facts,
    SessionState,
    Trail,
    move,
    next_event,
    pair_of,
)
from isochrone.mirror.source import SourceSession
from isochrone.mirror.status import Suspension
from isochrone.mirror.tally import Shipped
from isochrone.store import records as r
from isochrone.store.catalogue import Group, Mark, Session
from isochrone.store.pool import Pool
from isochrone.types import BLOCK

DRAIN_MEMORY_SECONDS: Final = 30.0  # a link that got slower is known to be within a minute
WATCH_SECONDS: Final = 1.0  # between looks: a limit is overrun by what a second can write

log = structlog.get_logger()


@dataclass(slots=True)
class Watched:
    """What is seen of one session. All of it is of this life of the controller."""

    trail: Trail
    state: SessionState = SessionState.NONE
    backlog: Backlog = field(default_factory=Backlog)
    decision: Decision = field(default_factory=Decision)
    session: Session | None = None  # as it is on record; another one begins anew
    acked: int = 0  # newest cut that it said it has
    clean_at: float | None = None  # monotonic, when nothing was missing at the secondary
    over_at: float | None = None  # monotonic, since when a limit has been exceeded
    drain: float = 0.0  # bytes of changes a second that it took when it took much
    taken_at: float = 0.0  # monotonic, when it was last seen to have taken some
    shipped: Shipped = field(default_factory=Shipped)  # in connections that have ended
    changed_then: int = -1  # blocks changed in the group up to the cut it had at the last look
    copies_left_out: int = 0  # by the last resend that had too many
    blocks_changed: int = 0  # that it got since it was first seen with a cut,
    shipped_then: int = 0  # when so many blocks had been sent

    @property
    def pair(self) -> Pair:
        return pair_of(self.state, self.acked)

    @property
    def cause(self) -> str:
        """Why nothing goes to it; empty if something does."""
        if self.state in (SessionState.ACTIVE, SessionState.RECOVERY):
            return ""
        current = self.trail.current
        return current.cause if current is not None else Cause.LINK.value

    @property
    def why(self) -> str:
        """The same as a sentence."""
        if not self.cause:
            return ""
        current = self.trail.current
        if current is None:
            return "it has not connected since this controller started"
        return current.why


class Watch:
    """Of one pool. `live` tells the connections that are served."""

    def __init__(self, pool: Pool, live: Callable[[], Iterable[SourceSession]]) -> None:
        self._pool = pool
        self._live = live
        self._watched: dict[tuple[str, str], Watched] = {}
        self.remembered: Callable[[str, str], Iterable[Suspension]] = lambda group, peer: ()
        self._delays: dict[str, float] = {}  # group -> seconds that its writers wait
        self._pressed_at: float | None = None  # monotonic, since when writers wait for room

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            await self._pool.world.clock.sleep(WATCH_SECONDS)
            self.look()

    # -- what others see

    def seen(self, group: str, peer: str) -> Watched:
        """What is known of a session that is on record."""
        self._advance(group, peer)
        return self._watched[group, peer]

    def trails(self) -> dict[tuple[str, str], Trail]:
        """What happened to each session, by group and secondary."""
        return {key: watched.trail for key, watched in self._watched.items()}

    def delay(self, group: str) -> float:
        """Seconds that each write to a group waits."""
        return self._delays.get(group, 0.0)

    def pace(self, export: str) -> float:
        """Seconds that changes of an export wait, each time it has some."""
        if not self._delays:
            return 0.0
        state = self._pool.state
        id = state.names.get(export)
        return self._delays.get(state.volumes[id].group, 0.0) if id is not None else 0.0

    def ended(self, session: SourceSession) -> None:
        """A connection is over; what it shipped stays counted."""
        group = self._pool.state.groups.get(session.group_name)
        if group is None or session.peer not in group.sessions:
            return
        self._advance(group.name, session.peer)
        watched = self._watched[group.name, session.peer]
        watched.shipped.add(session.shipped)
        watched.copies_left_out = session.copies_left_out or watched.copies_left_out
        watched.acked = session.acked or watched.acked
        self.look()

    def shipped(self, group: str, peer: str) -> Shipped:
        """What went to a secondary and came from it, over all its connections."""
        total = Shipped()
        total.add(self.seen(group, peer).shipped)
        session = self._connection(group, peer)
        if session is not None:
            total.add(session.shipped)
        return total

    # -- looking

    def look(self) -> None:
        """See how each session is, and do what its limits say."""
        state, now = self._pool.state, self._pool.world.clock.monotonic()
        pressed = self._pool.space.pressed
        self._pressed_at = (self._pressed_at or now) if pressed else None
        known = {(g.name, peer) for g in state.groups.values() for peer in g.sessions}
        for group, peer in known | set(self._watched):
            self._advance(group, peer)
        delays: dict[str, float] = {}
        for name, peer in sorted(known):
            watched = self._watched[name, peer]
            self._measure(state.groups[name], peer, watched, now)
            delays[name] = max(delays.get(name, 0.0), watched.decision.delay)
        # Acting may end connections and change the catalogue, so it comes last.
        self._delays = {name: delay for name, delay in delays.items() if delay}
        if not self._pool.failed:
            for name, peer in sorted(known):
                self._act(name, peer, self._watched[name, peer])

    def _advance(self, name: str, peer: str) -> None:
        """Bring the state of a session to what is so."""
        group = self._pool.state.groups.get(name)
        session = group.sessions.get(peer) if group is not None else None
        connection = self._connection(name, peer)
        watched = self._watched.get((name, peer))
        if watched is None:
            site = session.site if session is not None else ""
            trail = Trail("session", group=name, peer=site or peer)
            trail.suspensions.extend(self.remembered(name, peer))
            watched = self._watched[name, peer] = Watched(trail)
        if session is not None and session is not watched.session:
            watched.session, watched.acked = session, session.cut
        if connection is not None and connection.acked:
            watched.acked = connection.acked
        facts = Facts(
            known=session is not None,
            fenced=group is not None and group.role == "fenced",
            suspended=session is not None and bool(session.cause),
            connected=connection is not None,
            copying=connection is not None and (bool(connection.phase) or not watched.acked),
        )
        while (event := next_event(watched.state, facts)) is not None:
            self._enter(watched, event, session)
        if watched.state is SessionState.NONE:
            del self._watched[name, peer]

    def _enter(self, watched: Watched, event: Event, session: Session | None) -> None:
        before, watched.state = watched.state, move(watched.state, event)
        now = self._pool.world.clock.wall_ns()
        watched.trail.note(before, watched.state, event, now)
        match event:
            case Event.LOST:
                watched.trail.suspended(Cause.LINK, "the connection ended", now)
            case Event.TAKEN_OVER:
                watched.trail.suspended(Cause.FENCED, "another site took the group over", now)
            case Event.SUSPENDED if session is not None:
                known = session.kind in {cause.value for cause in Cause}
                cause = Cause(session.kind) if known else Cause.ERROR
                watched.trail.suspended(cause, session.cause, session.suspended_stamp or now)
            case Event.CONNECTED | Event.COPY_BEGUN | Event.CAUGHT_UP:
                watched.trail.mended(now)

    def _connection(self, group: str, peer: str) -> SourceSession | None:
        for session in self._live():
            if session.group_name == group and session.peer == peer and session.following:
                return session
        return None

    def _measure(self, group: Group, peer: str, watched: Watched, now: float) -> None:
        pool, session = self._pool, group.sessions[peer]
        mark = _mark_of(group, watched.acked)
        if session.cause or group.role != "primary" or mark is None:
            watched.backlog = Backlog(bytes=behind(pool, group, mark), keeps_log=session.keeps_log)
            watched.decision = Decision()
            watched.over_at = None
            return
        clean = not cuts.changed_since(pool, group, mark)
        watched.clean_at = now if clean else watched.clean_at
        connection = self._connection(group.name, peer)
        self._account(group.name, peer, watched, mark, now)
        pressed = 0.0 if self._pressed_at is None else now - self._pressed_at
        backlog = Backlog(
            bytes=behind(pool, group, mark),
            age=0.0 if clean else self._age(mark, watched, now),
            drain_seconds=behind(pool, group, mark) / watched.drain if watched.drain else 0.0,
            over_seconds=0.0 if watched.over_at is None else now - watched.over_at,
            pressed_seconds=pressed,
            pinned_segments=self._pinned(mark) if pressed else 0,
            keeps_log=session.keeps_log,
            copying=connection is not None and (bool(connection.phase) or not watched.acked),
        )
        limits = terms.limits_of(session)
        over = fill(backlog, limits) >= 1.0
        watched.over_at = (
            (watched.over_at if watched.over_at is not None else now) if over else None
        )
        watched.backlog, watched.decision = backlog, decide(backlog, limits)

    def _age(self, mark: Mark, watched: Watched, now: float) -> float:
        """Seconds since the oldest change that the secondary has not hardened, at most."""
        age = max(0.0, (self._pool.world.clock.wall_ns() - mark.stamp) / 1e9)
        return age if watched.clean_at is None else min(age, now - watched.clean_at)

    def _pinned(self, mark: Mark) -> int:
        return sum(lsn > mark.lsn for lsn in self._pool.log.first_lsns.values())

    def _account(self, group: str, peer: str, watched: Watched, mark: Mark, now: float) -> None:
        """How much of what was changed it has by now, and how fast that went.

        The rate follows at once where it is higher, slowly where it is lower: who had little to
        take says nothing about the link.
        """
        if not watched.acked or mark.cut != watched.acked:
            return
        changed = mark.blocks_changed - watched.changed_then
        if watched.changed_then < 0:
            watched.shipped_then, watched.taken_at = self.shipped(group, peer).blocks, now
        elif changed > 0 and now > watched.taken_at:
            watched.blocks_changed += changed
            passed = now - watched.taken_at
            faded = watched.drain * exp(-passed / DRAIN_MEMORY_SECONDS)
            watched.drain, watched.taken_at = max(changed * BLOCK / passed, faded), now
        watched.changed_then = mark.blocks_changed

    # -- acting

    def _act(self, group: str, peer: str, watched: Watched) -> None:
        found = self._pool.state.groups.get(group)
        if found is None or peer not in found.sessions:
            return
        why = watched.decision.why
        try:
            if watched.decision.action is Action.SUSPEND:
                self.suspend(group, peer, Cause.LIMIT, why)
            elif watched.decision.action is Action.FALL_BEHIND:
                self._pool.record(r.SessionFellBehind(group=group, peer=peer))
                log.warning("the log is not kept for a secondary any more", group=group,
                            peer=peer, reason=why)  # fmt: skip
        except IsochroneError as e:  # no room even for this record: it is tried again
            log.error("a session cannot be suspended", group=group, peer=peer, reason=e.message)

    def suspend(self, group: str, peer: str, cause: Cause, why: str) -> None:
        """Serve a secondary no more; who is connected is let go, and is told why when it asks."""
        if not terms.suspend(self._pool, group, peer, cause, why):
            return
        connection = self._connection(group, peer)
        self._advance(group, peer)
        if connection is not None:
            connection.close()


def _mark_of(group: Group, acked: int) -> Mark | None:
    """The newest cut that is remembered and that the secondary has; else the oldest there is."""
    older = [mark for mark in group.marks if mark.cut <= acked]
    return older[-1] if older else next(iter(group.marks), None)


def behind(pool: Pool, group: Group, mark: Mark | None) -> int:
    """Bytes written and discarded in a group since a cut."""
    return 0 if mark is None else (pool.state.blocks_changed(group) - mark.blocks_changed) * BLOCK
