from __future__ import annotations

import io

import msgspec

from isochrone.control import render_points
from isochrone.control.views_points import WindowView
from tests.control.test_views_points import VIEW


def drawn(view: WindowView) -> str:
    out = io.StringIO()
    render_points.window(view, out)
    return out.getvalue()


def test_a_window_and_its_points() -> None:
    text = drawn(VIEW)
    assert "1 d 0 h back, every cut for 10 min 0 s" in text
    assert "a fifth of the pool" in text
    assert "5 MiB, when last counted" in text
    assert "cut 7 of 2023-11-14T22:13:20.000Z" in text
    assert text.splitlines()[-1].split() == ["8", "2023-11-14T22:13:21.000Z", "1", "min", "0", "s"]


def test_off_and_empty() -> None:
    text = drawn(msgspec.structs.replace(VIEW, keep=0, points=[], bytes_max=1 << 30))
    assert "off" in text
    assert "1 GiB" in text
    assert "CUT" not in text


def test_of_very_many_the_newest() -> None:
    text = drawn(msgspec.structs.replace(VIEW, points=VIEW.points * 30))
    assert "and 20 older ones; see -o json" in text
