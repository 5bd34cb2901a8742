"""Body records: every change of a pool that is not a write or a discard.

A body is one MessagePack map with its type's name under `t`. Fields may be added with a default;
a type this version does not know is refused at recovery, never skipped.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from isochrone.errors import Damaged


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


class CopyDeleted(Record, frozen=True, tag="copy-deleted"):
    name: str
    group: str = ""  # at a secondary: hidden until the group is committed


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
    """The same extents again, as of this record."""

    ids: tuple[int, ...]
    stamp: int
    images: Pairs = ()


class RelationsRestored(Record, frozen=True, tag="relations-restored"):
    """The other way round: the sources become what the targets are."""

    ids: tuple[int, ...]
    stamp: int
    images: Pairs = ()


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


class GroupDeleted(Record, frozen=True, tag="group-deleted"):
    """The group is gone; its volumes stay, as ordinary volumes."""

    name: str


class SessionOpened(Record, frozen=True, tag="session-opened"):
    """A secondary (`peer`, its pool identity) follows this group from now on."""

    group: str
    peer: str
    site: str = ""


class SessionSuspended(Record, frozen=True, tag="session-suspended"):
    """The secondary gets nothing until it is resumed. The log is not kept for it any more."""

    group: str
    peer: str
    cause: str  # a sentence for people
    stamp: int


class SessionResumed(Record, frozen=True, tag="session-resumed"):
    """The secondary is served again; what it lacks comes from the changed tracks."""

    group: str
    peer: str


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


class Fenced(Record, frozen=True, tag="fenced"):
    """Another site took the group over with this epoch; here it is read-only from now on."""

    group: str
    epoch: int


class MirrorAdded(Record, frozen=True, tag="mirror-added"):
    """This pool follows a group of another controller; its volumes come with the first copy."""

    group: str
    source: str  # address of the other side's link


class IncomingVolume(msgspec.Struct, frozen=True, array_like=True):
    remote: int  # volume id at the primary
    name: str
    size: int
    local: int  # volume id here
    shadow: int  # id of the hidden volume that collects the group until its commit


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


class IncomingDropped(Record, frozen=True, tag="incoming-dropped"):
    group: str


class IncomingCommitted(Record, frozen=True, tag="incoming-committed"):
    """Shadows become the volumes and hidden copies appear: the group's one atomic step."""

    group: str
    cut: int
    stamp: int  # wall clock at the primary when the cut was placed
    kept: tuple[str, ...] = ()  # deleted at the primary, held here: from now on they are ours


class Promoted(Record, frozen=True, tag="promoted"):
    """The group is writable here, at its last committed cut, under a new epoch."""

    group: str
    epoch: int
    stamp: int
    lost: dict[str, int] = {}  # what was known to be missing: writes, bytes, as of (ns)


class PeerFenced(Record, frozen=True, tag="peer-fenced"):
    """The old primary has confirmed that it is read-only."""

    group: str


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
    ScheduleSet | ScheduleDeleted | VolumeLabelled | CopyHeld | ClockSeen |
    VolumeCreated | VolumeResized | VolumeDeleted | CopyTaken | CopyClassified | CopyDeleted
    | GroupCreated | GroupDeleted | SessionOpened | SessionSuspended | SessionResumed
    | SessionClosed | CutPlaced | Fenced | MirrorAdded
    | IncomingBegun | IncomingDropped | IncomingCommitted | Promoted | PeerFenced
    | RelationsEstablished | RelationsRefreshed | RelationsRestored | RelationsWithdrawn
    | VolumesReverted
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
