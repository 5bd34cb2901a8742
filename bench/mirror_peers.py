"""Measure what others do once a second on the same writes: btrfs send, qemu's backups."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from copies_steady import _run, fio
from mirror_sites import Ages, Pair
from report import FioError, parse_fio
from servers import BenchError, Server, StorageDaemon
from yard import Section, percentile, scratch, shown_size

from isochrone.types import BLOCK, GIB

SECONDS: Final = 20
RATE: Final = 5_000
SIZE: Final = GIB
PIECE: Final = 1 << 20


class Shipping(threading.Thread):
    """Ships one point in time after the other, at most one a second, and samples its age."""

    def __init__(self, peer: Any) -> None:
        super().__init__(daemon=True)
        self._peer = peer
        self._over = threading.Event()
        self._point = time.monotonic()
        self.bytes = 0
        self.ships: list[float] = []
        self.ages: list[float] = []
        self.error = ""
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        self._sampler.start()
        super().start()

    def _sample(self) -> None:
        while not self._over.wait(0.1):
            self.ages.append(time.monotonic() - self._point)

    def run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self.bytes += self._peer.ship()
            except (BenchError, OSError, KeyError) as e:
                self.error = str(e)
                return
            self._point = began
            self.ships.append(time.monotonic() - began)
            self._over.wait(max(0.0, began + 1 - time.monotonic()))

    def end(self) -> None:
        self._over.set()
        self.join()
        self._sampler.join()
        if self.error:
            raise BenchError(self.error)


class BtrfsSend(Server):
    """A file on btrfs, served by nbdkit; a snapshot each second is sent to another btrfs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._near, self._far = directory / "near", directory / "far"
        self._live = self._near / "live"
        self._number = 0
        socket_path = directory / "btrfs.sock"
        command = ["nbdkit", "-f", "-U", str(socket_path), "file", str(self._live / "bench")]
        super().__init__("btrfs send, receive", command, socket_path)

    def start(self, directory: Path, size: int) -> None:
        for mount in (self._near, self._far):
            image = mount.with_suffix(".img")
            with image.open("wb") as file:
                file.truncate(12 * GIB)
            mount.mkdir()
            _run("mkfs.btrfs", "-q", str(image))
            _run("mount", "-o", "loop", str(image), str(mount))
        _run("btrfs", "-q", "subvolume", "create", str(self._live))
        with (self._live / "bench").open("wb") as file:
            file.truncate(size)
        super().start(directory, size)

    def uris(self) -> list[str]:
        return [self.uri]

    def ship(self) -> int:
        number = self._number = self._number + 1
        snapshot = self._near / f"s{number}"
        _run("btrfs", "-q", "subvolume", "snapshot", "-r", str(self._live), str(snapshot))
        _run("btrfs", "filesystem", "sync", str(self._near))
        base = ["-p", str(self._near / f"s{number - 1}")] if number > 1 else []
        send = subprocess.Popen(
            ["btrfs", "-q", "send", *base, str(snapshot)], stdout=subprocess.PIPE
        )
        receive = subprocess.Popen(
            ["btrfs", "-q", "receive", str(self._far)], stdin=subprocess.PIPE
        )
        assert send.stdout is not None and receive.stdin is not None
        moved = 0
        while piece := send.stdout.read(PIECE):
            receive.stdin.write(piece)
            moved += len(piece)
        receive.stdin.close()
        if send.wait() or receive.wait():
            raise BenchError("btrfs send or receive failed")
        _run("btrfs", "filesystem", "sync", str(self._far))
        if number > 1:
            for side in (self._near, self._far):
                _run("btrfs", "-q", "subvolume", "delete", str(side / f"s{number - 1}"))
        return moved

    def stop(self) -> None:
        super().stop()
        for mount in (self._near, self._far):
            if os.path.ismount(mount):
                _run("umount", str(mount))


