"""The history of the recovery point against one that keeps every sample."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.mirror.history import BUCKET_SECONDS, DAY_BUCKETS, STEP, History, Rate


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
    assert history.day(3 * DAY_BUCKETS * BUCKET_SECONDS).samples == DAY_BUCKETS - 1


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
