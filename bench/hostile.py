"""Attack the front door with generated hostile frames, and measure its memory.

    python bench/hostile.py --frames 10000000 --live 1000000 --seed 1 --jobs 2

First without sockets, in `jobs` processes; then both ends of a mirror session, with a tenth of the
frames (`hostile_link.py`); then a real controller, over its Unix socket, with dead
readers and unfinished writes that stay while the sessions go on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.hostile_link import both_ends  # noqa: E402
from tests.control.process import Controller, Nbd, controllers  # noqa: E402
from tests.nbd.hostile import SIZE, Hostile, attack  # noqa: E402
from tests.nbd.serving import Raw, request  # noqa: E402

STAY = 100  # hostile clients that stay connected and hold what they can


def without_sockets(work: tuple[int, int]) -> tuple[int, int]:
    frames, seed = work
    target = attack(frames, seed)
    return target.faults, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def sans_io(frames: int, seed: int, jobs: int) -> None:
    began = time.monotonic()
    parts = max(jobs, frames // 500_000)
    work = [(frames // parts + 1, seed * 1000 + n) for n in range(parts)]
    with ProcessPoolExecutor(jobs) as pool:
        done = list(pool.map(without_sockets, work))
    seconds = time.monotonic() - began
    faults, most = sum(f for f, _ in done), max(rss for _, rss in done)
    print(
        f"without sockets: {frames:,} frames, {faults:,} sessions at fault, nothing got out;"
        f" {seconds:.0f} s, {frames / seconds:,.0f} frames/s, peak RSS {most / 1024:.0f} MiB"
    )


def memory(pid: int, field: str) -> float:
    """MiB of VmRSS or VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def isochrone(controller: Controller, *words: str) -> None:
    site = ["--site", str(controller.directory)]
    command = [sys.executable, "-m", "isochrone", *site, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def stay(path: str) -> list[Raw]:
    """Dead readers and unfinished writes, of the largest size there is."""
    peers = []
    for number in range(STAY):
        peer = Raw(path)
        peer.open("disk")
        peer.socket.setblocking(False)
        with contextlib.suppress(OSError):
            if number % 2:
                peer.send(*(request(0, 0, SIZE) for _ in range(64)))
            else:
                peer.send(request(1, 0, SIZE)[:28] + bytes(SIZE - 1))
        peers.append(peer)
    return peers


def session(path: str, pieces: list[bytes]) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(5)
        wire.connect(path)
        wire.setblocking(False)
        for piece in pieces:
            with contextlib.suppress(BlockingIOError):
                wire.recv(1 << 20)
            wire.send(piece)
        wire.setblocking(True)
        wire.settimeout(5)
        wire.shutdown(socket.SHUT_WR)
        while wire.recv(1 << 20):
            pass


def live(frames: int, seed: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="iso-"))
    try:
        with controllers() as start:
            controller = start(folder / "pool")
            for name in ("disk", "frozen", "other"):
                isochrone(controller, "volume", "create", name, str(SIZE))
            isochrone(controller, "filter", "set", "frozen", "read-only")
            attack_live(controller, frames, seed)
            code, _, err = controller.end()
            lines = err.count("\n")
            print(f"live: ended with {code} and {lines} lines in its log")
            if code or "Traceback" in err:
                sys.exit(err)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def attack_live(controller: Controller, frames: int, seed: int) -> None:
    path, pid = controller.address("nbd"), controller.process.pid
    data = hashlib.sha512(b"mine").digest() * (SIZE // 64)
    other = Nbd(path, "other")
    other.write(0, data)
    before, began = memory(pid, "VmRSS"), time.monotonic()
    hostile, done, sessions, slowest = Hostile(seed), 0, 0, 0.0
    peers = stay(path)
    while done < frames:
        pieces, count = hostile.session()
        session(path, pieces)
        done += count
        sessions += 1
        if sessions % 100 == 0:
            asked = time.monotonic()
            if other.read(0, 4096) != data[:4096]:
                sys.exit("another volume was changed")
            slowest = max(slowest, time.monotonic() - asked)
            if sys.stderr.isatty():
                print(f"\r{done:,} frames, {memory(pid, 'VmRSS'):.0f} MiB", end="", file=sys.stderr)
    seconds = time.monotonic() - began
    for peer in peers:
        peer.close()
    if other.read(0, SIZE) != data:
        sys.exit("another volume was changed")
    print(
        f"live: {done:,} frames in {sessions:,} sessions beside {STAY} that hold what they can;"
        f" {seconds:.0f} s; RSS {before:.0f} MiB before, peak {memory(pid, 'VmHWM'):.0f} MiB,"
        f" after {memory(pid, 'VmRSS'):.0f} MiB; slowest answer beside it {slowest * 1000:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000_000)
    parser.add_argument("--live", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    if options.frames:
        sans_io(options.frames, options.seed, options.jobs)
        both_ends(options.frames // 10, options.seed, options.jobs)
    if options.live:
        live(options.live, options.seed)


if __name__ == "__main__":
    main()
