"""What each record about groups and mirrors changes. Called by `State.apply` alone."""

from __future__ import annotations

from isochrone.store import (
    apply_images,
    apply_members,
    apply_mirrored,
    apply_points,
    apply_probes,
)
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
from isochrone.store.changes import log_pin, whole


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
    apply_mirrored.joined(state, state.groups[record.name])


def group_deleted(state: Catalogue, place: Place, record: r.GroupDeleted) -> None:
    _drop_incoming(state, record.name)
    apply_points.forgotten(state, record.name)
    apply_probes.forgotten(state, record.name)
    state.drop_images(state.groups[record.name], place.lsn)
    state.changes.forget(record.name)
    apply_mirrored.released(state, state.groups[record.name])
    for id in state.groups.pop(record.name).volumes:
        state.changing(id).group = ""
    for copy in state.copies.values():
        if copy.group == record.name:
            # It is this site's own: a later group of that name must not name it, nor delete it.
            copy.group = copy.origin = ""
            state.note_copy(copy)


def session_opened(state: Catalogue, place: Place, record: r.SessionOpened) -> None:
    group = state.groups[record.group]
    known = group.sessions.get(record.peer)
    if known is not None:  # it was elsewhere: what it said of relations holds no more
        known.site, known.reconciled, known.unheld, known.inexact = record.site, False, [], []
        return
    # The log is kept for it from here on, or from where others have it kept; a mark may be older.
    pin = log_pin(group)
    kept_from = place.lsn if pin is None else pin[0]
    group.sessions[record.peer] = Session(site=record.site, whole_lsn=kept_from)


def session_suspended(state: Catalogue, place: Place, record: r.SessionSuspended) -> None:
    session = state.groups[record.group].sessions[record.peer]
    session.keeps_log, session.cause = False, record.cause
    session.suspended_stamp, session.kind = record.stamp, record.kind
    drop_spent_images(state, place, state.groups[record.group])


def session_resumed(state: Catalogue, place: Place, record: r.SessionResumed) -> None:
    session = state.groups[record.group].sessions[record.peer]
    session.cause, session.suspended_stamp, session.kind = "", 0, ""


def session_closed(state: Catalogue, place: Place, record: r.SessionClosed) -> None:
    group = state.groups[record.group]
    group.sessions.pop(record.peer, None)
    drop_spent_images(state, place, group)  # there may be no cut any more that would


def cut_placed(state: Catalogue, place: Place, record: r.CutPlaced) -> None:
    group = state.groups[record.group]
    assert record.cut > group.cut
    group.cut, group.cut_stamp = record.cut, record.stamp
    for peer, cut in record.acked.items():
        if peer in group.sessions:
            group.sessions[peer].cut, group.sessions[peer].sent_cut = cut, record.cut
    apply_images.cut_sent(group, place, record)
    _put_mark(state, place, group)
    drop_spent_images(state, place, group)


def _put_mark(state: Catalogue, place: Place, group: Group) -> None:
    """Remember the cut that the group is at, and record what changes from now on."""
    # Marks that are not older are of a history that was given up, or of this cut before it.
    group.marks = [mark for mark in group.marks if mark.cut < group.cut]
    changed = state.blocks_changed(group)
    mark = Mark(group.cut, place.lsn, group.cut_stamp, changed, recorded=True)
    group.marks = _kept_marks(group, mark)
    state.changes.keep(group.name, {mark.cut for mark in group.marks[:-1]})
    state.changes.begin(group.name, group.cut, group.volumes)


def _kept_marks(group: Group, newest: Mark) -> list[Mark]:
    """The marks to keep beside a new one: those that somebody may come back to.

    A primary knows who that is, unless it took over: then others that followed the old primary
    may yet come, as they may to a secondary.
    """
    at = [session.cuts for session in group.sessions.values()]
    named = set().union({group.kept_cut}, *at)
    least = min((min(cuts, default=0) for cuts in at), default=newest.cut)
    if group.role != "primary" or group.kept_cut:
        least = 0
    kept = [mark for mark in group.marks if mark.cut >= least]
    # Above the bound go those that nobody is known to be at, the oldest first; but what the site
    # remembers from before it took over is what others may ask for.
    spare = sorted(kept, key=lambda m: (m.cut in named, m.cut < group.kept_cut, m.cut))
    gone = {mark.cut for mark in spare[: max(0, len(kept) + 1 - MARKS_MAX)]}
    return [*(mark for mark in kept if mark.cut not in gone), newest]


