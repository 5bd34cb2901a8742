"""Measure the front door against its neighbours, and write RESULTS.md.

Run it with `make bench`. Rounds alternate: every job is run against one server after the other
before the next job begins, and who goes first changes with the round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jobs
import report
from servers import BenchError, Server, check_programs, servers, versions

HERE: Final = Path(__file__).resolve().parent
RESULTS: Final = HERE / "RESULTS.md"
FIO_GRACE_S: Final = 60.0  # beyond the measured time: a flush may wait for the disk
FREE_BYTES_MIN: Final = 8 << 30  # a log grows with every write; the fastest job fills 3 GiB
WARM_SHARE: Final = 0.9  # of the memory that is available; whoever needs more gets it back
WARM_BYTES: Final = 4 << 20  # one step
COPY_S: Final = 1.0  # between copies, where a job takes some
UNITS: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

Samples = dict[str, dict[str, list[report.Sample]]]  # job -> server -> one a round


def parse_size(text: str) -> int:
    """512m, 1g or bytes; whole MiB, for the sequential jobs' sake."""
    number, unit = (text[:-1], UNITS[text[-1].lower()]) if text[-1].isalpha() else (text, 1)
    size = int(number) * unit
    if size <= 0 or size % UNITS["m"]:
        raise ValueError(text)
    return size


def parse_jobs(text: str) -> list[jobs.Job]:
    known = {job.name: job for job in jobs.JOBS}
    wanted = text.split(",")
    if not set(wanted) <= set(known):
        raise argparse.ArgumentTypeError(f"the jobs are {', '.join(known)}")
    needed = {job.load_of for job in jobs.JOBS if job.name in wanted}  # what tells their load
    return [job for job in jobs.JOBS if job.name in needed.union(wanted)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the front door against its neighbours.")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--seconds", type=int, default=2, help="of one job; default: 2")
    parser.add_argument("--size", type=parse_size, default="1g", help="of a volume; default: 1g")
    parser.add_argument(
        "--only",
        type=parse_jobs,
        metavar="JOB,...",
        help=f"print, and leave RESULTS.md alone; of {', '.join(job.name for job in jobs.JOBS)}",
    )
    parser.add_argument("--cold", action="store_true", help="do not fill the memory before")
    parser.add_argument(
        "--directory", type=Path, default=Path("build"), help="on the disk to use; default: build"
    )
    chosen = parser.parse_args()
    if chosen.rounds < 1 or chosen.seconds < 1:
        parser.error("--rounds and --seconds are positive")
    return chosen


def file_system(path: Path) -> str:
    """Kind of the file system that holds a path."""
    best, kind = -1, "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, found = line.split()[:3]
        inside = path.resolve().is_relative_to(mount)
        if inside and len(mount) >= best:
            best, kind = len(mount), found
    return kind


def warm_memory(directory: Path) -> int:
    """Fill most of the free memory with the pages of a file, and leave them there; the bytes.

    A virtual machine pays its host for each page that it uses for the first time, up to ten times
    what copying the page costs, and with free page reporting again for each page that was free for
    some seconds. A growing log would pay that in the measured time, a file that is overwritten
    would not. The memory of a machine in use is full of pages that are worth little, and so is
    this: who needs one takes it from the file, which is one hole and costs no room on the disk.
    """
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(facts["MemAvailable"].split()[0]) << 10
    size = int(available * WARM_SHARE)
    piece = memoryview(bytearray(WARM_BYTES))
    with (directory / "warm").open("w+b", buffering=0) as file:
        file.truncate(size)
        while file.readinto(piece):
            pass
    return size


def settle(directory: Path) -> None:
    """Write back what the last run left dirty, so that the next does not pay for it."""
    subprocess.run(["sync", "-f", str(directory)], check=True)


def fio(command: list[str], directory: Path, output: str, seconds: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + FIO_GRACE_S,
        )
    except subprocess.TimeoutExpired as e:
        raise BenchError(f"fio does not end: {' '.join(command)}") from e
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise BenchError(f"fio failed: {' '.join(words) or done.returncode}")
    text = (directory / output).read_text()
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError as e:  # it writes complaints there, too
        raise BenchError(f"fio failed: {text.strip().splitlines()[:1] or 'no output'}") from e
    return document


@contextmanager
def copying(server: Server, wanted: bool) -> Iterator[None]:
    """Take a copy each second in here; they are deleted afterwards, which is not measured."""
    taken: list[str] = []
    over = threading.Event()

    def take() -> None:
        while not over.wait(COPY_S):
            server.copy(f"copy-{len(taken)}")
            taken.append(f"copy-{len(taken)}")

    if not wanted:
        yield
        return
    with ThreadPoolExecutor(1) as executor:
        taking = executor.submit(take)
        try:
            yield
        finally:
            over.set()
        taking.result()
    for name in taken:
        server.delete_copy(name)


