"""The chore, in virtual time: what it takes and catches up, what errors and clocks do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random
from typing import cast

import pytest
from structlog.testing import capture_logs

from isochrone.errors import NoSpace, NotFound
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import VirtualLoop, run
from isochrone.sim.site import Site
from isochrone.store import copies, holds, schedules, volumes
from isochrone.store.pool import Pool
from isochrone.store.schedule import DAY_S, SECOND
from isochrone.store.scheduler import RETRY_S_MAX, Scheduler
from isochrone.types import MIB
from tests.store.pools import SMALL, client


class Host:
    """One site with a pool and its scheduler, through any number of lives."""

    def __init__(self) -> None:
        self.loop = cast(VirtualLoop, asyncio.get_running_loop())
        self.site = Site("a", SimFabric(self.loop, Random("fabric")), 1)
        self.taken: list[tuple[float, str, tuple[str, ...]]] = []  # when, by which, for what
        self.open()

    def open(self) -> None:
        self.pool = Pool.open(self.site.disk, self.site.world, SMALL)
        self.pool.on_change.append(self.note)
        self.scheduler = Scheduler(self.pool)
        self.chore = self.site.spawn(self.scheduler.run())

    def note(self, lsn: int, record: object) -> None:
        if getattr(record, "schedule", ""):
            self.taken.append((self.loop.time(), record.schedule, record.rules))  # type: ignore[attr-defined]

    def crash(self, *, power: bool) -> None:
        self.site.crash(power=power)

    def set(self, rules: str, name: str = "s", **wanted: object) -> None:
        of = schedules.Wanted(**(wanted or {"volumes": ["a"]}))  # type: ignore[arg-type]
        schedules.put(self.pool, schedules.draft(self.pool, name, rules, of))
        self.scheduler.changed(name)

    def times(self, name: str = "s") -> list[float]:
        return [at for at, schedule, _ in self.taken if schedule == name]

    @property
    def copies(self) -> list[str]:
        return list(self.pool.state.copies)


def on_host(act: Callable[[Host], Awaitable[None]]) -> None:
    async def main() -> None:
        host = Host()
        volumes.create(host.pool, "a", MIB)
        await host.site.spawn(host.pool.flush())
        await act(host)
        if host.chore.done():
            host.chore.result()
        assert host.site.life.alive

    run(main(), seconds_max=10**9)


def test_it_takes_on_time_and_keeps_as_many() -> None:
    async def act(host: Host) -> None:
        host.set("every 10s keep 3, every 1m keep 2")
        await asyncio.sleep(185)
        # At once, and then on the tens: the first minute mark is both.
        assert [round(at % 10, 1) for at in host.times()[1:]] == [0.0] * 18
        assert host.taken[0][2] == ("every 10s", "every 1m")
        assert [rules for at, _, rules in host.taken if round(at) % 60 == 0] == [
            ("every 10s", "every 1m")
        ] * 3
        kept = [round(c.stamp / SECOND) % 180 for c in host.pool.state.copies.values()]
        assert kept == [120, 160, 170, 0]

    on_host(act)


def test_copies_are_durable_soon_after_they_are_taken() -> None:
    async def act(host: Host) -> None:
        host.set("every 10s keep 3")
        await asyncio.sleep(61)
        assert host.pool.log.durable == host.pool.log.lsn

    on_host(act)


@pytest.mark.parametrize("power", [True, False])
def test_what_was_missed_is_caught_up_once(power: bool) -> None:
    async def act(host: Host) -> None:
        host.set("every 10s keep 50")
        await asyncio.sleep(35)
        before = len(host.taken)
        host.crash(power=power)
        await asyncio.sleep(1000.5)
        host.open()
        await asyncio.sleep(1)
        assert len(host.taken) == before + 1
        await asyncio.sleep(30)
        assert len(host.taken) == before + 4
        assert len(host.copies) == before + 4

    on_host(act)


def test_a_restart_within_a_slot_takes_nothing() -> None:
    async def act(host: Host) -> None:
        host.set("hourly keep 3")
        await asyncio.sleep(1)
        for _ in range(5):
            host.crash(power=False)
            host.open()
            await asyncio.sleep(1)
        assert len(host.taken) == 1

    on_host(act)


def test_a_clock_that_jumps_years_ahead_and_back() -> None:
    async def act(host: Host) -> None:
        host.set("every 10s keep 5, daily keep 7")
        await asyncio.sleep(45)
        before, was = len(host.taken), host.copies
        host.site.clock.offset_ns += 10 * 366 * DAY_S * SECOND
        await asyncio.sleep(12)
        assert len(host.taken) - before in (2, 3), "one at once, then as usual"
        assert len(set(was) - set(host.copies)) <= 3, "by count, whatever the date is"
        before = len(host.taken)
        host.site.clock.offset_ns = 0
        await asyncio.sleep(60)
        assert 6 <= len(host.taken) - before <= 8
        assert sum("daily" in rules for _, _, rules in host.taken) <= 3

    on_host(act)


def test_a_clock_that_swings_makes_no_burst() -> None:
    async def act(host: Host) -> None:
        host.set("every 1m keep 100")
        for n in range(600):
            host.site.clock.offset_ns = (n % 2) * 10**6 * SECOND
            await asyncio.sleep(0.5)
        assert len(host.taken) <= 2 + 2 * 5

    on_host(act)


def test_an_error_is_shown_and_tried_again_within_bounds() -> None:
    async def act(host: Host) -> None:
        tries: list[float] = []
        host.set("every 10s keep 3")
        await asyncio.sleep(5)
        plain = schedules.take

        def full(*_: object) -> None:
            tries.append(host.loop.time())
            raise NoSpace("the disk under the pool is full")

        schedules.take = full  # type: ignore[assignment]
        try:
            await asyncio.sleep(400)
        finally:
            schedules.take = plain
        schedule = host.pool.state.schedules["s"]
        assert "is full" in host.scheduler.outlook(schedule).error
        gaps = [b - a for a, b in pairwise(tries)]
        assert gaps == sorted(gaps)
        assert max(gaps) <= RETRY_S_MAX + 1.1
        before = len(host.taken)
        await asyncio.sleep(RETRY_S_MAX + 12)
        assert len(host.taken) > before
        assert host.scheduler.outlook(schedule).error == ""

    on_host(act)


def test_a_schedule_without_volumes_says_so_and_others_go_on() -> None:
    async def act(host: Host) -> None:
        host.set("every 10s keep 3", name="none", labels={"tier": "gold"})
        host.set("every 10s keep 3", name="s")
        await asyncio.sleep(31)
        state = host.pool.state
        assert "finds no volume" in host.scheduler.outlook(state.schedules["none"]).error
        assert host.scheduler.outlook(state.schedules["s"]).error == ""
        assert len(host.times("s")) == 4
        volumes.create(host.pool, "new", MIB, {"tier": "gold"})
        await asyncio.sleep(RETRY_S_MAX)
        assert host.scheduler.outlook(state.schedules["none"]).error == ""
        assert host.times("none")

    on_host(act)


def test_what_is_in_use_goes_when_it_is_free() -> None:
    async def act(host: Host) -> None:
        host.set("hourly keep 2")
        first = host.pool.state.copies[(await host.site.spawn(host.scheduler.run_now("s"))).name]
        member = first.members[0][1]
        host.pool.attached.attach(member, client())
        for _ in range(3):
            await host.site.spawn(host.scheduler.run_now("s"))
        await asyncio.sleep(5)
        assert len(host.copies) == 3
        assert host.copies[0] == first.name
        host.pool.attached.detach(member, client())
        await asyncio.sleep(RETRY_S_MAX + 2)
        assert len(host.copies) == 2

    on_host(act)


def test_run_now_counts_for_what_is_due_or_else_for_the_most_frequent_rule() -> None:
    async def act(host: Host) -> None:
        await asyncio.sleep(30)  # between two minutes
        host.set("hourly keep 3, every 1m keep 3")
        copy = await host.site.spawn(host.scheduler.run_now("s"))
        assert set(copy.rules) == {"hourly", "every 1m"}
        copy = await host.site.spawn(host.scheduler.run_now("s"))
        assert copy.rules == ["every 1m"]
        assert host.pool.log.durable == host.pool.log.lsn
        with pytest.raises(NotFound):
            await host.site.spawn(host.scheduler.run_now("no"))

    on_host(act)


def test_changed_rules_prune_at_once_and_a_deleted_schedule_is_forgotten() -> None:
    async def act(host: Host) -> None:
        host.set("every 10s keep 20")
        await asyncio.sleep(105)
        assert len(host.copies) == 11
        host.set("every 10s keep 2")
        await asyncio.sleep(1.5)
        assert len(host.copies) == 2
        schedules.delete(host.pool, "s")
        before = len(host.taken)
        await asyncio.sleep(100)
        assert len(host.taken) == before
        assert len(host.copies) == 2

    on_host(act)


def test_many_doomed_copies_go_in_portions() -> None:
    async def act(host: Host) -> None:
        host.set("hourly keep 500")
        schedule = host.pool.state.schedules["s"]
        for _ in range(200):
            schedules.take(host.pool, schedule, ["hourly"])
        host.set("hourly keep 1")
        await asyncio.sleep(2)
        assert len(host.copies) == 1

    on_host(act)


def test_a_clock_that_is_ahead_of_the_holds_is_said_once() -> None:
    async def act(host: Host) -> None:
        with capture_logs() as said:
            host.site.clock.offset_ns = 5 * DAY_S * SECOND
            await asyncio.sleep(10)
            assert said == [], "nothing is held"
            holds.hold(
                host.pool,
                copies.take(host.pool, ["a"], name="c"),
                host.pool.hold_clock.latest() + DAY_S * SECOND,
            )
            await asyncio.sleep(10)
            host.site.clock.offset_ns = 0
            await asyncio.sleep(10)
            host.site.clock.offset_ns = 3600 * SECOND
            await asyncio.sleep(10)
        late = [line["seconds"] for line in said if "holds end later" in line["event"]]
        assert [round(seconds, -1) for seconds in late] == [5 * DAY_S, 3600]

    on_host(act)


def test_the_time_is_noted_while_something_is_held() -> None:
    async def act(host: Host) -> None:
        copy = copies.take(host.pool, ["a"], name="c")
        holds.hold(host.pool, copy, host.site.clock.wall_ns() + DAY_S * SECOND)
        began = host.pool.state.trusted.stamp
        await asyncio.sleep(3 * 3600 + 10)
        assert host.pool.state.trusted.stamp - began >= 3 * 3600 * SECOND - SECOND

    on_host(act)
