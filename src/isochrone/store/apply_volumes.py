"""What each record about volumes and copies changes. Called by `State.apply` alone."""

from __future__ import annotations

from isochrone.store import records as r
from isochrone.store.apply_matched import note_requested
from isochrone.store.apply_schedules import note_taken
from isochrone.store.catalogue import Catalogue, Copy, Place, Volume


def volume_created(state: Catalogue, place: Place, record: r.VolumeCreated) -> None:
    volume = Volume(
        id=record.id,
        name=record.name,
        size=record.size,
        changed_lsn=place.lsn,
        labels=dict(record.labels),
    )
    state.add(volume, state.forest.table())


def volume_resized(state: Catalogue, place: Place, record: r.VolumeResized) -> None:
    state.resize(place.lsn, record.id, record.size)


def volume_deleted(state: Catalogue, place: Place, record: r.VolumeDeleted) -> None:
    state.drop(record.id)


def copy_taken(state: Catalogue, place: Place, record: r.CopyTaken) -> None:
    copy = Copy(
        name=record.name,
        writable=record.writable,
        stamp=record.stamp,
        lsn=place.lsn,
        members=list(record.members),
        group=record.group,
        schedule=record.schedule,
        rules=list(record.rules),
        expendable=record.expendable,
    )
    for source_id, member_id in record.members:
        add_member(state, copy, source_id, member_id, like=source_id, named=not record.group)
    if record.group:
        state.incoming(record.group).copies.append(copy)
    else:
        state.copies[record.name] = copy
        state.note_copy(copy)
        note_taken(state, record)
        note_requested(state, place, record)


def add_member(
    state: Catalogue, copy: Copy, source: int, id: int, *, like: int, named: bool = True
) -> None:
    """A member of a copy, for `source`: what another volume is, which may be a version of it."""
    then = state.volumes[like]
    member = Volume(
        id=id,
        name=f"{then.name}@{copy.name}",
        size=then.size,
        kind="clone" if copy.writable else "snapshot",
        source=source,
        copy=copy.name,
        changed_lsn=copy.lsn,
    )
    state.add(member, state.forest.clone(state.tables[like]), named=named)


def copy_classified(state: Catalogue, place: Place, record: r.CopyClassified) -> None:
    for copy in _called(state, record.name, record.group):
        copy.consistency, copy.changed_lsn = record.consistency, place.lsn
        if state.copies.get(copy.name) is copy:
            state.note_copy(copy)


def _called(state: Catalogue, name: str, group: str) -> list[Copy]:
    """What the primary of a group calls so; it may be hidden, or be here under another name."""
    if not group:  # taken here
        found = state.copies.get(name)
        return [found] if found is not None and not found.group else []
    incoming = state.groups[group].incoming
    coming = [c for c in incoming.copies if c.name == name] if incoming is not None else []
    # An older one of that name is gone there; if it is held here, nothing is said of it any more.
    return coming or [
        c for c in state.copies.values() if c.group == group and (c.origin or c.name) == name
    ]


def copy_deleted(state: Catalogue, place: Place, record: r.CopyDeleted) -> None:
    if not record.group:
        state.pop_copy(record.name)
        state.copies_deleted_lsn = place.lsn
        return
    incoming = state.incoming(record.group)
    for copy in incoming.copies:
        if copy.name == record.name:  # taken and deleted between two cuts
            incoming.copies.remove(copy)
            state.drop_members(copy)
            return
    incoming.deleted.append(record.name)