class DirtyBitmap(StorageDaemon):
    """A raw file behind qemu's block layer; what a bitmap marks is backed up each second."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.title = "qemu incremental backup"
        self._file, self._target = directory / "live.raw", directory / "target.raw"
        at = self.command.index("--blockdev") + 1
        self.command[at] = f"driver=raw,node-name=bench,file.driver=file,file.filename={self._file}"
        target = f"driver=raw,node-name=target,file.driver=file,file.filename={self._target}"
        self.command[at + 1 : at + 1] = ["--blockdev", target]
        self._number = 0

    def start(self, directory: Path, size: int) -> None:
        for path in (self._file, self._target):
            with path.open("wb") as file:
                file.truncate(size)
        Server.start(self, directory, size)
        self._ask("block-dirty-bitmap-add", node="bench", name="changed", granularity=4096)

    def uris(self) -> list[str]:
        return [self.uri]

    def ship(self) -> int:
        self._number += 1
        job = f"backup{self._number}"
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(30)
            wire.connect(str(self._monitor))
            lines = wire.makefile("rw")
            lines.readline()
            _say(lines, "qmp_capabilities")
            _ask(
                lines, "blockdev-backup", device="bench", target="target", sync="incremental",
                bitmap="changed", **{"job-id": job, "auto-dismiss": True},
            )  # fmt: skip
            moved = _completed(lines, job)
        os.sync()  # the target must survive as ours does
        return moved


def _completed(lines: Any, job: str) -> int:
    """Wait for a job's end, which may be told before the answer; the bytes that it copied."""
    for line in lines:
        event = json.loads(line)
        data = event.get("data", {})
        if "error" in event:
            raise BenchError(f"qemu refused: {event['error']['desc']}")
        if event.get("event") == "BLOCK_JOB_COMPLETED" and data.get("device") == job:
            if data.get("error"):
                raise BenchError(data["error"])
            return int(data["len"])
    raise BenchError("qemu hung up before the backup was complete")


def _ask(lines: Any, command: str, **arguments: Any) -> None:
    lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    lines.flush()


def _say(lines: Any, command: str, **arguments: Any) -> Any:
    _ask(lines, command, **arguments)
    while "event" in (answer := json.loads(lines.readline())):
        pass
    if "error" in answer:
        raise BenchError(f"qemu refused {command}: {answer['error']['desc']}")
    return answer


def _load(server: Any, directory: Path) -> Any:
    return fio(
        server, directory, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--time_based",
        f"--runtime={SECONDS}", f"--rate_iops={RATE}", "--rate_process=poisson", "--refill_buffers",
    )  # fmt: skip


def _fill(server: Any, directory: Path) -> None:
    fio(
        server, directory, "--rw=write", "--bs=1m", "--iodepth=4", f"--size={SIZE}",
        "--refill_buffers",
    )  # fmt: skip


def _row(title: str, sample: Any, moved: int, ages: list[float], points: str) -> list[str]:
    return [
        title, f"{sample.iops:,.0f} a second", f"{sample.p99_us / 1e3:.2f} ms",
        f"{percentile(ages, 0.5):.2f} / {percentile(ages, 0.99):.2f} s", points, shown_size(moved),
        f"{moved / (sample.operations * BLOCK):.2f}",
    ]  # fmt: skip


def _ours(directory: Path) -> list[str]:
    pair = Pair(directory, SIZE)
    try:
        pair.start()
        _fill(pair.a, directory)
        pair.mirror()
        before, cut = pair.bytes_received(), int(pair.status()["cut"])
        looking = Ages(pair)
        looking.start()
        sample = parse_fio(_load(pair.a, directory), reads=False, fsync=False)
        looking.end()
        pair.wait()
        moved = pair.bytes_received() - before
        cuts = int(pair.status()["cut"]) - cut
        return _row("isochrone", sample, moved, looking.seen, f"{cuts}")
    finally:
        pair.stop()


def _peer(kind: type, directory: Path) -> list[str]:
    server = kind(directory)
    try:
        server.start(directory, SIZE)
        _fill(server, directory)
        server.ship()
        shipping = Shipping(server)
        shipping.start()
        found = _load(server, directory)
        shipping.end()
        sample = parse_fio(found, reads=False, fsync=False)
        return _row(server.title, sample, shipping.bytes, shipping.ages, f"{len(shipping.ships)}")
    except (BenchError, FioError, OSError) as e:
        return [server.title, str(e), *[""] * 5]
    finally:
        server.stop()


def kinds() -> Iterator[type]:
    if os.geteuid() == 0 and shutil.which("mkfs.btrfs"):
        yield BtrfsSend
    yield DirtyBitmap


def measure(directory: Path) -> Section:
    section = Section(
        f"Beside others: {RATE:,} random writes a second, a point in time each second",
        ["", "writes done", "p99", "age of the newest point, p50 / p99", f"points in {SECONDS} s",
         "shipped", "÷ written"],
    )  # fmt: skip
    with ExitStack() as stack:
        path = stack.enter_context(scratch(directory, 12 * SIZE))
        section.rows.append(_ours(path.resolve()))
    for kind in kinds():
        with scratch(directory, 30 * GIB) as path:
            section.rows.append(_peer(kind, path.resolve()))
    section.notes.append(
        f"{shown_size(SIZE)}, filled and copied before; all on this machine, no wire between. The"
        " target of qemu's backup is torn while one runs; btrfs and ours show the last point. btrfs"
        " needs root and is left out without."
    )
    return section
