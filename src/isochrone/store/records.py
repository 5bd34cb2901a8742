"""Body records: every change of a pool that is not a write or a discard.

A body is one MessagePack map with its type's name under `t`. Fields may be added with a default;
a type this version does not know is refused at recovery, never skipped.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from isochrone.errors import Damaged
from isochrone.store.promises import Told


class Record(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True, kw_only=True):
    """Base of all bodies."""


class VolumeCreated(Record, frozen=True, tag="volume-created"):
    id: int
    name: str
    size: int  # bytes
    labels: dict[str, str] = {}


class VolumeResized(Record, frozen=True, tag="volume-resized"):
    id: int
    size: int


class VolumeLabelled(Record, frozen=True, tag="volume-labelled"):
    """These are its labels from now on, all of them."""

    id: int
    labels: dict[str, str]


class VolumeDeleted(Record, frozen=True, tag="volume-deleted"):
    id: int


class CopyTaken(Record, frozen=True, tag="copy-taken"):
    """One instant over any number of volumes: this record's place in the log.

    `group` is set at a secondary, where the copy stays hidden until the group is committed.
    """

    name: str
    writable: bool
    stamp: int  # wall clock at the origin, ns
    members: tuple[tuple[int, int], ...]  # (source volume id, id of its copy)
    group: str = ""
    schedule: str = ""  # that took it,
    rules: tuple[str, ...] = ()  # for these of its rules
    expendable: bool = False  # given up for space, before production is refused any
    request: str = ""  # that asked for it at several sites


class ReservationMade(Record, frozen=True, tag="reservation-made"):
    """A secondary keeps room for a command that its primary has asked about."""

    group: str
    op: str  # the command's identity
    relations: int
    stamp: int
    seconds: float  # it holds so long at most


class ReservationReleased(Record, frozen=True, tag="reservation-released"):
    """The command has come, or will not, or the time is over."""

    group: str
    op: str


class CopyRequested(Record, frozen=True, tag="copy-requested"):
    """A copy is to exist here and at these secondaries, all as of one instant."""

    group: str
    request: str
    name: str  # empty: named when it is taken
    volumes: tuple[int, ...]
    sites: tuple[str, ...]  # pool identities
    stamp: int
    seconds: float  # after that it is given up where it is not done
    writable: bool = False
    keep_late: bool = False


class RequestMoved(Record, frozen=True, tag="request-moved"):
    """How far a request has come at one secondary."""

    group: str
    request: str
    peer: str
    state: str
    detail: str = ""
    copy: str = ""
    withdraw: bool = False


class RequestsTold(Record, frozen=True, tag="requests-told"):
    """At a secondary: what its primary was asked for; it settles them if it takes over."""

    group: str
    stamp: int  # wall clock here, ns
    requests: tuple[Told, ...]


class CopyDeleted(Record, frozen=True, tag="copy-deleted"):
    name: str
    group: str = ""  # at a secondary: hidden until the group is committed
    stamp: int = 0  # of the copy: another one of that name is not meant; 0: any


class CopyHeld(Record, frozen=True, tag="copy-held"):
    """All that protects a copy from being deleted, from now on."""

    name: str
    until: int  # ns since 1970; 0: no date
    pinned: bool
    reason: str = ""


class ClockSeen(Record, frozen=True, tag="clock-seen"):
    """Holds may count on it that this much time has passed."""

    stamp: int  # ns since 1970


class CopyClassified(Record, frozen=True, tag="copy-classified"):
    """What held still while the copy was taken is known now."""

    name: str
    consistency: Literal["crash", "filesystem", "application"]
    group: str = ""  # at a secondary: it came through this group's mirror


Extents = tuple[tuple[int, int, int], ...]  # (block of the source, block of the target, blocks)
Ranges = tuple[tuple[int, int], ...]  # (block, blocks)
Pairs = tuple[tuple[int, int], ...]  # (volume, another volume)


class NewRelation(msgspec.Struct, frozen=True, array_like=True):
    id: int
    source: int
    target: int
    extents: Extents
    inhibit: bool = False
    group: str = ""  # it is mirrored with this group: secondaries do the same by themselves


class MirroredPart(msgspec.Struct, frozen=True, array_like=True):
    """A relation of a primary, with all that a secondary needs to do the same."""

    id: int  # at the primary
    source: int
    target: int
    extents: Extents = ()  # none when it is withdrawn
    stamp: int = 0
    generation: int = 1
    inhibit: bool = False
    withdrawn: Ranges = ()  # blocks of the target; empty: all
    local: int = 0  # at a secondary: its number there; 0: only the content is there


class RelationsEstablished(Record, frozen=True, tag="relations-established"):
    """Extents of the targets become those of the sources as of this record, all at one instant.

    Each source is read as it was before any target changed. `images` names, in this and the next
    four, the hidden volume that keeps the new content of a mirrored volume for its secondaries.
    """

    relations: tuple[NewRelation, ...]
    stamp: int
    once: bool = False  # only the content: no relation stays on record
    images: Pairs = ()


class RelationsRefreshed(Record, frozen=True, tag="relations-refreshed"):
    """The same extents again, as of this record.

    `mirrored`, in this and the next two: those that secondaries have, as they are from now on.
    """

    ids: tuple[int, ...]
    stamp: int
    images: Pairs = ()
    mirrored: tuple[MirroredPart, ...] = ()


class RelationsRestored(Record, frozen=True, tag="relations-restored"):
    """The other way round: the sources become what the targets are."""

    ids: tuple[int, ...]
    stamp: int
    images: Pairs = ()
    mirrored: tuple[MirroredPart, ...] = ()


class WithdrawnPart(msgspec.Struct, frozen=True, array_like=True):
    id: int
    ranges: Ranges = ()  # blocks of the target; empty: all


class RelationsWithdrawn(Record, frozen=True, tag="relations-withdrawn"):
    """The relations, or parts of them, are no more.

    With `discard` every track of the target that has no block written since becomes unwritten.
    """

    parts: tuple[WithdrawnPart, ...]
    discard: bool = False
    images: Pairs = ()
    mirrored: tuple[MirroredPart, ...] = ()


class RelationsMirrored(Record, frozen=True, tag="relations-mirrored"):
    """What a primary did to relations. At a secondary: hidden until the group is committed.

    On the link the volumes are those of the primary; in the log of the secondary, its shadows.
    """

    act: Literal["establish", "refresh", "restore", "keep", "discard"]
    parts: tuple[MirroredPart, ...]
    group: str = ""
    dropped: tuple[int, ...] = ()  # numbers here: they contradict what the primary has


class RelationsListed(Record, frozen=True, tag="relations-listed"):
    """What an inventory of the primary changes at a secondary, when the group is committed."""

    group: str
    parts: tuple[MirroredPart, ...] = ()  # not here until now; they name volumes, not shadows
    renamed: Pairs = ()  # (number here, number at the primary)
    dropped: tuple[int, ...] = ()  # numbers here
    forgotten: tuple[int, ...] = ()  # numbers at the primary, of which only the content is here
    inexact: bool = False  # the content came as an image: when it was written is not known here


class SessionHolds(Record, frozen=True, tag="session-holds"):
    """What a secondary has said of the mirrored relations, after an inventory."""

    group: str
    peer: str
    unheld: tuple[int, ...] = ()  # it has the content, nothing is on record
    inexact: tuple[int, ...] = ()  # on record; when their targets were written is not known there


class VolumesReverted(Record, frozen=True, tag="volumes-reverted"):
    """Volumes become what they were in a copy, size included; before that, they are copied."""

    members: Pairs  # (volume, member of the copy that it becomes)
    undo: str  # name of the copy of what they were
    undo_members: Pairs  # (volume, id of its copy)
    stamp: int
    images: Pairs = ()


class GroupCreated(Record, frozen=True, tag="group-created"):
    name: str
    lineage: str
    volumes: tuple[int, ...]


class GroupChanged(Record, frozen=True, tag="group-changed"):
    """A group that is written here has other volumes from here on; the next cut says so."""

    group: str
    joined: tuple[int, ...] = ()
    left: tuple[int, ...] = ()  # they stay, as plain volumes,
    deleted: tuple[int, ...] = ()  # but for these of them


class GroupDeleted(Record, frozen=True, tag="group-deleted"):
    """The group is gone; its volumes stay, as ordinary volumes."""

    name: str


class SessionOpened(Record, frozen=True, tag="session-opened"):
    """A secondary (`peer`, its pool identity) follows this group from now on.

    Once more when it comes back from another site: what it told of relations holds no more.
    """

    group: str
    peer: str
    site: str = ""


class SessionSuspended(Record, frozen=True, tag="session-suspended"):
    """The secondary gets nothing until it is resumed. The log is not kept for it any more."""

    group: str
    peer: str
    cause: str  # a sentence for people
    stamp: int
    kind: str = ""  # command, link, limit, error, refused, fenced


class SessionResumed(Record, frozen=True, tag="session-resumed"):
    """The secondary is served again; what it lacks comes from the changed tracks."""

    group: str
    peer: str


class SessionSet(Record, frozen=True, tag="session-set"):
    """What the side file of this secondary may use, and what is done when it uses more."""

    group: str
    peer: str
    policy: str  # suspend, fall-behind, pace
    limit_bytes: int  # 0: none
    limit_seconds: float  # 0: none
    resync: str  # auto, manual


class SessionFellBehind(Record, frozen=True, tag="session-fell-behind"):
    """The log is not kept for the secondary any more; it is served from the changed tracks."""

    group: str
    peer: str


class GroupTuned(Record, frozen=True, tag="group-tuned"):
    """So many seconds lie between the cuts of the group from now on."""

    name: str
    interval: float  # 0: as the controller has it


class SessionClosed(Record, frozen=True, tag="session-closed"):
    """The secondary does not follow this group any more; nothing is kept for it."""

    group: str
    peer: str


class CutPlaced(Record, frozen=True, tag="cut-placed"):
    """Marker in the log of a primary. `acked` holds the newest cut each secondary has hardened."""

    group: str
    cut: int
    stamp: int
    acked: dict[str, int] = {}
    whole: str = ""  # the secondary that gets this cut by images of volumes, not by the log
    begun: tuple[int, ...] = ()  # cuts whose marks it needs if that breaks off


class Fenced(Record, frozen=True, tag="fenced"):
    """Another site took the group over with this epoch; here it is read-only from now on."""

    group: str
    epoch: int
    cut: int = 0  # at which the other site took over; 0: it did not say
    source: str = ""  # address of its link, if it said
    stamp: int = 0


class MirrorAdded(Record, frozen=True, tag="mirror-added"):
    """This pool follows a group of another controller; its volumes come with the first copy."""

    group: str
    source: str  # address of the other side's link
    seeds: dict[str, int] = {}  # name of a volume there -> volume here that the copy starts from


class IncomingVolume(msgspec.Struct, frozen=True, array_like=True):
    remote: int  # volume id at the primary
    name: str
    size: int
    local: int  # volume id here
    shadow: int  # id of the hidden volume that collects the group until its commit
    seed: int = 0  # volume whose content it starts with; 0: as `IncomingBegun.base` says


class Position(msgspec.Struct, frozen=True, array_like=True):
    """How far a group that is sent from images has come; see `mirror.resend`."""

    floor: int = 0
    begun: int = 0
    step: int = 0
    volume: int = 0  # id at the primary
    block: int = 0


class IncomingBegun(Record, frozen=True, tag="incoming-begun"):
    """Data of the next consistency group follows, into shadows. Drops an uncommitted one.

    `base` 0 means a first copy: the shadows start empty; otherwise as clones of the volumes at cut
    `base`.
    """

    group: str
    lineage: str
    epoch: int
    base: int
    volumes: tuple[IncomingVolume, ...]
    pool: str = ""  # identity of the primary, if it can go on after the end of the connection


class IncomingProgress(Record, frozen=True, tag="incoming-progress"):
    """The group that is being received has come so far; another connection can go on from here."""

    group: str
    position: Position


class IncomingDropped(Record, frozen=True, tag="incoming-dropped"):
    group: str


class IncomingCommitted(Record, frozen=True, tag="incoming-committed"):
    """Shadows become the volumes and hidden copies appear: the group's one atomic step."""

    group: str
    cut: int
    stamp: int  # wall clock at the primary when the cut was placed
    kept: tuple[str, ...] = ()  # deleted at the primary, held here: from now on they are ours
    kept_at: int = 0  # by the window clock: the cut can be opened later; 0: it cannot


