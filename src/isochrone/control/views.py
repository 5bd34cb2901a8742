"""The documents of the API, for the controller that writes them and the client that reads them.

Sizes are bytes; stamps are ns since 1970, with the same instant in RFC 3339 beside them. Fields are
added, never renamed: scripts read them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from isochrone.control.times import rfc3339
from isochrone.control.views_mirror import GroupView
from isochrone.control.views_pool import ScrubView
from isochrone.control.views_schedules import ScheduleView
from isochrone.mirror.status import PromoteReport


class AttachmentView(msgspec.Struct, kw_only=True):
    """A client that has an export open, over one or more connections."""

    role: str  # app, or mover: a mirror's, which is not in the way of anything
    kind: str  # how it is known who this is: certificate, user, address
    host: str  # the identity: a certificate's name, "uid 1000", or the network address
    addresses: list[str]  # of its connections
    read_only: bool
    since: str
    lease_left: float  # seconds; not 0: it was cut off, and counts until they are over


class VolumeView(msgspec.Struct, kw_only=True):
    name: str  # of its export
    size: int
    mapped: int  # bytes that have been written and not discarded
    kind: str  # volume, snapshot, clone
    read_only: bool
    description: str
    group: str
    copy: str  # it is a member of
    source: str  # it was copied from; empty if that is deleted
    clients: list[str]  # who has it open
    attachments: list[AttachmentView] = []  # the same, and how that is known
    labels: dict[str, str] = {}


class VolumeList(msgspec.Struct, kw_only=True):
    volumes: list[VolumeView]


class MemberView(msgspec.Struct, kw_only=True):
    source: str  # volume; empty if it is deleted
    export: str
    size: int


class CopyView(msgspec.Struct, kw_only=True):
    name: str
    writable: bool
    stamp: int
    time: str
    group: str  # whose mirror it came through; empty if it was taken here
    consistency: str = "crash"  # or filesystem, application: what held still meanwhile
    expendable: bool = False  # given up when space runs short
    members: list[MemberView]
    schedule: str = ""  # that took it,
    rules: list[str] = []  # for these of its rules
    pinned: bool = False
    held_until: int = 0  # 0: no date
    held_until_time: str = ""
    hold_reason: str = ""
    held: str = ""  # why it cannot be deleted now; empty: it can
    kept_from: str = ""  # group whose primary has deleted it
    origin: str = ""  # its name where it was taken, if that was taken here already
    as_of_cut: int = 0  # of the group, that it was opened as of; 0: it was taken


class CopyList(msgspec.Struct, kw_only=True):
    copies: list[CopyView]


class PromoteView(PromoteReport, kw_only=True):
    """What a forced failover did, with its instants in words."""

    cut_time: str
    recovery_point_time: str
    last_heard_time: str


class SpaceView(msgspec.Struct, kw_only=True):
    log_bytes: int  # size of the log's files
    log_segments: int
    free_bytes: int  # of the file system under the pool


class FilterView(msgspec.Struct, kw_only=True):
    export: str
    filters: list[str]  # as they were typed; the first is outermost


class FilterList(msgspec.Struct, kw_only=True):
    filters: list[FilterView]


class RuleView(msgspec.Struct, kw_only=True):
    export: str  # and its copies; * stands for all that are not listed
    tls: bool  # over TLS only
    hosts: list[str] | None  # who may open it; null: anyone


class MemoryView(msgspec.Struct, kw_only=True):
    """Bytes; the two limits are the parts of `serve --memory`."""

    tables: int  # held of volumes' tables
    tables_limit: int  # of what a checkpoint has; what changed since then comes on top
    clients: int  # what block clients make the controller hold
    clients_limit: int


class GuestView(AttachmentView, kw_only=True):
    export: str


class DoorView(msgspec.Struct, kw_only=True):
    """What the block ports ask of clients, and who is here."""

    tls: str  # off, required, per-export
    folder: str  # of the certificates
    certificate_until: str  # when ours runs out
    verify_clients: bool
    default: str  # export that the empty name opens; empty: the only volume
    rules: list[RuleView]
    memory: MemoryView
    clients: list[GuestView]


class ReloadView(msgspec.Struct, kw_only=True):
    clients_gone: int  # had an export open that the new rules do not let them have


class SiteView(msgspec.Struct, kw_only=True):
    """Everything on one screen."""

    version: str
    pool: str  # identity
    directory: str
    time: str
    failed: str  # why the pool is read-only; empty if it is well
    volumes: list[VolumeView]
    copies: list[CopyView]
    groups: list[GroupView]
    space: SpaceView
    filters: list[FilterView] = []  # drills that go on
    scrub: ScrubView | None = None  # without its findings
    schedules: list[ScheduleView] = []
    holds_lag: float = 0.0  # seconds by which holds end later than their date
    certificates: str = ""  # what is to be done about those of links; empty: nothing


class Problem(msgspec.Struct, kw_only=True):
    """An error, as RFC 9457 has it. `type` is its stable code."""

    type: str
    title: str
    status: int
    detail: str
    hint: str = ""
    exit_code: int = 1


def promote_view(report: PromoteReport) -> PromoteView:
    return PromoteView(
        **_fields(report),
        cut_time=rfc3339(report.cut_stamp),
        recovery_point_time=rfc3339(report.recovery_point),
        last_heard_time=rfc3339(report.last_heard),
    )


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(struct)
