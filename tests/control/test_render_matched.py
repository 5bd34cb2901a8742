from __future__ import annotations

import io

from isochrone.control import render_matched
from isochrone.control import views_matched as v
from tests.control.test_views_matched import REQUEST, STEP


def test_a_chain_says_where_it_ends() -> None:
    out = io.StringIO()
    render_matched.check(v.CheckView(ok=False, way="data", steps=[STEP]), out)
    text = out.getvalue()
    assert "no: space" in text
    assert "sent as data" in text


def test_requests() -> None:
    out = io.StringIO()
    render_matched.request(REQUEST, out)
    heads, row = out.getvalue().splitlines()
    assert heads.split()[0] == "REQUEST"
    assert row.split()[:3] == ["r1", "g", "golden"]
    assert "abababababab" in row
    assert row.endswith("too late")
