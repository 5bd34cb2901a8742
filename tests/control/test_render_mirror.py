"""Groups and mirrors as people see them, also at three in the morning."""

from __future__ import annotations

import io
from typing import Any

import pytest

from isochrone.control import render_mirror
from isochrone.control.views_mirror import GroupView, group_view
from isochrone.mirror.history import Spread
from isochrone.mirror.status import Suspension
from isochrone.mirror.tally import Shipped
from tests.control import examples


def test_a_secondary_group_shows_point_and_age() -> None:
    out = io.StringIO()
    render_mirror.group(group_view(examples.group_status()), out)
    text = out.getvalue()
    assert "recovery point  2023-11-14T22:13:21.000Z (1.4 s)" in text
    assert "state           DUPLEX" in text
    assert "received        3 MiB since start, 120 B of it copies as commands" in text


def test_a_primary_group_shows_who_follows() -> None:
    out = io.StringIO()
    status = examples.group_status(
        role="primary", state="SIMPLEX", recovery_point=0, recovery_point_age=-1.0,
        source="", peers=[examples.peer()], fence_pending=True,
    )  # fmt: skip
    render_mirror.group(group_view(status), out)
    text = out.getvalue()
    assert text.splitlines()[-1].split() == ["cd" * 16, "yes", "6", "1", "MiB"]
    assert "not fenced yet" in text
    assert "received" not in text


def test_a_group_table_with_no_cut_yet() -> None:
    out = io.StringIO()
    status = examples.group_status(
        state="PENDING", cut=0, cut_stamp=0, recovery_point=0, recovery_point_age=-1.0
    )
    render_mirror.groups([group_view(status)], out)
    assert out.getvalue().splitlines()[1].split() == [
        *("g", "secondary", "PENDING", "-", "-", "-", "v1", "v2")
    ]


def test_copies_that_a_resend_left_out_are_told() -> None:
    out = io.StringIO()
    peers = [examples.peer(), examples.peer(copies_left_out=7)]
    status = examples.group_status(role="primary", source="", peers=peers)
    render_mirror.status(group_view(status), out)
    assert out.getvalue().count("left out") == 1
    assert "7 of the oldest copies: too many for the last resend" in out.getvalue()


def first_line(view: GroupView) -> str:
    out = io.StringIO()
    render_mirror.status(view, out)
    return out.getvalue().splitlines()[0]


def primary(**changed: Any) -> GroupView:
    fields: dict[str, Any] = {
        "role": "primary", "recovery_point": 0, "recovery_point_age": -1.0, "source": "",
        "interval": 1.0,
    }  # fmt: skip
    return group_view(examples.group_status(**(fields | changed)))


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (
            group_view(examples.group_status()),
            "g: RECOVERABLE here as of 2023-11-14T22:13:21.000Z, 1.4 s ago",
        ),
        (
            group_view(examples.group_status(state="SUSPENDED", cause="no route")),
            "g: RECOVERABLE here as of 2023-11-14T22:13:21.000Z, 1.4 s ago; SUSPENDED: no route",
        ),
        (
            group_view(examples.group_status(recovery_point=0, state="COPYING")),
            "g: NOT RECOVERABLE here: nothing complete has arrived yet (COPYING)",
        ),
        (primary(peers=[]), "g: NOT MIRRORED: no secondary follows"),
        (
            primary(peers=[examples.peer(site="west", backlog_age=2.0)]),
            "g: MIRRORED to west; what is not there yet is 2.0 s old",
        ),
        (
            primary(state="SUSPENDED", cause="by hand", peers=[examples.peer(pair="SUSPENDED")]),
            "g: SUSPENDED: by hand",
        ),
        (
            primary(role="fenced", superseded_by=4),
            "g: FENCED: epoch 4 at another site has taken it over",
        ),
    ],
)
def test_the_first_line_says_it(view: GroupView, line: str) -> None:
    assert first_line(view) == line


def test_a_secondary_tells_all_that_it_knows() -> None:
    out = io.StringIO()
    status = examples.group_status(
        behind_bytes=8192, last_heard=examples.NOON, phase="resend", todo_bytes=4 << 20,
        done_bytes=1 << 20, rate=1024.0 * 1024, eta=3.0, eta_max=9.0,
        hour=Spread(p50=0.5, p95=1.0, max=12.0, samples=3600), cuts=7, cuts_failed=1,
        shipped=Shipped(data=2 << 20, blocks=1024), packing=2.0,
        suspensions=[Suspension(cause="link", why="down", stamp=examples.NOON)],
    )  # fmt: skip
    render_mirror.status(group_view(status), out)
    text = out.getvalue()
    assert "8 KiB that the primary had at 2023-11-14T22:13:20.000Z" in text
    assert "resend: 1 MiB of 4 MiB, 25 %" in text
    assert "1 MiB/s, all here in 3.0 s to 9.0 s" in text
    assert "7 committed, 1 broken off" in text
    assert "data packed 2 to 1" in text
    assert "last hour" in text and "12 s" in text
    assert "last day" not in text
    assert "goes on" in text


def test_a_primary_tells_of_each_secondary() -> None:
    out = io.StringIO()
    peer = examples.peer(
        site="west", state="SUSPENDED", cause="limit", why="full", keeps_log=False,
        changed_bytes=1 << 20, missing={"v1": 1 << 20}, policy="pace", pace_seconds=0.25,
        coalescing=3.5, limit_seconds=60.0,
    )  # fmt: skip
    render_mirror.status(primary(peers=[peer], pace_seconds=0.25), out)
    text = out.getvalue()
    assert "SUSPENDED, connected (limit: full)" in text
    assert "8 GiB and 1 min 0 s; then pace; resync auto" in text
    assert "not kept for it" in text
    assert "v1 1 MiB" in text
    assert "0.25 s a write" in text
    assert "3.5 writes for each block sent" in text
