"""Measure writes at a steady rate while all volumes are copied each second, beside who can do so.

Sixteen volumes are written at random by fio, at a rate that does not depend on the answers. First
nobody copies; then, once a second, all sixteen are copied at one instant, and every copy is kept:

    isochrone        `POST /v1/copies` of all volumes
    btrfs            files of one subvolume on a loop device, served by nbdkit; a snapshot of it
    qcow2            images of qemu's storage daemon; a transaction of internal snapshots

btrfs needs root, for the loop device and the mount; without, it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from copies_scale import Filler
from report import FioError, parse_fio
from servers import BenchError, Isochrone, Server, StorageDaemon
from yard import Section, leave, median, open_pool, parse_size, percentile, scratch, shown_size

from isochrone.control.client import path as api_path
from isochrone.store import copies
from isochrone.types import BLOCK, GIB, MIB

VOLUMES: Final = 16
NAMES: Final = [f"v{n:02d}" for n in range(VOLUMES)]
DEPTH: Final = 4  # for each volume
DIRTY_S: Final = 2.0  # for the kernel to write back what was filled, at the least


class Load(NamedTuple):
    """What the servers are given to do."""

    seconds: int  # of a run; two runs a round, without copies and with
    rounds: int
    rate: int  # writes of 4 KiB a second, of all volumes together
    size: int  # of each volume


LOAD: Final = Load(7, 2, 10_000, 256 * MIB)


@dataclass(slots=True)
class Phase:
    """What one run of fio, and the copies beside it, came to."""

    iops: float
    p99_us: float
    cpu_us: float
    copies: int
    copy_s: list[float]  # how long each copy took, as its caller saw it
    disk: int  # bytes by which the directory grew
    memory: int  # by which the server grew


class OurSite(Isochrone):
    def start(self, directory: Path, size: int) -> None:
        Server.start(self, directory, size)
        time.sleep(1)  # its other sockets may come a little later than the first
        for name in NAMES:
            self._call("POST", api_path("volumes"), {"name": name, "size": size})

    def uris(self) -> list[str]:
        return [self.uri.replace("///bench?", f"///{name}?") for name in NAMES]

    def copy(self, name: str) -> None:
        self._call("POST", api_path("copies"), {"volumes": NAMES, "name": name})


class Btrfs(Server):
    """nbdkit over the files of a subvolume."""

    copies = True

    def __init__(self, directory: Path) -> None:
        self._disk_image, self._mount = directory / "btrfs.img", directory / "btrfs"
        self._live = self._mount / "live"
        socket = directory / "btrfs.sock"
        super().__init__(
            "btrfs",
            ["nbdkit", "-f", "-U", str(socket), "file", f"dir={self._live}"],
            socket,
        )

    def start(self, directory: Path, size: int) -> None:
        with self._disk_image.open("wb") as image:
            image.truncate(24 * GIB)
        self._mount.mkdir()
        _run("mkfs.btrfs", "-q", str(self._disk_image))
        _run("mount", "-o", "loop", str(self._disk_image), str(self._mount))
        _run("btrfs", "-q", "subvolume", "create", str(self._live))
        for name in NAMES:
            with (self._live / name).open("wb") as file:
                file.truncate(size)
        super().start(directory, size)

    def uris(self) -> list[str]:
        return [self.uri.replace("///?", f"///{name}?") for name in NAMES]

    def copy(self, name: str) -> None:
        _run("btrfs", "-q", "subvolume", "snapshot", "-r", str(self._live), str(self._mount / name))

    def stop(self) -> None:
        super().stop()
        if os.path.ismount(self._mount):
            _run("umount", str(self._mount))


class Qcow2(StorageDaemon):
    """An image for each volume, and one transaction for a copy of all."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.title = "qcow2"
        self._images = [directory / f"{name}.qcow2" for name in NAMES]
        at = self.command.index("--blockdev")
        server = self.command.index("--nbd-server")
        command = self.command[:at] + self.command[server : server + 2]
        for name, image in zip(NAMES, self._images, strict=True):
            node = f"driver=qcow2,node-name={name},discard=unmap,file.driver=file"
            export = f"type=nbd,id=e-{name},node-name={name},name={name},writable=on"
            command += ["--blockdev", f"{node},file.filename={image}", "--export", export]
        command[command.index("--nbd-server") + 1] += "0"  # 160 connections
        self.command = command

    def start(self, directory: Path, size: int) -> None:
        for image in self._images:
            _run("qemu-img", "create", "-q", "-f", "qcow2", str(image), str(size))
        Server.start(self, directory, size)

    def uris(self) -> list[str]:
        return [self.uri.replace("///bench?", f"///{name}?") for name in NAMES]

    def copy(self, name: str) -> None:
        kind = "blockdev-snapshot-internal-sync"
        self._ask(
            "transaction",
            actions=[{"type": kind, "data": {"device": node, "name": name}} for node in NAMES],
        )


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{command[0]}: {done.stderr.strip()}")


