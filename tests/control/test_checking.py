"""Checks of real processes, and what is kept of what they print."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.control.checking import DEADLINE_VARIABLE, last_line, run_check
from isochrone.errors import InvalidInput
from isochrone.store.probes import SAID_CHARS_MAX


def sh(script: str, seconds: float = 30.0, **more: str) -> tuple[str, str]:
    return run_check(["sh", "-c", script], more, seconds)


def test_how_it_ends(capfd: pytest.CaptureFixture[str]) -> None:
    assert sh("echo one; echo two; echo") == ("", "two")
    assert capfd.readouterr() == ("", "one\ntwo\n\n")
    assert sh("echo lost a row; exit 3") == ("exit code 3", "lost a row")
    assert sh("kill -9 $$") == ("exit code -9", "")
    assert run_check(["/nowhere/at/all"], {}, 5.0)[0].startswith("it cannot be run: No such file")
    with pytest.raises(InvalidInput):
        run_check([], {}, 5.0)


def test_what_it_is_told() -> None:
    assert sh(f"echo $COPY ${DEADLINE_VARIABLE}; cat", COPY="c") == ("", "c 30")  # and no input


def test_the_deadline_ends_it_with_its_children() -> None:
    began = time.monotonic()
    wrong, said = sh("echo begun; sleep 60 & sleep 60", 0.5)
    assert wrong == "it was not done within 0.5 s and was ended"
    assert said == "begun"
    assert time.monotonic() - began < 20
    wrong, _ = sh("exec >&-; sleep 60", 0.5)
    assert "not done" in wrong


@given(st.binary(max_size=3000))
def test_any_output_is_a_line(tail: bytes) -> None:
    said = last_line(tail)
    assert len(said) <= SAID_CHARS_MAX
    assert said.isprintable()
