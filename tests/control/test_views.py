"""The documents: complete, and the same after a trip over the wire."""

from __future__ import annotations

import msgspec

from isochrone.control import views as v
from tests.control import examples


def test_a_promote_report_keeps_every_field() -> None:
    report = examples.report()
    view = v.promote_view(report)
    assert msgspec.structs.asdict(view).items() >= msgspec.structs.asdict(report).items()
    assert view.last_heard_time == ""


def test_over_the_wire_and_back() -> None:
    site = examples.site()
    assert msgspec.json.decode(msgspec.json.encode(site), type=v.SiteView) == site


def test_a_client_understands_a_newer_controller() -> None:
    """Fields are added; an old client reads on."""
    newer = msgspec.json.decode(msgspec.json.encode(examples.volume())) | {"colour": "green"}
    assert msgspec.json.decode(msgspec.json.encode(newer), type=v.VolumeView) == examples.volume()
