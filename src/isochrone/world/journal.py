"""A text file that only grows: a line for each thing that must be remembered for people."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

JOURNAL_BYTES_MAX: Final = 16 << 20  # then it is put aside, and what was aside goes: 32 MiB in all


class Journal:
    """One such file. Methods raise `OSError` as the system calls do."""

    def __init__(self, path: Path, bytes_max: int = JOURNAL_BYTES_MAX) -> None:
        self._path = path
        self._aside = path.with_name(path.name + ".1")
        self._bytes_max = bytes_max

    def add(self, line: bytes) -> None:
        """Append a line. It survives the end of this process, and after `sync` a power cut."""
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            # A line that a crash cut short must not swallow this one.
            torn = size and _last_byte(self._path, size) != b"\n"
            os.write(fd, (b"\n" if torn else b"") + line + b"\n")
        finally:
            os.close(fd)
        if size + len(line) >= self._bytes_max:
            self._path.replace(self._aside)

    def sync(self) -> None:
        """Return when all lines survive a power cut."""
        for path in (self._aside, self._path, self._path.parent):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def last(self, count: int) -> list[bytes]:
        """The newest lines, oldest first."""
        found: list[bytes] = []
        for path in (self._aside, self._path):
            try:
                found += path.read_bytes().splitlines()
            except FileNotFoundError:
                continue
        return found[-count:]


def _last_byte(path: Path, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, 1, size - 1)
    finally:
        os.close(fd)