def drop_spent_images(state: Catalogue, place: Place, group: Group) -> None:
    """Let go of images that no window of the log needs; resends need none."""
    pin = log_pin(group)
    state.drop_images(group, place.lsn if pin is None else pin[0])


def fenced(state: Catalogue, place: Place, record: r.Fenced) -> None:
    group = state.groups[record.group]
    state.drop_images(group, place.lsn)
    group.role = "fenced"
    group.superseded_by = max(record.epoch, group.superseded_by)


def mirror_added(state: Catalogue, place: Place, record: r.MirrorAdded) -> None:
    state.groups[record.group] = Group(
        name=record.group, role="secondary", source=record.source, seeds=dict(record.seeds)
    )


def incoming_begun(state: Catalogue, place: Place, record: r.IncomingBegun) -> None:
    _drop_incoming(state, record.group)
    group = state.groups[record.group]
    assert record.base in (0, group.cut)
    for v in record.volumes:
        table = apply_images.first_table(state, record.base, v)
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
        pool=record.pool,
        recorded=True,
    )
    state.changes.begin_incoming(record.group, (v.shadow for v in record.volumes))


def _drop_incoming(state: Catalogue, name: str) -> None:
    group = state.groups[name]
    incoming, group.incoming = group.incoming, None
    state.changes.end_incoming(name)
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
    changed = state.changes.end_incoming(record.group)
    if not incoming.base or not incoming.recorded:
        # Everything may differ from all earlier cuts: who is at one of them starts anew.
        group.marks = []
        state.changes.forget(group.name)
    smaller = apply_mirrored.cut_off(state, incoming)
    apply_members.missing(state, place, group, incoming)
    for v in incoming.volumes:
        shadow, table = state.volumes[v.shadow], state.tables[v.shadow]
        state.drop(v.shadow)
        if v.local not in state.volumes:
            volume = Volume(id=v.local, name=v.name, size=shadow.size, group=group.name)
            state.add(volume, table)
            group.volumes.append(v.local)
            group.remote_ids[v.remote] = v.local
            state.changes.join(group.name, v.local)
            changed[v.shadow] = whole(shadow.size)
        volume = state.changing(v.local)
        apply_points.replaced(state, place, volume, shadow.size, table)
        volume.size, volume.changed_lsn = shadow.size, place.lsn
        table.changed = True
        state.tables[v.local] = table
        if v.shadow in changed:
            state.changes.add(v.local, changed[v.shadow])
    _delete_copies(state, group, incoming, record)
    became = {v.shadow: v.local for v in incoming.volumes}
    for copy in incoming.copies:
        _reveal(state, copy, became, record.cut)
    apply_mirrored.reveal(state, group, incoming, smaller)
    group.seeds = {}  # they have served
    group.lineage, group.epoch = incoming.lineage, incoming.epoch
    group.cut, group.cut_stamp = record.cut, record.stamp
    _put_mark(state, place, group)
    apply_points.committed(state, place, record)


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
    apply_points.released(state, record.group)
    group = state.groups[record.group]
    group.role = "primary"
    apply_mirrored.taken_over(state, group)
    group.epoch = record.epoch
    group.promoted_stamp = record.stamp
    group.lost = dict(record.lost)
    group.fence_pending = True
    # The log before this place holds no writes of these volumes, but of shadows.
    group.kept_cut, group.resend_before_lsn = group.cut, place.lsn
    _put_mark(state, place, group)


def peer_fenced(state: Catalogue, place: Place, record: r.PeerFenced) -> None:
    group = state.groups[record.group]
    if record.source:
        group.unfenced = [address for address in group.unfenced if address != record.source]
    else:
        group.fence_pending = False
