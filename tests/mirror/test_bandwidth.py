"""Windows of the day, and a bucket that nobody gets more out of than flows in."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import InvalidInput
from isochrone.mirror.bandwidth import (
    AGE_S_MAX,
    BURST_S,
    LIMIT_RULES_MAX,
    RATE_BYTES_MIN,
    Budget,
    Urgency,
    parse_limit,
    rate_at,
)
from isochrone.types import KIB, MIB

WORKING = "08:00-18:00 mon-fri 20MiB/s, 22:00-06:00 fri-sun 1.5MiB/s, else unlimited"


def at(day: int, hour: int, minute: int = 0) -> int:
    """The `day`-th of a June that begins on a Monday."""
    return int(datetime(2026, 6, day, hour, minute, tzinfo=UTC).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("when", "rate"),
    [
        (at(1, 8), 20 * MIB),
        (at(1, 7, 59), 0),
        (at(5, 17, 59), 20 * MIB),
        (at(5, 18), 0),
        (at(6, 12), 0),
        (at(5, 22), 3 * MIB // 2),
        (at(6, 5, 59), 3 * MIB // 2),  # the night that began on Friday
        (at(8, 5), 3 * MIB // 2),  # and on Sunday
        (at(9, 5), 0),
    ],
)
def test_windows(when: int, rate: int) -> None:
    assert rate_at(parse_limit(WORKING), when, UTC) == rate


def test_the_wall_counts() -> None:
    east = timezone(timedelta(hours=9))
    assert rate_at(parse_limit(WORKING), at(1, 0), east) == 20 * MIB
    assert rate_at(parse_limit(WORKING), at(1, 9), east) == 0


def test_one_rate() -> None:
    assert rate_at(parse_limit("64KiB/s"), at(3, 3), UTC) == 64 * KIB
    assert rate_at(parse_limit("unlimited"), at(3, 3), UTC) == 0
    assert rate_at((), at(3, 3), UTC) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty rule"),
        ("1MiB/s,", "empty rule"),
        ("10MB/s", "does not end with a rate"),
        ("20MiB", "does not end with a rate"),
        ("1KiB/s", "below 64KiB/s"),
        ("25:00-26:00 1MiB/s", "no part of a day"),
        ("08:60-09:00 1MiB/s", "no part of a day"),
        ("08:00-08:00 1MiB/s", "is empty"),
        ("monday 1MiB/s", "are no days"),
        ("08:00-09:00 mon tue 1MiB/s", "is too much"),
        ("1MiB/s, else unlimited", "nothing after"),
        (", ".join(["mon 1MiB/s"] * (LIMIT_RULES_MAX + 1)), "at most 16"),
    ],
)
def test_what_is_no_rule(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        parse_limit(text)


@given(st.text(alphabet="0123456789:-,. /smonfriKMGiB", max_size=40))
def test_any_text(text: str) -> None:
    with suppress(InvalidInput):
        assert rate_at(parse_limit(text), at(1, 1), UTC) >= 0


frames = st.tuples(st.integers(1, 2 * MIB), st.sampled_from(Urgency), st.floats(0, 3))


@given(st.integers(RATE_BYTES_MIN, 100 * MIB), st.lists(frames, min_size=1, max_size=60))
def test_never_more_than_the_rate(rate: int, wanted: list[tuple[int, Urgency, float]]) -> None:
    """Over any span: what flowed in, the burst, and one frame that was begun with the last byte."""
    now, budget = 0.0, Budget(0.0)
    budget.set_rate(rate, now)
    went: list[tuple[float, int]] = []
    for size, urgency, idle in wanted:
        now += idle
        ticket = budget.ask(urgency, now)
        for _ in range(100):
            seconds = budget.wait(ticket, now)
            if not seconds:
                break
            now += seconds
        else:
            pytest.fail("it never goes")
        budget.pay(size)
        went.append((now, size))
    for first in range(len(went)):
        span = went[-1][0] - went[first][0]
        sent = sum(size for _, size in went[first:-1])
        assert sent <= rate * (span + BURST_S) + 1
    assert budget.passed == sum(size for size, *_ in wanted)
    assert budget.waiting == 0


def first_to_go(budget: Budget, tickets: list[object], now: float) -> int:
    for at_, ticket in enumerate(tickets):
        if budget.wait(ticket, now) == 0:  # type: ignore[arg-type]
            return at_
    return -1


def test_cuts_go_before_copies_and_nobody_starves() -> None:
    budget = Budget(0.0)
    budget.set_rate(MIB, 0.0)
    budget.pay(MIB)
    old = budget.ask(Urgency.BACKGROUND, 0.0)
    copy = budget.ask(Urgency.COPY, 0.1)
    cut = budget.ask(Urgency.CUT, 0.2)
    assert first_to_go(budget, [old, copy, cut], 0.5) == -1
    assert first_to_go(budget, [old, copy, cut], 1.1) == 2
    late = budget.ask(Urgency.CUT, 1.1)
    assert first_to_go(budget, [old, late], AGE_S_MAX + 0.01) == 0
    budget.give_up(late)
    budget.give_up(late)
    assert first_to_go(budget, [copy], AGE_S_MAX + 0.02) == 0
    assert budget.waiting == 0


def test_a_limit_taken_away_frees_all() -> None:
    budget = Budget(0.0)
    budget.set_rate(RATE_BYTES_MIN, 0.0)
    budget.pay(1000 * MIB)
    ticket = budget.ask(Urgency.COPY, 1.0)
    assert budget.wait(ticket, 2.0) > 60
    budget.set_rate(0, 2.0)
    assert budget.wait(ticket, 2.0) == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = Budget(10.0)
    budget.set_rate(MIB, 10.0)
    budget.pay(MIB)
    ticket = budget.ask(Urgency.CUT, 10.0)
    assert budget.wait(ticket, 5.0) == pytest.approx(1.0)
    assert budget.wait(ticket, 10.5) == pytest.approx(0.5)
