"""What a secondary has of a group that broke off, and offers to go on with."""

from __future__ import annotations

from collections.abc import Mapping

from isochrone.errors import InvalidInput
from isochrone.mirror.messages import TEXT_CHARS_MAX, Partial, Welcome
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool
from isochrone.store.volumes import find


def part_of(pool: Pool, group: Group) -> Partial | None:
    """None if nothing is here that could be gone on with."""
    incoming = group.incoming
    if incoming is None or incoming.position is None or not incoming.pool:
        return None
    at = incoming.position
    step, volume, block = at.step, at.volume, at.block
    if any(copy.lsn > incoming.position_lsn for copy in incoming.copies):
        # The copy that this step was to become has been taken, and nobody has said so yet.
        if at.begun:
            return None
        step, volume, block = step + 1, 0, 0
    return Partial(
        pool=incoming.pool, lineage=incoming.lineage, epoch=incoming.epoch, base=incoming.base,
        floor=at.floor, begun=at.begun, step=step, volume=volume, block=block,
        volumes=tuple(v.remote for v in incoming.volumes),
    )  # fmt: skip


def seeded(group: Group) -> bool:
    """Whether a first copy starts, or has started, from something that is here."""
    incoming = group.incoming
    return bool(group.seeds) or (incoming is not None and any(v.seed for v in incoming.volumes))


def find_seeds(pool: Pool, welcome: Welcome, names: Mapping[str, str]) -> dict[str, int]:
    """Volumes here to start copies of volumes there from. Raises `InvalidInput` or `NotFound`."""
    there = {volume.name for volume in welcome.volumes}
    for name in names:
        if name not in there:
            raise InvalidInput(
                f"there is no volume {name!r} in the group",
                hint=f"it has: {', '.join(sorted(there))}"[:TEXT_CHARS_MAX],
            )
    return {name: find(pool, local).id for name, local in names.items()}
