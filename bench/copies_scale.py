"""Measure copies by the ten thousand: what each command costs, and how long it keeps the loop.

In process, through the same application that the daemon serves. A watch sleeps a millisecond at a
time beside the command; what it oversleeps is time in which no client would have been served.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from yard import (
    RANDOM,
    Section,
    leave,
    median,
    open_pool,
    percentile,
    resident_bytes,
    scratch,
    shown_size,
)

from isochrone.control.api import make_app
from isochrone.mirror.service import Mirrors
from isochrone.store import copies, volumes
from isochrone.store.cleaner import Cleaner
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, GIB

MEMBERS: Final = (10, 100, 1_000, 10_000)  # of all copies together
WIDTHS: Final = (1, 16)  # volumes in a copy
TRIES: Final = 20
SLOW_TRIES: Final = 3  # of what reads all tables
TICK_S: Final = 0.001
VOLUME_BYTES: Final = 4 * GIB
BETWEEN: Final = 4  # writes to each volume between two copies: no two have the same table


class Kept(NamedTuple):
    """What one command did to the loop, in seconds."""

    late: float  # the longest time in which nobody else was served
    busy: float  # the same in processor time of the loop's thread: what a busy machine leaves alone
    wall: float


@dataclass(slots=True)
class Watch:
    """How late a task that wants a turn each millisecond gets it."""

    late: float = 0.0
    busy: float = 0.0
    _over: bool = False

    async def _tick(self) -> None:
        while not self._over:
            began, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            self.late = max(self.late, time.perf_counter() - began - TICK_S)
            self.busy = max(self.busy, time.thread_time() - used)

    async def over(self, work: Callable[[], Awaitable[object]]) -> Kept:
        """Do it, and say what it took."""
        self._over = False
        ticking = asyncio.get_running_loop().create_task(self._tick())
        await asyncio.sleep(2 * TICK_S)
        self.late = self.busy = 0.0
        wall = time.perf_counter()
        await work()
        wall = time.perf_counter() - wall
        self._over = True
        await ticking
        return Kept(self.late, self.busy, wall)


class Site:
    """A pool behind its API, without sockets."""

    def __init__(self, pool: Pool, directory: Path) -> None:
        self.pool = pool
        self._app = make_app(pool, Mirrors(pool, pool.world), directory)

    async def call(self, method: str, path: str, body: object = None) -> bytes:
        sent = json.dumps(body).encode() if body is not None else b""
        parts: list[bytes] = []
        status = 0

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: dict[str, object]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(str(message["status"]))
            else:
                parts.append(bytes(message.get("body", b"")))  # type: ignore[call-overload]

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "client": None, "server": ("unix", None), "root_path": "",
        }  # fmt: skip
        await self._app(scope, receive, send)  # type: ignore[arg-type]
        answer = b"".join(parts)
        if status >= 400:
            raise SystemExit(f"{method} {path}: {status} {answer[:200]!r}")
        return answer


class Filler:
    """Makes copies, each of tables that differ from the ones before."""

    def __init__(self, pool: Pool, width: int) -> None:
        self.pool = pool
        self.names = [f"v{n}" for n in range(width)]
        self._ids = [volumes.create(pool, name, VOLUME_BYTES).id for name in self.names]
        self._dice = random.Random(width)
        self.made = 0

    def write(self) -> None:
        data = memoryview(RANDOM)
        for id in self._ids:
            device = VolumeDevice(self.pool, id)
            for _ in range(BETWEEN):
                at = self._dice.randrange(1024) * BLOCK
                where = self._dice.randrange(VOLUME_BYTES // BLOCK) * BLOCK
                device.write(where, data[at : at + BLOCK])
        self.pool.commit()

    def take(self) -> str:
        self.made += 1
        return copies.take(self.pool, self.names, name=f"copy-{self.made:05d}").name

    async def until(self, count: int) -> None:
        while self.made < count:
            self.write()
            self.take()
            if self.pool.checkpoint_due:
                await self.pool.checkpoint()


async def measure_at(filler: Filler, site: Site) -> dict[str, list[Kept]]:
    """Every command, some times each. Leaves as many copies as there were."""
    pool, watch = filler.pool, Watch()
    found: dict[str, list[Kept]] = {}

    async def each(
        title: str, work: Callable[[], Awaitable[object]], tries: int = TRIES,
        before: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        for _ in range(tries):
            before()
            found.setdefault(title, []).append(await watch.over(work))

    async def nothing() -> None:
        await asyncio.sleep(3 * TICK_S)

    async def take_only() -> None:
        copies.take(pool, filler.names, name=taken.pop())

    taken: list[str] = []
    body = {"volumes": filler.names, "name": ""}

    def next_name() -> None:
        filler.made += 1
        body["name"] = f"copy-{filler.made:05d}"

    await pool.checkpoint()
    await each("nothing", nothing)
    made = filler.made
    await each("take (API)", lambda: site.call("POST", "/v1/copies", body), before=next_name)
    await each("show (API)", lambda: site.call("GET", f"/v1/copies/copy-{made:05d}"))
    doomed = [f"copy-{n:05d}" for n in range(made + 1, filler.made + 1)]
    await each("delete (API)", lambda: site.call("DELETE", f"/v1/copies/{doomed.pop()}"))
    filler.made = made

    def dirty() -> None:
        filler.write()
        copies.delete(pool, filler.take())
        filler.made -= 1
        filler.take()

    await each("checkpoint", pool.checkpoint, before=dirty, tries=TRIES // 2)
    await each("list (API)", lambda: site.call("GET", "/v1/copies"), tries=TRIES // 2)
    await each("status (API)", lambda: site.call("GET", "/v1/status"), tries=TRIES // 2)

    async def exports() -> None:
        list(pool.state.exports())

    await each("exports (NBD)", exports, tries=TRIES // 2)
    cleaner = Cleaner(pool)
    await each("clean", cleaner.round, tries=SLOW_TRIES, before=dirty)
    await each("pool show (API)", lambda: site.call("GET", "/v1/pool"), tries=SLOW_TRIES,
               before=dirty)  # fmt: skip
    return found


def reopened(path: Path, pool: Pool) -> tuple[Pool, float, float]:
    """Open after a kill, with every copy in the log; then after an orderly stop."""
    leave(pool)
    began = time.perf_counter()
    pool = open_pool(path)
    killed = time.perf_counter() - began
    asyncio.run(pool.close())
    pool.disk.close()
    began = time.perf_counter()
    pool = open_pool(path)
    return pool, killed, time.perf_counter() - began


def shown_ms(values: list[float]) -> str:
    return f"{median(values) * 1e3:.1f} / {percentile(values, 0.99) * 1e3:.1f}"


def curves(directory: Path, width: int, counts: tuple[int, ...]) -> Section:
    section = Section(
        f"Copies of {width} volume{'s' if width > 1 else ''}",
        [
            "loop busy at a stretch · late, ms (median / p99)",
            *(f"{max(1, n // width):,}" for n in counts),
        ],
    )
    columns: list[dict[str, str]] = []
    with scratch(directory, 8 * GIB) as path:
        pool = open_pool(path)
        filler = Filler(pool, width)
        for members in counts:
            column: dict[str, str] = {}

            async def grow_and_measure(members: int = members) -> dict[str, list[Kept]]:
                await filler.until(max(1, members // width))
                return await measure_at(filler, Site(filler.pool, path))

            found = asyncio.run(grow_and_measure())
            for title, kept in found.items():
                column[title] = (
                    f"{shown_ms([k.busy for k in kept])} · {shown_ms([k.late for k in kept])}"
                )
            for title in ("list (API)", "checkpoint", "clean", "pool show (API)"):
                column[f"{title}, all of it"] = shown_ms([k.wall for k in found[title]])
            filler.pool, killed, clean = reopened(path, filler.pool)
            column["open, killed / clean"] = f"{killed * 1e3:.0f} / {clean * 1e3:.0f}"
            column["memory"] = shown_size(resident_bytes())
            columns.append(column)
        leave(filler.pool)
    for title in columns[0]:
        section.rows.append([title, *(column[title] for column in columns)])
    section.notes.append(
        f"{TRIES} tries each, {SLOW_TRIES} of what reads all tables. Busy is processor time of the"
        " loop's thread; late is by how much a task beside it, that wants a turn each millisecond,"
        " missed it, waits for the interpreter and the machine included. Goal: under 5 ms."
    )
    return section


def measure(directory: Path, counts: tuple[int, ...] = MEMBERS) -> list[Section]:
    return [curves(directory, width, counts) for width in WIDTHS]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build"), help="default: build")
    parser.add_argument("--members", default=",".join(map(str, MEMBERS)), metavar="N,...")
    chosen = parser.parse_args()
    for section in measure(chosen.directory, tuple(map(int, chosen.members.split(",")))):
        print(section.text(), end="\n\n", flush=True)
