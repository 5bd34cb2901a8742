"""What two controllers say to each other. How it looks in bytes is in `wire`.

A field may be added with a default; a message of a type that the other side did not name among its
capabilities must not be sent to it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from isochrone.store.apply_roles import TAKEOVERS_KEPT
from isochrone.store.catalogue import MARKS_MAX
from isochrone.store.overlaps import EXTENTS_MAX
from isochrone.types import BLOCK, KIB, Buffer

# What a message may hold. The other side is checked against it before anything is made of it.
GROUP_VOLUMES_MAX: Final = 1024  # keeps the record that begins a consistency group below a frame
HOLES_MAX: Final = 4096  # ranges in one message; keeps it below 128 KiB
COMMAND_BYTES_MAX: Final = 256 * KIB  # a copy of as many volumes as possible has a quarter of it
DIGESTS_MAX: Final = 32768  # tracks compared at once: 2 GiB of a volume in 256 KiB
CASCADE_SITES_MAX: Final = 8  # from the primary on; each adds its own delay
HOSTS_NAMED_MAX: Final = 16  # that are in the way of a switch; the rest is a number
TRACKS_BYTES_MAX: Final = 256 * KIB  # of one message; a bitmap of 1 TiB of tracks is 2 MiB at most
REQUEST_S_MAX: Final = 7 * 86400.0  # for the sites of a copy; side files seldom reach further
RESERVATION_SECONDS_MAX: Final = 600.0  # longer than any lag that a mirror called DUPLEX has
LISTED_MAX: Final = 512  # relations, or copies, in one INVENTORY: their names take 512 KiB at most
RELATIONS_TOLD_MAX: Final = 4096  # as many as a pool has
TEXT_CHARS_MAX: Final = 1000  # of an error and its hint; longer ones are cut by the sender
VERIFY_TRACKS_MAX: Final = 4096  # in one question: 256 MiB of a volume, milliseconds of work
VERIFY_SUMS_MAX: Final = 256  # tracks whose blocks are told one by one: 32 KiB of checksums
DAMAGED_TOLD_MAX: Final = 4096  # blocks in one answer; more are found when these are healed
FETCH_BLOCKS_MAX: Final = 64  # 256 KiB: an answer must not hold up a cut

REQUESTS_TOLD_MAX: Final = 48  # those that are open, and the newest others; 12 KiB as a rule
REQUEST_SITES_TOLD_MAX: Final = 16  # of one request: with names as long as can be 5 KiB
CERTIFICATE_BYTES_MAX: Final = 4096  # a site's own has some 500

Name = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
Number = Annotated[int, Meta(ge=0, le=1 << 62)]  # +1 and a sum of two still fit 64 bits


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages that are MessagePack."""


class RemoteVolume(msgspec.Struct, frozen=True, array_like=True):
    id: Number
    name: Name
    size: Number


class Branching(msgspec.Struct, frozen=True, array_like=True):
    """An epoch of a history, and where it left the one before."""

    epoch: Number
    cut: Number
    pool: Name


Branchings = Annotated[tuple[Branching, ...], Meta(max_length=TAKEOVERS_KEPT)]
Cuts = Annotated[tuple[Number, ...], Meta(max_length=MARKS_MAX)]
Way = Annotated[tuple[Name, ...], Meta(max_length=CASCADE_SITES_MAX)]
Certificate = Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]
Secret = Annotated[bytes, Meta(max_length=64)]
Volumes = Annotated[tuple[RemoteVolume, ...], Meta(max_length=GROUP_VOLUMES_MAX)]
VolumeIds = Annotated[tuple[Number, ...], Meta(max_length=GROUP_VOLUMES_MAX)]
Capabilities = Annotated[tuple[Name, ...], Meta(max_length=64)]
Range = tuple[Number, Number, Number]  # volume id, first block, number of blocks


class Partial(Message, frozen=True):
    """A group that the secondary has a part of: it may go on from there. See `resend`."""

    pool: Name  # identity of the primary that sent it
    lineage: Name
    epoch: Number
    base: Number
    floor: Number
    begun: Number
    step: Number
    volume: Number
    block: Number
    volumes: VolumeIds = ()  # of the primary, in the order of BEGIN; none: an older secondary


