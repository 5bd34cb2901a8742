from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import InvalidInput
from isochrone.store.points import (
    DENSE_S,
    DENSE_S_MAX,
    KEEP_S,
    KEEP_S_MAX,
    POINTS_MAX,
    RESTART_CREDITED_S,
    SECOND,
    Point,
    Tier,
    WindowClock,
    at_cut,
    at_time,
    check_rules,
    covers,
    eldest,
    fitted,
    points_bound,
    thin,
    tiers,
)

START = 1_800_000_000 * SECOND
SMALL = [Tier(20, 1), Tier(120, 10), Tier(600, 60)]


def made(*seconds: float) -> list[Point]:
    """Points that were applied so many seconds after the start; their lsn and cut follow them."""
    return [
        Point(n + 1, 10 * (n + 1), START + int(s * SECOND), START + int(s * SECOND))
        for n, s in enumerate(seconds)
    ]


gaps = st.lists(st.sampled_from([0, 0.2, 1, 1.3, 5, 11, 59, 200]), min_size=1, max_size=120)


def history(of: list[float]) -> list[Point]:
    at, seconds = 0.0, []
    for gap in of:
        at += gap
        seconds.append(at)
    return made(*seconds)


def left(points: list[Point], now: int) -> list[Point]:
    gone = {point.lsn for point in thin(points, now, SMALL)}
    return [point for point in points if point.lsn not in gone]


@given(gaps, st.integers(0, 1000))
def test_nobody_falls_back_further_than_a_step(of: list[float], later: int) -> None:
    """For each point within the window, one that is at most a step of its tier older stays."""
    points = history(of)
    now = points[-1].kept_at + later * SECOND
    kept = left(points, now)
    assert kept[-1] == points[-1]
    for point in points:
        age = (now - point.kept_at) / SECOND
        step = next((tier.step_s for tier in SMALL if age <= tier.span_s), None)
        if step is not None:
            before = [k for k in kept if k.lsn <= point.lsn]
            assert before, "nothing as old as that is left"
            assert point.kept_at - before[-1].kept_at < step * SECOND


@given(gaps, st.lists(st.integers(0, 400), min_size=1, max_size=6))
def test_what_was_dropped_is_never_wanted_later(of: list[float], steps: list[int]) -> None:
    """Thinned often or once: the same stays. Points come meanwhile."""
    points = history(of)
    often: list[Point] = []
    for point in points:
        often = left([*often, point], point.kept_at)
    now = points[-1].kept_at
    for step in steps:
        now += step * SECOND
        often = left(often, now)
        assert often == left(points, now)


@given(gaps, st.integers(0, 10_000))
def test_the_number_of_points_is_bounded(of: list[float], later: int) -> None:
    points = history(of)
    kept = left(points, points[-1].kept_at + later * SECOND)
    assert len(kept) <= points_bound(SMALL) + 1


def test_many_cuts_do_not_push_out_old_ones() -> None:
    """Whoever holds the primary may place thousands of cuts."""
    old = made(*range(0, 600, 60))
    flood = [Point(100 + n, 1000 + n, 0, START + 600 * SECOND + n) for n in range(3000)]
    kept = left([*old, *flood], START + 601 * SECOND)
    assert kept[: len(old)] == old
    assert len(kept) == len(old) + 2  # the first of its second, and the newest


def test_stamps_of_the_primary_decide_nothing() -> None:
    points = made(0, 60, 120)
    lied = [Point(p.lsn, p.cut, 1, p.kept_at) for p in points]
    now = START + 200 * SECOND
    assert [p.lsn for p in left(points, now)] == [p.lsn for p in left(lied, now)]


def test_tiers_of_a_window() -> None:
    assert tiers(0, 0) == []
    assert tiers(24 * 3600, 600) == [Tier(600, 1), Tier(3600, 10), Tier(86400, 60)]
    assert tiers(60, 60) == [Tier(60, 1)]
    assert tiers(1800, 0) == [Tier(1800, 10)]
    assert tiers(30 * 86400, 600)[-1] == Tier(30 * 86400, 3600)
    for finer, coarser in zip(tiers(KEEP_S_MAX, 60), tiers(KEEP_S_MAX, 60)[1:], strict=False):
        assert coarser.step_s % finer.step_s == 0
    assert points_bound(tiers(KEEP_S, DENSE_S)) < 2600
    assert points_bound(tiers(KEEP_S_MAX, DENSE_S_MAX)) < POINTS_MAX


@given(st.integers(1, KEEP_S_MAX), st.integers(0, DENSE_S_MAX), st.integers(4, POINTS_MAX))
def test_a_window_that_is_too_fine_keeps_its_length(keep: int, dense: int, most: int) -> None:
    whole = tiers(keep, min(dense, keep))
    found = fitted(whole, most)
    assert found[-1].span_s == keep
    assert points_bound(found) <= max(most, 3)
    if points_bound(whole) <= most:
        assert found == whole


def test_finding_points() -> None:
    points = made(0, 10, 20)
    assert at_cut(points, 20) == points[1]
    assert at_cut(points, 21) is None
    assert at_time(points, START + 10 * SECOND) == points[1]
    assert at_time(points, START + 10 * SECOND - 1) == points[0]
    assert at_time(points, START - 1) is None
    assert at_time([], START) is None


def test_giving_up_the_eldest() -> None:
    points = made(*range(10))
    assert eldest(points, 4) == points[:3]
    assert eldest(points[:2], 8) == points[:1]
    assert eldest(points[:1], 2) == []
    assert eldest(points[:1], 2, newest=False) == points[:1]


def test_the_newest_goes_when_it_is_not_current() -> None:
    points = made(0, 1, 2)
    assert thin(points, START + 10**6 * SECOND, SMALL) == points[:2]
    assert thin(points, START + 10**6 * SECOND, SMALL, newest=False) == points


@given(st.sets(st.integers(0, 30)), st.integers(0, 30), st.integers(0, 30))
def test_covers(lsns: set[int], first: int, last: int) -> None:
    assert covers(sorted(lsns), first, last) == any(first <= lsn <= last for lsn in lsns)


@pytest.mark.parametrize(
    ("keep", "dense", "limit", "word"),
    [
        (KEEP_S_MAX + 1, 0, 0, "90 days"),
        (-1, 0, 0, "90 days"),
        (3600, DENSE_S_MAX + 1, 0, "30 minutes"),
        (3600, 60, -1, "bytes"),
    ],
)
def test_rules_that_are_refused(keep: int, dense: int, limit: int, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        check_rules(keep, dense, limit)


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.wall, self.ticks = START, 100.0

    def wall_ns(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.ticks

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def test_the_window_clock_does_not_jump() -> None:
    hands = Hands()
    clock = WindowClock(hands)
    hands.ticks += 10
    hands.wall += 10**6 * SECOND
    assert clock.now() == START + 10 * SECOND
    hands.wall = 0
    hands.ticks += 1
    assert clock.now() == START + 11 * SECOND


@pytest.mark.parametrize(
    ("passed", "counted"),
    [(-7200, 0), (60, 60), (RESTART_CREDITED_S, 3600), (10**6, RESTART_CREDITED_S)],
)
def test_over_a_restart_at_most_an_hour_counts(passed: int, counted: int) -> None:
    hands = Hands()
    hands.wall = START + passed * SECOND
    clock = WindowClock(hands)
    clock.start(START)
    assert clock.now() == START + counted * SECOND
    clock.start(0)
    assert clock.now() == hands.wall
