"""The terms on which a primary serves a secondary: limits, suspension, and the end of it.

Each function checks, then appends a record; nothing is durable before `pool.flush`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.mirror.groups import find_group
from isochrone.mirror.limits import (
    INTERVAL_SECONDS_MAX,
    INTERVAL_SECONDS_MIN,
    RESYNCS,
    SideFileLimits,
)
from isochrone.mirror.pairs import Cause
from isochrone.store import records as r
from isochrone.store.catalogue import Group, Session
from isochrone.store.pool import Pool

FOLLOWERS_MAX: Final = 64  # of a group: each keeps a part of the log, and has a row in every cut


def limits_of(session: Session) -> SideFileLimits:
    return SideFileLimits(session.policy, session.limit_bytes, session.limit_seconds)


def served(pool: Pool, group: str, peer: str = "") -> list[str]:
    """The secondaries that are meant: the one named, by its identity or site, or all there are.

    Raises `NotFound` or `Conflict`.
    """
    found = find_group(pool, group)
    if not peer:
        if not found.sessions:
            hint = "run it at the primary" if found.role == "secondary" else ""
            raise Conflict(f"nobody follows group {group!r} from here", hint=hint)
        return sorted(found.sessions)
    meant = [id for id, s in found.sessions.items() if peer in (id, s.site)]
    if not meant and len(peer) >= 6:
        meant = [id for id in found.sessions if id.startswith(peer)]
    if len(meant) != 1:
        what = "no secondary" if not meant else "more than one secondary"
        raise NotFound(
            f"{what} of group {group!r} is {peer!r}", hint=f"see: isochrone mirror status {group}"
        )
    return meant


def set_limits(
    pool: Pool,
    group: str,
    peers: Sequence[str],
    *,
    policy: str | None = None,
    limit_bytes: int | None = None,
    limit_seconds: float | None = None,
    resync: str | None = None,
) -> None:
    """Change what is given of the terms of some secondaries; all or nothing."""
    if resync is not None and resync not in RESYNCS:
        raise InvalidInput(f"resync is one of {', '.join(RESYNCS)}, not {resync!r}")
    sessions = find_group(pool, group).sessions
    wanted: dict[str, SideFileLimits] = {}
    for peer in peers:
        now = limits_of(sessions[peer])
        wanted[peer] = SideFileLimits(
            now.policy if policy is None else policy,
            now.bytes if limit_bytes is None else limit_bytes,
            now.seconds if limit_seconds is None else limit_seconds,
        )
        wanted[peer].check()
    for peer, limits in wanted.items():
        pool.record(
            r.SessionSet(
                group=group,
                peer=peer,
                policy=limits.policy,
                limit_bytes=limits.bytes,
                limit_seconds=limits.seconds,
                resync=sessions[peer].resync if resync is None else resync,
            )
        )


def check_interval(pool: Pool, group: str, seconds: float) -> None:
    """Raises `InvalidInput` or `Conflict` where `set_interval` would."""
    found = find_group(pool, group)
    if found.role == "secondary":
        raise Conflict(
            f"group {group!r} is mirrored to this controller; its primary places the cuts",
            hint="run it at the primary",
        )
    if seconds and not INTERVAL_SECONDS_MIN <= seconds <= INTERVAL_SECONDS_MAX:
        raise InvalidInput(
            f"the interval is {INTERVAL_SECONDS_MIN:g} s to {INTERVAL_SECONDS_MAX:g} s,"
            f" or 0 for what the controller has"
        )


def set_interval(pool: Pool, group: str, seconds: float) -> None:
    """So many seconds between cuts from now on; 0: as the controller has it."""
    check_interval(pool, group, seconds)
    pool.record(r.GroupTuned(name=group, interval=seconds))


def suspend(pool: Pool, group: str, peer: str, cause: Cause, why: str) -> bool:
    """Serve a secondary no more until it is resumed; False if it was suspended by that already."""
    session = find_group(pool, group).sessions[peer]
    if session.cause and (session.kind == cause.value or cause is not Cause.COMMAND):
        return False
    pool.record(
        r.SessionSuspended(
            group=group,
            peer=peer,
            cause=why,
            stamp=pool.world.clock.wall_ns(),
            kind=cause.value,
        )
    )
    return True


def resume(pool: Pool, group: str, peer: str) -> bool:
    """Serve a secondary again, from its next connection on; False if it was not suspended."""
    if not find_group(pool, group).sessions[peer].cause:
        return False
    pool.record(r.SessionResumed(group=group, peer=peer))
    return True


def forget(pool: Pool, group: str, peer: str) -> None:
    """Keep nothing for a secondary any more; if it comes back, it is a new one."""
    pool.record(r.SessionClosed(group=group, peer=peer))


def admit(pool: Pool, group: Group, peer: str) -> None:
    """A secondary is here again: end its suspension if that may end by itself.

    Raises `Conflict` if it may not.
    """
    session = group.sessions.get(peer)
    if session is None and len(group.sessions) >= FOLLOWERS_MAX:
        raise Conflict(
            f"{FOLLOWERS_MAX} secondaries follow group {group.name}",
            hint=f"at the primary, let go of one: isochrone mirror forget {group.name} SITE",
        )
    if session is None or not session.cause:
        return
    if session.kind == Cause.COMMAND.value:
        raise Conflict(
            f"the mirror of group {group.name} is suspended by a command: {session.cause}",
            hint=f"at the primary: isochrone mirror resume {group.name}",
        )
    if session.resync == "manual":
        raise Conflict(
            f"the mirror of group {group.name} is suspended: {session.cause};"
            " it is to be resumed by a command",
            hint=f"at the primary: isochrone mirror resume {group.name}",
        )
    resume(pool, group.name, peer)