def measure(
    job: jobs.Job, server: Server, directory: Path, seconds: float, seed: int, rate: int
) -> report.Sample:
    settle(directory)
    if shutil.disk_usage(directory).free < FREE_BYTES_MIN:
        raise BenchError(f"less than {FREE_BYTES_MIN >> 30} GiB are free: too few to go on")
    cpu_before = server.cpu_s()
    command = jobs.command(job, server.uri, seconds, seed, "fio.json", rate)
    with copying(server, job.copies):
        document = fio(command, directory, "fio.json", seconds)
        cpu_s = server.cpu_s() - cpu_before
    sample = report.parse_fio(document, reads=job.reads, fsync=job.fsync, mixed=job.mixed)
    # The ramp is in the processor time and not in fio's count.
    operations = sample.iops * (seconds + jobs.RAMP_S)
    return report.Sample(
        sample.operations,
        sample.iops,
        sample.bytes_per_s,
        sample.p99_us,
        cpu_us=cpu_s * 1e6 / operations,
    )


def run_all(
    chosen: argparse.Namespace, wanted: list[jobs.Job], running: list[Server], directory: Path
) -> Samples:
    samples: Samples = {job.name: {s.title: [] for s in running} for job in wanted}
    for server in running:
        say(f"filling {server.title}")
        fio(jobs.fill_command(server.uri, "fill.json"), directory, "fill.json", 600)
    for number in range(chosen.rounds):
        first = number % len(running)
        for job in wanted:
            load = [
                samples[job.load_of][s.title][-1].iops for s in running if s.peer and job.load_of
            ]
            rate = int(min(load, default=0) * jobs.LOAD_PART)
            for server in running[first:] + running[:first]:
                if (job.copies and not server.copies) or not (job.ceiling or server.peer):
                    continue
                sample = measure(job, server, directory, chosen.seconds, number + 1, rate)
                samples[job.name][server.title].append(sample)
                say(
                    f"round {number + 1} {job.name:14} {server.title:13} {sample.iops:10,.0f}/s"
                    f" {sample.bytes_per_s / report.MIB:8,.0f} MiB/s  p99 {sample.p99_us:9,.0f} us"
                    f"  cpu {sample.cpu_us:7,.1f} us"
                )
    return samples


def facts(
    chosen: argparse.Namespace, running: list[Server], directory: Path, load: float, warm: int
) -> list[tuple[str, str]]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    found = versions()
    return [
        ("date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        (
            "machine",
            f"{os.cpu_count()} cores, {memory} GiB of memory, {platform.machine()}, "
            f"Linux {platform.release()}, Python {platform.python_version()}, "
            f"{file_system(directory)}; load before the start {load:.2f}",
        ),
        ("memory", f"{warm >> 30} GiB of it filled with pages of a file before the first run"),
        ("versions", ", ".join(f"{name} {version}" for name, version in found.items())),
        ("command", f"`{' '.join(['bench/run.py', *sys.argv[1:]])}`"),
        (
            "each figure",
            f"{chosen.rounds} rounds of {chosen.seconds:g} s, volumes of "
            f"{chosen.size >> 20} MiB, each written once before",
        ),
        (
            "fio",
            f"`--ioengine=nbd {' '.join(jobs.common_options())}`; one connection unless told",
        ),
        *((server.title, f"`{server.shown_command(directory)}`") for server in running),
        (
            "durability",
            "all acknowledge writes from the page cache and sync on flush; dirty pages are "
            "written back before every run",
        ),
    ]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    chosen = arguments()
    wanted = chosen.only or list(jobs.JOBS)
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        check_programs()
        chosen.directory.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(prefix="bench-", dir=chosen.directory)
        stack.callback(shutil.rmtree, name, ignore_errors=True)
        directory = Path(name).resolve()
        if file_system(directory) in ("tmpfs", "ramfs"):
            raise BenchError(f"{chosen.directory} is in memory: use --directory on a disk")
        if not chosen.cold:
            say("warming the memory")
        warm = 0 if chosen.cold else warm_memory(directory)
        running = servers(directory, chosen.size)
        for server in running:
            stack.callback(server.stop)
            server.start(directory, chosen.size)
        samples = run_all(chosen, wanted, running, directory)
        told = facts(chosen, running, directory, load, warm)
    rows = [report.Row(job.title, job.sequential, samples[job.name]) for job in wanted]
    ours, *rest = running
    peers = [server.title for server in rest if server.peer]
    others = [server.title for server in rest if not server.peer]
    if chosen.only:
        print(report.rate_table(rows, ours.title, peers, others))
        print()
        print(report.cost_table(rows, [ours.title, *peers, *others]))
        return 0
    old = RESULTS.read_text() if RESULTS.exists() else ""
    text = report.page(told, rows, ours.title, peers, others, report.kept_reading(old))
    RESULTS.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    # So that servers are also stopped when something ends us politely.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except (BenchError, report.FioError) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
