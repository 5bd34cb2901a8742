"""Documents for tests of what is drawn from them."""

from __future__ import annotations

from typing import Any

from isochrone.control import views as v
from isochrone.control import views_mirror as mv
from isochrone.control import views_schedules as sv
from isochrone.mirror.status import GroupStatus, PeerStatus, PromoteReport

NOON = 1_700_000_000_000_000_000


def group_status(**changed: Any) -> GroupStatus:
    fields: dict[str, Any] = {
        "group": "g",
        "role": "secondary",
        "state": "DUPLEX",
        "cause": "",
        "lineage": "ab" * 16,
        "epoch": 1,
        "volumes": ["v1", "v2"],
        "cut": 7,
        "cut_stamp": NOON,
        "recovery_point": NOON + 10**9,
        "recovery_point_age": 1.4,
        "source": "127.0.0.1:9",
        "bytes_received": 3 << 20,
        "bytes_commands": 120,
        "bytes_incoming": 0,
        "peers": [],
        "promoted_stamp": 0,
        "superseded_by": 0,
        "fence_pending": False,
    }
    return GroupStatus(**(fields | changed))


def peer(**changed: Any) -> PeerStatus:
    fields: dict[str, Any] = {
        "peer": "cd" * 16, "connected": True, "acked_cut": 6, "bytes_sent": 1 << 20,
        "state": "ACTIVE", "pair": "DUPLEX", "limit_bytes": 8 << 30,
    }  # fmt: skip
    return PeerStatus(**(fields | changed))


def report(**changed: Any) -> PromoteReport:
    fields: dict[str, Any] = {
        "group": "g",
        "cut": 7,
        "cut_stamp": NOON,
        "recovery_point": NOON,
        "recovery_point_age": 2.5,
        "lineage": "ab" * 16,
        "epoch": 2,
        "last_heard": 0,
        "lost_bytes": -1,
        "incoming_bytes_dropped": 4096,
        "volumes": ["v1", "v2"],
        "copies": ["c1"],
        "seconds": 0.02,
    }
    return PromoteReport(**(fields | changed))


def volume(name: str = "v1", **changed: Any) -> v.VolumeView:
    fields: dict[str, Any] = {
        "name": name,
        "size": 64 << 20,
        "mapped": 1 << 20,
        "kind": "volume",
        "read_only": False,
        "description": "volume",
        "group": "",
        "copy": "",
        "source": "",
        "clients": [],
    }
    return v.VolumeView(**(fields | changed))


def copy(**changed: Any) -> v.CopyView:
    member = v.MemberView(source="v1", export="v1@c1", size=64 << 20)
    fields: dict[str, Any] = {
        "name": "c1",
        "writable": False,
        "stamp": NOON,
        "time": "2023-11-14T22:13:20.000Z",
        "group": "",
        "members": [member],
    }
    return v.CopyView(**(fields | changed))


def site(**changed: Any) -> v.SiteView:
    fields: dict[str, Any] = {
        "version": "9.9",
        "pool": "ef" * 16,
        "directory": "/var/lib/iso",
        "time": "2023-11-14T22:13:20.000Z",
        "failed": "",
        "volumes": [volume()],
        "copies": [copy()],
        "groups": [mv.group_view(group_status())],
        "space": v.SpaceView(log_bytes=5 << 30, log_segments=1, free_bytes=10 << 30),
    }
    return v.SiteView(**(fields | changed))


def schedule(**changed: Any) -> sv.ScheduleView:
    fields: dict[str, Any] = {
        "name": "s",
        "rules": "hourly keep 24",
        "volumes": ["a"],
        "group": "",
        "labels": {},
        "members": ["a", "b"],
        "next_due": NOON,
        "next_due_time": "2023-11-14T22:13:20.000Z",
        "last": NOON,
        "last_time": "2023-11-14T22:13:20.000Z",
        "last_copy": "s-20260101T000000Z",
        "copies": 3,
        "by_rule": [
            sv.ScheduleRuleView(
                rule="hourly keep 24", keep=24, copies=3, last=NOON, last_time="2023"
            )
        ],
        "error": "",
    }
    return sv.ScheduleView(**(fields | changed))


def verdicts(*, dry_run: bool = False) -> sv.VerdictList:
    return sv.VerdictList(
        dry_run=dry_run,
        verdicts=[
            sv.VerdictView(copy="c2", schedule="s", keep=True, why="hourly (1 of 1)"),
            sv.VerdictView(copy="c1", schedule="s", keep=False, why="hourly keeps 1 newer ones"),
        ],
    )


def difference(**changed: Any) -> sv.DifferenceView:
    fields: dict[str, Any] = {
        "volume": "a",
        "before": "a@c1",
        "after": "a@c2",
        "before_size": 1 << 20,
        "after_size": 1 << 20,
        "unit": 4096,
        "offset": 0,
        "end": 1 << 20,
        "complete": True,
        "changed": 8192,
        "ranges": [(0, 4096), (65536, 4096)],
    }
    return sv.DifferenceView(**(fields | changed))


def attachment(**facts: Any) -> v.AttachmentView:
    known = {
        "role": "app", "kind": "user", "host": "uid 7", "addresses": ["unix#1"],
        "read_only": False, "since": "2026-01-31T12:00:00.000Z", "lease_left": 0.0,
    }  # fmt: skip
    return v.AttachmentView(**(known | facts))
