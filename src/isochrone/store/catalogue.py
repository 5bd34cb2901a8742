"""What a pool holds: volumes, copies, relations, groups and tables, by name and number.

Here is how it is looked at, and the few steps that every change is made of. Which record makes
which change is in the `apply_*` files; `state` joins them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from isochrone.store import records as r
from isochrone.store.changes import Changes
from isochrone.store.points import Window
from isochrone.store.probes import Probes
from isochrone.store.promises import CopyRequest, Reservation, Told
from isochrone.store.tracks import Forest, Table, blocks_of
from isochrone.types import ExportInfo, Lineage

Kind = Literal["volume", "snapshot", "clone", "shadow", "image", "point"]
Role = Literal["primary", "fenced", "secondary"]
Consistency = Literal["crash", "filesystem", "application"]  # what a copy is, the least first

UNFENCED_MAX: Final = 16  # old primaries that are away: so many sites nobody has lost one by one
MARKS_MAX: Final = 64  # cuts that a group remembers: each costs a bitmap for a volume that changed


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
    labels: dict[str, str] = {}  # by which schedules find it
    until_lsn: int = 0  # a point's: its source was this from `changed_lsn` on, at least up to here


class Copy(msgspec.Struct, kw_only=True):
    name: str
    writable: bool
    stamp: int
    lsn: int
    members: list[tuple[int, int]]  # (source volume id, member volume id)
    group: str = ""  # it came through this group's mirror
    origin: str = ""  # its name there, if it had to get another one here
    consistency: Consistency = "crash"
    expendable: bool = False  # it may be given up for space
    schedule: str = ""  # that took it,
    rules: list[str] = []  # for these of its rules
    held_until: int = 0  # ns since 1970 before which nobody may delete it
    pinned: bool = False  # nobody may, until it is unpinned
    hold_reason: str = ""
    kept_from: str = ""  # the group whose primary deleted it, while it was held here
    changed_lsn: int = 0  # newest record that said something else of it
    as_of_cut: int = 0  # it was opened as of this cut of its volumes' group; 0: it was taken


class Schedule(msgspec.Struct, kw_only=True):
    """When copies of which volumes are taken, and how many are kept."""

    name: str
    rules: str
    volumes: list[int] = []  # either these,
    group: str = ""  # or those of a mirrored group,
    labels: dict[str, str] = {}  # or those that have all these labels
    last: dict[str, int] = {}  # rule -> stamp of its newest copy
    last_copy: str = ""


class TrustedTime(msgspec.Struct, kw_only=True):
    """How much time holds may count on to have passed; see `holds`."""

    stamp: int = 0


class Mark(msgspec.Struct, array_like=True):
    cut: int
    lsn: int
    stamp: int
    blocks_changed: int  # sum over the group's volumes
    recorded: bool = False  # what changed since is recorded; see `changes`


class Relation(msgspec.Struct, kw_only=True):
    """Extents of a volume that are a copy of another volume's, as of an instant, on record."""

    id: int
    source: int
    target: int
    extents: list[tuple[int, int, int]]  # (block of the source, block of the target, blocks)
    lsn: int  # of that instant: the establishment, or the newest refresh or restoration
    stamp: int
    generation: int = 1  # one more with each refresh and restoration
    inhibit: bool = False  # the target is read-only while the relation stands
    born: int  # place of the record: whatever is written later has a pointer not below it
    first_node: int  # nodes of the target's table below it have not changed since
    group: str = ""  # mirrored with it; empty: known at this site alone
    origin: int = 0  # its number at the primary; 0: it was made here
    inexact: bool = False  # it came in an inventory: what seems written since may be older

    @property
    def blocks(self) -> int:
        return sum(count for _, _, count in self.extents)


class Image(msgspec.Struct, array_like=True):
    """What a record that moved no data made of a mirrored volume, kept for its secondaries."""

    lsn: int
    volume: int
    image: int  # the hidden volume; 0: a secondary copies the extents itself
    size: int
    ranges: list[tuple[int, int]]  # blocks that may have changed
    source: int = 0  # volume of the same group
    extents: list[tuple[int, int, int]] = []


