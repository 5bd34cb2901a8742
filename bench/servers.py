"""The servers that are compared: how each is started, asked for its address, and stopped.

All keep their files in one directory. Each is a session of its own: Ctrl-C reaches only the
benchmark, which then ends every server by its process id.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from isochrone.control.client import Client, path
from isochrone.errors import IsochroneError

START_S_MAX: Final = 20.0
STOP_S_MAX: Final = 30.0  # isochrone makes everything durable first
SOCKET_PATH_BYTES_MAX: Final = 107
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
EXPORT: Final = "bench"
PROGRAMS: Final = ("fio", "nbdkit", "qemu-nbd", "qemu-storage-daemon", "qemu-img")


class BenchError(Exception):
    """One line for a person."""


def check_programs() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise BenchError(
            f"missing: {' '.join(missing)}; install with: scripts/system-packages bench"
        )


class Server:
    """One NBD server over one volume of its own."""

    copies = False  # whether it can take copies

    def __init__(
        self,
        title: str,
        command: Sequence[str],
        socket_path: Path,
        *,
        image: Path | None = None,
        export: str = "",
        peer: bool = True,
    ) -> None:
        if len(os.fsencode(socket_path)) > SOCKET_PATH_BYTES_MAX:
            raise BenchError(f"the path is too long for sockets: {socket_path.parent}")
        self.title = title
        self.command = list(command)
        self.uri = f"nbd+unix:///{export}?socket={socket_path}"
        self.peer = peer  # counts when the best peer is looked for
        self._socket_path = socket_path
        self._image = image  # must exist before it starts
        self._process: subprocess.Popen[bytes] | None = None

    def shown_command(self, directory: Path) -> str:
        """For the report, without the paths of this machine."""
        text = " ".join(self.command).replace(f"{directory}/", "")
        return text.replace(f"{sys.executable} -m ", "")

    def start(self, directory: Path, size: int) -> None:
        if self._image is not None:
            with self._image.open("wb") as image:
                image.truncate(size)
        log_path = directory / f"{self.title.replace(' ', '-')}.log"
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S_MAX
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = log_path.read_text(errors="replace").strip().splitlines() or ["no reason"]
                raise BenchError(f"{self.title} did not start: {words[-1]}")
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return not probe.connect_ex(str(self._socket_path))

    def cpu_s(self) -> float:
        """Processor time it has used so far, user and system."""
        assert self._process is not None
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def copy(self, name: str) -> None:
        """Take a copy of the volume, while it is written. Only where `copies` is set."""
        raise NotImplementedError

    def delete_copy(self, name: str) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Isochrone(Server):
    """Our own; its volume is made through its command line once it runs."""

    copies = True

    def __init__(self, directory: Path) -> None:
        self._pool = str(directory / "pool")
        super().__init__(
            "isochrone",
            [sys.executable, "-m", "isochrone", "serve", self._pool],
            directory / "pool" / "nbd.sock",
            export=EXPORT,
        )

    def start(self, directory: Path, size: int) -> None:
        super().start(directory, size)
        create = [sys.executable, "-m", "isochrone", "--site", self._pool, "volume", "create"]
        deadline = time.monotonic() + START_S_MAX
        while True:  # its other sockets may come a little later than the first
            done = subprocess.run([*create, EXPORT, str(size)], capture_output=True, check=False)
            if not done.returncode:
                return
            if time.monotonic() > deadline:
                words = done.stderr.decode(errors="replace").strip()
                raise BenchError(f"isochrone did not make the volume: {words}")
            time.sleep(0.2)

    def copy(self, name: str) -> None:
        self._call("POST", path("copies"), {"volumes": [EXPORT], "name": name})

    def delete_copy(self, name: str) -> None:
        self._call("DELETE", path("copies", name))

    def _call(self, method: str, where: str, body: dict[str, Any] | None = None) -> None:
        client = Client(self._pool)
        try:
            client.call(method, where, body)
        except IsochroneError as e:
            raise BenchError(f"isochrone refused: {e}") from e
        finally:
            client.close()


class StorageDaemon(Server):
    """qemu's block layer with a qcow2 image: what it has for copies are internal snapshots."""

    copies = True

    def __init__(self, directory: Path) -> None:
        nbd, self._monitor = directory / "qcow2.sock", directory / "qmp.sock"
        self._qcow2 = directory / "qemu.qcow2"
        image = f"driver=qcow2,node-name={EXPORT},discard=unmap,file.driver=file"
        super().__init__(
            "qemu qcow2",
            [
                "qemu-storage-daemon",
                *("--chardev", f"socket,path={self._monitor},server=on,wait=off,id=qmp"),
                *("--monitor", "chardev=qmp"),
                *("--blockdev", f"{image},file.filename={self._qcow2}"),
                *("--nbd-server", f"addr.type=unix,addr.path={nbd},max-connections=16"),
                *("--export", f"type=nbd,id={EXPORT},node-name={EXPORT},writable=on"),
            ],
            nbd,
            export=EXPORT,
        )

    def start(self, directory: Path, size: int) -> None:
        create = ["qemu-img", "create", "-q", "-f", "qcow2", str(self._qcow2), str(size)]
        subprocess.run(create, check=True)
        super().start(directory, size)

    def copy(self, name: str) -> None:
        self._ask("blockdev-snapshot-internal-sync", device=EXPORT, name=name)

    def delete_copy(self, name: str) -> None:
        self._ask("blockdev-snapshot-delete-internal-sync", device=EXPORT, name=name)

    def _ask(self, command: str, **arguments: Any) -> None:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(STOP_S_MAX)
            wire.connect(str(self._monitor))
            lines = wire.makefile("rw")
            lines.readline()  # the greeting
            for asked in (
                {"execute": "qmp_capabilities"},
                {"execute": command, "arguments": arguments},
            ):
                lines.write(json.dumps(asked) + "\n")
                lines.flush()
                while "event" in (answer := json.loads(lines.readline())):
                    pass
                if "error" in answer:
                    raise BenchError(f"qemu refused {command}: {answer['error']['desc']}")


