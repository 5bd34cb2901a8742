"""What each record about groups and mirrors changes. Called by `State.apply` alone."""

from __future__ import annotations

from isochrone.store import records as r
from isochrone.store.catalogue import (
    MARKS_MAX,
    Catalogue,
    Copy,
    Group,
    Incoming,
    Mark,
    Place,
    Session,
    Volume,
)


def group_created(state: Catalogue, place: Place, record: r.GroupCreated) -> None:
    state.groups[record.name] = Group(
        name=record.name,
        role="primary",
        lineage=record.lineage,
        epoch=1,
        volumes=list(record.volumes),
    )
    for id in record.volumes:
        state.changing(id).group = record.name


def group_deleted(state: Catalogue, place: Place, record: r.GroupDeleted) -> None:
    _drop_incoming(state, record.name)
    state.drop_images(state.groups[record.name], place.lsn)
    for id in state.groups.pop(record.name).volumes:
        state.changing(id).group = ""


def session_opened(state: Catalogue, place: Place, record: r.SessionOpened) -> None:
    state.groups[record.group].sessions[record.peer] = Session(site=record.site)


def session_suspended(state: Catalogue, place: Place, record: r.SessionSuspended) -> None:
    session = state.groups[record.group].sessions[record.peer]
    session.keeps_log, session.cause = False, record.cause
    session.suspended_stamp = record.stamp


def session_resumed(state: Catalogue, place: Place, record: r.SessionResumed) -> None:
    session = state.groups[record.group].sessions[record.peer]
    session.cause, session.suspended_stamp = "", 0


def session_closed(state: Catalogue, place: Place, record: r.SessionClosed) -> None:
    state.groups[record.group].sessions.pop(record.peer, None)


def cut_placed(state: Catalogue, place: Place, record: r.CutPlaced) -> None:
    group = state.groups[record.group]
    assert record.cut > group.cut
    group.cut, group.cut_stamp = record.cut, record.stamp
    for peer, cut in record.acked.items():
        if peer in group.sessions:
            group.sessions[peer].cut = cut
    group.marks.append(Mark(record.cut, place.lsn, record.stamp, state.blocks_changed(group)))
    needed = min((s.cut for s in group.sessions.values()), default=record.cut)
    keep = [mark for mark in group.marks if mark.cut >= needed]
    # Above the bound the middle goes: a session resumes from its own cut or the newest only.
    group.marks = keep if len(keep) <= MARKS_MAX else [keep[0], *keep[1 - MARKS_MAX :]]
    state.drop_images(group, group.marks[0].lsn)


def fenced(state: Catalogue, place: Place, record: r.Fenced) -> None:
    group = state.groups[record.group]
    state.drop_images(group, place.lsn)
    group.role = "fenced"
    group.superseded_by = max(record.epoch, group.superseded_by)


def mirror_added(state: Catalogue, place: Place, record: r.MirrorAdded) -> None:
    state.groups[record.group] = Group(name=record.group, role="secondary", source=record.source)


def incoming_begun(state: Catalogue, place: Place, record: r.IncomingBegun) -> None:
    _drop_incoming(state, record.group)
    group = state.groups[record.group]
    assert record.base in (0, group.cut)
    for v in record.volumes:
        forest = state.forest
        table = forest.clone(state.tables[v.local], passing=True) if record.base else forest.table()
        shadow = Volume(
            id=v.shadow, name=v.name, size=v.size, kind="shadow", source=v.local,
            changed_lsn=place.lsn,
        )  # fmt: skip
        state.add(shadow, table, named=False)
        state.next_id = max(state.next_id, v.local + 1)
    group.incoming = Incoming(
        base=record.base,
        lineage=record.lineage,
        epoch=record.epoch,
        volumes=list(record.volumes),
    )


def _drop_incoming(state: Catalogue, name: str) -> None:
    group = state.groups[name]
    incoming, group.incoming = group.incoming, None
    if incoming is not None:
        for copy in incoming.copies:
            state.drop_members(copy)
        for v in incoming.volumes:
            state.drop(v.shadow)


def incoming_dropped(state: Catalogue, place: Place, record: r.IncomingDropped) -> None:
    _drop_incoming(state, record.group)


def incoming_committed(state: Catalogue, place: Place, record: r.IncomingCommitted) -> None:
    group = state.groups[record.group]
    incoming, group.incoming = state.incoming(record.group), None
    for v in incoming.volumes:
        shadow, table = state.volumes[v.shadow], state.tables[v.shadow]
        state.drop(v.shadow)
        if v.local not in state.volumes:
            volume = Volume(id=v.local, name=v.name, size=shadow.size, group=group.name)
            state.add(volume, table)
            group.volumes.append(v.local)
            group.remote_ids[v.remote] = v.local
        volume = state.changing(v.local)
        volume.size, volume.changed_lsn = shadow.size, place.lsn
        table.changed = True
        state.tables[v.local] = table
    _delete_copies(state, group, incoming, record)
    became = {v.shadow: v.local for v in incoming.volumes}
    for copy in incoming.copies:
        _reveal(state, copy, became, record.cut)
    group.lineage, group.epoch = incoming.lineage, incoming.epoch
    group.cut, group.cut_stamp = record.cut, record.stamp


def _delete_copies(
    state: Catalogue, group: Group, incoming: Incoming, record: r.IncomingCommitted
) -> None:
    """Delete what the primary deleted, unless it is held here."""
    if not incoming.deleted:
        return  # there may be ten thousand copies: do not look at them for nothing
    here: dict[str, list[Copy]] = {}
    for copy in state.copies.values():
        if copy.group == group.name:
            here.setdefault(copy.origin or copy.name, []).append(copy)
    for name in incoming.deleted:
        for copy in here.pop(name, ()):
            if copy.name in record.kept:
                copy.group, copy.origin, copy.kept_from = "", "", group.name
                state.note_copy(copy)
            else:
                state.pop_copy(copy.name)


def _reveal(state: Catalogue, copy: Copy, became: dict[int, int], cut: int) -> None:
    while copy.name in state.copies:
        # A copy taken here has the name already; both stay.
        copy.origin = copy.origin or copy.name
        copy.name += f"~{cut}"
    copy.members = [(became.get(source, source), member) for source, member in copy.members]
    for source, member_id in copy.members:
        member = state.changing(member_id)
        state.forget_member(member)
        member.source, member.copy = source, copy.name
        state.note_member(member)
        member.name = f"{state.volumes[source].name}@{copy.name}"
        state.names[member.name] = member_id
    state.copies[copy.name] = copy
    state.note_copy(copy)


def promoted(state: Catalogue, place: Place, record: r.Promoted) -> None:
    _drop_incoming(state, record.group)
    group = state.groups[record.group]
    group.role = "primary"
    group.epoch = record.epoch
    group.promoted_stamp = record.stamp
    group.lost = dict(record.lost)
    group.fence_pending = True
    group.marks, group.sessions = [], {}


def peer_fenced(state: Catalogue, place: Place, record: r.PeerFenced) -> None:
    state.groups[record.group].fence_pending = False
