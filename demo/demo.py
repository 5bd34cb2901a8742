"""The main job with real clients: a file system survives the loss of a site, and comes home again.

    make demo          or: .venv/bin/python demo/demo.py [--keep]

Two controllers on this machine stand for two sites. Every claim that is printed is checked; the
first that does not hold ends the demo with exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent))
import ledger

MIB = 1 << 20
FILES_MIB, LEDGER_MIB, IMAGE_MIB = 160, 64, 144  # the ledger of `files` lies behind its file system
TREE_BYTES_MAX = 48 * MIB
ISOCHRONE = str(Path(sys.executable).parent / "isochrone")
START_SECONDS_MAX = 20.0
FENCE_SECONDS_MAX = 30.0  # a new primary tries to tell the old one every five seconds


def say(text: str) -> None:
    print(text, flush=True)


def step(title: str) -> None:
    say(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n== {title}")


def fail(text: str) -> NoReturn:
    say(f"\nFAILED: {text}")
    raise SystemExit(1)


def require(holds: bool, claim: str) -> None:
    if not holds:
        fail(f"not true: {claim}")
    say(f"  checked: {claim}")


def run(*command: str | Path) -> str:
    """Run a program to its end; its output. Anything but success ends the demo."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


class Site:
    """One controller and its command line."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.folder = root / name
        self.log = (root / f"{name}.log").open("ab")
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [ISOCHRONE, "serve", str(self.folder)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("ready"):
            fail(f"site {self.name} did not start; see {self.log.name}")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(START_SECONDS_MAX)
            self.process = None

    def do(self, *words: str) -> Any:
        """Run an isochrone command at this site, show it, and return its JSON."""
        say(f"  {self.name}$ isochrone {' '.join(words)}")
        return json.loads(run(ISOCHRONE, "--site", self.folder, "--output", "json", *words))

    def ask(self, *words: str) -> Any:
        return json.loads(run(ISOCHRONE, "--site", self.folder, "--output", "json", *words))

    def uri(self, export: str) -> str:
        return f"nbd+unix:///{export}?socket={self.folder}/nbd.sock"


def gather_tree(target: Path) -> int:
    """A real file tree: as much of Python's own library as fits; the number of files."""
    source, room, files = Path(os.__file__).parent, TREE_BYTES_MAX, 0
    for path in sorted(source.rglob("*")):
        if "__pycache__" in path.parts or "site-packages" in path.parts or not path.is_file():
            continue
        room -= path.stat().st_size
        if room < 0:
            break
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        files += 1
    return files


def regions(images: list[Path]) -> list[bytes]:
    """The ledger's part of each image."""
    found = []
    for image in images:
        with image.open("rb") as f:
            f.seek(-ledger.SLOTS * ledger.BLOCK, os.SEEK_END)
            found.append(f.read())
    return found


def standing_at(images: list[Path], what: str) -> int:
    try:
        return ledger.check(regions(images))
    except ValueError as e:
        fail(f"{what}: {e}")


def fetch(site: Site, exports: list[str], root: Path) -> list[Path]:
    """Copy exports into image files with nbdcopy."""
    images = []
    for export in exports:
        image = root / f"{site.name}-{export}.img"
        run("nbdcopy", site.uri(export), image)
        images.append(image)
    return images


def digest(images: list[Path]) -> str:
    found = hashlib.sha256()
    for image in images:
        with image.open("rb") as f:
            while part := f.read(MIB):
                found.update(part)
    return found.hexdigest()


def check_file_system(image: Path, tree: Path, out: Path, what: str) -> None:
    run("e2fsck", "-fn", image)
    out.mkdir()
    run("debugfs", "-R", f"rdump / {out}", image)
    shutil.rmtree(out / "lost+found", ignore_errors=True)
    require(
        not run("diff", "-r", tree, out), f"{what}: e2fsck finds nothing, every file is identical"
    )


