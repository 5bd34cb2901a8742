"""What two controllers say to each other. How it looks in bytes is in `wire`.

A field may be added with a default; a message of a type that the other side did not name among its
capabilities must not be sent to it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from isochrone.types import KIB, Buffer

# What a message may hold. The other side is checked against it before anything is made of it.
GROUP_VOLUMES_MAX: Final = 1024  # keeps the record that begins a consistency group below a frame
HOLES_MAX: Final = 4096  # ranges in one message; keeps it below 128 KiB
COMMAND_BYTES_MAX: Final = 256 * KIB  # a copy of as many volumes as possible has a quarter of it
TEXT_CHARS_MAX: Final = 1000  # of an error and its hint; longer ones are cut by the sender

Name = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
Number = Annotated[int, Meta(ge=0, le=1 << 62)]  # +1 and a sum of two still fit 64 bits


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages that are MessagePack."""


class RemoteVolume(msgspec.Struct, frozen=True, array_like=True):
    id: Number
    name: Name
    size: Number


Volumes = Annotated[tuple[RemoteVolume, ...], Meta(max_length=GROUP_VOLUMES_MAX)]
Capabilities = Annotated[tuple[Name, ...], Meta(max_length=64)]
Range = tuple[Number, Number, Number]  # volume id, first block, number of blocks


class Hello(Message, frozen=True):
    pool: Name  # identity of the secondary
    group: Name
    lineage: Name  # empty before the first copy
    epoch: Number
    cut: Number  # newest committed, 0: none
    purpose: Name = "follow"  # or "probe": only ask whether a mirror would be accepted
    site: Name = ""  # what the secondary calls itself
    capabilities: Capabilities = ()


class Welcome(Message, frozen=True):
    pool: Name
    lineage: Name
    epoch: Number
    cut: Number  # newest placed
    resume: bool  # the cut of the secondary can be continued
    volumes: Volumes
    capabilities: Capabilities = ()


class Refuse(Message, frozen=True):
    code: Name  # name of an error class
    message: Text
    hint: Text = ""


class Pull(Message, frozen=True):
    cut: Number  # hardened: the primary may forget what lies before
    credit: Number  # bytes of DATA payload it may send before more credit comes


class Credit(Message, frozen=True):
    bytes: Number


class Begin(Message, frozen=True):
    base: Number
    cut: Number
    volumes: Volumes


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


class Fenced(Message, frozen=True):
    epoch: Number


class Leave(Message, frozen=True):
    """The secondary does not follow the group any more."""


@dataclass(frozen=True, slots=True)
class Data:
    """Blocks of one volume, in any order of the log, ascending in the volume."""

    volume: int
    blocks: array[int]
    sums: array[int]
    payload: Buffer


AnyMessage = (
    Hello | Welcome | Refuse | Pull | Credit | Begin | Data | Holes | Command | Cut | Heartbeat
    | Sync | Fence | Fenced | Leave
)  # fmt: skip

TYPES: Final[dict[int, type[Message]]] = {
    1: Hello, 2: Welcome, 3: Refuse, 4: Pull, 5: Credit, 6: Begin, 8: Holes, 9: Command, 10: Cut,
    11: Heartbeat, 12: Sync, 13: Fence, 14: Fenced, 15: Leave,
}  # fmt: skip
DATA_TYPE: Final = 7
