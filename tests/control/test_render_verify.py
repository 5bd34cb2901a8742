from __future__ import annotations

import io

import msgspec

from isochrone.control import render_verify
from isochrone.control.views_verify import VerifyView
from tests.control.test_views_verify import REPAIR, VIEW


def drawn(view: VerifyView) -> str:
    out = io.StringIO()
    render_verify.verify(view, out)
    return out.getvalue()


def test_a_pass_and_what_it_found() -> None:
    text = drawn(VIEW)
    assert "checksums, and reads the data" in text
    assert "8 MiB of 8 MiB (100 %)" in text
    assert "2, 1 of them not healed" in text
    assert "64 KiB never stood still" in text
    assert "1 min 1 s ago, at cut 7: 1 unhealed" in text
    assert "7 d 0 h" in text
    assert "NO" in text


def test_nothing_yet() -> None:
    view = msgspec.structs.replace(
        VIEW, state="never", total=0, started_time="", findings=[], found=0, last_verified=None,
        last_read=None,
    )  # fmt: skip
    text = drawn(view)
    assert text.count("never") >= 3
    assert "NO" not in text


def test_more_than_fits() -> None:
    view = msgspec.structs.replace(VIEW, findings=VIEW.findings * 40, found=80)
    assert "80 in all" in drawn(view)


def test_repairs() -> None:
    out = io.StringIO()
    render_verify.repair(REPAIR, out)
    assert "3 blocks since the start" in out.getvalue()
    assert out.getvalue().count("nobody has it") == 2
