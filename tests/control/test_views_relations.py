from __future__ import annotations

import msgspec

from isochrone.control import views_relations as v

VIEW = v.RelationView(
    relation=7,
    source="a",
    target="b",
    extents=[v.ExtentView(source_offset=0, target_offset=65536, length=131072)],
    size=131072,
    stamp=1_700_000_000_000_000_000,
    time="2023-11-14T22:13:20.000Z",
    generation=2,
    inhibit=True,
    tracks=2,
    tracks_differing=1,
    counted=False,
)


def test_documents_come_back() -> None:
    listed = v.RelationList(relations=[VIEW])
    assert msgspec.json.decode(msgspec.json.encode(listed), type=v.RelationList) == listed
    assert msgspec.json.decode(msgspec.json.encode(VIEW), type=v.RelationView) == VIEW
