"""What a pool holds, and how each record changes it.

`State.apply` is the only place that changes the catalogue: live operation and recovery go through
the same code, in log order. It never refuses; whoever appends a record has checked it before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import msgspec

from isochrone.store import records as r
from isochrone.store.tracks import Forest, Table, blocks_of
from isochrone.types import ExportInfo, Lineage

Kind = Literal["volume", "snapshot", "clone", "shadow"]
Role = Literal["primary", "fenced", "secondary"]

MARKS_MAX: Final = 64  # cuts a primary remembers; it places them only on demand, so few are needed


class Volume(msgspec.Struct, kw_only=True):
    """A volume, a member of a copy, or a shadow. Its table is kept beside it, not inside."""

    id: int
    name: str
    size: int
    kind: Kind = "volume"
    source: int = 0  # volume it was copied from
    copy: str = ""  # name of the copy it is a member of
    group: str = ""  # mirrored group it belongs to
    changed_lsn: int = 0  # newest record that changed its content or size
    blocks_changed: int = 0  # written or discarded so far: what a failover may have lost


class Copy(msgspec.Struct, kw_only=True):
    name: str
    writable: bool
    stamp: int
    lsn: int
    members: list[tuple[int, int]]  # (source volume id, member volume id)
    group: str = ""  # it came through this group's mirror
    origin: str = ""  # its name there, if it had to get another one here


class Mark(msgspec.Struct, array_like=True):
    cut: int
    lsn: int
    stamp: int
    blocks_changed: int  # sum over the group's volumes


class Incoming(msgspec.Struct, kw_only=True):
    """A consistency group that is being received."""

    base: int
    lineage: str
    epoch: int
    volumes: list[r.IncomingVolume]
    copies: list[Copy] = []  # taken inside it; they appear at its commit
    deleted: list[str] = []  # earlier copies that go at its commit


class Group(msgspec.Struct, kw_only=True):
    """Volumes that are mirrored and recovered together."""

    name: str
    role: Role
    lineage: str = ""
    epoch: int = 0
    volumes: list[int] = []
    cut: int = 0  # primary: newest placed; secondary: newest applied; 0: none yet
    cut_stamp: int = 0
    marks: list[Mark] = []  # primary: where the cuts lie that a secondary may resume from
    sessions: dict[str, int] = {}  # primary: peer -> newest cut it has hardened
    source: str = ""  # secondary: address of the primary's link
    remote_ids: dict[int, int] = {}  # secondary: volume id at the primary -> here
    incoming: Incoming | None = None
    superseded_by: int = 0  # fenced: the epoch that took over
    promoted_stamp: int = 0
    lost: dict[str, int] = {}
    fence_pending: bool = False  # promoted: the old primary does not know yet

    @property
    def identity(self) -> Lineage:
        return Lineage(self.lineage, self.epoch)

    @property
    def writable(self) -> bool:
        return self.role == "primary"

    def mark(self, cut: int) -> Mark | None:
        return next((mark for mark in self.marks if mark.cut == cut), None)


class State:
    """The catalogue of a pool with its track tables."""

    def __init__(self, forest: Forest) -> None:
        self.forest = forest
        self.volumes: dict[int, Volume] = {}
        self.tables: dict[int, Table] = {}
        self.names: dict[str, int] = {}  # what can be named: volumes and visible copy members
        self.copies: dict[str, Copy] = {}
        self.groups: dict[str, Group] = {}
        self.pins: list[Table] = []  # frozen images someone is reading; a checkpoint keeps them
        self.next_id = 1
        self.deletions = 0  # volumes, copies, large discards: what may have left garbage
        self.copies_deleted_lsn = 0  # newest deletion of a copy in this life of the process

    # -- looking

    def new_ids(self, count: int) -> range:
        """Ids for the next volumes; taken once the record that names them is applied."""
        return range(self.next_id, self.next_id + count)

    def exports(self) -> Iterator[ExportInfo]:
        for name in sorted(self.names):
            volume = self.volumes[self.names[name]]
            yield ExportInfo(name, volume.size, self.read_only(volume), self.describe(volume))

    def read_only(self, volume: Volume) -> bool:
        if volume.kind == "snapshot":
            return True
        return bool(volume.group) and not self.groups[volume.group].writable

    def describe(self, volume: Volume) -> str:
        if volume.kind in ("snapshot", "clone"):
            return (
                f"{volume.kind} of {self.volumes[volume.source].name}"
                if (volume.source in self.volumes)
                else f"{volume.kind} of a deleted volume"
            )
        if volume.group:
            return f"volume of group {volume.group} ({self.groups[volume.group].role})"
        return "volume"

    def reserved(self, name: str) -> bool:
        """Whether a volume name is taken, or promised to a volume that is being received."""
        return name in self.names or any(
            v.name == name
            for group in self.groups.values()
            if group.incoming is not None
            for v in group.incoming.volumes
        )

    def all_tables(self) -> list[Table]:
        return [*self.tables.values(), *self.pins]

    # -- changing

    def apply(self, lsn: int, record: r.AnyRecord) -> None:
        """Change the catalogue as a record says. Order of calls = order of the log."""
        _APPLY[type(record)](self, lsn, record)

    def add(self, volume: Volume, table: Table, *, named: bool = True) -> None:
        assert volume.id not in self.volumes
        self.volumes[volume.id] = volume
        self.tables[volume.id] = table
        self.next_id = max(self.next_id, volume.id + 1)
        if named:
            assert volume.name not in self.names, volume.name
            self.names[volume.name] = volume.id

    def drop(self, id: int) -> None:
        self.deletions += 1
        volume = self.volumes.pop(id)
        del self.tables[id]
        if self.names.get(volume.name) == id:
            del self.names[volume.name]

    def resize(self, lsn: int, id: int, size: int) -> None:
        volume = self.volumes[id]
        if size < volume.size:
            # Whatever lay beyond must not come back when the volume grows again.
            self.forest.unmap(self.tables[id], blocks_of(size), blocks_of(volume.size))
        volume.size = size
        volume.changed_lsn = lsn

    def _volume_created(self, lsn: int, record: r.VolumeCreated) -> None:
        volume = Volume(id=record.id, name=record.name, size=record.size, changed_lsn=lsn)
        self.add(volume, self.forest.table())

    def _volume_resized(self, lsn: int, record: r.VolumeResized) -> None:
        self.resize(lsn, record.id, record.size)

    def _volume_deleted(self, lsn: int, record: r.VolumeDeleted) -> None:
        self.drop(record.id)

    def _copy_taken(self, lsn: int, record: r.CopyTaken) -> None:
        copy = Copy(
            name=record.name,
            writable=record.writable,
            stamp=record.stamp,
            lsn=lsn,
            members=list(record.members),
            group=record.group,
        )
        for source_id, member_id in record.members:
            source = self.volumes[source_id]
            member = Volume(
                id=member_id,
                name=f"{source.name}@{record.name}",
                size=source.size,
                kind="clone" if record.writable else "snapshot",
                source=source_id,
                copy=record.name,
                changed_lsn=lsn,
            )
            table = self.forest.clone(self.tables[source_id])
            self.add(member, table, named=not record.group)
        if record.group:
            self._incoming(record.group).copies.append(copy)
        else:
            self.copies[record.name] = copy

    def _incoming(self, group: str) -> Incoming:
        incoming = self.groups[group].incoming
        assert incoming is not None, group
        return incoming

    def _copy_deleted(self, lsn: int, record: r.CopyDeleted) -> None:
        if not record.group:
            self._drop_members(self.copies.pop(record.name))
            self.copies_deleted_lsn = lsn
            return
        incoming = self._incoming(record.group)
        for copy in incoming.copies:
            if copy.name == record.name:  # taken and deleted between two cuts
                incoming.copies.remove(copy)
                self._drop_members(copy)
                return
        incoming.deleted.append(record.name)

    def _drop_members(self, copy: Copy) -> None:
        for _, member in copy.members:
            self.drop(member)

    def _group_created(self, lsn: int, record: r.GroupCreated) -> None:
        self.groups[record.name] = Group(
            name=record.name,
            role="primary",
            lineage=record.lineage,
            epoch=1,
            volumes=list(record.volumes),
        )
        for id in record.volumes:
            self.volumes[id].group = record.name

    def _group_deleted(self, lsn: int, record: r.GroupDeleted) -> None:
        self._drop_incoming(record.name)
        for id in self.groups.pop(record.name).volumes:
            self.volumes[id].group = ""

    def _session_opened(self, lsn: int, record: r.SessionOpened) -> None:
        self.groups[record.group].sessions[record.peer] = 0

    def _session_closed(self, lsn: int, record: r.SessionClosed) -> None:
        self.groups[record.group].sessions.pop(record.peer, None)

    def blocks_changed(self, group: Group) -> int:
        """Blocks written or discarded in a group since its volumes were made."""
        return sum(self.volumes[id].blocks_changed for id in group.volumes)

    def _cut_placed(self, lsn: int, record: r.CutPlaced) -> None:
        group = self.groups[record.group]
        assert record.cut > group.cut
        group.cut, group.cut_stamp = record.cut, record.stamp
        group.sessions.update(record.acked)
        group.marks.append(Mark(record.cut, lsn, record.stamp, self.blocks_changed(group)))
        needed = min(group.sessions.values(), default=record.cut)
        keep = [mark for mark in group.marks if mark.cut >= needed]
        # Above the bound the middle goes: a session resumes from its own cut or the newest only.
        group.marks = keep if len(keep) <= MARKS_MAX else [keep[0], *keep[1 - MARKS_MAX :]]

    def _fenced(self, lsn: int, record: r.Fenced) -> None:
        group = self.groups[record.group]
        group.role = "fenced"
        group.superseded_by = max(record.epoch, group.superseded_by)

    def _mirror_added(self, lsn: int, record: r.MirrorAdded) -> None:
        self.groups[record.group] = Group(name=record.group, role="secondary", source=record.source)

    def _incoming_begun(self, lsn: int, record: r.IncomingBegun) -> None:
        self._drop_incoming(record.group)
        group = self.groups[record.group]
        assert record.base in (0, group.cut)
        for v in record.volumes:
            table = self.forest.clone(self.tables[v.local]) if record.base else self.forest.table()
            shadow = Volume(
                id=v.shadow, name=v.name, size=v.size, kind="shadow", source=v.local,
                changed_lsn=lsn,
            )  # fmt: skip
            self.add(shadow, table, named=False)
            self.next_id = max(self.next_id, v.local + 1)
        group.incoming = Incoming(
            base=record.base,
            lineage=record.lineage,
            epoch=record.epoch,
            volumes=list(record.volumes),
        )

    def _drop_incoming(self, name: str) -> None:
        group = self.groups[name]
        incoming, group.incoming = group.incoming, None
        if incoming is not None:
            for copy in incoming.copies:
                self._drop_members(copy)
            for v in incoming.volumes:
                self.drop(v.shadow)

    def _incoming_dropped(self, lsn: int, record: r.IncomingDropped) -> None:
        self._drop_incoming(record.group)

    def _incoming_committed(self, lsn: int, record: r.IncomingCommitted) -> None:
        group = self.groups[record.group]
        incoming, group.incoming = self._incoming(record.group), None
        for v in incoming.volumes:
            shadow, table = self.volumes[v.shadow], self.tables[v.shadow]
            self.drop(v.shadow)
            if v.local not in self.volumes:
                volume = Volume(id=v.local, name=v.name, size=shadow.size, group=group.name)
                self.add(volume, table)
                group.volumes.append(v.local)
                group.remote_ids[v.remote] = v.local
            volume = self.volumes[v.local]
            volume.size, volume.changed_lsn = shadow.size, lsn
            table.changed = True
            self.tables[v.local] = table
        for name in incoming.deleted:
            for copy in list(self.copies.values()):
                if copy.group == group.name and (copy.origin or copy.name) == name:
                    self._drop_members(self.copies.pop(copy.name))
        became = {v.shadow: v.local for v in incoming.volumes}
        for copy in incoming.copies:
            self._reveal(copy, became, record.cut)
        group.lineage, group.epoch = incoming.lineage, incoming.epoch
        group.cut, group.cut_stamp = record.cut, record.stamp

    def _reveal(self, copy: Copy, became: dict[int, int], cut: int) -> None:
        while copy.name in self.copies:
            # A copy taken here has the name already; both stay.
            copy.origin = copy.origin or copy.name
            copy.name += f"~{cut}"
        copy.members = [(became.get(source, source), member) for source, member in copy.members]
        for source, member_id in copy.members:
            member = self.volumes[member_id]
            member.source, member.copy = source, copy.name
            member.name = f"{self.volumes[source].name}@{copy.name}"
            self.names[member.name] = member_id
        self.copies[copy.name] = copy

    def _promoted(self, lsn: int, record: r.Promoted) -> None:
        self._drop_incoming(record.group)
        group = self.groups[record.group]
        group.role = "primary"
        group.epoch = record.epoch
        group.promoted_stamp = record.stamp
        group.lost = dict(record.lost)
        group.fence_pending = True
        group.marks, group.sessions = [], {}

    def _peer_fenced(self, lsn: int, record: r.PeerFenced) -> None:
        self.groups[record.group].fence_pending = False


_APPLY: Final[dict[type[r.Record], Callable[[State, int, Any], None]]] = {
    r.VolumeCreated: State._volume_created,
    r.VolumeResized: State._volume_resized,
    r.VolumeDeleted: State._volume_deleted,
    r.CopyTaken: State._copy_taken,
    r.CopyDeleted: State._copy_deleted,
    r.GroupCreated: State._group_created,
    r.GroupDeleted: State._group_deleted,
    r.SessionOpened: State._session_opened,
    r.SessionClosed: State._session_closed,
    r.CutPlaced: State._cut_placed,
    r.Fenced: State._fenced,
    r.MirrorAdded: State._mirror_added,
    r.IncomingBegun: State._incoming_begun,
    r.IncomingDropped: State._incoming_dropped,
    r.IncomingCommitted: State._incoming_committed,
    r.Promoted: State._promoted,
    r.PeerFenced: State._peer_fenced,
}