class Hello(Message, frozen=True):
    pool: Name  # identity of the secondary
    group: Name
    lineage: Name  # empty before the first copy
    epoch: Number
    cut: Number  # newest committed, 0: none
    purpose: Name = "follow"  # or probe: only ask whether a mirror would be accepted; verify; leave
    site: Name = ""  # what the secondary calls itself
    capabilities: Capabilities = ()
    partial: Partial | None = None
    branch: Name = ""  # pool that began the epoch


class Welcome(Message, frozen=True):
    pool: Name
    lineage: Name
    epoch: Number
    cut: Number  # newest placed
    resume: bool  # the cut of the secondary can be continued
    volumes: Volumes
    capabilities: Capabilities = ()
    takeovers: Branchings = ()
    way: Way = ()  # pools from the primary on to this one, which may be a secondary
    cuts: Cuts = ()  # since which it knows what has changed, ascending


class Refuse(Message, frozen=True):
    code: Name  # name of an error class
    message: Text
    hint: Text = ""


class Pull(Message, frozen=True):
    cut: Number  # hardened: the primary may forget what lies before
    credit: Number  # bytes of DATA payload it may send before more credit comes
    seeded: bool = False  # a first copy would not start from nothing: compare before sending


class Credit(Message, frozen=True):
    bytes: Number


class Begin(Message, frozen=True):
    base: Number
    cut: Number
    volumes: Volumes
    images: bool = False  # from images of volumes and not from the log: it may be gone on with
    resumed: bool = False  # it goes on with the part that HELLO offered
    todo: Number = 0  # blocks that will come, at most


class Reached(Message, frozen=True):
    """Everything before this position of a group that is sent from images has been sent."""

    floor: Number
    begun: Number
    step: Number
    volume: Number
    block: Number
    left: Number  # blocks that are still to come, at most


class Compare(Message, frozen=True):
    """What has the group in these tracks by now? Answered by DIGESTS; one at a time."""

    volume: Number
    track: Number
    count: Annotated[int, Meta(ge=1, le=DIGESTS_MAX)]


class Digests(Message, frozen=True):
    """One xxh3-64 a track, of the checksums of its blocks; see `digests`."""

    volume: Number
    track: Number
    digests: Annotated[bytes, Meta(max_length=8 * DIGESTS_MAX)]  # none: no data in any of them


class Query(Message, frozen=True):
    """Primary: could you carry out a command on these volumes? Answered by ANSWER."""

    op: Name  # identity of the command; asked again, the answer is the same
    volumes: Volumes  # that it reads or changes, as they are at the primary
    targets: Annotated[tuple[Number, ...], Meta(max_length=GROUP_VOLUMES_MAX)]
    relations: Number  # that it would leave on record
    seconds: Annotated[float, Meta(ge=0, le=RESERVATION_SECONDS_MAX)]  # to keep room for it
    dry: bool = False  # only asked: keep no room


class Answer(Message, frozen=True):
    op: Name
    reason: Name  # a `query.Reason`; "yes": room is kept, or would be
    detail: Text = ""


class Release(Message, frozen=True):
    """Primary: the command has come, or never will."""

    op: Name


class CopyQuestion(Message, frozen=True):
    """Primary: you are behind the place of a copy: do you have it? Answered by COPYANSWER."""

    request: Name
    name: Name  # of the copy at the primary
    stamp: Number
    withdraw: bool = False  # it came too late: delete it


class CopyAnswer(Message, frozen=True):
    request: Name
    outcome: Literal["here", "absent", "withdrawn", "kept"]  # kept: it is held, or in use
    name: Name = ""  # of the copy there
    detail: Text = ""


class ToldSite(msgspec.Struct, frozen=True, array_like=True):
    peer: Name
    state: Name  # a `matched.At`
    withdraw: bool = False  # what comes late must go again


class ToldRequest(msgspec.Struct, frozen=True, array_like=True):
    """A copy that is to be at several sites, of which the primary has its own."""

    id: Name
    name: Name  # of the copy at the primary
    stamp: Number
    left: Annotated[float, Meta(ge=0, le=REQUEST_S_MAX)]  # seconds until it is given up
    keep_late: bool
    sites: Annotated[tuple[ToldSite, ...], Meta(max_length=REQUEST_SITES_TOLD_MAX)]


class Requests(Message, frozen=True):
    """Primary: all that I was asked for lately. Should you take over, you settle it."""

    token: Number
    requests: Annotated[tuple[ToldRequest, ...], Meta(max_length=REQUESTS_TOLD_MAX)] = ()