class WindowSet(Record, frozen=True, tag="window-set"):
    """So far back the replica of a group can be opened from now on."""

    group: str
    keep_s: int  # 0: nothing is kept, and what was kept goes
    dense_s: int
    bytes_max: int = 0


class PointsDropped(Record, frozen=True, tag="points-dropped"):
    """A group cannot be opened any more as of these records, each of which applied a cut."""

    group: str
    lsns: tuple[int, ...]


class PointOpened(Record, frozen=True, tag="point-opened"):
    """A copy of a group as of an earlier cut. It belongs to this site."""

    name: str
    writable: bool
    stamp: int  # when the primary placed the cut
    cut: int
    members: tuple[tuple[int, int, int], ...]  # (volume, what it was then, id of the copy)
    expendable: bool = False


class ProbeBegun(Record, frozen=True, tag="probe-begun"):
    """A check is about to be tried on a copy of a group as of one of its points."""

    group: str
    copy: str  # its name; the record that makes it follows
    cut: int
    stamp: int  # when the primary placed the cut
    check: str
    began: int  # ns since 1970
    seconds: float  # it may take so long


class ProbeEnded(Record, frozen=True, tag="probe-ended"):
    """What came of the one that is running; its copy is gone."""

    group: str
    ended: int  # ns since 1970
    result: Literal["good", "bad", "expired"]
    said: str = ""


