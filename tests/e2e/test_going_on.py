"""First copies over a link that counts: broken off by kill -9, or started from an old image."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.process import Controller, Nbd, Start
from tests.e2e.faulty_link import FaultyLink
from tests.e2e.programs import MIB, isochrone, run, socket_uri, until

STEP = 2 * MIB  # sent again after a broken copy, and what is on its way
SIZE = 64 * MIB
SEEDED = 24 * MIB


class Pair:
    """A primary with a volume full of noise, and a link to it that counts bytes."""

    def __init__(self, folder: Path, start: Start, size: int) -> None:
        self.folder, self.size = folder, size
        self._start = start
        step = str(STEP)
        self.primary = start(folder / "a", "--link", "127.0.0.1:0", "--copy-step", step)
        assert self.primary.ready, self.primary.wait()
        self.link = FaultyLink(self.primary.address("link-tcp"), 1)
        isochrone(self.primary, "volume", "create", "db", str(size))
        isochrone(self.primary, "group", "create", "shop", "db")
        with self.nbd(self.primary, "db") as host:
            for at in range(0, size, 4 * MIB):
                host.write(at, os.urandom(4 * MIB))
            host.flush()
        self.open_secondary()

    def open_secondary(self) -> None:
        self.secondary = self._start(self.folder / "b")
        assert self.secondary.ready, self.secondary.wait()

    def nbd(self, controller: Controller, volume: str) -> Nbd:
        return Nbd(str(controller.directory / "nbd.sock"), volume)

    def follow(self, *options: str) -> None:
        isochrone(self.secondary, "mirror", "add", "shop", "--source", self.link.address, *options)

    def caught_up(self) -> Any:
        words = ("--output", "json", "mirror", "wait", "shop", "--timeout", "90")
        return json.loads(isochrone(self.secondary, *words))

    def equal(self) -> None:
        with self.nbd(self.primary, "db") as one, self.nbd(self.secondary, "db") as other:
            for at in range(0, self.size, 4 * MIB):
                assert one.read(at, 4 * MIB) == other.read(at, 4 * MIB), at


@pytest.fixture
def pair(folder: Path, start: Start, request: pytest.FixtureRequest) -> Iterator[Pair]:
    pair = Pair(folder, start, request.param)
    yield pair
    pair.link.close()


@pytest.mark.parametrize("pair", [SIZE], indirect=True, ids=[""])
def test_a_first_copy_goes_on_after_kill_9(pair: Pair) -> None:
    pair.link.rate = 50e6
    pair.follow()
    until(lambda: pair.link.bytes_passed > SIZE // 2, 60, "half of the copy")
    pair.secondary.end(signal.SIGKILL)
    with pair.nbd(pair.primary, "db") as host:
        for at in (0, SIZE // 3, SIZE - MIB):
            host.write(at, os.urandom(MIB))
        host.flush()
    pair.open_secondary()
    status = pair.caught_up()
    assert status["state"] == "DUPLEX"
    assert pair.link.bytes_passed < 1.3 * SIZE, pair.link.bytes_passed / SIZE
    pair.equal()
    assert pair.secondary.end()[0] == 0


@pytest.mark.parametrize("pair", [SEEDED], indirect=True, ids=[""])
def test_a_copy_that_starts_from_a_restored_image(pair: Pair) -> None:
    image = pair.folder / "db.raw"
    convert = ("qemu-img", "convert", "-O", "raw")
    run(*convert, socket_uri(pair.primary.directory / "nbd.sock", "db"), image)
    with pair.nbd(pair.primary, "db") as host:  # it gets old
        for at in (5 * MIB, 16 * MIB):
            host.write(at, os.urandom(3 * MIB))
        host.flush()
    isochrone(pair.secondary, "volume", "create", "restored", str(SEEDED))
    run(*convert, "-n", image, socket_uri(pair.secondary.directory / "nbd.sock", "restored"))
    pair.follow("--seed", "db=restored")
    pair.caught_up()
    assert pair.link.bytes_passed < 6 * MIB + 4 * 65536 + MIB, pair.link.bytes_passed
    pair.equal()
    isochrone(pair.secondary, "volume", "delete", "restored", "--yes")
    pair.equal()
    assert pair.secondary.end()[0] == 0
