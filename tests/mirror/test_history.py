"""The history of the recovery point against one that keeps every sample."""

from __future__ import annotations

from math import ceil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.mirror.history import (
    BUCKET_SECONDS,
    DAY_BUCKETS,
    HOUR_BUCKETS,
    OLDER_BUCKETS,
    STEP,
    Bucket,
    History,
    Rate,
)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_percentiles_are_right_within_a_step(ages: list[float]) -> None:
    history = History()
    for n, age in enumerate(ages):
        history.add(age, n)
    spread = history.hour(len(ages))
    assert spread.samples == len(ages)
    assert spread.max == pytest.approx(max(ages), abs=0.001)
    for told, share in ((spread.p50, 0.5), (spread.p95, 0.95)):
        exact = sorted(ages)[ceil(len(ages) * share) - 1]
        assert told <= max(exact * STEP, 0.05) + 0.001
        assert told >= exact * 0.999 - 0.001


def test_nothing_is_known_before_the_first_sample() -> None:
    spread = History().day(0)
    assert (spread.p50, spread.max, spread.samples) == (-1.0, -1.0, 0)


def test_an_hour_is_forgotten_and_a_day_is_not() -> None:
    history = History()
    history.add(100.0, 0)
    for second in range(2 * 3600):
        history.add(1.0, second)
    now = 2 * 3600
    assert history.hour(now).max == 1.0
    assert history.day(now).max == 100.0
    assert history.day(now + 86400).samples == 0


def test_it_is_bounded() -> None:
    history = History()
    for minute in range(3 * DAY_BUCKETS):
        history.add(1.0, minute * BUCKET_SECONDS)
    now = 3 * DAY_BUCKETS * BUCKET_SECONDS
    assert DAY_BUCKETS - 1 <= history.day(now).samples < DAY_BUCKETS + OLDER_BUCKETS
    assert history.hour(now).samples == HOUR_BUCKETS - 1
    assert len(history.saved(0)) <= HOUR_BUCKETS + DAY_BUCKETS // OLDER_BUCKETS + 1


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 9000)), min_size=1, max_size=60))
def test_what_is_saved_and_restored_says_the_same(samples: list[tuple[float, float]]) -> None:
    """Also where the clock that is never set back begins anew."""
    history, now = History(), 0.0
    for age, passed in samples:
        now += passed
        history.add(age, now)
    ahead = 1_000_000
    saved = history.saved(ahead)
    assert msgspec.json.decode(msgspec.json.encode(saved), type=list[Bucket]) == saved
    again, later = History(), 77 * 86400 + now % BUCKET_SECONDS
    minutes = int(later // BUCKET_SECONDS) - int(now // BUCKET_SECONDS)
    again.restore(saved, ahead - minutes, later)
    for span in ("hour", "day"):
        before, after = getattr(history, span)(now), getattr(again, span)(later)
        assert abs(before.samples - after.samples) <= (0 if span == "hour" else OLDER_BUCKETS)
        if before.samples == after.samples:
            assert before == after
    again.add(1.0, later)
    assert again.hour(later).samples == history.hour(now).samples + 1


def test_what_was_saved_by_a_clock_that_was_ahead_is_left_out() -> None:
    history = History()
    history.restore([Bucket(500, 9.0, {1: 1}), Bucket(101, 2.0, {2: 3})], 0, 101 * 60.0)
    assert history.day(101 * 60.0).samples == 3
    assert history.day(101 * 60.0).max == 2.0


def test_a_rate_forgets() -> None:
    rate = Rate(10.0)
    for second in range(60):
        rate.add(second * 1000, second)
    assert rate.value == pytest.approx(1000, rel=0.01)
    for second in range(60, 200):
        rate.add(59_000, second)
    assert rate.value < 1
    rate.add(0, 201)  # it has begun anew
    assert rate.value >= 0
