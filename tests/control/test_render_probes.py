from __future__ import annotations

import io

import msgspec

from isochrone.control import render_probes
from tests.control.test_views_probes import LIST, VIEW


def test_one_that_ended_and_one_that_runs() -> None:
    out = io.StringIO()
    render_probes.probe(VIEW, out)
    text = out.getvalue()
    assert "opened  cut 7 of 2023-11-14T22:13:20.000Z" in text
    assert "result  good" in text
    assert "copy" not in text
    out = io.StringIO()
    render_probes.probe(msgspec.structs.replace(VIEW, result="", said=""), out)
    assert "running on probe-shop-7" in out.getvalue()


def test_a_list() -> None:
    out = io.StringIO()
    render_probes.probes(LIST, out)
    assert "ended well  1 min 1 s ago" in out.getvalue()
    assert out.getvalue().splitlines()[-1].split()[-2:] == ["fsck", "clean"]
    out = io.StringIO()
    render_probes.probes(msgspec.structs.replace(LIST, age=-1.0, probes=[]), out)
    assert "ended well  never" in out.getvalue()
    assert "CHECK" not in out.getvalue()
