"""The nouns every room shares: units, buffers, and what the front door needs of a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

BLOCK: Final = 4096  # bytes; the unit of mapping and of checksums
TRACK: Final = 65536  # bytes; the unit of relations and reporting
KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

VOLUME_BYTES_MIN: Final = 1 * MIB
VOLUME_BYTES_MAX: Final = 64 * TIB

Buffer = bytes | bytearray | memoryview
Synced = Callable[[BaseException | None], None]  # told when something is durable, or why it is not
Extent = tuple[int, bool]  # bytes, and whether they are what was asked for


@dataclass(frozen=True, slots=True)
class Lineage:
    """The identity of a history: which line of writes, and how often it was taken over."""

    id: str  # 32 hex digits
    epoch: int  # 1 at birth, +1 at every failover

    def supersedes(self, other: Lineage) -> bool:
        """True if this is the same history, taken over after `other`."""
        return self.id == other.id and self.epoch > other.epoch


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """One line of an export listing."""

    name: str
    size: int  # bytes
    read_only: bool
    description: str


class Proof(StrEnum):
    """How it is known who a client is."""

    CERTIFICATE = "certificate"  # TLS: it holds the key of a certificate that we verified
    USER = "user"  # a Unix socket: the kernel says whose process it is
    ADDRESS = "address"  # a network address, which proves nothing


@dataclass(frozen=True, slots=True, order=True)
class Caller:
    """Who is at the other end of one connection of the front door."""

    kind: Proof
    host: str  # identity: the same for all connections of one client; compare it with `kind`
    address: str  # of this connection

    def __str__(self) -> str:
        return self.host if self.kind is Proof.CERTIFICATE else self.address


class Device(Protocol):
    """A block device as the front door sees it: bytes in, bytes out, no protocol.

    Calls are synchronous: they reach the page cache, never the platter. `write` and `discard` only
    *stage* a change; the backend's `commit` appends everything staged in this turn of the loop at
    once. `data` must stay unchanged until then. Ranges are checked by the device: it raises
    `OutOfRange` past the end and `ReadOnly` for a change of a read-only device.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...  # bytes
    @property
    def read_only(self) -> bool: ...
    @property
    def description(self) -> str: ...

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        """The bytes of a range, in one or more pieces; unwritten blocks are zeros."""
        ...

    def write(self, offset: int, data: memoryview) -> None:
        """Stage a write of any alignment."""
        ...

    def discard(self, offset: int, length: int) -> None:
        """Stage that a range reads as zeros from now on (TRIM and WRITE_ZEROES alike)."""
        ...

    # What is known about a range, as of the last commit. An answer begins at `offset`, its
    # neighbours differ, and it has 1 to `limit` extents. It may end before the range does, so that
    # no call takes long: the caller asks again for the rest.

    def mapped(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        """Where there is data; everywhere else are zeros that take no space."""
        ...

    def copies(self) -> Mapping[str, int]:
        """Copies that `changed` can compare with: name -> id."""
        ...

    def changed(self, copy: int, offset: int, length: int, limit: int) -> Sequence[Extent]:
        """Where the content may be another than in this copy. Raises `NotFound` if it is gone."""
        ...


class Backend(Protocol):
    """All devices behind one front door, and what belongs to them together."""

    def exports(self) -> Sequence[ExportInfo]: ...

    def look(self, name: str) -> Device:
        """What `attach` would open. Nobody is attached by it, so nobody has to let go."""
        ...

    def attach(self, name: str, client: Caller) -> Device:
        """Open an export for a client; the empty name means the default one. Raises `NotFound`."""
        ...

    def detach(self, device: Device, client: Caller, *, lost: bool = False) -> None:
        """A client has let go of an export, or was cut off (`lost`) and may come back."""
        ...

    def commit(self) -> None:
        """Append everything staged since the last call as one batch, and make it visible.

        If it raises, no change staged since then may be reported as done.
        """
        ...

    def when_durable(self, done: Synced, *, alone: bool = False) -> None:
        """Call `done` when everything committed before this call survives a power cut, or with the
        error if it cannot. `alone`: nobody needs the loop meanwhile. It may be called at once."""
        ...
