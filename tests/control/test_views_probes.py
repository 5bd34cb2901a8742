from __future__ import annotations

import msgspec

from isochrone.control import views_probes as v

VIEW = v.ProbeView(
    group="shop",
    copy="probe-shop-7",
    cut=7,
    stamp=1_700_000_000_000_000_000,
    time="2023-11-14T22:13:20.000Z",
    check="fsck",
    began="2023-11-14T22:14:00.000Z",
    seconds=12.4,
    deadline=600.0,
    result="good",
    said="clean",
    ended="2023-11-14T22:14:12.400Z",
)
LIST = v.ProbeList(group="shop", age=61.0, probes=[VIEW])


def test_documents_come_back() -> None:
    assert msgspec.json.decode(msgspec.json.encode(LIST), type=v.ProbeList) == LIST
