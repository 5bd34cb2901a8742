"""What is told about a group: gathered from the catalogue, the mover and the watch."""

from __future__ import annotations

from isochrone.mirror import orphans
from isochrone.mirror.followed import Followed
from isochrone.mirror.mover import Mover
from isochrone.mirror.pairs import Pair
from isochrone.mirror.roles import advice
from isochrone.mirror.source import SourceSession
from isochrone.mirror.status import GroupStatus, PeerStatus
from isochrone.mirror.watch import Watch
from isochrone.store.catalogue import Group
from isochrone.store.changes import since
from isochrone.store.pool import Pool
from isochrone.types import TRACK

# The state of a group at its primary is that of the pair that is worst off.
_WORST: tuple[Pair, ...] = (Pair.SUSPENDED, Pair.PENDING, Pair.COPYING, Pair.DUPLEX)


def tell_group(
    pool: Pool, group: Group, peers: list[PeerStatus], interval: float, pace_seconds: float
) -> GroupStatus:
    """A group as its catalogue has it, with those who follow it from here."""
    names = pool.state.volumes
    worst = _worst(peers) if group.role != "secondary" else None
    return GroupStatus(
        group=group.name,
        role=group.role,
        state=worst.pair if worst is not None else Pair.SIMPLEX.value,
        cause=worst.why if worst is not None else "",
        cause_kind=worst.cause if worst is not None else "",
        lineage=group.lineage,
        epoch=group.epoch,
        volumes=[names[id].name for id in group.volumes],
        cut=group.cut,
        cut_stamp=group.cut_stamp,
        recovery_point=0,
        recovery_point_age=-1.0,
        source=group.source,
        bytes_received=0,
        bytes_commands=0,
        bytes_incoming=0,
        peers=peers,
        promoted_stamp=group.promoted_stamp,
        superseded_by=group.superseded_by,
        fence_pending=bool(group.to_fence),
        handover=bool(group.handover),
        diverged=orphans.not_arrived(pool.state, group),
        diverged_since=orphans.since(pool.state, group),
        next_command=advice(group),
        interval=group.interval or interval,
        pace_seconds=pace_seconds,
        reservations=len(group.reservations),
    )


def _worst(peers: list[PeerStatus]) -> PeerStatus | None:
    order = {pair.value: rank for rank, pair in enumerate(_WORST)}
    return min(peers, key=lambda peer: order.get(peer.pair, len(order)), default=None)


def add_mover(status: GroupStatus, mover: Mover, followed: Followed, now: float) -> None:
    """What a secondary knows of the way here; `now` is monotonic, in seconds."""
    status.state = mover.state.value
    status.cause = mover.cause
    status.cause_kind = mover.kind.value if mover.kind is not None else ""
    status.recovery_point = mover.recovery_point
    status.recovery_point_age = mover.recovery_point_age
    status.journal_stamp = status.consistency_stamp = mover.group.cut_stamp
    status.bytes_received = mover.bytes_received
    status.bytes_commands = mover.bytes_commands
    status.bytes_incoming = mover.bytes_incoming
    status.last_heard = mover.last_heard
    status.behind_bytes = mover.behind_bytes
    status.phase = mover.phase
    status.todo_bytes, status.done_bytes = mover.todo_bytes, mover.done_bytes
    status.rate = round(followed.rate, 1)
    status.eta, status.eta_max = followed.eta()
    status.hour, status.day = followed.history.hour(now), followed.history.day(now)
    status.cuts, status.cuts_failed = followed.committed, followed.failed
    status.shipped = mover.shipped
    status.packing = mover.shipped.packing
    status.suspensions = list(mover.trail.suspensions)


def tell_peer(
    pool: Pool, group: Group, peer: str, watch: Watch, connection: SourceSession | None
) -> PeerStatus:
    """A secondary as its primary sees it."""
    session, seen = group.sessions[peer], watch.seen(group.name, peer)
    shipped = watch.shipped(group.name, peer)
    changed = since(pool.state, group, seen.acked)
    missing: dict[str, int] = {}
    for id, tracks in (changed or {}).items():
        if id in pool.state.volumes and tracks:
            missing[pool.state.volumes[id].name] = len(tracks) * TRACK
    sent = shipped.blocks - seen.shipped_then
    return PeerStatus(
        peer=peer,
        connected=connection is not None,
        acked_cut=seen.acked,
        bytes_sent=connection.bytes_sent if connection is not None else 0,
        site=session.site,
        state=seen.state.value,
        pair=seen.pair.value,
        cause=seen.cause,
        why=seen.why,
        since=seen.trail.since,
        backlog_bytes=seen.backlog.bytes,
        backlog_age=round(seen.backlog.age, 1),
        changed_bytes=-1 if changed is None else sum(missing.values()),
        missing=missing,
        copies_left_out=(connection.copies_left_out if connection else 0) or seen.copies_left_out,
        policy=session.policy,
        limit_bytes=session.limit_bytes,
        limit_seconds=session.limit_seconds,
        resync=session.resync,
        keeps_log=session.keeps_log,
        pace_seconds=round(seen.decision.delay, 3),
        phase=connection.phase if connection is not None else "",
        todo_bytes=connection.todo_bytes if connection is not None else 0,
        done_bytes=connection.done_bytes if connection is not None else 0,
        shipped=shipped,
        coalescing=round(seen.blocks_changed / sent, 3) if sent > 0 else 0.0,
        packing=shipped.packing,
        suspensions=list(seen.trail.suspensions),
    )