def servers(directory: Path, size: int) -> list[Server]:
    """Isochrone first, then its peers, then those that keep nothing: the ceiling of the client."""
    nbdkit, qemu = directory / "nbdkit.sock", directory / "qemu.sock"
    nbdkit_image, qemu_image = directory / "nbdkit.img", directory / "qemu.img"
    memory, null = directory / "memory.sock", directory / "null.sock"
    cache = ["-t", "-e", "16", "-f", "raw", "--cache=writeback"]
    return [
        Isochrone(directory),
        Server(
            "nbdkit file",
            ["nbdkit", "-f", "-U", str(nbdkit), "file", str(nbdkit_image)],
            nbdkit,
            image=nbdkit_image,
        ),
        Server(
            "qemu-nbd",
            ["qemu-nbd", *cache, "-k", str(qemu), str(qemu_image)],
            qemu,
            image=qemu_image,
        ),
        StorageDaemon(directory),
        Server(
            "nbdkit memory",
            ["nbdkit", "-f", "-U", str(memory), "memory", str(size)],
            memory,
            peer=False,
        ),
        Server(
            "nbdkit null", ["nbdkit", "-f", "-U", str(null), "null", str(size)], null, peer=False
        ),
    ]


def versions() -> dict[str, str]:
    """What was compared with what; the first line each program says about itself."""
    asked = {
        "isochrone": [sys.executable, "-m", "isochrone", "--version"],
        "fio": ["fio", "--version"],
        "nbdkit": ["nbdkit", "--version"],
        "qemu-nbd": ["qemu-nbd", "--version"],
    }
    found = {}
    for name, command in asked.items():
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        line = text.splitlines()[0] if text else "unknown"
        found[name] = line.removeprefix(name).lstrip(" -")
    if shutil.which("git"):
        describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        text = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
        found["isochrone"] += f" ({text})" if text else ""
    return found
