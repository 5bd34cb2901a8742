"""What people see of a pool as a whole."""

from __future__ import annotations

import io

from isochrone.control import render, render_pool
from tests.control.examples import site
from tests.control.pool_examples import finding, pool_view, scrub_view


def drawn_pool(**changed: object) -> str:
    out = io.StringIO()
    render_pool.pool(pool_view(**changed), out)
    return out.getvalue()


def drawn_scrub(**changed: object) -> str:
    out = io.StringIO()
    render_pool.scrub(scrub_view(**changed), out)
    return out.getvalue()


def test_a_pool() -> None:
    text = drawn_pool()
    assert "living         20 GiB: 8 GiB shared, 12 GiB own" in text
    assert "amplification  1.12: 44 GiB to the log, 1 GiB by checkpoints" in text
    assert "complete 2 h 0 min ago, no damage" in text
    lines = text.splitlines()
    shares = lines[lines.index("Shares") + 1 :]
    assert shares[0].split() == ["WHAT", "NAME", "SIZE", "MAPPED", "OWN"]
    assert shares[1].split()[:2] == ["volume", "v"]  # volumes first
    assert shares[2].endswith("5 MiB")
    assert "mirror" in text and "group g, for far" in text


def test_a_pool_that_nobody_wrote_to() -> None:
    text = drawn_pool(written=0, moved=0, pins=[], shares=[])
    assert "amplification  -" in text
    assert "moved" not in text and "Shares" not in text and "held" not in text


def test_a_scrub_with_findings() -> None:
    many = [finding(offset=n) for n in range(render_pool.SHOWN_MAX + 1)]
    text = drawn_scrub(damaged=51, damaged_bytes=51 * 8192, findings=many)
    assert "damage         51 ranges, 408 KiB" in text
    assert "v@c" in text and "slot 23 of segment 4" in text
    assert "and more: 51 in all" in text
    nobody = drawn_scrub(damaged=1, findings=[finding(exports=[], segment=0)])
    assert any(line.split()[0] == "-" for line in nobody.splitlines() if "slot 23" in line)


def test_a_scrub_on_its_way() -> None:
    text = drawn_scrub(state="paused", reason="a sync failed", verified=5 << 30, completed=0,
                       completed_time="", completed_age=-1.0, ended_time="")  # fmt: skip
    assert "scrub          paused (a sync failed)" in text
    assert "5 GiB of 10 GiB (50.0 %)" in text
    assert "last complete  never" in text and "ended" not in text


def test_in_one_line() -> None:
    assert render.scrubbed(scrub_view(completed_damaged=3)) == (
        "complete 2 h 0 min ago, 3 damaged ranges"
    )
    running = scrub_view(
        state="running", completed=0, living=3000 * 4096, verified=2999 * 4096, damaged=2
    )
    assert render.scrubbed(running) == (
        "never complete; running at 99.9 %; 2 damaged ranges so far"
    )


def test_on_the_one_screen() -> None:
    out = io.StringIO()
    render.site(site(scrub=scrub_view()), out)
    assert "\nscrub complete 2 h 0 min ago, no damage\n" in out.getvalue()
    for view in (site(), site(scrub=scrub_view(started_time="", completed=0))):
        out = io.StringIO()
        render.site(view, out)
        assert "scrub" not in out.getvalue()
