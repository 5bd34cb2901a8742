"""Forced failover: make the secondary of a group writable at its last complete cut.

Needs nothing of the primary; it may be silent, slow, or alive and cut off. Its epoch ends here: it
is told as soon as it can be reached, and it cannot give its history to this site any more.
"""

from __future__ import annotations

from isochrone.errors import Conflict
from isochrone.mirror.groups import find_group
from isochrone.mirror.service import Mirrors
from isochrone.mirror.status import PromoteReport
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool


def check(group: Group) -> None:
    """Whether a group can be promoted here. Raises `Conflict` with what to do instead."""
    if group.role == "primary":
        raise Conflict(f"group {group.name} is the primary here already")
    if group.role == "fenced":
        raise Conflict(
            f"group {group.name} was taken over by epoch {group.superseded_by} elsewhere",
            hint="work with it there; bringing it back is a failback, which is not built yet",
        )
    if not group.cut:
        raise Conflict(
            f"group {group.name} has no complete cut here: its first copy has not arrived",
            hint=f"wait for it: isochrone mirror wait {group.name}",
        )


async def promote(pool: Pool, mirrors: Mirrors, name: str) -> PromoteReport:
    """Take a group over. When this returns, the takeover survives a power cut."""
    clock = pool.world.clock
    started = clock.monotonic()
    check(find_group(pool, name))
    mover = await mirrors.release(name)
    group = find_group(pool, name)
    check(group)  # meanwhile the last cut may have been committed, or the mirror removed
    dropped = mover.bytes_incoming_at_end if mover else 0
    lost = {"bytes": mover.behind_bytes, "heard": mover.last_heard} if mover else {"bytes": -1}
    recovery_point = mover.recovery_point if mover else group.cut_stamp
    age = mover.recovery_point_age if mover else (clock.wall_ns() - recovery_point) / 1e9
    pool.record(r.Promoted(group=name, epoch=group.epoch + 1, stamp=clock.wall_ns(), lost=lost))
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
