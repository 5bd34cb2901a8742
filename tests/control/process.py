"""Real controllers as processes, and the smallest client of their front door."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

LOG_BYTES: Final = 1 << 20  # of a controller in one test; what Linux lets anybody have


class Controller:
    """An `isochrone serve` of its own process."""

    def __init__(self, directory: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [*self.command(), str(directory), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        # Its log is read at the end: a controller whose log nobody takes stands still.
        fcntl.fcntl(self.process.stderr, fcntl.F_SETPIPE_SZ, LOG_BYTES)
        watch = threading.Timer(30, self.process.kill)
        watch.start()
        self.ready = self.process.stdout.readline()  # empty if it ended instead
        watch.cancel()

    def command(self) -> list[str]:
        return [sys.executable, "-m", "isochrone", "serve"]

    def address(self, name: str) -> str:
        words = dict(word.split("=", 1) for word in self.ready.split()[1:])
        return words[name]

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Signal it; (exit code, rest of stdout, stderr)."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


Start = Callable[..., Controller]


@contextlib.contextmanager
def controllers() -> Iterator[Start]:
    started: list[Controller] = []

    def start(directory: Path, *options: str, env: dict[str, str] | None = None) -> Controller:
        started.append(Controller(directory, *options, env=env))
        return started[-1]

    yield start
    for controller in started:
        if controller.process.poll() is None:
            controller.process.kill()
        controller.process.communicate(timeout=30)


class Nbd:
    """The smallest client: one connection, one request at a time."""

    def __init__(self, path: str, export: str) -> None:
        self.wire = socket.socket(socket.AF_UNIX)
        self.wire.settimeout(20)
        self.wire.connect(path)
        assert self._take(16) == b"NBDMAGICIHAVEOPT"
        self._take(2)
        name = export.encode()
        # Fixed newstyle without the zeroes; NBD_OPT_EXPORT_NAME.
        self.wire.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, len(name)))
        self.wire.sendall(name)
        self.size, self.flags = struct.unpack(">QH", self._take(10))

    def __enter__(self) -> Nbd:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self.wire:
            if kind is None:
                with contextlib.suppress(OSError):  # the server may have gone first
                    self.wire.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0))

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.wire.recv(count - len(data))
            if not more:
                raise ConnectionError("the server hung up")
            data += more
        return data

    def ask(self, command: int, offset: int, length: int, data: bytes = b"") -> bytes:
        head = struct.pack(">IHHQQI", 0x25609513, 0, command, 7, offset, length)
        self.wire.sendall(head + data)
        magic, error, cookie = struct.unpack(">IIQ", self._take(16))
        assert (magic, cookie) == (0x67446698, 7)
        if error:
            raise OSError(error, os.strerror(error))
        return self._take(length) if command == 0 else b""

    def read(self, offset: int, length: int) -> bytes:
        return self.ask(0, offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self.ask(1, offset, len(data), data)

    def flush(self) -> None:
        self.ask(3, 0, 0)


Connect = Callable[[Controller, str], Nbd]
