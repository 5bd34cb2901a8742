"""What a copy becomes while hooks hold, and that nothing is left held or half done."""

from __future__ import annotations

import pytest

from isochrone.control.cli_still import take_still
from isochrone.control.hooks import Hook, Quiet
from isochrone.errors import Conflict, HookFailed

HELD = Hook(("sh", "-c", "echo ready; cat"), "application")
NOT_HELD = Hook(("sh", "-c", "echo ready; cat; exit 1"), "application")


def test_it_is_let_go_once_the_copy_is_taken() -> None:
    quiet = Quiet([HELD])
    running = []

    def take(seconds: float) -> bytes:
        assert 0 < seconds <= quiet.seconds
        running.append(len(quiet.running))
        return b"made"

    assert take_still(quiet, "application", take, lambda made: None) == (b"made", "application")
    assert (running, quiet.running) == ([1], [])


def test_less_than_asked_for_is_undone() -> None:
    undone: list[bytes] = []
    with pytest.raises(HookFailed, match="deleted again"):
        take_still(Quiet([NOT_HELD]), "application", lambda s: b"made", undone.append)
    assert undone == [b"made"]
    got = take_still(Quiet([NOT_HELD]), "crash", lambda s: b"made", undone.append)
    assert got == (b"made", "crash")
    assert undone == [b"made"]


def test_what_cannot_be_undone_is_said() -> None:
    def undo(document: bytes) -> None:
        raise Conflict("it is in use")

    with pytest.raises(HookFailed, match="could not be deleted: it is in use"):
        take_still(Quiet([NOT_HELD]), "application", lambda s: b"made", undo)


def test_a_refusal_lets_everything_go() -> None:
    quiet = Quiet([HELD])

    def take(seconds: float) -> bytes:
        raise Conflict("no")

    with pytest.raises(Conflict):
        take_still(quiet, "application", take, lambda made: None)
    assert quiet.running == []
