"""States of a mirrored group at its secondary, as a table.

All pairs of a group are in one state: they are copied, suspended and recovered together.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from isochrone.errors import Conflict


class Pair(Enum):
    SIMPLEX = "SIMPLEX"  # not mirrored
    PENDING = "PENDING"  # added, nothing complete has arrived yet
    COPYING = "COPYING"  # a first copy is on its way
    DUPLEX = "DUPLEX"  # complete cuts arrive
    SUSPENDED = "SUSPENDED"  # the link is down or refused; the last cut stands


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
    try:
        return MOVES[state][event]
    except KeyError:
        raise Conflict(f"a pair that is {state.value} cannot be {event.value}") from None
