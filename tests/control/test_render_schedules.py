"""Schedules, verdicts and differences as people see them."""

from __future__ import annotations

import io

from isochrone.control import render, render_schedules
from isochrone.control import views_schedules as v
from tests.control.examples import copy, difference, schedule, site, verdicts


def test_a_list_of_schedules() -> None:
    out = io.StringIO()
    render_schedules.schedules(
        [
            schedule(),
            schedule(name="t", volumes=[], labels={"tier": "gold", "x": ""}, error="no space"),
            schedule(name="u", volumes=[], group="g", last_time=""),
            schedule(name="w", volumes=["a", "b", "c", "d"]),
            schedule(name="x", volumes=[]),
        ],
        out,
    )
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["SCHEDULE", "OF", "FINDS", "COPIES", "LAST", "NEXT", "ERROR"]
    assert lines[1].split()[:4] == ["s", "a", "2", "3"]
    assert "tier=gold,x=" in lines[2]
    assert lines[2].endswith("no space")
    assert "group g" in lines[3]
    assert "a b c …" in lines[4]
    assert "(deleted)" in lines[5]


def test_one_schedule() -> None:
    out = io.StringIO()
    render_schedules.schedule(schedule(members=[]), out)
    text = out.getvalue()
    assert "hourly keep 24 (UTC)" in text
    assert "no volume" in text
    assert "s-20260101T000000Z" in text
    assert "error" not in text


def test_verdicts() -> None:
    out = io.StringIO()
    render_schedules.verdicts(verdicts(dry_run=True), out)
    lines = out.getvalue().splitlines()
    assert lines[1].split() == ["c2", "s", "stays", "hourly", "(1", "of", "1)"]
    assert lines[2].split()[:4] == ["c1", "s", "would", "go"]
    assert lines[-1] == "1 copy would go"
    out = io.StringIO()
    render_schedules.verdicts(verdicts(), out)
    assert out.getvalue().splitlines()[-1] == "1 copy deleted"
    out = io.StringIO()
    render_schedules.verdicts(v.VerdictList(dry_run=False, verdicts=[]), out)
    assert out.getvalue() == "0 copies deleted\n"


def test_differences() -> None:
    out = io.StringIO()
    render_schedules.differences([(difference(), 2, 8192), (difference(after_size=1), 0, 0)], out)
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["VOLUME", "CHANGED", "RANGES", "SIZE", "FROM", "TO"]
    assert lines[1].split() == ["a", "8", "KiB", "2", "1", "MiB", "a@c1", "a@c2"]
    assert "1 MiB to 1 B" in lines[2]
    out = io.StringIO()
    render_schedules.ranges(difference(), out)
    assert out.getvalue() == "a 0 4096\na 65536 4096\n"


def test_status_shows_schedules_the_newest_copies_and_a_clock_that_is_ahead() -> None:
    out = io.StringIO()
    many = [copy(name=f"c{n}") for n in range(render.COPIES_SHOWN + 7)]
    render.site(site(copies=many, schedules=[schedule(error="no space")], holds_lag=7200.0), out)
    text = out.getvalue()
    assert "c26 " in text
    assert "c6 " not in text
    assert "and 7 older: isochrone copy list" in text
    assert "no space" in text
    assert "holds end 2 h 0 min later than their date" in text
    out = io.StringIO()
    render.site(site(holds_lag=59.0), out)
    assert "older:" not in out.getvalue()
    assert "Schedules" not in out.getvalue()
    assert "later than" not in out.getvalue()


def test_a_copy_shows_what_keeps_it_and_whose_it_was() -> None:
    out = io.StringIO()
    view = copy(held="pinned", hold_reason="audit", kept_from="shop", schedule="s", rules=["daily"])
    render.copy(view, out)
    text = out.getvalue()
    assert "stays" in text
    assert "pinned, audit" in text
    assert "kept; group shop has it no more" in text
    assert "s (daily)" in text
