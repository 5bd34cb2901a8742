"""Documents about takeovers carry their instants in words."""

from __future__ import annotations

from typing import Any

from isochrone.control.views_dr import loss_view, rejoin_view, switch_view
from isochrone.dr.reports import LossStatement, RejoinReport, SwitchReport
from tests.control import examples


def loss(**changed: Any) -> LossStatement:
    fields: dict[str, Any] = {
        "group": "g", "cut": 7, "cut_stamp": examples.NOON, "recovery_point": examples.NOON,
        "recovery_point_age": 4.0, "lost_bytes": -1, "incoming_bytes": 0,
        "last_heard": 0, "primary_connected": False, "state": "SUSPENDED", "cause": "silent",
        "epoch": 2, "old_primary": "a:7001",
    }  # fmt: skip
    return LossStatement(**{**fields, **changed})


def report(**changed: Any) -> RejoinReport:
    fields: dict[str, Any] = {
        "group": "g", "source": "b:7001", "epoch": 2, "cut": 7, "first_copy": False,
        "diverged": {"db": 65536}, "since": examples.NOON, "until": 0, "orphans": "", "done": False,
    }  # fmt: skip
    return RejoinReport(**{**fields, **changed})


def switched(**changed: Any) -> SwitchReport:
    fields: dict[str, Any] = {
        "group": "g", "cut": 7, "cut_stamp": examples.NOON, "epoch": 2, "old_primary": "a:7001",
        "steps": ["hold"], "hosts": [], "held_seconds": 0.2,
    }  # fmt: skip
    return SwitchReport(**{**fields, **changed})


def test_instants_are_words_and_never_is_nothing() -> None:
    assert loss_view(loss()).cut_time.startswith("20")
    assert loss_view(loss()).last_heard_time == ""
    assert rejoin_view(report()).since_time.startswith("20")
    assert rejoin_view(report()).until_time == ""
    assert switch_view(switched()).cut_time.startswith("20")