class Demo:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.east, self.west = Site(root, "east"), Site(root, "west")
        self.writer: subprocess.Popen[str] | None = None
        self.tree = root / "tree"
        self.figures: dict[str, str] = {}

    def run(self) -> None:
        started = time.monotonic()
        self.prepare()
        self.mirror()
        self.copy_while_writing()
        self.copy_at_both_sites()
        self.look_back()
        self.lose_a_site()
        report = self.promote()
        self.check(report)
        self.go_on()
        self.come_back()
        self.switch_back()
        step("What it took")
        for name, value in self.figures.items():
            say(f"  {name:<46} {value}")
        took = time.monotonic() - started
        say(
            f"\nDone in {took:.0f} s. A file system survived the loss of a site, and is home again."
        )

    def prepare(self) -> None:
        step("1. Site east: two volumes, one with a real file system")
        files = gather_tree(self.tree)
        image = self.root / "files.img"
        run("mke2fs", "-q", "-t", "ext4", "-d", self.tree, image, f"{IMAGE_MIB}M")
        say(f"  made an ext4 image of {files} files")
        self.east.start()
        self.east.do("volume", "create", "files", f"{FILES_MIB}MiB")
        self.east.do("volume", "create", "ledger", f"{LEDGER_MIB}MiB")
        say(f"  nbdcopy files.img {self.east.uri('files')}")
        run("nbdcopy", "--flush", image, self.east.uri("files"))

    def mirror(self) -> None:
        step("2. Site west: mirror both volumes as one group, while east is being written to")
        self.west.start()
        self.east.do("group", "create", "shop", "files", "ledger")
        self.writer = subprocess.Popen(
            [
                "/usr/bin/python3",
                str(Path(ledger.__file__)),
                self.east.uri("files"),
                self.east.uri("ledger"),
            ],
            stdout=(self.root / "writer.out").open("w"),
            text=True,
        )
        say("  a client now makes numbered writes, each only after the one before was acknowledged")
        started = time.monotonic()
        self.west.do("mirror", "add", "shop", "--source", str(self.east.folder / "link.sock"))
        status = self.west.do("mirror", "wait", "shop", "--timeout", "60")
        self.first_copy = status["bytes_received"]
        self.figures["first copy on the link"] = (
            f"{size(self.first_copy)} in {time.monotonic() - started:.1f} s"
        )
        require(status["state"] == "DUPLEX", "the group is DUPLEX")

    def copy_while_writing(self) -> None:
        step("3. A point-in-time copy of both volumes, in the middle of the writes")
        before = self.west.ask("mirror", "status", "shop")["bytes_commands"]
        self.east.do("copy", "take", "--name", "nightly", "files", "ledger")
        status = self.west.do("mirror", "wait", "shop", "--copy", "nightly", "--timeout", "60")
        cost = status["bytes_commands"] - before
        self.figures["the copy on the link, for both volumes"] = f"{cost} bytes"
        require(0 < cost < 1000, f"the copy itself travelled as {cost} bytes")

    def copy_at_both_sites(self) -> None:
        step("4. One copy at both sites, of one instant; the command returns when both have it")
        started = time.monotonic()
        words = ("--group", "shop", "--at", "both", "--name", "golden", "--wait")
        done = self.east.do("copy", "take", *words)
        self.figures["a copy at both sites, until both have it"] = (
            f"{time.monotonic() - started:.1f} s"
        )
        states = {site["state"] for site in done["sites"]}
        require(done["done"] and states == {"DONE"}, "every site has confirmed it")
        members = ["files@golden", "ledger@golden"]
        here, there = (fetch(site, members, self.root) for site in (self.east, self.west))
        require(digest(here) == digest(there), "both hold the same bytes, with no wait in between")
        self.golden = standing_at(there, "the copy at both sites")

    def look_back(self) -> None:
        step("5. The replica as of an earlier second, while the mirror goes on")
        before = self.west.ask("mirror", "status", "shop")["bytes_received"]
        time.sleep(5)
        status = self.west.ask("mirror", "status", "shop")
        self.figures["changes on the link, in 5 s"] = size(status["bytes_received"] - before)
        taken = self.west.do("copy", "take", "shop", "--as-of", "3s ago", "--name", "earlier")
        members = ["files@earlier", "ledger@earlier"]
        self.earlier = standing_at(fetch(self.west, members, self.root), "the earlier second")
        require(
            self.earlier > self.golden,
            f"as of cut {taken['as_of_cut']} it holds a prefix: {self.earlier} writes",
        )

    def lose_a_site(self) -> None:
        step("6. Site east is lost: kill -9 in the middle of a write")
        assert self.writer is not None
        if self.writer.poll() is not None:
            fail("the writing client ended before its time")
        self.east.kill()
        self.lost_at = time.time()
        self.writer.wait(START_SECONDS_MAX)
        self.acknowledged = int((self.root / "writer.out").read_text().split()[-1])
        say(f"  the last write it acknowledged was number {self.acknowledged}")

    def promote(self) -> dict[str, Any]:
        step("7. Site west takes over")
        started = time.monotonic()
        report: dict[str, Any] = self.west.do("promote", "shop", "--yes")
        run("nbdinfo", "--size", self.west.uri("files"))
        self.figures["time to recover (command to first client)"] = (
            f"{time.monotonic() - started:.2f} s"
        )
        self.figures["recovery point age at the loss"] = (
            f"{self.lost_at - report['recovery_point'] / 1e9:.2f} s"
        )
        say(f"  standing at cut {report['cut']}, epoch {report['epoch']}")
        return report

    def check(self, report: dict[str, Any]) -> None:
        step("8. Is it true?")
        now = fetch(self.west, ["files", "ledger"], self.root)
        then = fetch(self.west, ["files@nightly", "ledger@nightly"], self.root)
        check_file_system(now[0], self.tree, self.root / "now", "the volume")
        check_file_system(then[0], self.tree, self.root / "then", "the mirrored copy")
        reached = standing_at(now, "the recovered volumes")
        copied = standing_at(then, "the mirrored copy")
        require(
            0 < copied < self.golden < self.earlier < reached <= self.acknowledged,
            f"numbered writes are a prefix over both volumes: {copied} in the copy, {reached} of"
            f" {self.acknowledged} recovered; each image before is an earlier one",
        )
        self.reached = reached
        self.figures["numbered writes recovered / acknowledged"] = (
            f"{reached} / {self.acknowledged}"
        )
        require(
            {"nightly", "golden"} <= set(report["copies"]), "the copies taken at east are at west"
        )

    def go_on(self) -> None:
        step("9. West goes on; east comes back and must not be written to")
        run(
            "qemu-io", "-f", "raw", "-c", "write -P 7 0 64k", "-c", "flush", self.west.uri("ledger")
        )
        run("qemu-io", "-f", "raw", "-c", "read -P 7 0 64k", self.west.uri("ledger"))
        require(True, "the volumes at west are written and read by qemu-io")
        self.east.start()
        deadline = time.monotonic() + FENCE_SECONDS_MAX
        while self.east.ask("group", "show", "shop")["role"] != "fenced":
            if time.monotonic() > deadline:
                fail(f"the old primary was not fenced within {FENCE_SECONDS_MAX:.0f} s")
            time.sleep(0.2)
        self.must_refuse(self.east, "the old primary is fenced: it refuses writes")

    def must_refuse(self, site: Site, claim: str) -> None:
        refused = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "write -P 9 0 4k", site.uri("ledger")],
            capture_output=True,
            check=False,
        )
        require(refused.returncode != 0, claim)

    def come_back(self) -> None:
        step("10. East follows west, by delta; what never arrived is kept")
        would = self.east.do("group", "rejoin", "shop", "--dry-run")
        differs = size(sum(would["diverged"].values()))
        say(f"  would go on from cut {would['cut']}; at most {differs} here never arrived")
        kept = self.east.do("group", "rejoin", "shop", "--yes")["orphans"]
        status = self.east.do("mirror", "wait", "shop")
        moved = status["bytes_received"]
        self.figures["coming back, on the link"] = size(moved)
        require(moved < self.first_copy / 2, f"{size(moved)} were moved, not all of it again")
        images = fetch(self.east, [f"files@{kept}", f"ledger@{kept}"], self.root)
        orphaned = standing_at(images, "what was kept")
        # The client may have been killed before it printed an answer that it had.
        require(
            orphaned >= self.acknowledged,
            f"no acknowledged write is lost: {kept} holds {orphaned}, the recovered volumes"
            f" {self.reached}",
        )
        self.must_be_equal("after coming back")

    def must_be_equal(self, when: str) -> None:
        """Compare the volumes of both sites, byte for byte."""
        east, west = (
            fetch(site, ["files", "ledger"], self.root) for site in (self.east, self.west)
        )
        require(digest(east) == digest(west), f"{when}, both sites hold the same bytes")
        require(standing_at(east, "east") == self.reached, "and the writes that were recovered")

    def switch_back(self) -> None:
        step("11. And home again, as planned")
        report = self.east.do("group", "switch", "shop")
        self.figures["planned switch back, nobody could write for"] = (
            f"{report['held_seconds']:.2f} s"
        )
        run(
            *("qemu-io", "-f", "raw", "-c", "read -P 7 0 64k", "-c", "write -P 8 0 64k"),
            *("-c", "flush", self.east.uri("ledger")),
        )
        require(True, "east is written to by qemu-io, and holds what was written at west")
        self.must_refuse(self.west, "west is the secondary again: it refuses writes")
        status = self.west.do("mirror", "wait", "shop")
        require(
            status["bytes_received"] < self.first_copy / 2, "west follows; nothing was copied anew"
        )
        self.must_be_equal("home again")

    def stop(self) -> None:
        if self.writer is not None and self.writer.poll() is None:
            self.writer.kill()
            self.writer.wait()
        for site in (self.east, self.west):
            site.kill(signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the sites' folders")
    keep = parser.parse_args().keep
    root = Path(tempfile.mkdtemp(prefix="isochrone-demo-"))
    demo = Demo(root)
    try:
        demo.run()
    finally:
        demo.stop()
        if keep:
            say(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
