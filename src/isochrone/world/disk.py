"""A directory of files, as a pool uses it: append-only segments and one metadata store.

`Disk` and `File` are what the store sees. `FolderDisk` is the real one; the simulation has another,
which forgets and tears what was not synced. Both pass the same contract tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, cast
from urllib.parse import quote

import apsw

from isochrone.errors import Conflict
from isochrone.types import Buffer

IOV_MAX: Final = 1024  # pieces in one vectored call; the Linux limit
METADATA_NAME: Final = "metadata.sqlite"
BACKUP_NAME: Final = f"{METADATA_NAME}.backup"
DAMAGED_NAME: Final = f"{METADATA_NAME}.damaged"  # what a rebuild has replaced
METADATA_PAGE_BYTES: Final = 64 << 10  # three rows of 16 KiB a page: a third of the time of 4 KiB
METADATA_WAL_BYTES: Final = 16 << 20  # what its write-ahead log keeps of the disk afterwards
LOCK_NAME: Final = "lock"
DIRECT_UNIT: Final = 4096  # what O_DIRECT is aligned to; no disk of today wants more
DIRECT_BYTES: Final = 1 << 20  # read in one call past the page cache
FALLOC_FL_KEEP_SIZE: Final = 1  # fallocate(2): the file is as long as before


class File(Protocol):
    """An open file. Methods raise `OSError` as the system calls do."""

    def write_at(self, pieces: Sequence[Buffer], offset: int) -> None:
        """Write all pieces one after the other. After an error any part may have been written."""
        ...

    def read_at(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes; fewer at the end of the file."""
        ...

    def reserve(self, size: int) -> bool:
        """Wish for room for the first `size` bytes: to write them is cheaper then.

        The file stays as long as it is, and to truncate it gives back what lies behind. False, and
        nothing has happened, if there is no room or the file system has no such thing.
        """
        ...

    def forget(self, offset: int, length: int) -> None:
        """A hint: nobody will read these bytes soon, so those that are synced need no memory."""
        ...

    def sync(self) -> None:
        """Return when all that was written before the call survives a power cut."""
        ...

    def truncate(self, size: int) -> None: ...
    def size(self) -> int: ...
    def close(self) -> None: ...


