"""Copies that must not be deleted: until a date, or until they are unpinned.

A hold can be made longer, never shorter. When it ends is not for the wall clock alone to say: one
that jumps ahead, by accident or on purpose, would end every hold. `HoldClock` never runs ahead of
the wall clock, and between two looks never faster than true time:

- while the controller runs, by the monotonic clock;
- over a restart by at most `DOWNTIME_CREDITED_S`, counted from the newest instant in the log
  (`clock-seen`, appended once an hour while anything is held).

So a jump ends no hold early, or at most a day early for each restart; a controller that was down
for longer than a day ends its holds that much later than their date. Both are said in the log and
by `lag`. Who may change the pool's files or the program is not stopped by any of this.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from isochrone.errors import Conflict, Held, InvalidInput
from isochrone.store import records as r
from isochrone.store.catalogue import Copy, Group
from isochrone.store.schedule import DAY_S, HOUR_S, SECOND
from isochrone.world.clock import Clock

if TYPE_CHECKING:
    from isochrone.store.pool import Pool

DOWNTIME_CREDITED_S: Final = DAY_S  # a weekend's outage makes holds a day or two longer: harmless
SEEN_EVERY_S: Final = HOUR_S
HOLD_S_MAX: Final = 36525 * DAY_S  # a hundred years: more is a mistake that nobody could undo
REASON_CHARS_MAX: Final = 200


class HoldClock:
    """The time that holds go by. Until `start` it is the wall clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begin, self._from = clock.wall_ns(), clock.monotonic()
        self._seen = 0

    def start(self, seen: int) -> None:
        """Begin at the start of the process, `seen` being the newest instant in the log."""
        wall = self._clock.wall_ns()
        credited = seen + DOWNTIME_CREDITED_S * SECOND
        self._begin = min(wall, credited) if seen else wall
        self._from = self._clock.monotonic()
        self._seen = seen

    def now(self) -> int:
        passed = int((self._clock.monotonic() - self._from) * SECOND)
        return min(self._clock.wall_ns(), self._begin + passed)

    def latest(self) -> int:
        """The time from which a span counts: not shorter for a clock that was set back."""
        passed = int((self._clock.monotonic() - self._from) * SECOND)
        return max(self._clock.wall_ns(), self._begin + passed, self._seen)

    def lag(self) -> int:
        """How much later than their date holds end, in ns, if the wall clock stays as it is."""
        return self._clock.wall_ns() - self.now()


def why_held(pool: Pool, copy: Copy) -> str:
    """Why a copy must stay; empty: it need not."""
    if copy.pinned:
        return "pinned"
    if copy.held_until > pool.hold_clock.now():
        return f"held until {_date(copy.held_until)}"
    return ""


def check(pool: Pool, copy: Copy) -> None:
    """Raises `Held`."""
    why = why_held(pool, copy)
    if why:
        reason = f" ({copy.hold_reason})" if copy.hold_reason else ""
        hint = f"isochrone copy unpin {copy.name}" if copy.pinned else "a hold cannot be shortened"
        raise Held(f"the copy {copy.name!r} is {why}{reason}; it was not deleted", hint=hint)


def hold(pool: Pool, copy: Copy, until: int, reason: str = "") -> Copy:
    """Protect a copy until an instant, in ns since 1970. Raises `InvalidInput` or `Conflict`."""
    now = pool.world.clock.wall_ns()
    if until <= now:
        raise InvalidInput(f"{_date(until)} has passed; a hold needs a date to come")
    if until - pool.hold_clock.latest() > HOLD_S_MAX * SECOND:
        raise InvalidInput(
            "a hold is at most a hundred years long", hint=f"isochrone copy pin {copy.name}"
        )
    if until < copy.held_until:
        raise Conflict(
            f"the copy {copy.name!r} is held until {_date(copy.held_until)};"
            " a hold can be made longer, never shorter"
        )
    return _set(pool, copy, until, pinned=copy.pinned, reason=reason or copy.hold_reason)


def pin(pool: Pool, copy: Copy, reason: str = "") -> Copy:
    """Protect a copy until it is unpinned."""
    return _set(pool, copy, copy.held_until, pinned=True, reason=reason or copy.hold_reason)


def unpin(pool: Pool, copy: Copy) -> Copy:
    """Let go of a pin; a hold with a date stays."""
    if not copy.pinned:
        raise Conflict(f"the copy {copy.name!r} is not pinned")
    return _set(pool, copy, copy.held_until, pinned=False, reason=copy.hold_reason)


def _set(pool: Pool, copy: Copy, until: int, *, pinned: bool, reason: str) -> Copy:
    if len(reason) > REASON_CHARS_MAX or not reason.isprintable():
        raise InvalidInput(f"a reason is one line of at most {REASON_CHARS_MAX} characters")
    note_time(pool)
    pool.record(r.CopyHeld(name=copy.name, until=until, pinned=pinned, reason=reason))
    return copy


def lateness(pool: Pool) -> int:
    """How much later than their date the present holds end, in ns; 0 if nothing is held."""
    lag = pool.hold_clock.lag()
    now = pool.hold_clock.now()
    return lag if lag and any(c.held_until > now for c in pool.state.copies.values()) else 0


def note_time(pool: Pool) -> None:
    """Put into the log how much time has passed, so that a restart goes on from there."""
    pool.record(r.ClockSeen(stamp=pool.hold_clock.now()))


def note_due(pool: Pool) -> bool:
    """Whether something is held, and the log has not heard of the time for an hour."""
    if pool.hold_clock.now() - pool.state.trusted.stamp < SEEN_EVERY_S * SECOND:
        return False
    return any(copy.held_until > pool.state.trusted.stamp for copy in pool.state.copies.values())


def kept_here(pool: Pool, group: Group) -> tuple[str, ...]:
    """Copies that a group's primary has deleted, and that must stay here all the same.

    What a site that was joined just now does not have, it may never have had: it may hold no copy
    from before its first copy, and nobody has deleted those. Such a copy stays, unless it is sent.

    It is decided when the group is committed, and part of that record: replay must not look at a
    clock.
    """
    gone = set(group.incoming.deleted) if group.incoming is not None else set()
    if group.incoming is None or not gone:
        return ()
    sent = {copy.name for copy in group.incoming.copies}
    return tuple(
        copy.name
        for copy in pool.state.copies.values()
        if copy.group == group.name
        and (name := copy.origin or copy.name) in gone
        and ((group.rejoined and name not in sent) or why_held(pool, copy))
    )


def _date(stamp: int) -> str:
    return f"{datetime.fromtimestamp(stamp // SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}"
