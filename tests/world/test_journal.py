from __future__ import annotations

import os
from pathlib import Path

import pytest

from isochrone.world.journal import Journal


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "audit.jsonl")
    assert journal.last(10) == []
    for n in range(5):
        journal.add(b"line %d" % n)
    journal.sync()
    assert Journal(tmp_path / "audit.jsonl").last(3) == [b"line 2", b"line 3", b"line 4"]
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_it_is_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "audit.jsonl", bytes_max=100)
    for n in range(1000):
        journal.add(b"line %04d" % n)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * 110
    assert journal.last(5) == [b"line %04d" % n for n in range(995, 1000)]


def test_a_torn_line_takes_no_other_with_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "audit.jsonl")
    journal.add(b"whole")
    (tmp_path / "audit.jsonl").write_bytes(b"whole\ntor")
    journal.add(b"next")
    assert journal.last(10) == [b"whole", b"tor", b"next"]


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "nowhere" / "audit.jsonl").add(b"x")
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        Journal(tmp_path / "audit.jsonl").add(b"x")
    assert os.listdir(tmp_path) == ["audit.jsonl"]
