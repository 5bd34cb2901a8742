"""Instants as RFC 3339, and spans as people say them."""

from __future__ import annotations

from datetime import UTC, datetime

from isochrone.errors import InvalidInput
from isochrone.store.schedule import SECOND, parse_span


def rfc3339(stamp: int) -> str:
    """An instant in ns since 1970, to the millisecond, in UTC; empty for 0, which means never."""
    if not stamp:
        return ""
    seconds, ns = divmod(stamp, 10**9)
    when = datetime.fromtimestamp(seconds, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{ns // 10**6:03d}Z"


def parse_instant(text: str) -> int:
    """ns since 1970 of `2027-01-31`, `2027-01-31T12:00` or RFC 3339; without a zone it is UTC."""
    try:
        when = datetime.fromisoformat(text.strip())
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return round(when.timestamp()) * 10**9
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text!r} is no date", hint="as in 2027-01-31, or 2027-01-31T18:00:00Z"
        ) from None


def parse_past(text: str, now: int) -> int:
    """ns since 1970 of an instant as above, to the millisecond, or of `10m ago`.

    It is the last nanosecond of that millisecond, so that a time that was printed is found again.
    """
    span, ago, rest = text.strip().rpartition(" ago")
    if ago and not rest:
        return now - parse_span(span) * SECOND
    try:
        when = datetime.fromisoformat(text.strip())
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return (round(when.timestamp() * 1000) + 1) * 10**6 - 1
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text!r} is no instant", hint="as in 2027-01-31T18:00:00Z, `10m ago`, or a cut: 4711"
        ) from None


def format_span(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `5 h 2 min`, `3 d 4 h`; a negative one is unknown: `-`."""
    if seconds < 0:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, small, ratio in (("min", "s", 60), ("h", "min", 60), ("d", "h", 24)):
        if small == "s" and whole < ratio:
            return f"{whole} s"
        rest, whole = whole % ratio, whole // ratio
        if big == "d" or whole < (60 if big == "min" else 24):
            return f"{whole} {big} {rest} {small}"
    raise AssertionError("days are the largest")