class Promoted(Record, frozen=True, tag="promoted"):
    """The group is writable here, at its last committed cut, under a new epoch."""

    group: str
    epoch: int
    stamp: int
    lost: dict[str, int] = {}  # what was known to be missing: writes, bytes, as of (ns)
    pool: str = ""  # identity of this pool: with the epoch it names the new branch of the history


class Takeover(msgspec.Struct, frozen=True, array_like=True):
    """An epoch of a history, and where it left the one before."""

    epoch: int
    cut: int  # the last that it shares with the epoch before
    pool: str  # identity of the pool that took over


Takeovers = tuple[Takeover, ...]  # ascending


class HandoverBegun(Record, frozen=True, tag="handover-begun"):
    """A planned switch: hosts may not write the group here until it is cancelled or handed over."""

    group: str
    peer: str  # pool identity of the secondary that is to take over
    stamp: int


class HandoverCancelled(Record, frozen=True, tag="handover-cancelled"):
    """The group is writable here again; nobody has taken over."""

    group: str


class Rejoined(Record, frozen=True, tag="rejoined"):
    """This pool follows another primary of a history that it has a part of.

    What it changed after its own cut `diverged` is not in that history: it goes with the next
    group that is committed here.
    """

    group: str
    source: str  # address of the primary's link
    epoch: int  # of the primary
    cut: int  # the newest here that is in its history too; 0: none, everything is copied
    volumes: Pairs  # (id at the primary, id here)
    takeovers: Takeovers = ()
    diverged: int = 0  # own mark since which the changed tracks are told; 0: nothing differs


