"""Copies that exist at several sites as of one instant: the states of a request, as a table. Pure.

The copy at the primary is a record of its log. That very record travels in the stream, so it is
carried out at its place between the writes and can neither come too early nor too late. What is
left to know is whether it got there: a cut behind it is hardened at the site, and the site says
that it has the copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from isochrone.mirror.moves import moved


class At(StrEnum):
    """How far a request has come at one secondary."""

    NEW = "NEW"  # on record; the copy waits until the mirror is DUPLEX
    LOCAL_DONE = "LOCAL_DONE"  # the copy is here; for that site it lies in the side file
    SENT = "SENT"  # a cut behind it was placed for that site
    ARMED = "ARMED"  # the site has the request on record; it has an outcome whoever fails now
    OVERTAKEN = "OVERTAKEN"  # another site took the group over: the outcome is its to say
    DONE = "DONE"  # the site says that it has it
    MISSED = "MISSED"  # the site is behind that cut, and has no such copy
    REFUSED = "REFUSED"  # it was not taken at all
    EXPIRED = "EXPIRED"  # too late, cancelled, or what carried it is gone


class Event(StrEnum):
    TAKEN = "taken"
    PLACED = "cut placed"
    NOTED = "on record there"
    CONFIRMED = "confirmed"
    ABSENT = "absent"
    DENIED = "denied"
    LATE = "late"
    DROPPED = "side file dropped"
    CANCELLED = "cancelled"
    OVERTAKEN = "overtaken"
    FOUND = "found by the site that took over"


_GIVEN_UP: Final = dict.fromkeys((Event.LATE, Event.DROPPED, Event.CANCELLED), At.EXPIRED)
_ANSWERED: Final = {Event.CONFIRMED: At.DONE, Event.ABSENT: At.MISSED}
MOVES: Final[dict[At, dict[Event, At]]] = {
    At.NEW: {Event.TAKEN: At.LOCAL_DONE, Event.DENIED: At.REFUSED, **_GIVEN_UP},
    At.LOCAL_DONE: {
        Event.PLACED: At.SENT,
        Event.NOTED: At.ARMED,
        Event.OVERTAKEN: At.OVERTAKEN,
        **_GIVEN_UP,
    },
    At.SENT: {
        Event.NOTED: At.ARMED,
        Event.OVERTAKEN: At.OVERTAKEN,
        **_ANSWERED,
        **_GIVEN_UP,
    },
    At.ARMED: {Event.OVERTAKEN: At.OVERTAKEN, **_ANSWERED, **_GIVEN_UP},
    At.OVERTAKEN: {**_ANSWERED, **_GIVEN_UP},
    At.DONE: {},
    At.MISSED: {},
    At.REFUSED: {},
    # What an old primary gave up while it was alone, its successor may have all the same.
    At.EXPIRED: {Event.FOUND: At.DONE},
}
FINAL: Final = frozenset({At.DONE, At.MISSED, At.REFUSED, At.EXPIRED})
ARRIVING: Final = frozenset({At.SENT, At.ARMED, At.OVERTAKEN})  # the site may be asked


def move(state: At, event: Event) -> At:
    """The state after an event. Raises `Conflict` where the table has no entry."""
    return moved(MOVES, state, event, "a request that is {} cannot be {}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the primary sees of one site of a request that is not finished."""

    state: At
    follows: bool  # the site has a session with this primary
    keeps_log: bool  # the log behind what it has is kept for it
    late: bool  # the deadline of the request has passed
    cut_behind: int = 0  # first cut behind the copy; 0: none is placed yet
    placed: int = 0  # newest cut that was placed for this site
    acked: int = 0  # newest that it has hardened
    overtaken: bool = False  # another site took the group over
    inherited: bool = False  # this site did: others may yet come to follow it


def look(seen: Seen) -> tuple[Event, str] | None:
    """What happened to a site by itself, and why; None if nothing did. An answer comes extra."""
    if seen.state in FINAL:
        return None
    if seen.overtaken and seen.state is At.NEW:
        return Event.DROPPED, "another site took the group over before it was taken"
    if seen.overtaken and seen.state is not At.OVERTAKEN:
        return Event.OVERTAKEN, "another site took the group over: the outcome is its to say"
    arrived = seen.cut_behind and seen.acked >= seen.cut_behind
    patient = seen.inherited or seen.state is At.OVERTAKEN
    if not seen.follows and not patient:
        return Event.DROPPED, "the site does not follow the group any more"
    if seen.follows and seen.state is not At.NEW and not seen.keeps_log and not arrived:
        return Event.DROPPED, "the side file with the copy in it was dropped"
    if seen.late and seen.overtaken:
        return Event.LATE, "the site that took over has not said in time what became of it"
    if seen.late:
        return Event.LATE, "the deadline has passed"
    if seen.state is At.LOCAL_DONE and seen.cut_behind and seen.placed >= seen.cut_behind:
        return Event.PLACED, ""
    return None


def to_ask(seen: Seen, *, withdraw: bool) -> bool:
    """Whether the site can say by now if it has the copy, or withdraw it."""
    arrived = bool(seen.cut_behind) and seen.acked >= seen.cut_behind
    return seen.follows and arrived and (seen.state in ARRIVING or withdraw)