class Noted(Message, frozen=True):
    """Secondary: the list of that token is on record here, durably."""

    token: Number


class Holes(Message, frozen=True):
    ranges: Annotated[tuple[Range, ...], Meta(max_length=HOLES_MAX)]


class Command(Message, frozen=True):
    """A record of the primary's log, as it lies there."""

    body: Annotated[bytes, Meta(max_length=COMMAND_BYTES_MAX)]


class Cut(Message, frozen=True):
    cut: Number
    stamp: Number
    blocks: Number  # how many came in DATA since BEGIN
    token: Number  # newest SYNC seen before the cut was placed


class ListedRelation(msgspec.Struct, frozen=True, array_like=True):
    """A relation of the primary, as it is at the cut that ends the group."""

    id: Number
    source: Number
    target: Number
    extents: Annotated[tuple[Range, ...], Meta(max_length=EXTENTS_MAX)]
    stamp: Number
    generation: Number
    inhibit: bool = False


class Inventory(Message, frozen=True):
    """Before CUT, in one or more parts: all relations and copies of the group's volumes.

    `whole`: the group was sent as images, so nothing is known of when its blocks were written.
    """

    relations: Annotated[tuple[ListedRelation, ...], Meta(max_length=LISTED_MAX)] = ()
    copies: Annotated[tuple[Name, ...], Meta(max_length=LISTED_MAX)] = ()
    whole: bool = False
    last: bool = True


Told = Annotated[tuple[Number, ...], Meta(max_length=RELATIONS_TOLD_MAX)]


class Holdings(Message, frozen=True):
    """Before PULL, after an inventory and when it has changed: what is made of relations there."""

    unheld: Told = ()  # numbers at the primary: the content is there, nothing is on record
    inexact: Told = ()  # on record; when their targets were written is not known


class Heartbeat(Message, frozen=True):
    stamp: Number
    clean: Number = 0  # primary: nothing changed since this cut, up to `stamp`; 0: something did
    # primary: changed since the cut the secondary has; -1: unknown
    behind_bytes: Annotated[int, Meta(ge=-1, le=1 << 62)] = 0
    token: Number = 0  # primary: newest SYNC seen


class Sync(Message, frozen=True):
    """Do not wait for the interval: place a cut if anything has changed."""

    token: Number


class Fence(Message, frozen=True):
    group: Name
    lineage: Name
    epoch: Number
    cut: Number = 0  # at which that epoch began; 0: it is not said
    source: Name = ""  # address at which the new primary can be followed


class Fenced(Message, frozen=True):
    epoch: Number


class Leave(Message, frozen=True):
    """The secondary does not follow the group any more."""


class Switch(Message, frozen=True):
    """A step of a planned switch, instead of HELLO. Each may be said again."""

    pool: Name  # identity of the secondary that is to take over
    group: Name
    lineage: Name
    epoch: Number
    act: Literal["look", "hold", "yield", "cancel"]
    cut: Number = 0  # yield: the newest that is hardened
    force: bool = False  # hold: even under hosts that have it open
    source: Name = ""  # yield: address at which it can be followed,
    volumes: Volumes = ()  # and its volumes


class Switched(Message, frozen=True):
    """How the group stands at the old primary after a step."""

    role: Name  # name of a `roles.Role`
    epoch: Number
    cut: Number
    heir: Name = ""  # pool that is to take over, or did
    clean: bool = False  # nothing has changed since the cut that SWITCH named
    hosts: Annotated[tuple[Text, ...], Meta(max_length=HOSTS_NAMED_MAX)] = ()  # that have it open


class Diverged(Message, frozen=True):
    """Tracks of the secondary that differ from the cut it has in common; before its first PULL."""

    volume: Number  # id at the primary
    tracks: Annotated[bytes, Meta(max_length=TRACKS_BYTES_MAX)]  # a roaring bitmap


class Relayed(Message, frozen=True):
    """From a secondary that is followed: what it knows of the primary, by the primary's clock."""

    stamp: Number  # now, as far as is known here
    cut: Number  # newest here
    point: Number  # instant up to which everything is here
    behind_bytes: Annotated[int, Meta(ge=-1, le=1 << 62)] = -1
    token: Number = 0  # newest SYNC that the cut covers


