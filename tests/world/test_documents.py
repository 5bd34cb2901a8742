"""A document is the old one or the new one, and its owner's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isochrone.world.documents import FolderDocuments


def test_written_and_read(tmp_path: Path) -> None:
    documents = FolderDocuments(tmp_path)
    assert documents.read("a") is None
    documents.write("a", b"one")
    (tmp_path / "a.new").write_bytes(b"left by a crash")
    documents.write("a", b"two")
    assert FolderDocuments(tmp_path).read("a") == b"two"
    assert Path(documents.path("a")).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_old_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = FolderDocuments(tmp_path)
    documents.write("a", b"one")

    def fails(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        documents.write("a", b"two")
    assert documents.read("a") == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
