"""Reverting volumes in place: they become what they were in a copy, and can be taken back."""

from __future__ import annotations

from collections.abc import Sequence

from isochrone.errors import Conflict, InvalidInput, NotFound, ReadOnly
from isochrone.store import records as r
from isochrone.store.catalogue import Copy, Volume
from isochrone.store.copies import find_copy
from isochrone.store.names import check_name, free_name, instant_name
from isochrone.store.overlaps import check_fits, check_no_target
from isochrone.store.overwrite import NOTHING_AGREED, Permission, images, may_overwrite
from isochrone.store.pool import Pool
from isochrone.store.tracks import blocks_of


def revert(
    pool: Pool,
    copy_name: str,
    volumes: Sequence[str] = (),
    *,
    undo_name: str = "",
    permission: Permission = NOTHING_AGREED,
) -> Copy:
    """Give volumes the content and size they have in a copy; the copy of what they were before.

    Without volumes, all that the copy has. Newer copies stay. To undo it, revert to what it
    returns. Flush before telling anybody that it is done.
    """
    copy = find_copy(pool, copy_name)
    members = _members(pool, copy, volumes)
    stamp = pool.world.clock.wall_ns()
    undo = check_name("copy", undo_name) if undo_name else _undo_name(pool, stamp)
    if undo in pool.state.copies:
        raise Conflict(f"there is a copy {undo!r} already")
    for volume, member in members:
        if f"{volume.name}@{undo}" in pool.state.names:
            raise Conflict(f"there is a copy {undo!r} of {volume.name!r} already")
        _check(pool, volume, member)
    changes = {volume.id: (member.id,) for volume, member in members}
    may_overwrite(pool, changes, "reverted", permission)
    ids = pool.state.new_ids(len(members))
    pool.record(
        r.VolumesReverted(
            members=tuple((volume.id, member.id) for volume, member in members),
            undo=undo,
            undo_members=tuple((v.id, id) for (v, _), id in zip(members, ids, strict=True)),
            stamp=stamp,
            images=images(pool, changes, ids.stop),
        )
    )
    return pool.state.copies[undo]


def _members(pool: Pool, copy: Copy, names: Sequence[str]) -> list[tuple[Volume, Volume]]:
    """(volume, member of the copy) of those that are to be reverted."""
    state = pool.state
    found: dict[str, tuple[Volume, Volume]] = {}
    gone = []
    for source, member in copy.members:
        if source in state.volumes:
            volume = state.volumes[source]
            found[volume.name] = volume, state.volumes[member]
        else:
            gone.append(state.volumes[member].name)
    if not names and gone:
        raise Conflict(
            f"the volume that {gone[0]!r} is a copy of has been deleted",
            hint=f"name those that are to be reverted: isochrone copy revert {copy.name}"
            " --volume NAME",
        )
    if len(set(names)) != len(names):
        raise InvalidInput("a volume is named twice")
    for name in names:
        if name not in found:
            raise NotFound(
                f"the copy {copy.name!r} has no volume {name!r}",
                hint=f"see: isochrone copy show {copy.name}",
            )
    return [found[name] for name in names or found]


def _check(pool: Pool, volume: Volume, member: Volume) -> None:
    state = pool.state
    if state.fixed(volume):
        raise ReadOnly(
            f"{volume.name!r} cannot be reverted: it is read-only, a {state.describe(volume)}"
        )
    whole = [(0, blocks_of(max(volume.size, member.size)))]
    check_no_target(state, volume, whole, "reverted")
    check_fits(state, volume, member.size)


def _undo_name(pool: Pool, stamp: int) -> str:
    return free_name(f"before-revert-{instant_name(stamp)}", pool.state.copies)
