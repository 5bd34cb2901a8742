"""Holds and pins: no way to delete ends before them, and no clock ends them early."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import Conflict, Held, InvalidInput
from isochrone.store import copies, holds, schedules, volumes
from isochrone.store.holds import (
    DOWNTIME_CREDITED_S,
    HOLD_S_MAX,
    REASON_CHARS_MAX,
    SEEN_EVERY_S,
    HoldClock,
)
from isochrone.store.pool import Pool
from isochrone.store.schedule import DAY_S, SECOND
from isochrone.types import MIB
from tests.store.pools import Clock, Rig

DAY = DAY_S * SECOND


class TwoClocks(Clock):
    """A wall clock that can jump, and a monotonic one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.true = 0

    def wall_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.true / SECOND

    def pass_(self, seconds: int) -> None:
        self.true += seconds * SECOND
        self.now += seconds * SECOND

    async def sleep(self, seconds: float) -> None:
        self.pass_(int(seconds))


class HeldRig(Rig):
    def __init__(self) -> None:
        super().__init__("holds")
        self.clock = TwoClocks()
        self.world = replace(self.world, clock=self.clock)


@pytest.fixture
def rig() -> HeldRig:
    return HeldRig()


def with_copy(rig: Rig) -> Pool:
    pool = rig.open()
    volumes.create(pool, "a", MIB)
    copies.take(pool, ["a"], name="c")
    return pool


def test_a_held_copy_stays_until_its_date(rig: HeldRig) -> None:
    pool = with_copy(rig)
    copy = holds.hold(pool, pool.state.copies["c"], rig.clock.now + DAY, "audit 7")
    with pytest.raises(Held, match=r"held until 2027-01-16T08:00:00Z \(audit 7\)") as caught:
        copies.delete(pool, "c")
    assert caught.value.http_status == 409
    rig.clock.pass_(DAY_S - 1)
    assert copies.why_not_deletable(pool, copy)
    rig.clock.pass_(1)
    assert holds.why_held(pool, copy) == ""
    copies.delete(pool, "c")


def test_a_hold_is_never_made_shorter(rig: HeldRig) -> None:
    pool = with_copy(rig)
    copy, now = pool.state.copies["c"], rig.clock.now
    holds.hold(pool, copy, now + 2 * DAY, "why")
    with pytest.raises(Conflict, match="never shorter"):
        holds.hold(pool, copy, now + 2 * DAY - 1)
    for bad in (now, now - 1, now + HOLD_S_MAX * SECOND + 1):
        with pytest.raises(InvalidInput):
            holds.hold(pool, copy, bad)
    holds.hold(pool, copy, now + 3 * DAY)
    assert (copy.held_until, copy.hold_reason) == (now + 3 * DAY, "why")
    for bad in ("x" * (REASON_CHARS_MAX + 1), "two\nlines"):
        with pytest.raises(InvalidInput, match="one line"):
            holds.pin(pool, copy, bad)


def test_a_pin_is_taken_away_and_a_hold_is_not(rig: HeldRig) -> None:
    pool = with_copy(rig)
    copy = pool.state.copies["c"]
    with pytest.raises(Conflict, match="is not pinned"):
        holds.unpin(pool, copy)
    holds.pin(pool, copy)
    with pytest.raises(Held, match="is pinned") as caught:
        copies.delete(pool, "c")
    assert caught.value.hint == "isochrone copy unpin c"
    holds.hold(pool, copy, rig.clock.now + DAY)
    assert copy.pinned
    holds.unpin(pool, copy)
    with pytest.raises(Held, match="held until"):
        copies.delete(pool, "c")


def test_pruning_and_a_deleted_volume_leave_it(rig: HeldRig) -> None:
    pool = rig.open()
    volumes.create(pool, "a", MIB)
    schedule = schedules.put(
        pool, schedules.draft(pool, "s", "hourly keep 1", schedules.Wanted(volumes=["a"]))
    )
    taken = [schedules.take(pool, schedule, ["hourly"]) for _ in range(4)]
    holds.hold(pool, taken[0], rig.clock.now + DAY)
    holds.pin(pool, taken[1])
    assert schedules.prune(pool, schedule, 64) == ([taken[2].name], {})
    schedules.delete(pool, "s")
    volumes.delete(pool, "a")
    assert set(pool.state.copies) == {taken[0].name, taken[1].name, taken[3].name}


