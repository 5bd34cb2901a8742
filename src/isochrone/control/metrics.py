"""`/metrics`: figures for Prometheus, in its text format, version 0.0.4.

Names are stable: alert rules and dashboards of others read them. They begin with `isochrone_`, and
end with their unit; what only ever grows ends with `_total`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from fastapi import FastAPI, Response

from isochrone import __version__
from isochrone.mirror.service import Mirrors
from isochrone.mirror.status import GroupStatus, PeerStatus
from isochrone.mirror.tally import Shipped
from isochrone.store.pool import Pool

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]  # name, labels, value

# name: (type, what it is)
METRICS: Final[dict[str, tuple[str, str]]] = {
    "isochrone_info": ("gauge", "Always 1; the labels say what runs here."),
    "isochrone_pool_read_only": ("gauge", "1 if nothing can be made durable any more."),
    "isochrone_pool_free_bytes": ("gauge", "Free in the file system under the pool."),
    "isochrone_pool_reserve_bytes": ("gauge", "The part of it that writes may not take."),
    "isochrone_pool_log_bytes": ("gauge", "Size of the log's segment files."),
    "isochrone_pool_metadata_bytes": ("gauge", "Size of the metadata store."),
    "isochrone_pool_tight": ("gauge", "1 if room is short: expendable copies go."),
    "isochrone_pool_full": ("gauge", "1 if only blocks that have data may be written."),
    "isochrone_pool_written_bytes_total": ("counter", "Payload of clients and mirrors."),
    "isochrone_pool_moved_bytes_total": ("counter", "Moved by the cleaner."),
    "isochrone_pool_damaged_reads_total": ("counter", "Reads refused because of damage."),
    "isochrone_volumes": ("gauge", "Volumes, without copies."),
    "isochrone_copies": ("gauge", "Copies."),
    "isochrone_group_role": ("gauge", "1 for the role that a group has here."),
    "isochrone_group_state": ("gauge", "1 for the state of its pairs."),
    "isochrone_group_suspended": ("gauge", "1 if a mirror of the group is suspended."),
    "isochrone_group_cut": ("gauge", "Newest cut: placed at a primary, applied at a secondary."),
    "isochrone_group_recoverable": ("gauge", "1 if a secondary holds a complete cut."),
    "isochrone_group_recoverable_age_seconds": (
        "gauge",
        "Age of what a secondary would recover to, measured there; absent before the first cut.",
    ),
    "isochrone_group_behind_bytes": (
        "gauge",
        "What the primary had and this secondary has not, when it was last heard.",
    ),
    "isochrone_group_verified_age_seconds": (
        "gauge",
        "Since it was last compared with its primary, all of it; absent: never.",
    ),
    "isochrone_group_verified_unhealed": ("gauge", "Ranges that were not well at its end."),
    "isochrone_group_probe_age_seconds": (
        "gauge",
        "Since a restore probe of the replica ended well; absent: none has.",
    ),
    "isochrone_group_probe_failed": ("gauge", "1 if the newest restore probe did not end well."),
    "isochrone_group_first_copy_todo_bytes": ("gauge", "Of a first copy or resend, in all."),
    "isochrone_group_first_copy_done_bytes": ("gauge", "The part of it that is done."),
    "isochrone_group_cuts_total": ("counter", "Cuts placed at a primary, committed elsewhere."),
    "isochrone_group_cuts_failed_total": ("counter", "Cuts begun and never committed here."),
    "isochrone_group_received_bytes_total": ("counter", "On the link, by kind, both ways."),
    "isochrone_group_fence_pending": ("gauge", "1 if the old primary may still be writable."),
    "isochrone_site_certificate_left_seconds": (
        "gauge",
        "Until the key of a site is to be renewed; negative: it is late; absent: never.",
    ),
    "isochrone_session_connected": ("gauge", "1 if this secondary is connected."),
    "isochrone_session_suspended": ("gauge", "1 if it gets nothing."),
    "isochrone_session_acked_cut": ("gauge", "Newest cut that it has hardened."),
    "isochrone_session_backlog_bytes": ("gauge", "Size of its side file."),
    "isochrone_session_backlog_age_seconds": ("gauge", "Age of the oldest write in it."),
    "isochrone_session_backlog_limit_bytes": ("gauge", "Limit of its size; absent: none."),
    "isochrone_session_backlog_limit_seconds": ("gauge", "Limit of its age; absent: none."),
    "isochrone_session_pace_seconds": ("gauge", "How long each write waits for its sake."),
    "isochrone_session_shipped_bytes_total": ("counter", "On the link, by kind, both ways."),
}


def add_metrics(
    app: FastAPI, pool: Pool, mirrors: Mirrors, more: Callable[[], Iterable[Sample]] = tuple
) -> None:
    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        samples = [*pool_samples(pool), *group_samples(mirrors.statuses()), *more()]
        return Response(render(samples), media_type=CONTENT_TYPE)


def render(samples: Iterable[Sample]) -> str:
    """The page: metrics together, each with its HELP and TYPE once. All names are in `METRICS`."""
    by_name: dict[str, list[str]] = {name: [] for name in METRICS}
    for name, labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        by_name[name].append(
            f"{name}{{{inside}}} {value:.15g}" if inside else f"{name} {value:.15g}"
        )
    lines = []
    for name, rows in by_name.items():
        if rows:
            kind, help_ = METRICS[name]
            lines += [f"# HELP {name} {help_}", f"# TYPE {name} {kind}", *rows]
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def pool_samples(pool: Pool) -> Iterator[Sample]:
    """Figures that cost nothing to have; the exact shares are in `isochrone pool show`."""
    space, state = pool.space, pool.state
    info = (("version", __version__), ("pool", pool.identity))
    yield "isochrone_info", info, 1
    plain: dict[str, float] = {
        "isochrone_pool_read_only": bool(pool.failed),
        "isochrone_pool_reserve_bytes": pool.limits.reserve_bytes,
        "isochrone_pool_log_bytes": pool.log.bytes_on_disk,
        "isochrone_pool_metadata_bytes": pool.metadata_bytes[0],
        "isochrone_pool_tight": space.tight,
        "isochrone_pool_full": space.full,
        "isochrone_pool_written_bytes_total": pool.bytes_written,
        "isochrone_pool_moved_bytes_total": pool.bytes_moved,
        "isochrone_pool_damaged_reads_total": pool.damaged_reads,
        "isochrone_volumes": sum(v.kind == "volume" for v in state.volumes.values()),
        "isochrone_copies": len(state.copies),
    }
    for name, value in plain.items():
        yield name, (), float(value)
    with suppress(OSError):  # an absent figure is honest, a zero would raise an alarm
        yield "isochrone_pool_free_bytes", (), float(pool.log.free_bytes)


def group_samples(statuses: Iterable[GroupStatus]) -> Iterator[Sample]:
    for status in statuses:
        group: Labels = (("group", status.group),)
        yield "isochrone_group_role", (*group, ("role", status.role)), 1
        yield "isochrone_group_state", (*group, ("state", status.state)), 1
        yield "isochrone_group_suspended", group, status.state == "SUSPENDED"
        yield "isochrone_group_cut", group, status.cut
        yield "isochrone_group_cuts_total", group, status.cuts
        yield "isochrone_group_fence_pending", group, status.fence_pending
        if status.role == "secondary":
            yield from _secondary(status, group)
        for peer in status.peers:
            yield from _session(peer, (*group, ("peer", peer.site or peer.peer)))


def _secondary(status: GroupStatus, group: Labels) -> Iterator[Sample]:
    yield "isochrone_group_recoverable", group, bool(status.recovery_point)
    if status.recovery_point:
        age = round(status.recovery_point_age, 3)
        yield "isochrone_group_recoverable_age_seconds", group, age
    if status.behind_bytes >= 0:
        yield "isochrone_group_behind_bytes", group, status.behind_bytes
    if status.probe_age >= 0:
        yield "isochrone_group_probe_age_seconds", group, round(status.probe_age, 1)
    yield "isochrone_group_probe_failed", group, status.probe_failed
    if status.verified_age >= 0:
        yield "isochrone_group_verified_age_seconds", group, round(status.verified_age, 1)
        yield "isochrone_group_verified_unhealed", group, status.verified_unhealed
    if status.phase:
        yield "isochrone_group_first_copy_todo_bytes", group, status.todo_bytes
        yield "isochrone_group_first_copy_done_bytes", group, status.done_bytes
    yield "isochrone_group_cuts_failed_total", group, status.cuts_failed
    for kind, size in _kinds(status.shipped):
        yield "isochrone_group_received_bytes_total", (*group, ("kind", kind)), size


def _session(peer: PeerStatus, labels: Labels) -> Iterator[Sample]:
    yield "isochrone_session_connected", labels, peer.connected
    # The cause is no label of it: a series for each would outlive what it tells.
    yield "isochrone_session_suspended", labels, peer.pair == "SUSPENDED"
    yield "isochrone_session_acked_cut", labels, peer.acked_cut
    yield "isochrone_session_backlog_bytes", labels, peer.backlog_bytes
    yield "isochrone_session_backlog_age_seconds", labels, peer.backlog_age
    if peer.limit_bytes:
        yield "isochrone_session_backlog_limit_bytes", labels, peer.limit_bytes
    if peer.limit_seconds:
        yield "isochrone_session_backlog_limit_seconds", labels, peer.limit_seconds
    yield "isochrone_session_pace_seconds", labels, peer.pace_seconds
    for kind, size in _kinds(peer.shipped):
        yield "isochrone_session_shipped_bytes_total", (*labels, ("kind", kind)), size


def _kinds(shipped: Shipped) -> tuple[tuple[str, int], ...]:
    return (
        ("data", shipped.data),
        ("holes", shipped.holes),
        ("commands", shipped.commands),
        ("other", shipped.other),
    )
