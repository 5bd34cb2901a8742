"""The chore that takes due copies and prunes, for all schedules of a pool.

Each turn looks at every schedule: what is due is taken, then what its rules do not keep any more
is deleted, then everything is made durable at once. A turn comes when the next copy is due, and at
the latest after `TURN_S_MAX`, because the wall clock may jump meanwhile. Over a restart only that
is remembered what the copies' own records say. Errors are kept for status, and it is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import structlog

from isochrone.errors import IsochroneError
from isochrone.store import holds, schedules
from isochrone.store.catalogue import Copy, Schedule
from isochrone.store.pool import Pool
from isochrone.store.schedule import SECOND, Pace, due, next_due, parse_rules

TURN_S_MAX: Final = 1.0
TURN_S_MIN: Final = 0.01
RETRY_S_MIN: Final = 1.0  # after an error; it doubles
RETRY_S_MAX: Final = 60.0
LATE_NS: Final = 60 * SECOND  # that a hold ends later by less is no news
PRUNED_AT_ONCE: Final = 64  # deletions before others get their turn

log = structlog.get_logger("isochrone.schedule")


@dataclass(slots=True)
class Desk:
    """What is known of one schedule in this life of the process. Instants are monotonic."""

    pace: Pace = field(default_factory=Pace)
    prune_at: float | None = 0.0  # at once, then whenever a copy was taken
    error: str = ""
    errors: int = 0  # in a row
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    next_due: int  # ns since 1970
    error: str  # why the last try failed; empty if it did not


class Scheduler:
    """`run` it once for a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._clock = pool.world.clock
        self._desks: dict[str, Desk] = {}
        self._late = False  # it was said that holds end later than their date

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.turn()
            await self._clock.sleep(self.pause())

    async def turn(self) -> None:
        """Everything that is to be done now."""
        state = self._pool.state
        self._desks = {name: desk for name, desk in self._desks.items() if name in state.schedules}
        served: list[str] = []
        for name in sorted(state.schedules):
            schedule = state.schedules.get(name)  # others run between two of them
            desk = self._desk(name)
            if schedule is None or self._clock.monotonic() < desk.retry_at:
                continue
            try:
                if self._serve(schedule, desk):
                    served.append(name)
                desk.error, desk.errors = "", 0
            except IsochroneError as e:
                self._failed(name, e)
            if served and served[-1] == name:
                await self._clock.sleep(0)
        try:
            self._watch_clock()
            if holds.note_due(self._pool):
                holds.note_time(self._pool)
            if served:
                await self._pool.flush()
        except IsochroneError as e:
            for name in served:
                self._failed(name, e)

    def _watch_clock(self) -> None:
        """Say when the wall clock is ahead of the time that holds go by, and when it is not."""
        late = self._pool.hold_clock.lag() > LATE_NS and holds.lateness(self._pool) > LATE_NS
        if late and not self._late:
            log.warning(
                "the clock went ahead, or the controller was down: holds end later than their date",
                seconds=holds.lateness(self._pool) // SECOND,
            )
        self._late = late

    async def run_now(self, name: str) -> Copy:
        """Take a copy for a schedule although none is due; durable when this returns.

        It counts for the rules that are due, and if there are none, for the most frequent one.
        """
        schedule = schedules.find_schedule(self._pool, name)
        rules = parse_rules(schedule.rules)
        now_due = due(rules, schedule.last, self._clock.wall_ns())
        chosen = now_due or [min(rules, key=lambda rule: rule.period)]
        copy = self._take(schedule, self._desk(name), [rule.name for rule in chosen])
        await self._pool.flush()
        return copy

    def changed(self, name: str) -> None:
        """A schedule was set: what was known of its troubles may not be true any more."""
        desk = self._desk(name)
        desk.prune_at, desk.retry_at, desk.error, desk.errors = 0.0, 0.0, "", 0

    def outlook(self, schedule: Schedule) -> Outlook:
        rules = parse_rules(schedule.rules)
        when = next_due(rules, schedule.last, self._clock.wall_ns())
        return Outlook(when, self._desk(schedule.name).error)

    def pause(self) -> float:
        """Seconds until the next turn."""
        now, true = self._clock.wall_ns(), self._clock.monotonic()
        soonest = TURN_S_MAX
        for name, schedule in self._pool.state.schedules.items():
            desk = self._desk(name)
            if desk.prune_at is not None:
                soonest = min(soonest, max(desk.prune_at, desk.retry_at) - true)
            rules = parse_rules(schedule.rules)
            coming = next_due(rules, schedule.last, now) - now
            if coming and true >= desk.retry_at:  # what is due and was not taken can wait
                soonest = min(soonest, coming / SECOND)
        return max(soonest, TURN_S_MIN)

    # -- one schedule

    def _desk(self, name: str) -> Desk:
        return self._desks.setdefault(name, Desk())

    def _serve(self, schedule: Schedule, desk: Desk) -> bool:
        """Take and prune; whether anything was done."""
        now, true = self._clock.wall_ns(), self._clock.monotonic()
        rules = due(parse_rules(schedule.rules), schedule.last, now)
        chosen = [rule.name for rule in rules if desk.pace.allows(rule, true)]
        if chosen:
            copy = self._take(schedule, desk, chosen)
            log.info("copy taken", schedule=schedule.name, copy=copy.name, rules=chosen)
        pruned = self._prune(schedule, desk) if self._prune_due(desk) else 0
        return bool(chosen or pruned)

    def _take(self, schedule: Schedule, desk: Desk, rules: list[str]) -> Copy:
        copy = schedules.take(self._pool, schedule, rules)
        true = self._clock.monotonic()
        desk.pace.taken(rules, true)
        desk.prune_at = true
        desk.retry_at = 0.0
        return copy

    def _prune_due(self, desk: Desk) -> bool:
        return desk.prune_at is not None and self._clock.monotonic() >= desk.prune_at

    def _prune(self, schedule: Schedule, desk: Desk) -> int:
        gone, refused = schedules.prune(self._pool, schedule, PRUNED_AT_ONCE)
        for name in gone:
            log.info("copy pruned", schedule=schedule.name, copy=name)
        true = self._clock.monotonic()
        if len(gone) == PRUNED_AT_ONCE:
            desk.prune_at = true
        else:  # one that is in use may be free later
            desk.prune_at = true + RETRY_S_MAX if refused else None
        return len(gone)

    def _failed(self, name: str, error: IsochroneError) -> None:
        desk = self._desk(name)
        if desk.error != error.message:
            log.error("a schedule cannot go on", schedule=name, error=error.message)
        desk.error = error.message
        desk.errors += 1
        wait = min(RETRY_S_MAX, RETRY_S_MIN * 2 ** min(desk.errors - 1, 10))
        desk.retry_at = self._clock.monotonic() + wait
