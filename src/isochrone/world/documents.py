"""Small files that are read and replaced as a whole: keys, and who is trusted.

Beside the pool's log and store, in the same directory, for its owner only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Documents(Protocol):
    def path(self, name: str) -> str:
        """Where a document lies, for libraries that read files themselves."""
        ...

    def read(self, name: str) -> bytes | None:
        """What it holds; None if there is none. Raises `OSError`."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Replace it, or make it. After a power cut it is the old one or the new one.

        Raises `OSError`; then the old one stands.
        """
        ...


class FolderDocuments:
    """Documents in a directory that exists."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> str:
        return str(self._folder / name)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        draft = self._folder / f"{name}.new"
        draft.unlink(missing_ok=True)  # of an attempt that a crash ended
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(file, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            draft.replace(self._folder / name)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
