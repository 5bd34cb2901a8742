"""What a change of a group's volumes changes, at its primary and at its secondaries.

`group_changed` is called by `State.apply`, the others by steps of `apply_groups`.
"""

from __future__ import annotations

from collections.abc import Iterable

from isochrone.store import apply_mirrored, apply_points
from isochrone.store import records as r
from isochrone.store.catalogue import Catalogue, Copy, Group, Incoming, Place
from isochrone.store.changes import whole


def group_changed(state: Catalogue, place: Place, record: r.GroupChanged) -> None:
    """The log does not say what a volume held when it joined: the next cut goes by images."""
    group = state.groups[record.group]
    _leave(state, place, group, record.left)
    for id in record.deleted:
        state.drop(id)
    # A new list: who is sending a cut goes on with the volumes that it had.
    group.volumes = [*group.volumes, *record.joined]
    for id in record.joined:
        volume = state.changing(id)
        volume.group = group.name
        # No earlier cut has it, so since each of them all of it is new.
        state.changes.join(group.name, id)
        state.changes.add(id, whole(volume.size))
    apply_mirrored.joined(state, group)
    group.resend_before_lsn = group.members_lsn = place.lsn


def _leave(state: Catalogue, place: Place, group: Group, ids: Iterable[int]) -> None:
    gone = frozenset(ids)
    if gone:
        group.left_lsn = place.lsn
    apply_mirrored.left(state, group, gone)
    group.volumes = [id for id in group.volumes if id not in gone]
    group.remote_ids = {there: id for there, id in group.remote_ids.items() if id not in gone}
    for id in gone:
        volume = state.changing(id)
        volume.group = ""
        state.changes.leave(group.name, id)
        for mark in group.marks:  # what changed since is counted without it
            mark.blocks_changed -= volume.blocks_changed


def missing(state: Catalogue, place: Place, group: Group, incoming: Incoming) -> None:
    """A commit is about to be made that does not have some of the volumes here.

    They stay as they are, as plain volumes. Their copies are this site's own from then on, but
    for those that have other volumes of the group, too. Their points stay as long as the others.
    """
    there = {v.local for v in incoming.volumes}
    if group.volumes and there != set(group.volumes):
        group.members_lsn = place.lsn
    gone = [id for id in group.volumes if id not in there]
    if not gone:
        return
    apply_points.left(state, group.name, gone)
    _leave(state, place, group, gone)
    for copy in _copies_of(state, gone):
        sources = {source for source, _ in copy.members}
        if copy.group == group.name and sources.isdisjoint(group.volumes):
            copy.group, copy.origin, copy.kept_from = "", "", group.name
            state.note_copy(copy)


def _copies_of(state: Catalogue, ids: Iterable[int]) -> list[Copy]:
    members = (m for id in ids for m in state.copied.get(id, ()))
    names = dict.fromkeys(state.volumes[member].copy for member in members)
    return [state.copies[name] for name in names if name in state.copies]
