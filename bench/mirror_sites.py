"""Two controllers on this machine and a group between them, for the measurements of the mirror."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from copies_steady import fio
from servers import TICKS_PER_S, BenchError, Isochrone, Server
from yard import percentile

from isochrone.control.client import Client, path
from isochrone.errors import IsochroneError

GROUP: Final = "bench"
WAIT_S: Final = 300.0
SAMPLE_S: Final = 0.1


class Site(Isochrone):
    """A controller whose link is a port of the loopback interface."""

    def __init__(self, directory: Path, name: str) -> None:
        folder = directory / name
        folder.mkdir(parents=True)
        super().__init__(folder)
        self.title = name
        self.command += ["--link", "127.0.0.1:0"]
        self._log = directory / f"{name}.log"
        self._directory = directory

    def start(self, directory: Path, size: int) -> None:
        Server.start(self, self._directory, size)
        deadline = time.monotonic() + WAIT_S
        while "ready" not in self._log.read_text(errors="replace"):
            if time.monotonic() > deadline:
                raise BenchError(f"{self.title} did not become ready")
            time.sleep(0.1)

    @property
    def link(self) -> str:
        words = next(
            line for line in self._log.read_text().splitlines() if line.startswith("ready")
        ).split()
        return dict(word.split("=", 1) for word in words[1:])["link-tcp"]

    def ask(self, method: str, *words: str, body: Any = None, wait: float = 30.0) -> Any:
        client = Client(self._pool)
        try:
            return json.loads(client.call(method, path(*words), body, wait=wait) or b"null")
        except IsochroneError as e:
            raise BenchError(f"{self.title} refused: {e}") from e
        finally:
            client.close()

    def do(self, *words: str) -> str:
        """A command, as a person gives it."""
        command = [sys.executable, "-m", "isochrone", "--site", self._pool, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"isochrone {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def give_way(self) -> None:
        """Take from now on what others leave of the processors, with all threads."""
        assert self._process is not None
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)

    def times(self) -> tuple[float, float]:
        """Processor seconds so far: in the program, in the kernel."""
        assert self._process is not None
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(stat[11]) / TICKS_PER_S, int(stat[12]) / TICKS_PER_S

    def uris(self) -> list[str]:
        return [self.uri]


class Pair:
    """A primary with one mirrored volume, `bench`, and its secondary."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        self.a = Site(directory, "primary")
        self.b = Site(directory, "secondary")

    def start(self) -> None:
        self.a.start(self.directory, self.size)
        self.b.start(self.directory, self.size)
        self.a.ask("POST", "volumes", body={"name": GROUP, "size": self.size})

    def fill(self) -> None:
        fio(
            self.a, self.directory, "--rw=write", "--bs=1m", "--iodepth=4",
            f"--size={self.size}", "--refill_buffers",
        )  # fmt: skip

    def mirror(self, *, wait: bool = True) -> None:
        self.a.do("group", "create", GROUP, GROUP)
        self.b.do("mirror", "add", GROUP, "--source", self.a.link)
        if wait:
            self.wait()

    def part(self) -> None:
        """As before `mirror`; the secondary has nothing left of it."""
        self.b.do("mirror", "remove", GROUP)
        self.a.do("group", "delete", GROUP, "--yes")
        self.b.do("volume", "delete", GROUP, "--yes")

    def wait(self) -> float:
        """Until everything is at the secondary; the seconds that took."""
        began = time.monotonic()
        self.b.do("mirror", "wait", GROUP, "--timeout", str(int(WAIT_S)))
        return time.monotonic() - began

    def status(self) -> dict[str, Any]:
        found = self.b.ask("GET", "groups", GROUP)
        assert isinstance(found, dict)
        return found

    def bytes_received(self) -> int:
        return int(self.status()["bytes_received"])

    def cpu_s(self) -> tuple[float, float]:
        return self.a.cpu_s(), self.b.cpu_s()

    def times(self) -> list[tuple[float, float]]:
        """Processor seconds of primary and secondary so far: in the program, in the kernel."""
        return [site.times() for site in (self.a, self.b)]

    def stop(self) -> None:
        self.a.stop()
        self.b.stop()


class Ages(threading.Thread):
    """Looks at the age of the recovery point, as the secondary tells it, until told to end."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(daemon=True)
        self._pair = pair
        self._over = threading.Event()
        self.seen: list[float] = []

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.seen.append(float(self._pair.status()["recovery_point_age"]))

    def end(self) -> tuple[float, float, float]:
        """p50, p99 and the largest."""
        self._over.set()
        self.join()
        seen = self.seen or [-1.0]
        return percentile(seen, 0.5), percentile(seen, 0.99), max(seen)


__all__ = ["GROUP", "TICKS_PER_S", "Ages", "Pair", "Site"]
