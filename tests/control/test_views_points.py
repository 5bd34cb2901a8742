from __future__ import annotations

import msgspec

from isochrone.control import views_points as v

STAMP = 1_700_000_000_000_000_000
VIEW = v.WindowView(
    group="shop",
    keep=86400,
    dense=600,
    bytes_max=0,
    bytes=5 << 20,
    versions=3,
    points=[
        v.PointView(cut=7, stamp=STAMP, time="2023-11-14T22:13:20.000Z", age=61.0),
        v.PointView(cut=8, stamp=STAMP + 10**9, time="2023-11-14T22:13:21.000Z", age=60.0),
    ],
)


def test_documents_come_back() -> None:
    assert msgspec.json.decode(msgspec.json.encode(VIEW), type=v.WindowView) == VIEW
