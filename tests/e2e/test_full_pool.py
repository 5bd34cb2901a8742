"""A pool on a file system of its own that really gets full, and real clients that meet it."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.process import Controller, Nbd, Start
from tests.e2e.mounts import MKFS, mounted, need_mounts
from tests.e2e.programs import MIB, fio, isochrone, run, until, uri

ROOM = 1024 * MIB  # of the file system: with segments of 64 MiB and a reserve of four
PART = 16 * MIB


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A mounted file system in a file."""
    need_mounts()
    image = folder / "disk.img"
    with image.open("wb") as f:
        f.truncate(ROOM)
    run(*MKFS["ext4"], "-m", "0", image)
    with mounted(str(image), folder, "-o", "loop") as where:
        yield where


def client(controller: Controller, name: str) -> Nbd:
    return Nbd(str(controller.directory / "nbd.sock"), name)


def what(at: int) -> bytes:
    """A MiB that says where it belongs."""
    return at.to_bytes(8, "little") * (MIB // 8)


def refusal(nbd: Nbd, at: int) -> int:
    """Write a MiB; the error, 0 if there was none."""
    try:
        nbd.write(at, what(at))
    except OSError as e:
        return e.errno or -1
    return 0


def filled(controller: Controller, name: str) -> int:
    """Write until a client gets ENOSPC; how many bytes it got in."""
    at = 0
    with client(controller, name) as nbd:
        while not (error := refusal(nbd, at)):
            at += MIB
    assert error == errno.ENOSPC
    return at


def holds(controller: Controller, name: str, size: int, first: int = 0) -> None:
    with client(controller, name) as nbd:
        for at in range(first, size, MIB):
            assert nbd.read(at, MIB) == what(at), at


def takes(controller: Controller, name: str, at: int) -> bool:
    """Whether a write goes through; what else than ENOSPC may come is a failure."""
    with client(controller, name) as nbd:
        error = refusal(nbd, at)
    assert error in (0, errno.ENOSPC)
    return not error


def test_a_full_disk_from_the_first_refusal_to_the_end_of_it(
    small_disk: Path, folder: Path, start: Start
) -> None:
    pool = small_disk / "pool"
    one = start(pool)
    assert one.ready, one.wait()
    isochrone(one, "volume", "create", "kept", "64MiB")
    isochrone(one, "volume", "create", "big", "4GiB")
    with client(one, "kept") as nbd:
        for at in range(0, PART, MIB):
            nbd.write(at, what(at))
    isochrone(one, "copy", "take", "kept", "--name", "c")

    mapped = filled(one, "big")
    assert mapped > ROOM // 4, "it is refused far too early"
    source = folder / "source"
    with source.open("wb") as f:
        f.write(b"x" * ROOM)
    isochrone(one, "volume", "create", "more", "1GiB")
    said = run("nbdcopy", source, uri(one, "more"), ok=False)
    assert "No space left on device" in said

    # What has data, and no copy keeps, is written again and again: more than is free by far.
    half = mapped // MIB // 2 * MIB
    fio(
        uri(one, "big"), folder, "--rw=randwrite", "--bs=64k", "--iodepth=16",
        f"--size={half}", "--loops=3",
    )  # fmt: skip
    holds(one, "big", mapped, first=half)
    holds(one, "kept", PART)
    assert not takes(one, "kept", 0), "a copy keeps it, so there is no room for another"

    isochrone(one, "copy", "delete", "c")
    until(lambda: takes(one, "kept", 0), what="room beside the deleted copy")
    isochrone(one, "volume", "delete", "big", "--yes")
    isochrone(one, "volume", "create", "new", "4GiB")
    until(lambda: takes(one, "new", 0), what="room after a deletion")
    again = filled(one, "new")
    assert again > ROOM // 4
    holds(one, "kept", PART)

    code, _, err = one.end()
    assert (code, "Traceback" in err) == (0, False), err
    run(sys.executable, "-m", "isochrone", "check", pool)  # exit code 9 if any block is damaged
    two = start(pool)
    assert two.ready, two.wait()
    holds(two, "new", again)
    holds(two, "kept", PART)
