"""Volumes join and leave a mirrored group, seen by real clients over two controllers."""

from __future__ import annotations

import signal
from pathlib import Path
from random import Random

from tests.control.process import Controller, Start
from tests.control.test_mirroring import link, tell
from tests.e2e.programs import run, uri

SIZE = 16 << 20
WAIT = ("mirror", "wait", "g", "--timeout", "30")


def fill(controller: Controller, folder: Path, volume: str, seed: int) -> bytes:
    image, data = folder / "image", Random(seed).randbytes(SIZE)
    image.write_bytes(data)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, uri(controller, volume))
    return data


def content(controller: Controller, folder: Path, volume: str) -> bytes:
    out = folder / "out"
    out.unlink(missing_ok=True)
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri(controller, volume), out)
    return out.read_bytes()


def test_a_disk_more_and_a_disk_less(start: Start, folder: Path) -> None:
    a, b = start(folder / "a"), start(folder / "b")
    for name in ("db", "wal", "idx"):
        tell(a, "volume", "create", name, str(SIZE))
    tell(a, "group", "create", "g", "db", "wal")
    tell(b, "mirror", "add", "g", "--source", link(a))
    wal, idx = fill(a, folder, "wal", 1), fill(a, folder, "idx", 2)
    tell(b, *WAIT)
    assert tell(a, "group", "add", "g", "idx")["volumes"] == ["db", "wal", "idx"]
    b.process.send_signal(signal.SIGKILL)
    b.wait()
    b = start(folder / "b")
    db = fill(a, folder, "db", 3)
    assert tell(b, *WAIT)["volumes"] == ["db", "wal", "idx"]
    assert content(b, folder, "idx") == idx
    assert content(b, folder, "db") == db
    tell(a, "volume", "delete", "wal", "--yes")
    assert "idx" in tell(b, *WAIT)["volumes"]
    assert tell(b, "group", "show", "g")["volumes"] == ["db", "idx"]
    assert content(b, folder, "wal") == wal  # deleted at the primary alone
    assert "at its primary" in tell(b, "group", "remove", "g", "db", code=4)
    tell(b, "volume", "delete", "wal", "--yes")