class CutRelayed(Record, frozen=True, tag="cut-relayed"):
    """A secondary is about to send the cut it is at on to a site that follows it."""

    group: str
    peer: str  # pool identity of that site
    acked: int  # newest cut that it has hardened
    cut: int
    begun: tuple[int, ...] = ()  # cuts whose marks it needs if the images break off


class HistoryLearned(Record, frozen=True, tag="history-learned"):
    """What is followed has told where the epochs begin, and over which pools it comes."""

    group: str
    takeovers: Takeovers
    way: tuple[str, ...] = ()  # pools from the primary on to the one that is followed


class PeerFenced(Record, frozen=True, tag="peer-fenced"):
    """The old primary has confirmed that it is read-only."""

    group: str
    source: str = ""  # address of an earlier one that was still to be told; empty: the last one


class ScheduleSet(Record, frozen=True, tag="schedule-set"):
    """A schedule is made or changed; what it took and when stays known."""

    name: str
    rules: str  # as `schedule.parse_rules` reads them
    volumes: tuple[int, ...] = ()
    group: str = ""
    labels: dict[str, str] = {}


class ScheduleDeleted(Record, frozen=True, tag="schedule-deleted"):
    """It takes nothing more; its copies stay."""

    name: str


AnyRecord = (
    ReservationMade | ReservationReleased | CopyRequested | RequestMoved |
    RequestsTold |
    ScheduleSet | ScheduleDeleted | VolumeLabelled | CopyHeld | ClockSeen |
    VolumeCreated | VolumeResized | VolumeDeleted | CopyTaken | CopyClassified | CopyDeleted
    | GroupCreated | GroupChanged | GroupDeleted | SessionOpened | SessionSuspended | SessionResumed
    | SessionSet | SessionFellBehind | GroupTuned | SessionClosed | CutPlaced | Fenced | MirrorAdded
    | IncomingBegun | IncomingProgress | IncomingDropped | IncomingCommitted | Promoted | PeerFenced
    | RelationsEstablished | RelationsRefreshed | RelationsRestored | RelationsWithdrawn
    | CutRelayed | HandoverBegun | HandoverCancelled | Rejoined | HistoryLearned
    | RelationsMirrored | RelationsListed | SessionHolds | VolumesReverted
    | WindowSet | PointsDropped | PointOpened | ProbeBegun | ProbeEnded
)  # fmt: skip

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(AnyRecord)


def encode(record: AnyRecord) -> bytes:
    return _ENCODER.encode(record)


def decode(body: bytes) -> AnyRecord:
    """Raises `Damaged` for a record this version does not know."""
    try:
        record: AnyRecord = _DECODER.decode(body)
        return record
    except msgspec.MsgspecError as e:
        raise Damaged(
            f"a record of the log cannot be understood: {e}",
            hint="it was written by a newer version: start that one",
        ) from e
