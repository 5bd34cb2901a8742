"""ext4 on both sides of relations, seen by its own tools; and a controller that is killed."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.control.process import Controller, Start
from tests.e2e.conftest import NewVolume
from tests.e2e.programs import MIB, isochrone, run, uri

SIZE = 64 * MIB


class Ext4:
    """Images of a file system, made and looked into without mounting."""

    def __init__(self, controller: Controller, folder: Path) -> None:
        self._controller = controller
        self._folder = folder

    def put(self, volume: str, **files: str) -> None:
        """A new file system with these files becomes the volume's content."""
        root = self._folder / "root"
        root.mkdir(exist_ok=True)
        for old in root.iterdir():
            old.unlink()
        for name, text in files.items():
            (root / name).write_text(text * 5000)
        image = self._folder / "image"
        with image.open("wb") as file:
            file.truncate(SIZE)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", root, image)
        self.write(volume, image)

    def write(self, volume: str, image: Path) -> None:
        command = ("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw")
        run(*command, image, uri(self._controller, volume))

    def image(self, volume: str) -> Path:
        found = self._folder / "out"
        found.unlink(missing_ok=True)
        command = ("qemu-img", "convert", "-f", "raw", "-O", "raw")
        run(*command, uri(self._controller, volume), found)
        return found

    def files(self, volume: str) -> dict[str, str]:
        """What is in it; the file system must be without fault."""
        image = self.image(volume)
        run("e2fsck", "-f", "-n", image)
        listing = run("debugfs", "-R", "ls -p /", image)
        names = [line.split("/")[5] for line in listing.splitlines() if line.count("/") > 5]
        found = {}
        for name in names:
            if name not in (".", "..", "lost+found"):
                run("debugfs", "-R", f"dump /{name} {self._folder}/dumped", image)
                text = (self._folder / "dumped").read_text()
                assert text == text[: len(text) // 5000] * 5000
                found[name] = text[: len(text) // 5000]
        return found


@pytest.fixture
def ext4(controller: Controller, folder: Path) -> Ext4:
    return Ext4(controller, folder)


def relation(controller: Controller, *words: str) -> list[int]:
    said = json.loads(isochrone(controller, "relation", *words, "-o", "json"))
    return [x["relation"] for x in said["relations"]]


def test_a_file_system_goes_to_its_target_and_back(
    controller: Controller, volume: NewVolume, ext4: Ext4
) -> None:
    source, target = volume("64MiB"), volume("64MiB")
    ext4.put(source, motd="monday")
    ext4.put(target, other="thing")
    (number,) = relation(controller, "establish", f"{source}={target}", "--yes")
    assert ext4.files(target) == {"motd": "monday"}
    ext4.put(source, motd="tuesday", more="x")
    assert ext4.files(target) == {"motd": "monday"}
    relation(controller, "refresh", str(number))
    assert ext4.files(target) == {"motd": "tuesday", "more": "x"}
    ext4.put(target, motd="repaired")
    relation(controller, "restore", str(number), "--yes")
    assert ext4.files(source) == ext4.files(target) == {"motd": "repaired"}
    ext4.put(source, motd="wednesday")
    isochrone(controller, "relation", "withdraw", str(number), "--keep")
    assert ext4.files(target) == {"motd": "repaired"}


def test_a_part_of_a_disk_is_a_disk(controller: Controller, volume: NewVolume, ext4: Ext4) -> None:
    """Two file systems side by side on one volume, each related to a volume of its own."""
    disk, left, right = volume("128MiB"), volume("64MiB"), volume("64MiB")
    ext4.put(left, name="left")
    ext4.put(right, name="right")
    pairs = (f"{left}:0+64MiB={disk}:0", f"{right}:0+64MiB={disk}:64MiB")
    numbers = relation(controller, "establish", *pairs, "--yes")
    swap = (f"{disk}:0+64MiB={right}:0", f"{disk}:64MiB+64MiB={left}:0")
    isochrone(controller, "relation", "establish", *swap, "--once", "--yes")
    assert (ext4.files(left), ext4.files(right)) == ({"name": "right"}, {"name": "left"})
    shown = json.loads(isochrone(controller, "volume", "show", disk, "-o", "json"))
    assert shown["mapped"] > 0
    options = ("--discard", "--yes")
    isochrone(controller, "relation", "withdraw", *map(str, numbers), *options)
    shown = json.loads(isochrone(controller, "volume", "show", disk, "-o", "json"))
    assert shown["mapped"] == 0, "nobody wrote to it"


def test_a_revert_and_its_undo(controller: Controller, volume: NewVolume, ext4: Ext4) -> None:
    name = volume("64MiB")
    ext4.put(name, motd="good")
    isochrone(controller, "copy", "take", "--name", "known-good", name)
    ext4.put(name, motd="bad")
    isochrone(controller, "copy", "revert", "known-good", "--undo", "regret", "--yes")
    assert ext4.files(name) == {"motd": "good"}
    isochrone(controller, "copy", "revert", "regret", "--undo", "again", "--yes")
    assert ext4.files(name) == {"motd": "bad"}
    for copy in ("known-good", "regret", "again"):
        isochrone(controller, "copy", "delete", copy)


def test_what_was_answered_survives_a_kill(start: Start, folder: Path) -> None:
    first = start(folder / "pool")
    for name in ("a", "b"):
        isochrone(first, "volume", "create", name, "64MiB")
    ext4 = Ext4(first, folder)
    ext4.put("a", motd="kept")
    (number,) = relation(first, "establish", "a=b", "--yes")
    ext4.put("a", motd="newer")
    first.end(signal.SIGKILL)
    second = start(folder / "pool")
    ext4 = Ext4(second, folder)
    assert ext4.files("b") == {"motd": "kept"}
    assert relation(second, "list") == [number]
    isochrone(second, "relation", "withdraw", str(number), "--discard", "--yes")
    assert second.end()[0] == 0
    run(sys.executable, "-m", "isochrone", "check", folder / "pool")
    third = start(folder / "pool")
    assert not any(Ext4(third, folder).image("b").read_bytes())
    assert third.end()[0] == 0
