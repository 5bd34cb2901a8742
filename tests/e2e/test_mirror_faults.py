"""Two real controllers and a link between them that fails in every way it can.

Numbered writes go on at the primary all the time. Whatever happens, what the secondary shows is a
prefix of them over all volumes, and once the faults are over it catches up and both are equal.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from tests.control.process import Controller, Start
from tests.e2e.faulty_link import FaultyLink
from tests.e2e.numbered import SIZE, Writer, standing_at
from tests.e2e.programs import isochrone, until

ROUNDS: Final = int(os.environ.get("ISOCHRONE_MIRROR_ROUNDS", "4"))
SEED: Final = int(os.environ.get("ISOCHRONE_MIRROR_SEED", "1"))
VOLUMES: Final = ("db", "wal")
GROUP: Final = "shop"
FAULTS: Final = (
    *("cut", "cuts", "hole", "slow", "flip", "double", "short"),
    *("kill a", "kill b", "stop a", "stop b"),
)
PAUSE_S: Final = 0.4  # of each fault: several cuts pass, or would


class Sites:
    """A primary, a secondary that follows it over the faulty link, and a writer."""

    def __init__(self, folder: Path, start: Start) -> None:
        self._folder = folder
        self._start = start
        self.primary = start(folder / "a", "--link", "127.0.0.1:0")
        assert self.primary.ready, self.primary.wait()
        self.link = FaultyLink(self.primary.address("link-tcp"), SEED)
        for name in VOLUMES:
            isochrone(self.primary, "volume", "create", name, str(SIZE))
        isochrone(self.primary, "group", "create", GROUP, *VOLUMES)
        self.secondary = start(folder / "b")
        isochrone(self.secondary, "mirror", "add", GROUP, "--source", self.link.address)
        self.writer = Writer(self.primary.directory / "nbd.sock", VOLUMES)
        self.writer.start()
        self.copies = 0

    def ask(self, controller: Controller, *words: str) -> Any:
        return json.loads(isochrone(controller, "--output", "json", *words))

    def restart_primary(self) -> None:
        """Killed and started again; the writer goes on from what is there."""
        port = self.primary.address("link-tcp")
        flushed = self.writer.flushed
        self.primary.end(signal.SIGKILL)
        self.writer.stop()
        done = self.writer.done
        self.primary = self._start(self._folder / "a", "--link", port)
        if not self.primary.ready:  # somebody else has the port by now
            self.primary = self._start(self._folder / "a", "--link", "127.0.0.1:0")
            self.link.lead_to(self.primary.address("link-tcp"))
        stands = standing_at(self.primary.directory / "nbd.sock", VOLUMES)
        # A killed process loses nothing that it acknowledged: the page cache stays.
        assert flushed <= done <= stands <= done + 1
        self.writer = Writer(self.primary.directory / "nbd.sock", VOLUMES, stands + 1)
        self.writer.start()

    def restart_secondary(self) -> None:
        self.secondary.end(signal.SIGKILL)
        self.secondary = self._start(self._folder / "b")
        assert self.secondary.ready, self.secondary.wait()

    def freeze(self, controller: Controller) -> None:
        controller.process.send_signal(signal.SIGSTOP)
        time.sleep(PAUSE_S)
        controller.process.send_signal(signal.SIGCONT)

    def look(self) -> int:
        """What the secondary has, by a copy: all volumes at one instant."""
        status = self.ask(self.secondary, "mirror", "status", GROUP)
        if "cut" in status and not status["cut"]:
            return 0
        self.copies += 1
        name = f"look{self.copies}"
        isochrone(self.secondary, "copy", "take", *VOLUMES, "--name", name)
        members = [f"{volume}@{name}" for volume in VOLUMES]
        found = standing_at(self.secondary.directory / "nbd.sock", members)
        isochrone(self.secondary, "copy", "delete", name, "--yes")
        return found


@pytest.fixture
def sites(folder: Path, start: Start) -> Iterator[Sites]:
    sites = Sites(folder, start)
    yield sites
    sites.writer.stop()
    sites.link.close()


def set_fault(sites: Sites, random: Random) -> str:
    link = sites.link
    match random.choice(FAULTS):
        case "cut":
            link.cut()
            return "the link was reset"
        case "cuts":
            for _ in range(5):
                link.cut()
                time.sleep(PAUSE_S / 5)
            return "the link flapped"
        case "hole":
            link.block()
            return "the link is a black hole"
        case "slow":
            link.rate, link.delay = 200_000.0, 0.02
            return "the link is slow"
        case "flip":
            link.flip = 0.05
            return "bits flip"
        case "double":
            link.double = 0.05
            return "chunks come twice"
        case "short":
            link.short = 0.1
            return "frames are cut off"
        case "kill a":
            sites.restart_primary()
            return "the primary was killed"
        case "kill b":
            sites.restart_secondary()
            return "the secondary was killed"
        case "stop a":
            sites.freeze(sites.primary)
            return "the primary stood still"
        case _:
            sites.freeze(sites.secondary)
            return "the secondary stood still"


def test_a_link_that_fails_in_every_way(sites: Sites) -> None:
    random = Random(SEED)
    isochrone(sites.secondary, "mirror", "wait", GROUP, "--timeout", "60")
    newest = 0
    told = [f"seed {SEED}"]
    for _ in range(ROUNDS):
        told.append(set_fault(sites, random))
        time.sleep(PAUSE_S)
        if random.random() < 0.5:
            sites.link.heal()
        found = sites.look()
        assert found >= newest, f"the secondary went back from {newest} to {found}: {told}"
        newest = found
    sites.link.heal()
    sites.writer.stop()
    isochrone(sites.secondary, "mirror", "wait", GROUP, "--timeout", "60")
    until(lambda: sites.look() == sites.writer.done, 60, f"equality after {told}")
    assert standing_at(sites.primary.directory / "nbd.sock", VOLUMES) == sites.writer.done
    for controller in (sites.primary, sites.secondary):
        controller.end()
        # Raises unless it says that all is well.
        isochrone(controller, "check", str(controller.directory))
