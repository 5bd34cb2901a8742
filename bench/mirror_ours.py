"""Measure the mirror itself: what it costs production, what it ships, how far it is behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from copies_steady import fio
from mirror_delay import LongWire
from mirror_sites import GROUP, Ages, Pair
from report import parse_fio
from servers import BenchError
from yard import RANDOM, Section, median, percentile, scratch, shown_size

from isochrone.types import BLOCK, GIB, MIB

SECONDS: Final = 4
ROUNDS: Final = 3
RATES: Final = (5_000, 20_000)
PUMP_BYTES: Final = 2 * GIB
RATE_STEADY: Final = 10_000
SECONDS_STEADY: Final = 15
NEGOTIATIONS: Final = 100  # in that time
CALLERS: Final = 4
ROUND_TRIP_S: Final = 0.2


@contextmanager
def pair(directory: Path, size: int, *, fill: bool = True) -> Iterator[Pair]:
    with scratch(directory, 12 * size + 4 * GIB) as path:
        found = Pair(path.resolve(), size)
        try:
            found.start()
            if fill:
                found.fill()
            yield found
        finally:
            found.stop()


def foreground(directory: Path, size: int = GIB) -> Section:
    """Random writes with and without a mirror that follows, in turns."""
    section = Section(
        "What the mirror costs production",
        ["4 KiB random writes", "without", "with", "ratio", "p99 without", "p99 with", "late"],
    )
    jobs = {
        "depth 32, as fast as it goes": ("--iodepth=32",),
        "10,000 a second": ("--iodepth=32", "--rate_iops=10000", "--rate_process=poisson"),
    }
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    late: dict[tuple[str, str], list[float]] = defaultdict(list)
    with pair(directory, size) as sites:
        for modes in (("off", "on"), ("polite",)):
            if modes == ("polite",):
                sites.b.give_way()
            for title, options in jobs.items():
                for _ in range(ROUNDS):
                    for mode in modes:
                        if mode != "off":
                            sites.mirror()
                        os.sync()  # what was written before is not to be written during the run
                        told = fio(
                            sites.a, sites.directory, "--rw=randwrite", "--bs=4k", "--time_based",
                            f"--runtime={SECONDS}", "--ramp_time=1", *options,
                        )  # fmt: skip
                        sample = parse_fio(told, reads=False, fsync=False)
                        found[title, mode].append((sample.iops, sample.p99_us / 1e3))
                        if mode != "off":
                            late[title, mode].append(sites.wait())
                            sites.part()
    for mode, suffix in (("on", ""), ("polite", ", secondary at nice 19")):
        for title in jobs:
            off, p99_off = map(median, zip(*found[title, "off"], strict=True))
            on, p99_on = map(median, zip(*found[title, mode], strict=True))
            section.rows.append([
                *(title + suffix, f"{off / 1e3:.1f} k/s", f"{on / 1e3:.1f} k/s"),
                *(f"**{on / off:.2f}**", f"{p99_off:.2f} ms", f"{p99_on:.2f} ms"),
                f"{median(late[title, mode]):.1f} s",
            ])  # fmt: skip
    section.notes.append(
        f"Median of {ROUNDS} rounds of {SECONDS} s; client, primary and secondary share"
        f" {os.cpu_count()} cores. At nice 19 the secondary takes what the other two leave, as if"
        " it were elsewhere: that is the primary's part. *Late*: how long after the end the"
        " secondary had everything. Goal: a ratio of 0.9."
    )
    return section


def pump(target: int = PUMP_BYTES) -> tuple[float, float]:
    """What a bare socket of the loopback interface carries: (bytes a second, CPU seconds of both).

    Sender and receiver are Python programs too, with 1 MiB at a time.
    """
    receiver = (
        "import socket,sys,time\n"
        "s=socket.create_server(('127.0.0.1',0)); print(s.getsockname()[1],flush=True)\n"
        "c,_=s.accept(); b=bytearray(1<<20)\n"
        "while c.recv_into(b): pass\n"
        "print(time.process_time(),flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", receiver], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as wire:
        cpu, began = time.process_time(), time.monotonic()
        piece = memoryview(RANDOM)[:MIB]
        for _ in range(target // MIB):
            wire.sendall(piece)
    other = float(process.stdout.readline())
    process.wait()
    took = time.monotonic() - began
    return target / took, time.process_time() - cpu + other


def shipped(directory: Path, size: int = 2 * GIB) -> Section:
    """A first copy of data that does not compress, beside a bare socket."""
    section = Section(
        "What the link carries",
        ["", "MB/s", "of the bare socket", "CPU s/GiB, primary", "CPU s/GiB, secondary"],
    )
    bare, cpu = pump()
    section.rows.append(
        [
            "bare socket, both ends in Python",
            f"{bare / 1e6:,.0f}",
            "1",
            f"{cpu / 2:.2f} for both",
            "",
        ]
    )
    with pair(directory, size) as sites:
        before = sites.cpu_s()
        began = time.monotonic()
        sites.mirror()
        took = time.monotonic() - began
        after = sites.cpu_s()
        rate = sites.bytes_received() / took
        section.rows.append([
            "first copy, random data", f"{rate / 1e6:,.0f}", f"**{rate / bare:.2f}**",
            f"{(after[0] - before[0]) * GIB / size:.2f}",
            f"{(after[1] - before[1]) * GIB / size:.2f}",
        ])  # fmt: skip
    section.notes.append(
        f"{shown_size(size)}; from the command until the secondary says that all is there: reading,"
        " checksums, trying to compress, sending, checking, writing and syncing. Goal: 0.6."
    )
    return section


def ages(directory: Path, size: int = GIB) -> Section:
    """How old the recovery point is under load, as the secondary tells it."""
    section = Section(
        "Age of the recovery point, cuts each second",
        ["random writes offered", "done", "p50", "p99", "largest", "shipped", "written ÷ shipped"],
    )
    with pair(directory, size) as sites:
        sites.mirror()
        for rate in RATES:
            received = sites.bytes_received()
            looking = Ages(sites)
            looking.start()
            found = fio(
                sites.a, sites.directory, "--rw=randwrite", "--bs=4k", "--iodepth=32",
                "--time_based", "--runtime=20", f"--rate_iops={rate}", "--rate_process=poisson",
                "--refill_buffers",
            )  # fmt: skip
            p50, p99, most = looking.end()
            sites.wait()
            sample = parse_fio(found, reads=False, fsync=False)
            got = sites.bytes_received() - received
            section.rows.append([
                f"{rate:,} a second", f"{sample.iops:,.0f} a second",
                f"{p50:.2f} s", f"{p99:.2f} s", f"{most:.2f} s",
                shown_size(got), f"{sample.operations * BLOCK / got:.2f}",
            ])  # fmt: skip
    section.notes.append(
        f"20 s each over {shown_size(size)}, data that does not compress, sampled each 0.1 s at the"
        " secondary."
    )
    return section


def commands(directory: Path, size: int = GIB) -> Section:
    """A copy as a command against its data, and a resync against the tracks that changed."""
    section = Section(
        "What need not be shipped", ["", "changed", "bytes on the link", "ratio", "time"]
    )
    with pair(directory, size) as sites:
        sites.mirror()
        before, began = sites.bytes_received(), time.monotonic()
        sites.a.do("copy", "take", GROUP, "--name", "golden")
        took = sites.wait() + time.monotonic() - began
        moved = sites.bytes_received() - before
        section.rows.append([
            "a copy of a full volume", shown_size(size), shown_size(moved),
            f"1 / {size / max(moved, 1):,.0f}", f"{took:.1f} s",
        ])  # fmt: skip
        sites.a.do("mirror", "suspend", GROUP)
        count = 2_000
        fio(
            sites.a, sites.directory, "--rw=randwrite", "--bs=64k", "--iodepth=8",
            f"--number_ios={count}", f"--size={size}", "--refill_buffers", "--blockalign=64k",
        )  # fmt: skip
        changed = int(_changed(sites))
        before, began = sites.bytes_received(), time.monotonic()
        sites.a.do("mirror", "resume", GROUP)
        sites.wait()
        took = time.monotonic() - began
        moved = sites.bytes_received() - before
        section.rows.append([
            f"resync after a suspension, {count:,} random writes of 64 KiB", shown_size(changed),
            shown_size(moved), f"**{moved / changed:.3f}**", f"{took:.1f} s",
        ])  # fmt: skip
    section.notes.append("Data that does not compress. Goal of the resync: at most 1.05.")
    return section


def _changed(sites: Pair) -> int:
    """Bytes of the tracks that a resend brings, as the primary counts them."""
    time.sleep(2.5)  # it counts once a second
    found = sites.a.ask("GET", "groups", GROUP)
    return max(int(peer["changed_bytes"]) for peer in found["peers"])


class Negotiators:
    """Callers who copy onto mirrored volumes, each its own, and ask first; one after the other."""

    def __init__(self, sites: Pair, targets: list[str]) -> None:
        self.took_s: list[float] = []
        self.failed: list[str] = []
        self._sites = sites
        self._over = threading.Event()
        apart_s = SECONDS_STEADY / NEGOTIATIONS
        self._callers = [
            threading.Thread(target=self._call, args=(name, n * apart_s, CALLERS * apart_s))
            for n, name in enumerate(targets)
        ]

    def __enter__(self) -> Negotiators:
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for caller in self._callers:
            caller.join()

    def _call(self, target: str, first_s: float, apart_s: float) -> None:
        due = time.monotonic() + first_s
        pairs = [{"source": "golden", "target": target}]
        body = {"pairs": pairs, "once": True, "mirror": "required"}
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += apart_s
            began = time.monotonic()
            try:
                self._sites.a.ask("POST", "relations", body=body)
            except BenchError as e:
                self.failed.append(str(e))
                return
            self.took_s.append(time.monotonic() - began)


def negotiations(directory: Path, size: int = GIB) -> Section:
    """What writers notice of commands that ask a secondary first, at the end of a long wire."""
    section = Section(
        f"Writers beside negotiations, {RATE_STEADY:,} random writes a second",
        ["", "writes done", "p99", "negotiations", "each took, p50", "p99"],
    )
    targets = [f"target{n}" for n in range(CALLERS)]
    with pair(directory, size) as sites, LongWire(sites.a.link, ROUND_TRIP_S / 2) as wire:
        for name in ("golden", *targets):
            sites.a.ask("POST", "volumes", body={"name": name, "size": 64 * MIB})
        sites.a.do("group", "create", GROUP, GROUP, "golden", *targets)
        sites.b.do("mirror", "add", GROUP, "--source", wire.address)
        sites.wait()
        p99: dict[bool, list[float]] = {False: [], True: []}
        for n in range(2 * ROUNDS):
            asking = bool(n % 2)
            with Negotiators(sites, targets if asking else []) as callers:
                found = fio(
                    sites.a, sites.directory, "--rw=randwrite", "--bs=4k", "--iodepth=32",
                    "--time_based", f"--runtime={SECONDS_STEADY}", "--ramp_time=1",
                    f"--rate_iops={RATE_STEADY}", "--rate_process=poisson",
                )  # fmt: skip
            if callers.failed:
                raise BenchError(f"a negotiation failed: {callers.failed[0]}")
            sample = parse_fio(found, reads=False, fsync=False)
            p99[asking].append(sample.p99_us)
            took = callers.took_s
            section.rows.append([
                "with negotiations" if asking else "without", f"{sample.iops:,.0f} a second",
                f"{sample.p99_us / 1e3:.2f} ms", f"{len(took)}",
                *(f"{percentile(took, p):.2f} s" if took else "" for p in (0.5, 0.99)),
            ])  # fmt: skip
            sites.wait()
    change = median(p99[True]) / median(p99[False]) - 1
    section.notes.append(
        f"In turns, {SECONDS_STEADY} s each, {CALLERS} callers, `--mirror required`, a round trip"
        f" of {ROUND_TRIP_S * 1e3:.0f} ms. Callers and wire are threads of the benchmark, on the"
        f" same cores. Median p99 with negotiations: **{change:+.0%}**; goal: less than 5 % more."
    )
    return section


def coalescing(directory: Path) -> Section | None:
    """A file system that is worked on: what was written against what was shipped."""
    if shutil.which("nbdfuse") is None:
        return None
    section = Section(
        "Coalescing of a file system's writes",
        ["cuts", "written by the file system", "shipped", "written ÷ shipped"],
    )
    size = GIB
    with pair(directory, size, fill=False) as sites:
        sites.mirror()
        for interval in (1, 10):
            sites.a.do("mirror", "set", GROUP, "--interval", str(interval))
            received, written = sites.bytes_received(), _written(sites)
            fio(
                sites.a, sites.directory, "--rw=randwrite", "--bs=4k", "--iodepth=8",
                "--time_based", "--runtime=20", "--rate_iops=3000", "--fsync=32",
                "--random_distribution=zipf:1.1", "--refill_buffers",
            )  # fmt: skip
            sites.wait()
            got, wrote = sites.bytes_received() - received, _written(sites) - written
            section.rows.append(
                [f"each {interval} s", shown_size(wrote), shown_size(got), f"{wrote / got:.2f}"]
            )
    section.notes.append("Random writes by Zipf's law (1.1), as a database's pages are written.")
    return section


def _written(sites: Pair) -> int:
    return int(sites.a.ask("GET", "pool")["written"])
