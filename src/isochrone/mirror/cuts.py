"""Placing cuts at the primary: markers in the log, everything before, nothing after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from isochrone.store import records as r
from isochrone.store.catalogue import Group, Mark
from isochrone.store.pool import Pool


def changed_since(pool: Pool, group: Group, mark: Mark) -> bool:
    """Whether anything a secondary would have to learn happened after a cut."""
    volumes = pool.state.volumes
    if group.members_lsn > mark.lsn:
        return True
    if any(volumes[id].changed_lsn > mark.lsn for id in group.volumes):
        return True
    return pool.state.copies_changed_lsn(group) > mark.lsn


def place(
    pool: Pool,
    group: Group,
    acked: Mapping[str, int],
    *,
    whole: str = "",
    begun: Iterable[int] = (),
) -> Mark:
    """Put the next cut of a group into the log; it is not durable yet.

    `whole` is the secondary that will get it by images; it needs the marks of the cuts `begun`,
    and of this one, if that breaks off.
    """
    cut = group.cut + 1
    pool.record(
        r.CutPlaced(
            group=group.name,
            cut=cut,
            stamp=pool.world.clock.wall_ns(),
            acked=dict(acked),
            whole=whole,
            begun=(*sorted(set(begun) - {0}), cut) if whole else (),
        )
    )
    return group.marks[-1]