class Session(msgspec.Struct, kw_only=True):
    """What a primary knows of one secondary of a group, also while it is away."""

    cut: int = 0  # newest it has hardened
    site: str = ""  # what the other side calls itself
    keeps_log: bool = True  # False: of what it has not, only the changed tracks are known
    cause: str = ""  # why it is suspended; empty: it is served
    suspended_stamp: int = 0
    kind: str = ""  # of the cause: command, link, limit, error, refused, fenced
    policy: str = "suspend"  # of its side file: or fall-behind, pace
    limit_bytes: int = 8 << 30  # 0: none; `limits.SIDE_FILE_BYTES` has the reason
    limit_seconds: float = 0.0  # 0: none
    resync: str = "auto"  # or manual: after a suspension that nobody commanded
    whole_lsn: int = 0  # lsn of the newest cut it got by images of volumes, not by the log
    reconciled: bool = False  # it has told, after an inventory, what it makes of relations:
    unheld: list[int] = []  # of these it has the content alone
    inexact: list[int] = []  # of these it does not know what hosts wrote since
    begun: list[int] = []  # cuts whose marks it needs if these images break off
    sent_cut: int = 0  # newest that was placed to be sent to it

    @property
    def cuts(self) -> set[int]:
        """Cuts from which it may want to go on: what it says next is one of them."""
        return {self.cut, self.sent_cut, *self.begun} - {0}


class Incoming(msgspec.Struct, kw_only=True):
    """A consistency group that is being received."""

    base: int
    lineage: str
    epoch: int
    volumes: list[r.IncomingVolume]
    copies: list[Copy] = []  # taken inside it; they appear at its commit
    deleted: list[str] = []  # earlier copies that go at its commit
    relations: dict[int, Relation] = {}  # new or changed; by their numbers here
    withdrawn: set[int] = set()  # numbers of earlier relations that go at its commit
    unheld: dict[int, bool] = {}  # number at the primary -> whether only the content is here
    inexact: bool = False  # no relation that was here before is sure of what was written since
    pool: str = ""  # identity of the primary, if another connection can go on with it
    position: r.Position | None = None  # how far that has come,
    position_lsn: int = 0  # as of this record here
    recorded: bool = False  # what changed in the shadows is recorded; see `changes`


class Group(msgspec.Struct, kw_only=True):
    """Volumes that are mirrored and recovered together."""

    name: str
    role: Role
    lineage: str = ""
    epoch: int = 0
    volumes: list[int] = []
    cut: int = 0  # primary: newest placed; secondary: newest applied; 0: none yet
    cut_stamp: int = 0
    marks: list[Mark] = []  # the cuts that somebody may resume from, ascending
    sessions: dict[str, Session] = {}  # primary: by the identity of the peer's pool
    source: str = ""  # secondary: address of the primary's link
    seeds: dict[str, int] = {}  # secondary: volumes here that a first copy starts from, by name
    remote_ids: dict[int, int] = {}  # secondary: volume id at the primary -> here
    incoming: Incoming | None = None
    superseded_by: int = 0  # fenced: the epoch that took over
    promoted_stamp: int = 0
    lost: dict[str, int] = {}
    fence_pending: bool = False  # promoted: the old primary does not know yet
    unfenced: list[str] = []  # addresses of still older ones that this site was to tell
    reservations: list[Reservation] = []  # secondary: for commands the primary asked about
    requests: list[CopyRequest] = []  # primary: copies that are to exist at several sites
    told: list[Told] = []  # secondary: the same, as its primary told,
    told_stamp: int = 0  # at this instant, by the clock here
    takeovers: list[r.Takeover] = []  # where the epochs of the history begin, ascending
    handover: str = ""  # primary: the pool that is to take over; nobody may write meanwhile
    diverged: int = 0  # secondary: own mark since which it differs from the history it follows
    rejoined: bool = False  # secondary: nothing has come yet from the site that it follows now
    way: list[str] = []  # secondary: pools from the primary on to the one that it follows
    superseded_cut: int = 0  # fenced: at which the other site took over; 0: not known
    fenced_stamp: int = 0
    images: list[Image] = []  # primary: for those whose newest cut is older
    unheld: list[int] = []  # secondary: relations, by number there, of which it has the content
    discarded_lsn: int = 0  # primary: newest withdrawal that empties tracks at secondaries, too
    kept_cut: int = 0  # promoted: at which; its mark stays until the old primary has come back
    resend_before_lsn: int = 0  # from a mark before it the log does not lead on, changes do
    interval: float = 0.0  # primary: seconds between cuts; 0: as the controller has it
    members_lsn: int = 0  # newest change of its volumes: cuts before it have others
    left_lsn: int = 0  # newest at which some of them left

    @property
    def identity(self) -> Lineage:
        return Lineage(self.lineage, self.epoch)

    @property
    def writable(self) -> bool:
        return self.role == "primary" and not self.handover

    @property
    def to_fence(self) -> list[str]:
        """Where somebody may still take writes of an epoch that is over."""
        return [*([self.source] if self.fence_pending else ()), *self.unfenced]

    @property
    def standing(self) -> str:
        """The role in words, for whoever may not write."""
        return "primary, being handed over" if self.handover else self.role

    def mark(self, cut: int) -> Mark | None:
        return next((mark for mark in self.marks if mark.cut == cut), None)


