"""Forced failover: make the secondary of a group writable at its last complete cut.

Needs nothing of the primary; it may be silent, slow, or alive and cut off. Its epoch ends here: it
is told as soon as it can be reached, and it cannot give its history to this site any more. What
that costs is said before: `state_loss` changes nothing.
"""

from __future__ import annotations

from isochrone.dr.reports import LossStatement
from isochrone.errors import Conflict
from isochrone.mirror.groups import find_group
from isochrone.mirror.mover import Mover
from isochrone.mirror.pairs import Pair
from isochrone.mirror.roles import Act, Role, move, role_of
from isochrone.mirror.service import Mirrors
from isochrone.mirror.status import PromoteReport
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool


def check(group: Group) -> None:
    """Whether a group can be promoted here. Raises `Conflict` with what to do instead."""
    role = role_of(group)
    if role is Role.PRIMARY:
        raise Conflict(f"group {group.name} is the primary here already")
    if role is Role.HANDING:
        raise Conflict(
            f"group {group.name} is the primary here already, and is being handed over",
            hint=f"to keep it here: isochrone group switch {group.name} --cancel",
        )
    if role is Role.FENCED:
        raise Conflict(
            f"group {group.name} was taken over by epoch {group.superseded_by} elsewhere",
            hint=f"follow it: isochrone group rejoin {group.name} --from ADDRESS;"
            " then it can be switched back",
        )
    if role is Role.DIVERGED:
        what = (
            "holds what the history it follows does not hold: nothing has come of it yet"
            if group.diverged
            else "has no complete cut here: its first copy has not arrived"
        )
        raise Conflict(
            f"group {group.name} {what}", hint=f"wait for it: isochrone mirror wait {group.name}"
        )
    move(role, Act.TAKE_OVER)


def _connected(mover: Mover | None) -> bool:
    return mover is not None and mover.state in (Pair.DUPLEX, Pair.COPYING)


def state_loss(pool: Pool, mirrors: Mirrors, name: str) -> LossStatement:
    """What promoting a group would mean at this moment. Raises `Conflict` if it cannot be."""
    group = find_group(pool, name)
    check(group)
    mover = mirrors.mover(name)
    return LossStatement(
        group=name,
        cut=group.cut,
        cut_stamp=group.cut_stamp,
        recovery_point=mover.recovery_point,
        recovery_point_age=mover.recovery_point_age,
        lost_bytes=mover.behind_bytes,
        incoming_bytes=mover.bytes_incoming,
        last_heard=mover.last_heard,
        primary_connected=_connected(mover),
        state=mover.state.value,
        cause=mover.cause,
        epoch=group.epoch + 1,
        old_primary=group.source,
    )


async def promote(pool: Pool, mirrors: Mirrors, name: str, *, force: bool = False) -> PromoteReport:
    """Take a group over. When this returns, the takeover survives a power cut.

    While the primary is alive and connected it must be forced: a planned switch loses nothing.
    """
    clock = pool.world.clock
    started = clock.monotonic()
    check(find_group(pool, name))
    if not force and state_loss(pool, mirrors, name).primary_connected:
        raise Conflict(
            f"the primary of group {name} is alive and connected: what it has not sent would be"
            " given up",
            hint=f"isochrone group switch {name} loses nothing; or repeat it with --force",
        )
    async with mirrors.released(name) as mover:
        group = find_group(pool, name)
        check(group)  # meanwhile the last cut may have been committed, or the mirror removed
        dropped = mover.bytes_incoming_at_end if mover else 0
        lost = {"bytes": mover.behind_bytes, "heard": mover.last_heard} if mover else {"bytes": -1}
        recovery_point = mover.recovery_point if mover else group.cut_stamp
        age = mover.recovery_point_age if mover else (clock.wall_ns() - recovery_point) / 1e9
        pool.record(
            r.Promoted(
                group=name,
                epoch=group.epoch + 1,
                stamp=clock.wall_ns(),
                lost=lost,
                pool=pool.identity,
            )
        )
    await pool.flush()
    mirrors.fence(name)
    return PromoteReport(
        group=name,
        cut=group.cut,
        cut_stamp=group.cut_stamp,
        recovery_point=recovery_point,
        recovery_point_age=age,
        lineage=group.lineage,
        epoch=group.epoch,
        last_heard=lost.get("heard", 0),
        lost_bytes=lost["bytes"],
        incoming_bytes_dropped=dropped,
        volumes=[pool.state.volumes[id].name for id in group.volumes],
        copies=[copy.name for copy in pool.state.copies.values() if copy.group == name],
        seconds=clock.monotonic() - started,
    )
