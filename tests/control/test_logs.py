"""Lines for people, machines and journald."""

from __future__ import annotations

import subprocess
import sys

import pytest

from isochrone.control.logs import dropped, journal


def test_journald_gets_the_level_as_a_prefix() -> None:
    line = journal(None, "error", {"event": "it broke", "level": "error", "volume": "v1"})
    assert line == '<3>event="it broke" volume=v1'


def test_an_unknown_level_is_informational() -> None:
    assert journal(None, "x", {"event": "e", "level": "loud"}).startswith("<6>")


def test_dropped_lines_have_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert dropped(7) == 'level=warning event="7 lines were dropped: nobody read the log"\n'
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert dropped(7).startswith("<4>")


def test_a_crash_is_told_behind_what_was_logged() -> None:
    program = """
import logging
import structlog
from isochrone.control import logs
logs.set_up()
for n in range(1000):
    structlog.get_logger().info("before", n=n)
logging.getLogger("library").error("its own trouble")
raise RuntimeError("the end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [f"n={n}" in line for n, line in enumerate(lines[:1000])] == [True] * 1000
    assert "its own trouble" in lines[1000]
    assert lines[1001].startswith("Traceback")
    assert lines[-1] == "RuntimeError: the end"
