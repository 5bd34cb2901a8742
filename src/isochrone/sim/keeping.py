"""Schedules, retention and holds at two sites, through crashes, faults and clocks that jump.

The scenario of `scenario` up to its calm, with other copies: those that schedules take, at the
primary and at the secondary by itself. The four checkers go on; besides,

(e) a copy that a schedule took and that was durable is there until its rules let go of it, and none
    is there that no record made;
(f) nothing is deleted that is among the newest N of one of its rules, or held, whatever the clocks
    say; a copy that is held at the secondary survives its deletion at the primary;
(g) no rule takes more than two copies in one of its periods in one life, and in the calm each takes
    one in every period;
(h) a copy shows the bytes that its volumes had when it was taken, in every later life.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import xxhash

from isochrone.errors import Held
from isochrone.sim import checkers
from isochrone.sim.checkers import Violation
from isochrone.sim.history import History
from isochrone.sim.scenario import GROUP, LIFE_SECONDS_MAX, Controller, Scenario
from isochrone.sim.story import tell
from isochrone.store import copies, holds, schedules, volumes
from isochrone.store import records as r
from isochrone.store.pool import Pool
from isochrone.store.schedule import BURST, DAY_S, SECOND, parse_rules
from isochrone.store.scheduler import Scheduler

RULES: Final = (
    "every 1s keep 2",
    "every 2s keep 3, every 6s keep 2",
    "every 1s keep 1, every 3s keep 4",
    "every 5s keep 3",
)
JUMPS_S: Final = (0, 0, 1, -1, 7, -7, 3600, -3600, 3650 * DAY_S, -3650 * DAY_S)
GOLD: Final = {"tier": "gold"}
HOLD_S: Final = 60 * DAY_S  # longer than what all restarts of a run together may credit
CALM_S: Final = 20.0  # a clock set back costs two periods of the slowest rule, and then comes one


@dataclass(slots=True)
class Entry:
    """A copy that a schedule took, as its records say."""

    name: str
    lsn: int
    rules: tuple[str, ...]
    image: int  # hash of what its members showed
    died: int = 0  # lsn of its deletion
    held: int = 0  # lsn of its hold


class Ledger:
    """What the records of one site say about scheduled copies; it knows nothing of tables."""

    def __init__(self, keeps: dict[str, int]) -> None:
        self.entries: list[Entry] = []
        self.taken = 0
        self._keeps = keeps
        self._times: dict[str, list[float]] = {}  # of each rule, in this life

    def living(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.died]

    def find(self, name: str) -> Entry:
        """A living one: a clock that is set back makes names come again."""
        return next(entry for entry in self.living() if entry.name == name)

    def take(self, lsn: int, record: r.CopyTaken, image: int, now: float) -> None:
        self.entries.append(Entry(record.name, lsn, record.rules, image))
        self.taken += 1
        for rule in record.rules:
            times = self._times.setdefault(rule, [])
            period = parse_rules(f"{rule} keep 1")[0].period
            if len(times) >= BURST and now - times[-BURST] < period - 1e-6:
                raise Violation(f"(g) `{rule}` took three copies within {now - times[-BURST]} s")
            times.append(now)

    def delete(self, lsn: int, name: str) -> None:
        entry = self.find(name)
        if entry.held:
            raise Violation(f"(f) {name} is held, and was deleted")
        for rule in entry.rules:
            newer = [e for e in self.living() if rule in e.rules and e.lsn > entry.lsn]
            if len(newer) < self._keeps[rule]:
                raise Violation(f"(f) {name} was deleted; `{rule}` has only {len(newer)} newer")
        entry.died = lsn

    def recovered(self, lsn: int) -> None:
        """Everything after a record was lost, and a new life begins."""
        self.entries = [entry for entry in self.entries if entry.lsn <= lsn]
        for entry in self.entries:
            entry.died = entry.died if entry.died <= lsn else 0
            entry.held = entry.held if entry.held <= lsn else 0
        self._times = {}

    def check(self, pool: Pool) -> None:
        """Checkers (e) and (h)."""
        there = {c.name for c in pool.state.copies.values() if c.schedule}
        if there != {e.name for e in self.living()}:
            odd = sorted(there ^ {e.name for e in self.living()})
            raise Violation(f"(e) copies are not as their records say: {', '.join(odd)}")
        for entry in self.living():
            if look(pool, entry.name) != entry.image:
                raise Violation(f"(h) {entry.name} does not show what it showed when it was taken")

    def check_counts(self) -> None:
        """Nothing was left undone: after some quiet, all that is there has a reason."""
        for entry in self.living():
            newer = Counter(rule for e in self.living() if e.lsn > entry.lsn for rule in e.rules)
            if not entry.held and all(newer[rule] >= self._keeps[rule] for rule in entry.rules):
                raise Violation(f"(f) {entry.name} is doomed and still there")


def look(pool: Pool, copy: str) -> int:
    """A number for all bytes of a copy."""
    members = sorted(pool.state.volumes[m].name for _, m in pool.state.copies[copy].members)
    digest = xxhash.xxh3_64()
    for name in members:
        digest.update(checkers.image(pool, name))
    return digest.intdigest()


class Keeping(Scenario):
    """What is random in it beyond `Scenario` has dice of its own."""

    def __init__(self, seed: int, log: Callable[[str], None]) -> None:
        super().__init__(seed, log)
        self._dice = Random(f"{seed}/keeping")
        self.rules = {"a": self._dice.choice(RULES), "b": self._dice.choice(RULES)}
        mix = replace(
            self.options.mix,
            **dict.fromkeys(("copy", "clone", "delete_copy", "relate", "refresh", "restore"), 0),
            **dict.fromkeys(("withdraw", "revert", "resize"), 0),
        )
        self.options = replace(self.options, mix=mix)
        self._ledgers = {
            site: Ledger({rule.name: rule.keep for rule in parse_rules(rules)})
            for site, rules in self.rules.items()
        }
        self._mirrored_holds: dict[str, int] = {}  # copy of the primary, held at b -> lsn
        self._schedulers: dict[str, Scheduler] = {}
        self._first: dict[str, int] = {}  # site -> first record of its present life
        self.counts.update(dict.fromkeys(("taken", "pruned", "held", "jumps", "kept"), 0))

    async def _run(self) -> None:
        await self._prepare()
        self._say(f"keeping: {self.rules}")
        for _ in range(self.options.rounds):
            self._arrange()
            await self._round()
            self._jump()
        await self._calm()
        await self._quiet()
        self.counts["ops"] += self._history.op

    # -- controllers

    async def _start(self, controller: Controller) -> None:
        name, ledger = controller.site.name, self._ledgers[controller.site.name]
        self._first.pop(name, None)
        await super()._start(controller)
        pool = controller.pool
        recovered = self._first.get(name, pool.log.lsn + 1) - 1
        ledger.recovered(recovered)
        ledger.check(pool)
        if name == "b":
            held = self._mirrored_holds.items()
            self._mirrored_holds = {copy: lsn for copy, lsn in held if lsn <= recovered}
            self._check_holds(pool)
        pool.on_change.append(lambda lsn, record: self._note(controller, lsn, record))
        self._schedulers[name] = Scheduler(pool)
        controller.site.spawn(self._schedulers[name].run())

    def _primary_record(self, lsn: int, record: r.AnyRecord) -> None:
        self._first.setdefault("a", lsn)
        super()._primary_record(lsn, record)

    def _secondary_record(self, lsn: int, record: r.AnyRecord) -> None:
        self._first.setdefault("b", lsn)
        super()._secondary_record(lsn, record)

    def _note(self, controller: Controller, lsn: int, record: r.AnyRecord) -> None:
        with self._inside():
            self._follow(controller, lsn, record)

    def _follow(self, controller: Controller, lsn: int, record: r.AnyRecord) -> None:
        pool, ledger = controller.pool, self._ledgers[controller.site.name]
        primary = controller is self._a
        match record:
            case r.CopyTaken(schedule=schedule) if schedule:
                self.counts["taken"] += 1
                if primary:
                    names = tuple(pool.state.volumes[source].name for source, _ in record.members)
                    self._history.copy(record.name, names, record.stamp)
                ledger.take(lsn, record, look(pool, record.name), self._loop.time())
            case r.CopyDeleted(name=name, group=""):
                self.counts["pruned"] += 1
                if primary:
                    self._history.delete_copy(name, controller.site.clock.wall_ns())
                ledger.delete(lsn, name)
            case r.IncomingCommitted(kept=kept):
                self.counts["kept"] += len(kept)
                self._check_holds(pool)

    def _check_holds(self, pool: Pool) -> None:
        """Copies of the primary that are held at the secondary."""
        for name in self._mirrored_holds:
            if name not in pool.state.copies:
                raise Violation(f"(f) {name} is held at the secondary, and is gone")

    async def _restart(self, controller: Controller, history: History) -> None:
        if self._dice.random() < 0.3:
            self._jump(controller)
        await super()._restart(controller, history)

    # -- what is done beside the workload

    def _arrange(self) -> None:
        """Schedules, if a crash has not left them, and some holds."""
        for name in self._names:
            volumes.label(self._a.pool, name, GOLD)
        self._schedule(self._a, schedules.Wanted(labels=GOLD))
        group = self._b.pool.state.groups.get(GROUP)
        if group is not None and group.cut:
            self._schedule(self._b, schedules.Wanted(group=GROUP))
        for controller in (self._a, self._b):
            names = list(controller.pool.state.copies)
            if names and self._dice.random() < 0.5:
                self._hold(controller, self._dice.choice(names))

    def _schedule(self, controller: Controller, wanted: schedules.Wanted) -> None:
        pool, site = controller.pool, controller.site.name
        drafted = schedules.draft(pool, f"of-{site}", self.rules[site], wanted)
        if drafted.name not in pool.state.schedules or wanted.labels:
            schedules.put(pool, drafted)
            self._schedulers[site].changed(drafted.name)

    def _hold(self, controller: Controller, name: str) -> None:
        pool = controller.pool
        copy = pool.state.copies[name]
        if copy.held_until:
            return
        holds.hold(pool, copy, pool.hold_clock.latest() + HOLD_S * SECOND)
        self.counts["held"] += 1
        self._say(f"{controller.site.name} holds {name}")
        if copy.schedule:
            self._ledgers[controller.site.name].find(name).held = pool.log.lsn
        else:
            self._mirrored_holds[name] = pool.log.lsn
        try:
            copies.delete(pool, name)
        except Held:
            return
        raise Violation(f"(f) {name} was deleted as soon as it was held")

    def _jump(self, controller: Controller | None = None) -> None:
        for each in (self._a, self._b) if controller is None else (controller,):
            seconds = self._dice.choice(JUMPS_S)
            if seconds:
                each.site.clock.offset_ns = seconds * SECOND
                self.counts["jumps"] += 1
                self._say(f"the clock of {each.site.name} is {seconds} s off")

    async def _calm(self) -> None:
        # The mirror must come to rest: nothing is taken at the primary meanwhile.
        self._schedule(self._a, schedules.Wanted(labels={"tier": "none"}))
        await super()._calm()

    async def _quiet(self) -> None:
        """Nothing goes wrong any more: every rule takes its copies, and nothing is left over."""
        self._arrange()
        before = {name: ledger.taken for name, ledger in self._ledgers.items()}
        await asyncio.sleep(CALM_S)
        for controller in (self._a, self._b):
            ledger = self._ledgers[controller.site.name]
            ledger.check(controller.pool)
            ledger.check_counts()
            if ledger.taken - before[controller.site.name] < 2:
                raise Violation(f"(g) {controller.site.name} takes no copies any more")
        self._check_holds(self._b.pool)


def keep_seed(seed: int, log: Callable[[str], None]) -> Keeping:
    """Run one seed; raises what it finds."""
    return tell(Keeping(seed, log), LIFE_SECONDS_MAX)
