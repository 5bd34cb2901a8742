"""Placing cuts at the primary: markers in the log, everything before, nothing after."""

from __future__ import annotations

from collections.abc import Mapping

from isochrone.store import records as r
from isochrone.store.catalogue import Group, Mark
from isochrone.store.pool import Pool


def changed_since(pool: Pool, group: Group, mark: Mark) -> bool:
    """Whether anything a secondary would have to learn happened after a cut."""
    volumes = pool.state.volumes
    if any(volumes[id].changed_lsn > mark.lsn for id in group.volumes):
        return True
    return pool.state.copies_changed_lsn(group) > mark.lsn


def place(pool: Pool, group: Group, acked: Mapping[str, int]) -> Mark:
    """Put the next cut of a group into the log; it is not durable yet."""
    pool.record(
        r.CutPlaced(
            group=group.name,
            cut=group.cut + 1,
            stamp=pool.world.clock.wall_ns(),
            acked=dict(acked),
        )
    )
    return group.marks[-1]
