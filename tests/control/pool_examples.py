"""Documents about a pool as a controller may answer them."""

from __future__ import annotations

from typing import Any

from isochrone.control import views_pool as v
from isochrone.types import GIB, MIB


def scrub_view(**changed: Any) -> v.ScrubView:
    fields: dict[str, Any] = {
        "state": "done",
        "reason": "",
        "rate": 64 * MIB,
        "started_time": "2026-11-22T10:00:00.000Z",
        "ended_time": "2026-11-22T11:00:00.000Z",
        "living": 10 * GIB,
        "verified": 10 * GIB,
        "bytes_read": 12 * GIB,
        "segments": 190,
        "nodes": 2600,
        "dismissed": 0,
        "damaged": 0,
        "damaged_bytes": 0,
        "findings": [],
        "completed": 1,
        "completed_time": "2026-11-22T11:00:00.000Z",
        "completed_age": 7200.0,
        "completed_damaged": 0,
    }
    return v.ScrubView(**(fields | changed))


def finding(**changed: Any) -> v.FindingView:
    fields: dict[str, Any] = {
        "cause": "block at slot 23 of segment 4 is not what was written",
        "exports": ["v", "v@c"],
        "offset": 81920,
        "bytes": 8192,
        "segment": 4,
    }
    return v.FindingView(**(fields | changed))


def pool_view(**changed: Any) -> v.PoolView:
    fields: dict[str, Any] = {
        "time": "2026-11-22T12:00:00.000Z",
        "provisioned": 100 * GIB,
        "mapped": 30 * GIB,
        "living": 20 * GIB,
        "shared": 8 * GIB,
        "own": 12 * GIB,
        "used": 31 * GIB,
        "log": 30 * GIB,
        "spares": 128 * MIB,
        "spare_segments": 2,
        "metadata": 300 * MIB,
        "garbage": 10 * GIB,
        "reclaimable": 9 * GIB,
        "pins": [v.PinView(kind="mirror", what="group g, for far", bytes=GIB)],
        "free": 70 * GIB,
        "reserve": 256 * MIB,
        "written": 40 * GIB,
        "moved": 2 * GIB,
        "appended": 44 * GIB,
        "saved": GIB,
        "amplification": 1.125,
        "shares": [
            v.ShareView(kind="copy", name="c", provisioned=GIB, mapped=GIB, own=5 * MIB),
            v.ShareView(kind="volume", name="v", provisioned=2 * GIB, mapped=GIB, own=0),
        ],
        "scrub": scrub_view(),
    }
    return v.PoolView(**(fields | changed))