class Verify(Message, frozen=True):
    """Secondary: what have you in these tracks as of a cut? Answered by VERIFIED; one at a time."""

    cut: Number
    volume: Number
    track: Number
    count: Annotated[int, Meta(ge=1, le=VERIFY_TRACKS_MAX)]
    whole: Annotated[bytes, Meta(min_length=8, max_length=8)]  # xxh3-64 of the digests here
    sums: bool = False  # the checksum of each block, of at most `VERIFY_SUMS_MAX` tracks
    read: bool = False  # read the data, too
    freeze: bool = False  # keep the next cut that is made for the asker, to be asked about


class Verified(Message, frozen=True):
    volume: Number
    track: Number
    size: Number  # of the volume, in bytes
    known: bool = True  # what changed since the cut is known
    same: bool = False  # the digests are what `whole` says
    digests: Annotated[bytes, Meta(max_length=8 * VERIFY_TRACKS_MAX)] = b""  # none: no data
    unstable: Annotated[bytes, Meta(max_length=VERIFY_TRACKS_MAX // 8)] = b""  # a bit a track
    damaged: Annotated[tuple[Number, ...], Meta(max_length=DAMAGED_TOLD_MAX)] = ()  # blocks


class Fetch(Message, frozen=True):
    """Either side: a block of mine is damaged; do you have it? Answered by FETCHED."""

    request: Number
    volume: Number  # id at the primary
    blocks: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=FETCH_BLOCKS_MAX)]
    sums: Annotated[bytes, Meta(max_length=8 * FETCH_BLOCKS_MAX)]  # what each must have


class Fetched(Message, frozen=True):
    request: Number
    found: Annotated[tuple[Number, ...], Meta(max_length=FETCH_BLOCKS_MAX)] = ()  # of the blocks
    data: Annotated[bytes, Meta(max_length=BLOCK * FETCH_BLOCKS_MAX)] = b""


class Join(Message, frozen=True):
    """Who wants to be enrolled; over TLS, before anything is proved. See `enrolment`."""

    invitation: Name
    site: Name
    id: Name
    pool: Name
    address: Name  # of its link; empty: it only ever calls
    certificate: Certificate  # DER


class Challenge(Message, frozen=True):
    nonce: Secret


class Proof(Message, frozen=True):
    mac: Secret  # of the token's secret
    signature: Annotated[bytes, Meta(max_length=256)]  # with the key of the certificate


class Joined(Message, frozen=True):
    site: Name
    id: Name
    pool: Name
    mac: Secret


class Renew(Message, frozen=True):
    """A site that both know has a new key; answered by the same, once it is written down."""

    certificate: Certificate  # DER, the new one
    signature: Annotated[bytes, Meta(max_length=256)]  # with its key; see `renewal`


@dataclass(frozen=True, slots=True)
class Data:
    """Blocks of one volume, in any order of the log, ascending in the volume."""

    volume: int
    blocks: array[int]
    sums: array[int]
    payload: Buffer
    packed: Buffer | None = None  # `payload` as one LZ4 block; empty: not worth it; not on the link


AnyMessage = (
    Hello | Welcome | Refuse | Pull | Credit | Begin | Data | Holes | Command | Cut | Heartbeat
    | Sync | Fence | Fenced | Leave | Join | Challenge | Proof | Joined
    | Reached | Compare | Digests
    | Switch | Switched | Diverged | Relayed
    | Verify | Verified | Fetch | Fetched
    | Query | Answer | Release | CopyQuestion | CopyAnswer | Inventory | Holdings
    | Requests | Noted | Renew
)  # fmt: skip

TYPES: Final[dict[int, type[Message]]] = {
    1: Hello, 2: Welcome, 3: Refuse, 4: Pull, 5: Credit, 6: Begin, 8: Holes, 9: Command, 10: Cut,
    11: Heartbeat, 12: Sync, 13: Fence, 14: Fenced, 15: Leave,
    16: Reached, 17: Compare, 18: Digests,
    20: Inventory, 21: Holdings,
    25: Query, 26: Answer, 27: Release, 28: CopyQuestion, 29: CopyAnswer,
    35: Verify, 36: Verified, 37: Fetch, 38: Fetched,
    45: Requests, 46: Noted, 47: Renew,
    40: Join, 41: Challenge, 42: Proof, 43: Joined,
    30: Switch, 31: Switched, 32: Diverged, 33: Relayed,
}  # fmt: skip
DATA_TYPE: Final = 7
