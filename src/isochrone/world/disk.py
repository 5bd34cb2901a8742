"""A directory of files, as a pool uses it: append-only segments and one metadata store.

`Disk` and `File` are what the store sees. `FolderDisk` is the real one; the simulation has another,
which forgets and tears what was not synced. Both pass the same contract tests.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import apsw

from isochrone.errors import Conflict
from isochrone.types import Buffer

IOV_MAX: Final = 1024  # pieces in one vectored call; the Linux limit
METADATA_NAME: Final = "metadata.sqlite"
LOCK_NAME: Final = "lock"


class File(Protocol):
    """An open file. Methods raise `OSError` as the system calls do."""

    def write_at(self, pieces: Sequence[Buffer], offset: int) -> None:
        """Write all pieces one after the other. After an error any part may have been written."""
        ...

    def read_at(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes; fewer at the end of the file."""
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
    def remove(self, name: str) -> None: ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, which must be free; a power cut leaves one or the other."""
        ...

    def sync_names(self) -> None: ...

    def metadata(self) -> apsw.Connection:
        """The metadata store; created on first use. The caller closes it."""
        ...

    def free_bytes(self) -> int: ...

    def close(self) -> None: ...


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
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        return connection

    def free_bytes(self) -> int:
        info = os.statvfs(self.path)
        return info.f_bavail * info.f_frsize

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._lock)
