"""A front door on a loop in a thread, so that tests can run clients beside it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvloop

from isochrone.nbd import wire
from isochrone.nbd.server import FrontDoor
from isochrone.nbd.tls import TlsPolicy
from tests.nbd.memory import MemoryBackend

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

PACKAGES = {
    "nbdinfo": "libnbd-bin",
    "nbdcopy": "libnbd-bin",
    "nbdsh": "python3-libnbd",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "fio": "fio",
}


class Serving:
    """A running front door, seen from outside its loop."""

    def __init__(self, backend: MemoryBackend, folder: Path, loop: asyncio.AbstractEventLoop):
        self.backend = backend
        self.path = str(folder / "nbd.sock")
        self.loop = loop
        self.door: FrontDoor

    def uri(self, export: str = "") -> str:
        return f"nbd+unix:///{quote(export)}?socket={self.path}"

    def secure_uri(self, certificates: Path, export: str = "") -> str:
        return f"nbds+{self.uri(export)[4:]}&tls-certificates={certificates}"

    def run(self, work: Any) -> Any:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def call(self, what: Callable[[], Any]) -> Any:
        """Call something on the server's loop."""

        async def call() -> Any:
            return what()

        return self.run(call())

    def listen_tcp(self) -> tuple[str, int]:
        return self.run(self.door.listen_tcp("127.0.0.1", 0))

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so, seen from within the loop."""

        async def wait() -> bool:
            for _ in range(500):
                if true():
                    return True
                await asyncio.sleep(0.01)
            return False

        if not self.run(wait()):  # not in there: it would end the loop
            pytest.fail("waited for five seconds in vain")


@contextlib.contextmanager
def serve(
    backend: MemoryBackend,
    folder: Path,
    loop: str = "asyncio",
    tls: TlsPolicy | None = None,
    **limits: Any,
):
    serving = Serving(backend, folder, LOOPS[loop]())
    thread = threading.Thread(target=serving.loop.run_forever)
    thread.start()

    async def begin() -> None:
        serving.door = FrontDoor(backend, **limits)
        await serving.door.listen_unix(serving.path, tls=tls)

    try:
        serving.run(begin())
        yield serving
        serving.run(serving.door.close(5))
        assert backend.attached == []
    finally:
        with contextlib.suppress(Exception):  # after a failure inside: its clients hold the loop
            serving.run(serving.door.close(0))
        serving.loop.call_soon_threadsafe(serving.loop.stop)
        thread.join()
        serving.loop.close()


def client(*command: str, ok: bool = True) -> str:
    """Run a real client and return what it printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.fail(f"{command[0]} is missing: apt install {PACKAGES[command[0]]}")
    if ok is (done.returncode != 0):
        pytest.fail(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


class Raw:
    """A client of bytes: says what it is told to, and knows only lengths."""

    def __init__(self, where: str | tuple[str, int]):
        family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(10)
        self.socket.connect(where)

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise EOFError(f"closed after {len(data)} of {length} bytes")
            data += piece
        return data

    def at_end(self) -> bool:
        """Whether the server closes without saying anything more."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def open(self, export: str = "", *, structured: bool = False) -> int:
        """Go through the handshake; returns the size of the export."""
        self.receive(wire.GREETING.size)
        self.send(wire.CLIENT_FLAGS.pack(3))
        if structured:
            self.send(option(wire.OPT_STRUCTURED_REPLY))
            self.receive(wire.OPTION_REPLY.size)
        self.send(option(wire.OPT_EXPORT_NAME, export.encode()))
        size, _ = wire.EXPORT.unpack(self.receive(wire.EXPORT.size))
        return size

    def error(self) -> tuple[int, bytes]:
        """(error, cookie) of a simple reply without data."""
        magic, error, cookie = wire.SIMPLE_REPLY.unpack(self.receive(16))
        assert magic == wire.SIMPLE_REPLY_MAGIC
        return error, cookie

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def raw(where: str | tuple[str, int]) -> Iterator[Raw]:
    client = Raw(where)
    try:
        yield client
    finally:
        client.close()


def option(number: int, data: bytes = b"") -> bytes:
    return wire.OPTION.pack(wire.OPTION_MAGIC, number, len(data)) + data


def info_data(name: bytes, *wanted: int) -> bytes:
    """Data of INFO and GO."""
    counts = b"".join(wire.COUNT.pack(item) for item in (len(wanted), *wanted))
    return wire.LENGTH.pack(len(name)) + name + counts


def context_data(name: bytes, *queries: bytes) -> bytes:
    """Data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    strings = [wire.LENGTH.pack(len(item)) + item for item in (name, *queries)]
    return strings[0] + wire.LENGTH.pack(len(queries)) + b"".join(strings[1:])


def request(
    command: int,
    offset: int = 0,
    length: int | None = None,
    *,
    cookie: bytes = b"cookie01",
    flags: int = 0,
    payload: bytes = b"",
) -> bytes:
    length = len(payload) if length is None else length
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, command, cookie, offset, length) + payload


def still_serves(serving: Serving) -> None:
    """Whatever came before: a newcomer is served, and nothing is left behind by others."""
    with raw(serving.path) as peer:
        assert peer.open("disk") == serving.backend.devices["disk"].size
        peer.send(request(wire.READ, 0, 4))
        assert peer.error() == (0, b"cookie01")
        peer.receive(4)
    serving.until(lambda: serving.backend.attached == [])
