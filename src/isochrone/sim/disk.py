"""A pretended disk that forgets and tears what was not synced.

A `Platter` is what survives a crash; a `SimDisk` is one process's hold on it, dead after a crash.
`power_cut.py` says what the loss of power does to the bytes of a file. The same for names: without
`sync_names` a new file may vanish with all it holds, and a removed one may come back. The changes
of one name keep their order, as a journal of names does.

The metadata store is an SQLite database in memory. What it committed is durable; SQLite's own
safety is not what is tested here.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import apsw

from isochrone.errors import Conflict
from isochrone.sim.power_cut import Fate, Inode, lottery
from isochrone.types import TIB, Buffer

FREE_BYTES: Final = 1 * TIB  # of a disk without a limit
ASTRAY_BYTES: Final = 4096  # a misdirected write lands at a multiple of this

_stores = itertools.count()  # names of in-memory databases; one process has many platters


@dataclass(frozen=True, slots=True)
class Renaming:
    """A name that was bound or unbound since the last `sync_names`."""

    serial: int
    name: str
    before: Inode | None
    after: Inode | None


@dataclass(slots=True)
class DiskFaults:
    """Chances per call; all off by default. Set them while the simulation runs."""

    write_error: float = 0.0  # EIO, nothing written
    write_short: float = 0.0  # a part is written, then EIO
    write_lost: float = 0.0  # reported as done, never written
    write_astray: float = 0.0  # written, but elsewhere in the file
    read_error: float = 0.0  # EIO
    read_flip: float = 0.0  # one bit of what is read is wrong; the disk is right
    sync_error: float = 0.0  # EIO; what was not synced will never be durable
    fail_at: int = 0  # the n-th call from now fails with EIO, counting all kinds
    fail_for_ever: bool = False  # and so does every call after it

    def due(self) -> bool:
        """Count one call; whether it is to fail."""
        if self.fail_at == 0:
            return False
        self.fail_at -= 1
        if self.fail_at == 0 and self.fail_for_ever:
            self.fail_at = 1
            return True
        return self.fail_at == 0


class MemoryStore(apsw.Connection):
    """A connection to the metadata database of one platter."""

    def __init__(self, name: str) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        super().__init__(f"file:/platter-{name}?vfs=memdb", flags=flags)


class Platter:
    """The medium: what is left when the process, or the power, is gone."""

    def __init__(self, random: Random, *, capacity: int | None = None) -> None:
        self.capacity = capacity  # bytes of all files; the metadata store does not count
        self.faults = DiskFaults()
        self.watch: Callable[[str, str], None] | None = None  # called before each (call, file)
        self.calls = 0  # so far; a crash point is a number of these
        self.holder: SimDisk | None = None
        self.random = random
        self.names: dict[str, Inode] = {}
        self._renamings: list[Renaming] = []
        self._moved: list[tuple[str, str, Inode]] = []  # old name, new name
        self._serial = 0
        self._store_name = str(next(_stores))
        self._store: MemoryStore | None = None  # keeps the database in memory
        self._connections: list[MemoryStore] = []
        self.backup_name = f"{self._store_name}-backup"
        self.backup: MemoryStore | None = None  # keeps the copy of the metadata store in memory

    # -- crashes

    def kill(self) -> None:
        """The process is gone: what it wrote stays, what it holds is dead."""
        self.holder = None
        for connection in self._connections:
            connection.close(True)  # rolls an open transaction back
        self._connections.clear()

    def power_cut(self, random: Random | None = None) -> str:
        """The power is gone. What happened to changes that were not synced, for the log."""
        self.kill()
        random = random or self.random
        files = list(self.names.values())
        files += [r.before for r in self._renamings if r.before is not None]
        files += [r.after for r in self._renamings if r.after is not None]
        files = list({id(inode): inode for inode in files}.values())
        serials = [c.serial for inode in files for c in inode.changes]
        serials += [r.serial for r in self._renamings]
        mode, fates = lottery(sorted(serials), random)
        self._cut_names(mode, fates, random)
        for inode in files:
            inode.power_cut(fates, random)
        return f"{mode} of {len(serials)} unsynced changes"

    def _cut_names(self, mode: str, fates: Callable[[int], Fate], random: Random) -> None:
        for renaming in reversed(self._renamings):
            self._bind(renaming.name, renaming.before)
        reached = {}  # name -> newest serial that was kept
        for name in dict.fromkeys(renaming.name for renaming in self._renamings):
            mine = [r.serial for r in self._renamings if r.name == name]
            if mode == "any":
                reached[name] = random.choice([0, *mine])
            else:
                reached[name] = max((s for s in mine if fates(s) is Fate.KEPT), default=0)
        for renaming in self._renamings:
            if renaming.serial <= reached[renaming.name]:
                self._bind(renaming.name, renaming.after)
        for old, new, inode in self._moved:
            # A journalled file system moves a name as one step: never both names, never none.
            if self.names.get(new) is inode:
                if self.names.get(old) is inode:
                    self._bind(old, None)
            elif old not in self.names and inode not in self.names.values():
                self._bind(old, inode)
        self._renamings.clear()
        self._moved.clear()

    def flip(self, name: str, offset: int, bit: int = 0) -> None:
        """Bit rot, on the medium."""
        self.names[name].data[offset] ^= 1 << bit

    # -- what a hold on it needs

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def rename(self, name: str, inode: Inode | None) -> None:
        before = self.names.get(name)
        self._renamings.append(Renaming(self.next_serial(), name, before, inode))
        self._bind(name, inode)

    def move(self, old: str, new: str) -> None:
        inode = self.names[old]
        self._moved.append((old, new, inode))
        self.rename(new, inode)
        self.rename(old, None)

    def _bind(self, name: str, inode: Inode | None) -> None:
        if inode is None:
            self.names.pop(name, None)
        else:
            self.names[name] = inode

    def sync_names(self) -> None:
        self._renamings.clear()
        self._moved.clear()

    def connect(self) -> MemoryStore:
        if self._store is None:
            self._store = MemoryStore(self._store_name)
        connection = MemoryStore(self._store_name)
        self._connections.append(connection)
        return connection

    def connect_backup(self) -> MemoryStore:
        if self.backup is None:
            self.backup = MemoryStore(self.backup_name)
        return self.backup

    def forget_store(self) -> None:
        """The metadata store goes; the next connection makes a new one."""
        if self._store is not None:
            self._store.close()
        self._store_name, self._store = str(next(_stores)), None

    def free_bytes(self) -> int:
        if self.capacity is None:
            return FREE_BYTES
        return max(0, self.capacity - sum(len(inode.data) for inode in self.names.values()))


class SimFile:
    def __init__(self, disk: SimDisk, name: str, inode: Inode) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._open = True

    def _enter(self, call: str, on_fault: Callable[[], None] | None = None) -> Platter:
        if not self._open:
            raise _error(errno.EBADF)
        return self._disk.enter(call, self._name, on_fault)

    def write_at(self, pieces: Sequence[Buffer], offset: int) -> None:
        platter = self._enter("write")
        faults, random, inode = platter.faults, platter.random, self._inode
        length = sum(map(len, pieces))
        if faults.write_error and random.random() < faults.write_error:
            raise _error(errno.EIO)
        if faults.write_short and random.random() < faults.write_short:
            part = b"".join(pieces)[: random.randrange(length + 1)]
            inode.write([part], offset, platter.next_serial())
            raise _error(errno.EIO)
        if faults.write_lost and random.random() < faults.write_lost:
            return
        if faults.write_astray and random.random() < faults.write_astray:
            offset = random.randrange(inode.size // ASTRAY_BYTES + 1) * ASTRAY_BYTES
        if platter.capacity is not None:
            growth = max(0, offset + length - len(inode.data))
            room = platter.free_bytes()
            if growth > room:
                part = b"".join(pieces)[: max(0, length - growth + room)]
                inode.write([part], offset, platter.next_serial())
                raise _error(errno.ENOSPC)
        inode.write(pieces, offset, platter.next_serial())

    def read_at(self, length: int, offset: int) -> bytes:
        platter = self._enter("read")
        faults, random, inode = platter.faults, platter.random, self._inode
        if faults.read_error and random.random() < faults.read_error:
            raise _error(errno.EIO)
        length = max(0, min(length, inode.size - offset))
        with memoryview(inode.data) as view:
            data = bytes(view[offset : offset + length])
        if len(data) < length:
            data += bytes(length - len(data))
        if length and faults.read_flip and random.random() < faults.read_flip:
            flipped = bytearray(data)
            flipped[random.randrange(length)] ^= 1 << random.randrange(8)
            return bytes(flipped)
        return data

    def reserve(self, size: int) -> bool:
        """A wish that nobody hears: room is counted as files grow."""
        return False

    def forget(self, offset: int, length: int) -> None:
        """A hint that changes nothing: there is no memory to save here."""

    def sync(self) -> None:
        platter = self._enter("sync", self._inode.lose)
        if platter.faults.sync_error and platter.random.random() < platter.faults.sync_error:
            self._inode.lose()
            raise _error(errno.EIO)
        self._inode.harden()

    def truncate(self, size: int) -> None:
        platter = self._enter("truncate")
        self._inode.resize(size, platter.next_serial())

    def size(self) -> int:
        self._enter("size")
        return self._inode.size

    def close(self) -> None:
        self._open = False


class SimDisk:
    """One process's hold on a platter. Raises `Conflict` while another one has it."""

    def __init__(self, platter: Platter) -> None:
        if platter.holder is not None:
            raise Conflict("the pool is open in another process")
        self._platter = platter
        platter.holder = self

    def enter(
        self, call: str, name: str = "", on_fault: Callable[[], None] | None = None
    ) -> Platter:
        """The platter, for one call. Raises `OSError` when this hold is dead, or a fault is due."""
        platter = self._platter
        platter.calls += 1
        if platter.watch is not None and platter.holder is self:
            platter.watch(call, name)
        if platter.holder is not self:
            raise _error(errno.EIO)
        if platter.faults.fail_at and platter.faults.due():
            if on_fault is not None:
                on_fault()
            raise _error(errno.EIO)
        return platter

    def names(self) -> list[str]:
        return sorted(self.enter("names").names)

    def create(self, name: str) -> SimFile:
        platter = self.enter("create", name)
        if name in platter.names:
            raise _error(errno.EEXIST)
        inode = Inode()
        platter.rename(name, inode)
        return SimFile(self, name, inode)

    def open(self, name: str) -> SimFile:
        platter = self.enter("open", name)
        if name not in platter.names:
            raise _error(errno.ENOENT)
        return SimFile(self, name, platter.names[name])

    def open_uncached(self, name: str) -> SimFile:
        return self.open(name)

    def remove(self, name: str) -> None:
        platter = self.enter("remove", name)
        if name not in platter.names:
            raise _error(errno.ENOENT)
        platter.rename(name, None)

    def rename(self, old: str, new: str) -> None:
        platter = self.enter("rename", old)
        if old not in platter.names:
            raise _error(errno.ENOENT)
        if new in platter.names:
            raise _error(errno.EEXIST)
        platter.move(old, new)

    def sync_names(self) -> None:
        self.enter("sync_names").sync_names()

    def metadata(self) -> apsw.Connection:
        return self.enter("metadata").connect()

    def back_up_metadata(self, store: apsw.Connection) -> None:
        _copy(store, self.enter("back_up_metadata").connect_backup())

    def metadata_backup(self) -> apsw.Connection | None:
        platter = self.enter("metadata_backup")
        return MemoryStore(platter.backup_name) if platter.backup is not None else None

    def replace_metadata(self, store: apsw.Connection | None) -> None:
        self.enter("replace_metadata").forget_store()
        if store is not None:
            connection = self.metadata()
            _copy(store, connection)
            connection.close()

    def free_bytes(self) -> int:
        return self.enter("free_bytes").free_bytes()

    def close(self) -> None:
        if self._platter.holder is self:
            self._platter.holder = None


def _copy(store: apsw.Connection, copy: apsw.Connection) -> None:
    with copy.backup("main", store, "main") as work:
        work.step(-1)


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
