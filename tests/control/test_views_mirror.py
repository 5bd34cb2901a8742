"""The documents about groups: complete, and with their instants in words."""

from __future__ import annotations

import msgspec

from isochrone.control import views_mirror as v
from tests.control import examples


def test_a_group_keeps_every_field_and_gains_its_instants() -> None:
    status = examples.group_status(peers=[examples.peer()])
    view = v.group_view(status)
    assert msgspec.structs.asdict(view).items() >= msgspec.structs.asdict(status).items()
    assert view.cut_time == "2023-11-14T22:13:20.000Z"
    assert view.recovery_point_time == "2023-11-14T22:13:21.000Z"
    assert view.promoted_time == ""
    assert view.last_heard_time == ""


def test_an_older_controller_is_understood() -> None:
    """It tells less; nothing of what it does not tell is made up."""
    known = msgspec.json.decode(msgspec.json.encode(v.group_view(examples.group_status())))
    older = {name: known[name] for name in ("group", "role", "state", "cause", "lineage", "epoch",
             "volumes", "cut", "cut_stamp", "recovery_point", "recovery_point_age", "source",
             "bytes_received", "bytes_commands", "bytes_incoming", "peers", "promoted_stamp",
             "superseded_by", "fence_pending", "cut_time", "recovery_point_time",
             "promoted_time")}  # fmt: skip
    view = msgspec.json.decode(msgspec.json.encode(older), type=v.GroupView)
    assert (view.behind_bytes, view.eta, view.hour.samples) == (-1, -1.0, 0)
