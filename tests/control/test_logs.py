"""Lines for people, machines and journald."""

from __future__ import annotations

from isochrone.control.logs import journal


def test_journald_gets_the_level_as_a_prefix() -> None:
    line = journal(None, "error", {"event": "it broke", "level": "error", "volume": "v1"})
    assert line == '<3>event="it broke" volume=v1'


def test_an_unknown_level_is_informational() -> None:
    assert journal(None, "x", {"event": "e", "level": "loud"}).startswith("<6>")