class Place(NamedTuple):
    """Where a record lies in the log."""

    lsn: int
    pointer: int  # behind its batch: every block that is born later has a pointer not below this


class Catalogue:
    """The items of a pool with their track tables."""

    def __init__(self, forest: Forest) -> None:
        self.forest = forest
        self.volumes: dict[int, Volume] = {}
        self.tables: dict[int, Table] = {}
        self.names: dict[str, int] = {}  # what can be named: volumes and visible copy members
        self.copies: dict[str, Copy] = {}
        self.groups: dict[str, Group] = {}
        self.changes = Changes()  # of the groups' volumes since their marks
        self.relations: dict[int, Relation] = {}
        self.related: dict[int, dict[int, None]] = {}  # volume -> relations it is part of
        self.inhibited: dict[int, int] = {}  # target that hosts may not write -> its reasons
        self.schedules: dict[str, Schedule] = {}
        self.trusted = TrustedTime()
        self.windows: dict[str, Window] = {}  # group -> the points it can be opened at
        self.probes: dict[str, Probes] = {}  # group -> what checks of its replica found
        self.versions: dict[int, dict[int, None]] = {}  # volume -> what it was, oldest first
        self.pins: list[Table] = []  # frozen images someone is reading; a checkpoint keeps them
        self.next_id = 1
        self.deletions = 0  # volumes, copies, large discards: what may have left garbage
        self.copies_deleted_lsn = 0  # newest deletion of a copy in this life of the process
        self.copied_lsn: dict[int, int] = {}  # volume -> newest record about a copy of it
        self.copied: dict[int, dict[int, None]] = {}  # volume -> members that are copies of it
        # What the next checkpoint looks at, in the order of the log. There may be ten thousand
        # copies, so it does not look at all; of the other items there are few.
        self.touched_volumes: dict[int, None] = {}
        self.touched_copies: dict[str, None] = {}

    # -- looking

    def new_ids(self, count: int) -> range:
        """Ids for the next volumes; taken once the record that names them is applied."""
        return range(self.next_id, self.next_id + count)

    def exports(self) -> Iterator[ExportInfo]:
        for name in sorted(self.names):
            volume = self.volumes[self.names[name]]
            yield ExportInfo(name, volume.size, self.read_only(volume), self.describe(volume))

    def read_only(self, volume: Volume) -> bool:
        """Whether hosts may not write it."""
        return volume.id in self.inhibited or self.fixed(volume)

    def fixed(self, volume: Volume) -> bool:
        """Whether nothing here may change it: a snapshot, or a group that another site writes."""
        if volume.kind == "snapshot":
            return True
        return bool(volume.group) and not self.groups[volume.group].writable

    def describe(self, volume: Volume) -> str:
        if volume.id in self.inhibited:
            return "volume that the inhibit option of a relation protects"
        if volume.kind in ("snapshot", "clone"):
            return (
                f"{volume.kind} of {self.volumes[volume.source].name}"
                if (volume.source in self.volumes)
                else f"{volume.kind} of a deleted volume"
            )
        if volume.group:
            return f"volume of group {volume.group} ({self.groups[volume.group].standing})"
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

    def passing(self) -> set[int]:
        """Hidden volumes that are soon to be gone: what they hold is not kept."""
        found: set[int] = set()
        for group in self.groups.values():
            found.update(image.image for image in group.images)
            if group.incoming is not None:
                found.update(v.shadow for v in group.incoming.volumes)
        return found

    def history(self) -> dict[int, str]:
        """Hidden volumes that are what others were at the points of a group, and the group."""
        return {id: self.volumes[id].group for ids in self.versions.values() for id in ids}

    def reserved_relations(self) -> int:
        """Places in the table of relations that are promised to primaries."""
        return sum(x.relations for g in self.groups.values() for x in g.reservations)

    def copies_changed_lsn(self, group: Group) -> int:
        """The newest record about a copy of the group's volumes."""
        found = (self.copied_lsn.get(id, 0) for id in group.volumes)
        return max(self.copies_deleted_lsn, max(found, default=0))

    def blocks_changed(self, group: Group) -> int:
        """Blocks written or discarded in a group since its volumes were made."""
        return sum(self.volumes[id].blocks_changed for id in group.volumes)

    # -- the steps of every change

    def changing(self, id: int) -> Volume:
        """A volume whose fields, or whose table, are about to change."""
        self.touched_volumes[id] = None
        return self.volumes[id]

    def note_copy(self, copy: Copy) -> None:
        """A visible copy is new, or something else is said of it."""
        self.touched_copies[copy.name] = None
        lsn = max(copy.lsn, copy.changed_lsn)
        for source, _ in copy.members:
            self.copied_lsn[source] = max(lsn, self.copied_lsn.get(source, 0))

    def note_member(self, volume: Volume) -> None:
        """A member of a copy is new, or has got its final source."""
        if volume.copy:
            self.copied.setdefault(volume.source, {})[volume.id] = None

    def forget_member(self, volume: Volume) -> None:
        members = self.copied.get(volume.source)
        if members is not None:
            members.pop(volume.id, None)
            if not members:
                del self.copied[volume.source]

    def pop_copy(self, name: str) -> Copy:
        """Take a copy out, with its members."""
        self.touched_copies[name] = None
        copy = self.copies.pop(name)
        self.drop_members(copy)
        return copy

    def add(self, volume: Volume, table: Table, *, named: bool = True) -> None:
        assert volume.id not in self.volumes
        self.touched_volumes[volume.id] = None
        self.volumes[volume.id] = volume
        self.note_member(volume)
        self.tables[volume.id] = table
        self.next_id = max(self.next_id, volume.id + 1)
        if named:
            assert volume.name not in self.names, volume.name
            self.names[volume.name] = volume.id

    def drop(self, id: int) -> None:
        self.deletions += 1
        for relation in list(self.related.get(id, ())):
            self.drop_relation(relation)  # the primary deleted a mirrored copy
        self.touched_volumes[id] = None
        volume = self.volumes.pop(id)
        self.forget_member(volume)
        self.changes.drop_volume(id)
        self.copied_lsn.pop(id, None)
        del self.tables[id]
        if self.names.get(volume.name) == id:
            del self.names[volume.name]

    def resize(self, lsn: int, id: int, size: int) -> None:
        volume = self.changing(id)
        if size < volume.size:
            # Whatever lay beyond must not come back when the volume grows again.
            first, end = blocks_of(size), blocks_of(volume.size)
            self.changes.note(id, first, end - first)
            self.forest.unmap(self.tables[id], first, end)
        volume.size = size
        volume.changed_lsn = lsn

    def drop_members(self, copy: Copy) -> None:
        for _, member in copy.members:
            self.drop(member)

    def incoming(self, group: str) -> Incoming:
        """What a group is receiving; there must be something."""
        found = self.groups[group].incoming
        assert found is not None, group
        return found

    def add_relation(self, relation: Relation) -> None:
        self.relations[relation.id] = relation
        for id in (relation.source, relation.target):
            self.related.setdefault(id, {})[relation.id] = None
        self.next_id = max(self.next_id, relation.id + 1)
        if relation.inhibit:
            self.inhibited[relation.target] = self.inhibited.get(relation.target, 0) + 1

    def drop_relation(self, id: int) -> None:
        relation = self.relations.pop(id)
        for volume in {relation.source, relation.target}:
            del self.related[volume][id]
            if not self.related[volume]:
                del self.related[volume]
        if relation.inhibit:
            self.inhibited[relation.target] -= 1
            if not self.inhibited[relation.target]:
                del self.inhibited[relation.target]

    def add_image(self, place: Place, id: int, image: int, changed: list[tuple[int, int]]) -> None:
        """Keep a mirrored volume as it is now, hidden."""
        volume = self.volumes[id]
        kept = Volume(
            id=image, name=volume.name, size=volume.size, kind="image", source=id,
            changed_lsn=place.lsn,
        )  # fmt: skip
        self.add(kept, self.forest.clone(self.tables[id], passing=True), named=False)
        images = self.groups[volume.group].images
        images.append(Image(place.lsn, id, image, volume.size, changed))

    def drop_images(self, group: Group, before_lsn: int) -> None:
        """Let go of the images that no window after this lsn crosses."""
        gone = [x for x in group.images if x.lsn < before_lsn]
        if gone:
            group.images = [x for x in group.images if x.lsn >= before_lsn]
        for image in gone:
            if image.image:
                self.drop(image.image)
