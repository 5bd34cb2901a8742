"""Instants as RFC 3339, and spans as people say them."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(stamp: int) -> str:
    """An instant in ns since 1970, to the millisecond, in UTC; empty for 0, which means never."""
    if not stamp:
        return ""
    seconds, ns = divmod(stamp, 10**9)
    when = datetime.fromtimestamp(seconds, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{ns // 10**6:03d}Z"


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