@pytest.mark.parametrize("way", ["reopen", "kill"])
def test_it_survives_a_restart(rig: HeldRig, way: str) -> None:
    pool = with_copy(rig)
    holds.hold(pool, pool.state.copies["c"], rig.clock.now + DAY, "audit")
    holds.pin(pool, pool.state.copies["c"])
    pool = rig.reopen(pool) if way == "reopen" else rig.kill()
    copy = pool.state.copies["c"]
    assert (copy.pinned, copy.hold_reason) == (True, "audit")
    assert pool.state.trusted.stamp == rig.clock.now
    with pytest.raises(Held):
        copies.delete(pool, "c")


# -- clocks


def test_a_clock_that_jumps_ahead_ends_no_hold(rig: HeldRig) -> None:
    pool = with_copy(rig)
    copy = holds.hold(pool, pool.state.copies["c"], rig.clock.now + 10 * DAY)
    rig.clock.now += 3650 * DAY
    assert holds.why_held(pool, copy)
    assert pool.hold_clock.lag() == 3650 * DAY
    rig.clock.pass_(10 * DAY_S)  # ten true days
    assert not holds.why_held(pool, copy)


def test_nor_does_a_restart_after_the_jump(rig: HeldRig) -> None:
    pool = with_copy(rig)
    holds.hold(pool, pool.state.copies["c"], rig.clock.now + 10 * DAY)
    rig.clock.now += 3650 * DAY
    for _ in range(9):
        pool = rig.kill()
        assert holds.why_held(pool, pool.state.copies["c"])
    # Each restart that heard of the time may credit one day, and no more.
    assert pool.hold_clock.now() - pool.state.trusted.stamp == DOWNTIME_CREDITED_S * SECOND


def test_a_short_stop_is_credited_and_a_long_one_is_not(rig: HeldRig) -> None:
    pool = with_copy(rig)
    holds.hold(pool, pool.state.copies["c"], rig.clock.now + 2 * DAY)
    rig.clock.now += DAY
    pool = rig.kill()
    assert pool.hold_clock.lag() == 0
    rig.clock.now += 6 * DAY
    pool = rig.kill()
    assert pool.hold_clock.lag() == 6 * DAY
    assert holds.why_held(pool, pool.state.copies["c"])
    rig.clock.pass_(DAY_S)
    assert not holds.why_held(pool, pool.state.copies["c"])


def test_a_clock_that_is_set_back_makes_it_longer(rig: HeldRig) -> None:
    pool = with_copy(rig)
    copy = holds.hold(pool, pool.state.copies["c"], rig.clock.now + DAY)
    rig.clock.now -= 5 * DAY
    rig.clock.pass_(2 * DAY_S)
    assert holds.why_held(pool, copy)


def test_the_time_is_noted_only_while_something_is_held(rig: HeldRig) -> None:
    pool = with_copy(rig)
    rig.clock.pass_(SEEN_EVERY_S)
    assert not holds.note_due(pool)
    holds.hold(pool, pool.state.copies["c"], rig.clock.now + DAY)
    assert not holds.note_due(pool)
    rig.clock.pass_(SEEN_EVERY_S)
    assert holds.note_due(pool)
    holds.note_time(pool)
    assert not holds.note_due(pool)
    assert pool.state.trusted.stamp == rig.clock.now


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pass", "jump", "restart"]), st.integers(-4000 * DAY_S, 4000 * DAY_S)
        ),
        max_size=30,
    )
)
def test_the_clock_of_holds_is_never_faster_than_true_time(steps: list[tuple[str, int]]) -> None:
    """Beyond one credited day for each restart; and it never goes back by itself."""
    clock = TwoClocks()
    began, held = clock.now, HoldClock(clock)
    held.start(0)
    credit = 0
    for kind, seconds in steps:
        if kind == "pass":
            clock.pass_(abs(seconds) % DAY_S)
        elif kind == "jump":
            clock.now += seconds * SECOND
        else:
            seen = held.now()
            held = HoldClock(clock)
            held.start(seen)
            credit += DOWNTIME_CREDITED_S * SECOND
        assert held.now() <= began + clock.true + credit
        assert held.now() <= clock.now
        assert held.lag() >= 0
