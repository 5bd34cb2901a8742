"""Rules: how they are written, when they are due, and what a clock that jumps can do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import InvalidInput
from isochrone.store.schedule import (
    BURST,
    DAY_S,
    HOUR_S,
    KEEP_MAX,
    PERIOD_S_MAX,
    RULES_MAX,
    SECOND,
    WEEK_S,
    Pace,
    Rule,
    due,
    next_due,
    parse_rules,
    parse_span,
    write_rules,
)

ALL = "every 5m keep 12, hourly keep 24, daily at 02:30 keep 7, weekly on sun at 03:00 keep 8,"
ALL += " monthly on 15 keep 12"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


def rule(text: str) -> Rule:
    (found,) = parse_rules(text)
    return found


# -- how they are written


def test_all_kinds() -> None:
    rules = parse_rules(ALL)
    assert [r.name for r in rules] == ["every 5m", "hourly", "daily", "weekly", "monthly"]
    assert [r.keep for r in rules] == [12, 24, 7, 8, 12]
    assert write_rules(rules) == ALL
    assert parse_rules(write_rules(rules)) == rules


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("every 60m keep 1", "every 1h"),
        ("every 90s keep 1", "every 90s"),
        ("EVERY 24h KEEP 1", "every 1d"),
        ("every 2w keep 1", "every 14d"),
        ("  Daily   at 2:30  keep 7 ", "daily"),
    ],
)
def test_one_rule_has_one_name(written: str, name: str) -> None:
    assert rule(written).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a rule is missing"),
        ("hourly keep 3,", "a rule is missing"),
        ("hourly", "`hourly` does not end with `keep N`"),
        ("keep 3", "`keep 3` does not end with"),
        ("hourly keep 0", "keep 1 to 10000 copies, not '0'"),
        ("hourly keep 10001", "not '10001'"),
        ("hourly keep many", "not 'many'"),
        ("hourly keep ٣", "not '٣'"),
        ("sometimes keep 3", "'sometimes' is no rule"),
        ("every keep 3", "every what?"),
        ("every 5 minutes keep 3", "every what?"),
        ("every 5 keep 3", "'5' is not a span of time"),
        ("every 0m keep 3", "'0m' is not a span of time"),
        ("every 999999999w keep 3", "at most 366 days"),
        ("hourly on mon keep 3", "hourly has no 'on'"),
        ("hourly at 02:30 keep 3", "'02:30' is no minute"),
        ("daily on 3 keep 3", "daily has no 'on'"),
        ("daily at 24:00 keep 3", "'24:00' is no time of a day"),
        ("daily at 02:60 keep 3", "'02:60' is no time of a day"),
        ("daily at keep 3", "'at' does not fit here"),
        ("daily at 02:30 at 02:30 keep 3", "'at' does not fit here"),
        ("daily 02:30 keep 3", "'02:30' does not fit here"),
        ("weekly on holiday keep 3", "'holiday' is no day of a week"),
        ("monthly on 31 keep 3", "'31' is not a day that every month has"),
        ("monthly on 0 keep 3", "'0' is not a day"),
        ("daily keep 3, daily at 02:30 keep 1", "two rules `daily`"),
        ("every 60m keep 3, every 1h keep 1", "two rules `every 1h`"),
        (", ".join(f"every {n}m keep 1" for n in range(1, RULES_MAX + 2)), "at most 16 rules"),
    ],
)
def test_a_bad_rule_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rules(text)
    assert message in caught.value.message


@given(st.text(alphabet="everyhoudailwkmnt keep0123456789:,at sun", max_size=60))
def test_anything_else_is_refused_or_reads_back(text: str) -> None:
    try:
        rules = parse_rules(text)
    except InvalidInput:
        return
    assert parse_rules(write_rules(rules)) == rules
    for each in rules:
        assert 1 <= each.keep <= KEEP_MAX
        assert 1 <= each.period <= PERIOD_S_MAX


def test_spans() -> None:
    spans = ("90s", "5m", "36h", "30d", "2w")
    assert [parse_span(s) for s in spans] == [90, 300, 36 * HOUR_S, 30 * DAY_S, 2 * WEEK_S]
    for bad in ("", "0s", "5", "m", "-5m", "1.5h", "5y", "1h30m", "٣m"):
        with pytest.raises(InvalidInput, match="not a span"):
            parse_span(bad)


# -- when they are due


@pytest.mark.parametrize(
    ("text", "now", "slot", "following"),
    [
        ("every 5m", "2026-03-04T10:07:09", "2026-03-04T10:05:00", "2026-03-04T10:10:00"),
        ("hourly", "2026-03-04T10:07:09", "2026-03-04T10:00:00", "2026-03-04T11:00:00"),
        ("hourly at :15", "2026-03-04T10:07:09", "2026-03-04T09:15:00", "2026-03-04T10:15:00"),
        ("daily", "2026-03-04T00:00:00", "2026-03-04T00:00:00", "2026-03-05T00:00:00"),
        ("daily at 02:30", "2026-03-04T02:29:59", "2026-03-03T02:30:00", "2026-03-04T02:30:00"),
        ("weekly", "2026-03-04T02:29:59", "2026-03-02T00:00:00", "2026-03-09T00:00:00"),
        ("weekly on sun at 03:00", "2026-03-08T02:59:59", "2026-03-01T03:00", "2026-03-08T03:00"),
        ("monthly", "2026-02-28T23:59:59", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
        ("monthly on 15", "2026-01-14T00:00:00", "2025-12-15T00:00:00", "2026-01-15T00:00:00"),
        ("monthly on 28 at 23:59", "2024-03-01T00:00", "2024-02-28T23:59", "2024-03-28T23:59"),
    ],
)
def test_slots(text: str, now: str, slot: str, following: str) -> None:
    found = rule(f"{text} keep 1")
    assert found.slot(at(now)) == at(slot)
    assert found.following(at(now)) == at(following)


INSTANTS = st.integers(min_value=-62 * 365 * DAY_S, max_value=290 * 365 * DAY_S).map(
    lambda s: s * SECOND
)
SOME_RULES = st.sampled_from(parse_rules(ALL + ", every 1s keep 3"))


@given(SOME_RULES, INSTANTS, st.integers(0, SECOND - 1))
def test_every_instant_lies_in_one_slot(rule: Rule, now: int, ns: int) -> None:
    now += ns
    start, end = rule.slot(now), rule.following(now)
    assert start <= now < end
    assert rule.slot(end) == end
    assert rule.slot(end - 1) == start
    longest = 31 * DAY_S if rule.name == "monthly" else rule.period
    assert rule.period * SECOND <= end - start <= longest * SECOND


@given(SOME_RULES, INSTANTS, INSTANTS)
def test_it_is_not_due_before_next_due_says_so(rule: Rule, last: int, now: int) -> None:
    then = rule.next_due(last, now)
    assert (then == now) == rule.due(last, now)
    assert rule.due(last, then)
    assert then == now or not rule.due(last, then - 1)


@given(SOME_RULES, INSTANTS, INSTANTS)
def test_no_clock_stops_a_rule_for_more_than_two_periods(rule: Rule, last: int, now: int) -> None:
    longest = 31 * DAY_S if rule.name == "monthly" else rule.period
    assert rule.next_due(last, now) - now <= 2 * longest * SECOND


def test_a_new_rule_is_due_at_once() -> None:
    now = at("2026-03-04T10:07:09")
    assert due(parse_rules(ALL), {}, now) == list(parse_rules(ALL))
    assert next_due(parse_rules(ALL), {}, now) == now


def test_what_was_missed_is_caught_up_once() -> None:
    rules = parse_rules("every 5m keep 12, daily keep 7")
    last = dict.fromkeys(("every 5m", "daily"), at("2026-03-04T10:00:00"))
    now = at("2026-03-09T10:01:00")
    assert due(rules, last, now) == list(rules)
    last = dict.fromkeys(last, now)
    assert due(rules, last, now) == []
    assert next_due(rules, last, now) == at("2026-03-09T10:05:00")


def test_a_clock_that_is_set_back_a_little_waits() -> None:
    hourly = rule("hourly keep 3")
    last = at("2026-03-04T10:00:00")
    assert not hourly.due(last, last - 1)
    assert hourly.next_due(last, last - 1) == at("2026-03-04T11:00:00")
    assert not hourly.due(last, last - HOUR_S * SECOND)
    assert hourly.due(last, last - HOUR_S * SECOND - 1)


@settings(max_examples=60)
@given(
    text=st.sampled_from(["every 10s keep 3", "every 10s keep 3, hourly keep 2", ALL]),
    steps=st.lists(
        st.tuples(
            st.floats(0.01, 2000),  # seconds that pass
            st.sampled_from([0, 0, 0, 0, -1, 1, -7, 4000, -4000, 10**9, -(10**9)]),  # and a jump
        ),
        max_size=80,
    ),
)
def test_no_clock_makes_a_burst(text: str, steps: list[tuple[float, int]]) -> None:
    """Whatever the wall clock does, each rule takes at most two copies in one true period."""
    rules, last, pace = parse_rules(text), dict[str, int](), Pace()
    true, wall = 0.0, at("2026-03-04T10:00:00")
    times: dict[str, list[float]] = {r.name: [] for r in rules}
    for seconds, jump in steps:
        true += seconds
        wall += int(seconds * SECOND) + jump * SECOND
        chosen = [r.name for r in due(rules, last, wall) if pace.allows(r, true)]
        pace.taken(chosen, true)
        last |= dict.fromkeys(chosen, wall)
        for name in chosen:
            times[name].append(true)
    for each in rules:
        taken = times[each.name]
        for first, third in zip(taken, taken[BURST:], strict=False):
            assert third - first >= each.period


@given(st.integers(0, 10**6), st.integers(2, 50))
def test_the_pace_never_holds_up_a_clock_that_goes_right(start: int, count: int) -> None:
    """Caught up at any moment, then regular: nothing is left out."""
    every = rule("every 10s keep 3")
    pace, now, last = Pace(), start * 100_000_000, None
    for _ in range(count):
        now = every.next_due(last, now)
        assert pace.allows(every, now / SECOND)
        pace.taken([every.name], now / SECOND)
        last = now