class Disk(Protocol):
    def names(self) -> list[str]:
        """The files made by `create`, sorted."""
        ...

    def create(self, name: str) -> File:
        """A new empty file; an error if it exists. It survives a power cut after `sync_names`."""
        ...

    def open(self, name: str) -> File: ...

    def open_uncached(self, name: str) -> File:
        """For reading what the medium holds, past the page cache where that is possible."""
        ...

    def remove(self, name: str) -> None: ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, which must be free; a power cut leaves one or the other."""
        ...

    def sync_names(self) -> None: ...

    def metadata(self) -> apsw.Connection:
        """The metadata store; created on first use. The caller closes it."""
        ...

    def back_up_metadata(self, store: apsw.Connection) -> None:
        """Keep a copy of the store, durable when this returns; until then the last one stays."""
        ...

    def metadata_backup(self) -> apsw.Connection | None:
        """That copy, to be read only; None if there is none. The caller closes it."""
        ...

    def replace_metadata(self, store: apsw.Connection | None) -> None:
        """Make a copy of `store`, or an empty one, the metadata store, which must not be open.

        The old one is kept where it is not in the way.
        """
        ...

    def free_bytes(self) -> int: ...

    def close(self) -> None: ...


def _find_fallocate() -> Callable[[int, int, int, int], int] | None:
    """The system call, which Python has only as a function that may write zeros instead."""
    try:
        found = ctypes.CDLL(None).fallocate
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    found.restype = ctypes.c_int
    return cast("Callable[[int, int, int, int], int]", found)


# On 32-bit systems the function of this name takes shorter numbers.
_fallocate: Final = _find_fallocate() if sys.maxsize > 1 << 32 else None


class FolderFile:
    def __init__(self, path: Path, flags: int) -> None:
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write_at(self, pieces: Sequence[Buffer], offset: int) -> None:
        for first in range(0, len(pieces), IOV_MAX):
            group = pieces[first : first + IOV_MAX]
            wanted = sum(map(len, group))
            written = os.pwritev(self._fd, group, offset)
            while written < wanted:
                # A short write is not an error yet: the next call says why (ENOSPC, EIO).
                rest = memoryview(b"".join(group))[written:]
                more = os.pwrite(self._fd, rest, offset + written)
                if more == 0:
                    raise OSError(errno.EIO, "the device accepts no more bytes")
                written += more
            offset += wanted

    def read_at(self, length: int, offset: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]
        got = len(data)
        while got < length and (data := os.pread(self._fd, length - got, offset + got)):
            pieces.append(data)
            got += len(data)
        return b"".join(pieces)

    def reserve(self, size: int) -> bool:
        return _fallocate is not None and not _fallocate(self._fd, FALLOC_FL_KEEP_SIZE, 0, size)

    def forget(self, offset: int, length: int) -> None:
        if self._fd >= 0:
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        if self._fd < 0:  # os.fdatasync would raise ValueError
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class UncachedFile(FolderFile):
    """Reads from the medium, and leaves the page cache to those who need it."""

    def __init__(self, path: Path) -> None:
        self._direct = True
        self._buffer = mmap.mmap(-1, DIRECT_BYTES)  # aligned, as O_DIRECT wants it
        try:
            super().__init__(path, os.O_RDONLY | os.O_DIRECT)
        except OSError as e:
            if e.errno != errno.EINVAL:  # a file system that cannot, such as an old tmpfs
                raise
            self._direct = False
            super().__init__(path, os.O_RDONLY)

    def read_at(self, length: int, offset: int) -> bytes:
        if not self._direct:
            return super().read_at(length, offset)
        start = offset - offset % DIRECT_UNIT
        end = -(-(offset + length) // DIRECT_UNIT) * DIRECT_UNIT
        pieces = []
        with memoryview(self._buffer) as view:
            while start < end:
                wanted = min(end - start, DIRECT_BYTES)
                got = os.preadv(self._fd, [view[:wanted]], start)
                pieces.append(view[:got].tobytes())
                start += got
                if got < wanted:
                    break
        data = b"".join(pieces)
        skip = offset % DIRECT_UNIT
        return data if not skip and len(data) <= length else data[skip : skip + length]

    def close(self) -> None:
        super().close()
        self._buffer.close()


class FolderDisk:
    """A directory of a local file system, held by one process at a time.

    Raises `Conflict` if another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(self._lock)
            raise Conflict(
                f"the pool in {path} is open in another process",
                hint="use the running controller, or stop it first",
            ) from e

    def names(self) -> list[str]:
        with os.scandir(self.path) as entries:
            files = [entry.name for entry in entries if entry.is_file()]
        return sorted(n for n in files if n != LOCK_NAME and not n.startswith(METADATA_NAME))

    def create(self, name: str) -> File:
        return FolderFile(self.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open(self, name: str) -> File:
        return FolderFile(self.path / name, os.O_RDWR)

    def open_uncached(self, name: str) -> File:
        return UncachedFile(self.path / name)

    def remove(self, name: str) -> None:
        (self.path / name).unlink()

    def rename(self, old: str, new: str) -> None:
        if (self.path / new).exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        (self.path / old).rename(self.path / new)

    def sync_names(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def metadata(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path / METADATA_NAME))
        connection.pragma("page_size", METADATA_PAGE_BYTES)  # of a new one; an old keeps its own
        connection.pragma("journal_mode", "wal")
        connection.pragma("wal_autocheckpoint", METADATA_WAL_BYTES // METADATA_PAGE_BYTES)
        connection.pragma("journal_size_limit", METADATA_WAL_BYTES)
        connection.pragma("synchronous", "full")
        return connection

    def back_up_metadata(self, store: apsw.Connection) -> None:
        self._copied(store).rename(self.path / BACKUP_NAME)
        self.sync_names()

    def metadata_backup(self) -> apsw.Connection | None:
        path = self.path / BACKUP_NAME
        if not path.exists():
            return None
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"file:{quote(str(path))}?immutable=1", flags=flags)

    def replace_metadata(self, store: apsw.Connection | None) -> None:
        copy = None if store is None else self._copied(store)
        for suffix in ("", "-wal", "-shm"):
            old = self.path / (METADATA_NAME + suffix)
            if old.exists():
                old.rename(self.path / (DAMAGED_NAME + suffix))
        if copy is not None:
            copy.rename(self.path / METADATA_NAME)
        self.sync_names()

    def _copied(self, store: apsw.Connection) -> Path:
        """A new file with what is in a store, synced."""
        path = self.path / f"{METADATA_NAME}.new"
        path.unlink(missing_ok=True)
        try:
            _copy(store, path)
        except BaseException:
            path.unlink(missing_ok=True)  # on a full disk its room is needed
            raise
        return path

    def free_bytes(self) -> int:
        info = os.statvfs(self.path)
        return info.f_bavail * info.f_frsize

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _copy(store: apsw.Connection, path: Path) -> None:
    copy = apsw.Connection(str(path))
    try:
        copy.pragma("synchronous", "off")  # it is synced once, at the end
        with copy.backup("main", store, "main") as work:
            work.step(-1)
    finally:
        copy.close()
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
