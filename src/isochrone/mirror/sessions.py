"""States of a mirror session at its primary, as a table, and the trail of what happened to it.

One session is one secondary of one group. What is durable of it is in the catalogue (`Session`);
the state here is that, and whether it is connected. It is drawn in `docs/states/session.svg`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from isochrone.mirror.moves import moved
from isochrone.mirror.pairs import Cause, Pair
from isochrone.mirror.status import Suspension

SUSPENSIONS_KEPT: Final = 20  # of a session or a pair: what an operator reads on one screen

log = structlog.get_logger()


class SessionState(Enum):
    NONE = "NONE"  # this secondary does not follow the group
    INACTIVE = "INACTIVE"  # known, and not connected; what it lacks is kept for it
    RECOVERY = "RECOVERY"  # connected: a first copy or a resend brings it up to date
    ACTIVE = "ACTIVE"  # connected: cuts go to it
    SUSPENDED = "SUSPENDED"  # with a `Cause`: it gets nothing; changed tracks are recorded
    RECOVERED = "RECOVERED"  # the group was taken over: this side serves nobody any more


class Event(Enum):
    OPENED = "opened"  # it follows from now on
    CONNECTED = "connected"
    COPY_BEGUN = "copy begun"  # a first copy, or a resend
    CAUGHT_UP = "caught up"
    LOST = "connection lost"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    TAKEN_OVER = "taken over"
    CLOSED = "closed"  # it follows no more, or the group is gone


_ALWAYS: Final = {
    Event.SUSPENDED: SessionState.SUSPENDED,
    Event.TAKEN_OVER: SessionState.RECOVERED,
    Event.CLOSED: SessionState.NONE,
}
MOVES: Final[dict[SessionState, dict[Event, SessionState]]] = {
    SessionState.NONE: {Event.OPENED: SessionState.INACTIVE},
    SessionState.INACTIVE: {
        Event.CONNECTED: SessionState.ACTIVE,
        Event.COPY_BEGUN: SessionState.RECOVERY,
        **_ALWAYS,
    },
    SessionState.RECOVERY: {
        Event.CAUGHT_UP: SessionState.ACTIVE,
        Event.LOST: SessionState.INACTIVE,
        **_ALWAYS,
    },
    SessionState.ACTIVE: {
        Event.COPY_BEGUN: SessionState.RECOVERY,
        Event.LOST: SessionState.INACTIVE,
        **_ALWAYS,
    },
    SessionState.SUSPENDED: {
        Event.RESUMED: SessionState.INACTIVE,
        Event.TAKEN_OVER: SessionState.RECOVERED,
        Event.CLOSED: SessionState.NONE,
    },
    SessionState.RECOVERED: {Event.CLOSED: SessionState.NONE},
}


def move(state: SessionState, event: Event) -> SessionState:
    """The state after an event. Raises `Conflict` where the table has no entry."""
    return moved(MOVES, state, event, "a session that is {} cannot be {}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is so of a session now, as far as this side can tell."""

    known: bool = True  # it is on record
    fenced: bool = False  # the group was taken over
    suspended: bool = False
    connected: bool = False
    copying: bool = False  # a first copy or a resend is under way


def next_event(state: SessionState, facts: Facts) -> Event | None:
    """What brings the state nearer to the facts; None if it says what they say."""
    known = facts.known
    match state:
        case SessionState.NONE:
            return Event.OPENED if known else None
        case _ if not known:
            return Event.CLOSED
        case SessionState.RECOVERED:
            return None if facts.fenced else Event.CLOSED
        case _ if facts.fenced:
            return Event.TAKEN_OVER
        case SessionState.SUSPENDED:
            return None if facts.suspended else Event.RESUMED
        case _ if facts.suspended:
            return Event.SUSPENDED
        case SessionState.INACTIVE if facts.connected:
            return Event.COPY_BEGUN if facts.copying else Event.CONNECTED
        case SessionState.INACTIVE:
            return None
        case _ if not facts.connected:
            return Event.LOST
        case SessionState.ACTIVE:
            return Event.COPY_BEGUN if facts.copying else None
    return None if facts.copying else Event.CAUGHT_UP


def pair_of(state: SessionState, acked_cut: int) -> Pair:
    """The state of the pairs that belong to a session, as its primary sees them."""
    match state:
        case SessionState.NONE:
            return Pair.SIMPLEX
        case SessionState.INACTIVE:
            return Pair.SUSPENDED if acked_cut else Pair.PENDING
        case SessionState.RECOVERY:
            return Pair.COPYING
        case SessionState.ACTIVE:
            return Pair.DUPLEX if acked_cut else Pair.COPYING
    return Pair.SUSPENDED


class Trail:
    """The last suspensions of one pair or session; every change of state is logged here alone."""

    def __init__(self, what: str, **labels: str) -> None:
        self._what = what  # pair or session
        self._labels = labels
        self.since = 0  # stamp of the last change, ns
        self.suspensions: deque[Suspension] = deque(maxlen=SUSPENSIONS_KEPT)

    def note(self, before: Enum, after: Enum, event: Enum, now: int) -> None:
        """A change of state."""
        self.since = now
        change = f"{self._what} {before.value} -> {after.value}"
        log.info(change, why=event.value, **self._labels)

    def suspended(self, cause: Cause, why: str, now: int) -> None:
        """Mirroring stops, or goes on being stopped for another reason."""
        last = self.suspensions[-1] if self.suspensions else None
        if last is not None and not last.until:
            if last.cause == cause.value:
                last.why = why  # the same trouble, in other words
                return
            last.until = now
        self.suspensions.append(Suspension(cause=cause.value, why=why, stamp=now))
        log.warning("mirroring is suspended", cause=cause.value, reason=why, **self._labels)

    def mended(self, now: int) -> None:
        """Mirroring goes on."""
        if self.suspensions and not self.suspensions[-1].until:
            self.suspensions[-1].until = now

    @property
    def current(self) -> Suspension | None:
        """The suspension that goes on."""
        last = self.suspensions[-1] if self.suspensions else None
        return last if last is not None and not last.until else None