class Copying(threading.Thread):
    """Takes a copy each second until told to end."""

    def __init__(self, server: Any, kind: str) -> None:
        super().__init__(daemon=True)
        self._server, self._kind = server, kind
        self._over = threading.Event()
        self.took: list[float] = []
        self.error = ""

    def run(self) -> None:
        due = time.monotonic() + 1
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1, time.monotonic())  # who takes longer takes fewer
            began = time.monotonic()
            try:
                self._server.copy(f"{self._kind}-{len(self.took):05d}")
            except BenchError as e:
                self.error = str(e)
                return
            self.took.append(time.monotonic() - began)

    def end(self) -> list[float]:
        self._over.set()
        self.join()
        if self.error:
            raise BenchError(self.error)
        return self.took


def fio(server: Any, directory: Path, *options: str) -> dict[str, Any]:
    jobs = [f for n, uri in enumerate(server.uris()) for f in (f"--name=j{n}", f"--uri={uri}")]
    command = [
        *("fio", "--ioengine=nbd", "--thread", "--group_reporting", "--output-format=json"),
        *("--norandommap", "--randrepeat=0", *options, *jobs),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    try:
        found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError as e:
        raise BenchError(f"fio: {done.stderr.strip() or done.stdout[:200]}") from e
    return found


def used(directory: Path) -> int:
    """Bytes on the disk; of a mounted image, the image's."""
    found = 0
    for root, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not os.path.ismount(Path(root) / name)]
        found += sum((Path(root) / name).lstat().st_blocks * 512 for name in files)
    return found


