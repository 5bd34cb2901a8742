"""States of a mirrored group at its secondary, as a table.

All pairs of a group are in one state: they are copied, suspended and recovered together. The state
is drawn in `docs/states/pair.svg`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from isochrone.errors import PeerFault, Refused, StaleEpoch, Unavailable
from isochrone.mirror.moves import moved


class Cause(Enum):
    """Why a pair or a session is suspended. Who must act differs, so these are told apart."""

    COMMAND = "command"  # somebody said so; it stays until somebody says otherwise
    LINK = "link"  # the other side cannot be reached; tried again for ever
    LIMIT = "limit"  # the side file reached a limit, or the pool needed its room
    ERROR = "error"  # something broke here; the message says what
    REFUSED = "refused"  # the other side says no
    FENCED = "fenced"  # another site has taken the group over


class Pair(Enum):
    SIMPLEX = "SIMPLEX"  # not mirrored
    PENDING = "PENDING"  # added, nothing complete has arrived yet
    COPYING = "COPYING"  # a first copy is on its way
    DUPLEX = "DUPLEX"  # complete cuts arrive
    SUSPENDED = "SUSPENDED"  # with a `Cause`; the last cut stands


class Event(Enum):
    ADDED = "added"
    COPY_BEGUN = "copy begun"
    RESUMED = "resumed"  # connected, and the cut here can be continued
    COMMITTED = "committed"
    LOST = "lost"  # the connection, or the other side's consent
    REMOVED = "removed"  # also by a promote


MOVES: Final[dict[Pair, dict[Event, Pair]]] = {
    Pair.SIMPLEX: {Event.ADDED: Pair.PENDING},
    Pair.PENDING: {
        Event.COPY_BEGUN: Pair.COPYING,
        Event.RESUMED: Pair.DUPLEX,  # after a restart of this controller
        Event.LOST: Pair.SUSPENDED,
        Event.REMOVED: Pair.SIMPLEX,
    },
    Pair.COPYING: {
        Event.COMMITTED: Pair.DUPLEX,
        Event.LOST: Pair.SUSPENDED,
        Event.REMOVED: Pair.SIMPLEX,
    },
    Pair.DUPLEX: {
        Event.COMMITTED: Pair.DUPLEX,
        Event.COPY_BEGUN: Pair.COPYING,
        Event.LOST: Pair.SUSPENDED,
        Event.REMOVED: Pair.SIMPLEX,
    },
    Pair.SUSPENDED: {
        Event.COPY_BEGUN: Pair.COPYING,
        Event.RESUMED: Pair.DUPLEX,
        Event.LOST: Pair.SUSPENDED,
        Event.REMOVED: Pair.SIMPLEX,
    },
}


def move(state: Pair, event: Event) -> Pair:
    """The state after an event. Raises `Conflict` where the table has no entry."""
    return moved(MOVES, state, event, "a pair that is {} cannot be {}")


def cause_of(error: BaseException) -> Cause:
    """What kind of cause for a suspension an error is, at the secondary."""
    match error:
        case StaleEpoch():
            return Cause.FENCED
        case PeerFault() | Refused():
            return Cause.REFUSED
        case Unavailable() if type(error) is Unavailable:  # not NoSpace, which is ours
            return Cause.LINK
    return Cause.ERROR
