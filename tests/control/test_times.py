"""Instants and spans in words."""

from __future__ import annotations

import pytest

from isochrone.control.times import format_span, parse_instant, parse_past, rfc3339
from isochrone.errors import InvalidInput


def test_never_is_empty() -> None:
    assert rfc3339(0) == ""


def test_an_instant_is_utc_to_the_millisecond() -> None:
    assert rfc3339(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "-"),
        (0.04, "0.0 s"),
        (2.34, "2.3 s"),
        (12, "12 s"),
        (59.7, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (86400, "1 d 0 h"),
        (2_700_000, "31 d 6 h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert format_span(seconds) == text


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("2027-01-31", 1801353600),
        ("2027-01-31T00:00", 1801353600),
        ("2027-01-31T02:00:00+02:00", 1801353600),
        (" 2027-01-31T00:00:00Z ", 1801353600),
        ("20270131", 1801353600),
    ],
)
def test_an_instant_is_utc_unless_it_says_otherwise(text: str, stamp: int) -> None:
    assert parse_instant(text) == stamp * 10**9


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2027-02-30", "31.1.2027", "2027", "0001-01-01T00:00+23:00x"]
)
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no date"):
        parse_instant(text)


def test_what_was_printed_is_found_again() -> None:
    stamp = 1_700_000_000_123_456_789
    assert stamp <= parse_past(rfc3339(stamp), 0) < stamp + 10**6
    assert parse_past("2023-11-14T22:13:20", 0) // 10**6 == 1_700_000_000_000
    assert parse_past(" 10m ago", 10**12) == 400 * 10**9


@pytest.mark.parametrize("text", ["", "ago", " ago", "10m", "10 m ago", "x ago", "2027-02-30"])
def test_no_instant(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_past(text, 0)