def memory(server: Server) -> int:
    assert server._process is not None
    text = Path(f"/proc/{server._process.pid}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def phase(server: Any, directory: Path, load: Load, *, copies: str = "") -> Phase:
    """One run; `copies`: what those that are taken beside it are called, empty for none."""
    os.sync()
    before = used(directory), memory(server), server.cpu_s()
    copier = Copying(server, copies) if copies else None
    if copier is not None:
        copier.start()
    found = fio(
        server, directory, "--rw=randwrite", "--bs=4k", f"--iodepth={DEPTH}", "--time_based",
        f"--runtime={load.seconds}", f"--rate_iops={load.rate // VOLUMES}",
        "--rate_process=poisson",
    )  # fmt: skip
    took = copier.end() if copier is not None else []
    cpu = server.cpu_s() - before[2]
    os.sync()
    sample = parse_fio(found, reads=False, fsync=False)
    return Phase(
        sample.iops, sample.p99_us, cpu / sample.operations * 1e6, len(took), took,
        used(directory) - before[0], memory(server) - before[1],
    )  # fmt: skip


def row(title: str, plain: Sequence[Phase], copied: Sequence[Phase], seconds: int) -> list[str]:
    """Rounds without copies, and with: medians, and what grew in all of them."""
    data = sum(phase.iops for phase in copied) * seconds * BLOCK
    took = [each for phase in copied for each in phase.copy_s] or [0.0]
    before, after = (median([phase.p99_us for phase in phases]) for phases in (plain, copied))
    return [
        title,
        *(
            f"{median([x.iops for x in phases]) / 1e3:.1f} k/s, {p99 / 1e3:.2f} ms,"
            f" {median([x.cpu_us for x in phases]):.0f} µs"
            for phases, p99 in ((plain, before), (copied, after))
        ),
        f"{after / before:.2f}",
        f"{sum(phase.copies for phase in copied)}",
        f"{median(took) * 1e3:.0f} / {percentile(took, 0.99) * 1e3:.0f} ms",
        f"{sum(phase.disk for phase in copied) / data:.2f}",
        shown_size(max(0, sum(phase.memory for phase in copied))),
    ]


def one(kind: type, directory: Path, load: Load) -> list[str]:
    with scratch(directory, 30 * GIB) as path:
        path = path.resolve()
        server = kind(path)
        try:
            server.start(path, load.size)
            fio(server, path, "--rw=write", "--bs=1m", "--iodepth=2", f"--size={load.size}")
            time.sleep(DIRTY_S)
            plain, copied = [], []
            for n in range(load.rounds):
                plain.append(phase(server, path, load))
                copied.append(phase(server, path, load, copies=f"r{n}"))
            return row(server.title, plain, copied, load.seconds)
        except (BenchError, FioError) as e:
            return [kind.__name__, str(e), *[""] * 6]
        finally:
            server.stop()


def blocked(directory: Path) -> Section:
    """How long nothing else runs while 16 volumes are copied, in process."""
    section = Section("A copy of 16 volumes", ["copies before", "writes blocked", "longest"])
    with scratch(directory, 8 * GIB) as path:
        pool = open_pool(path)
        filler = Filler(pool, VOLUMES)
        for count in (0, 625, 10_000):
            while filler.made < count:
                filler.take()
            took = []
            for n in range(50):
                filler.write()
                began = time.perf_counter()
                copies.take(pool, filler.names, name=f"try-{n}")
                took.append(time.perf_counter() - began)
                copies.delete(pool, f"try-{n}")
            section.rows.append([
                f"{count:,}", f"{median(took) * 1e6:,.0f} µs", f"{max(took) * 1e6:,.0f} µs"
            ])  # fmt: skip
        leave(pool)
    section.notes.append("Median and longest of 50 tries. Goal: under 1,000 µs, and flat.")
    return section


def measure(directory: Path, load: Load = LOAD) -> list[Section]:
    section = Section(
        f"{load.rate:,} writes a second, and a copy of {VOLUMES} volumes each second",
        ["", "without copies: rate, p99, CPU of a write", "with", "p99, ratio", "copies",
         "a copy takes (median / p99)", "disk ÷ data", "memory"],
    )  # fmt: skip
    for kind in (OurSite, Btrfs, Qcow2):
        if kind is Btrfs and (os.geteuid() or shutil.which("mkfs.btrfs") is None):
            section.notes.append("btrfs was left out: it needs root and btrfs-progs.")
            continue
        section.rows.append(one(kind, directory, load))
    section.notes.append(
        f"{VOLUMES} volumes of {shown_size(load.size)}, written once before; 4 KiB at random,"
        f" {load.rounds} rounds of {load.seconds} s without copies and with, in turns; none is"
        " deleted. Goals: a ratio of at most 1.5; memory within the budget of the tables."
    )
    return [section, blocked(directory)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--directory", type=Path, default=Path("build"), help="default: build")
    parser.add_argument("--seconds", type=int, default=LOAD.seconds, help="of a run; default: 7")
    parser.add_argument("--rounds", type=int, default=LOAD.rounds, help="default: 2")
    parser.add_argument("--rate", type=int, default=LOAD.rate, help="default: 10000")
    parser.add_argument("--size", type=parse_size, default=LOAD.size, help="default: 256m")
    chosen = parser.parse_args()
    load = Load(chosen.seconds, chosen.rounds, chosen.rate, chosen.size)
    for section in measure(chosen.directory, load):
        print(section.text(), end="\n\n", flush=True)


if __name__ == "__main__":
    # So that servers are stopped and nothing stays mounted when something ends us politely.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except BenchError as e:
        sys.exit(f"copies_steady: {e}")
