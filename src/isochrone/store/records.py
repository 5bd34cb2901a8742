"""Body records: every change of a pool that is not a write or a discard.

A body is one MessagePack map with its type's name under `t`. Fields may be added with a default;
a type this version does not know is refused at recovery, never skipped.
"""

from __future__ import annotations

from typing import Final

import msgspec

from isochrone.errors import Damaged


class Record(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True, kw_only=True):
    """Base of all bodies."""


class VolumeCreated(Record, frozen=True, tag="volume-created"):
    id: int
    name: str
    size: int  # bytes


class VolumeResized(Record, frozen=True, tag="volume-resized"):
    id: int
    size: int


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


class CopyDeleted(Record, frozen=True, tag="copy-deleted"):
    name: str
    group: str = ""  # at a secondary: hidden until the group is committed


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


class Promoted(Record, frozen=True, tag="promoted"):
    """The group is writable here, at its last committed cut, under a new epoch."""

    group: str
    epoch: int
    stamp: int
    lost: dict[str, int] = {}  # what was known to be missing: writes, bytes, as of (ns)


class PeerFenced(Record, frozen=True, tag="peer-fenced"):
    """The old primary has confirmed that it is read-only."""

    group: str


AnyRecord = (
    VolumeCreated | VolumeResized | VolumeDeleted | CopyTaken | CopyDeleted | GroupCreated
    | GroupDeleted | SessionOpened | SessionClosed | CutPlaced | Fenced | MirrorAdded
    | IncomingBegun | IncomingDropped | IncomingCommitted | Promoted | PeerFenced
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
