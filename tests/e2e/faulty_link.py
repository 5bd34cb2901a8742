"""A TCP link that misbehaves: between two real controllers, for tests.

Bytes pass in both directions unless a fault is set. Faults are chosen by whoever holds the object;
what they do to the bytes follows from a seed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from random import Random
from typing import Final

CHUNK: Final = 16384  # bytes that pass at a time: a frame of data is cut into many


class FaultyLink:
    """Listens on a port of its own and passes on what comes to another."""

    def __init__(self, target: str, seed: int) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._random = Random(seed)
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False
        self._open = threading.Event()  # bytes flow
        self._open.set()
        self.delay = 0.0  # seconds for each chunk
        self.rate = 0.0  # bytes a second for each direction; 0: no limit
        self.flip = 0.0  # chance for each chunk that one of its bits is another
        self.double = 0.0  # chance for each chunk to pass twice
        self.short = 0.0  # chance for each chunk to lose its end, and the connection with it
        self.refuse = False  # new connections are closed at once
        self.connections = 0
        self.bytes_passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    # -- faults

    def cut(self) -> None:
        """Reset what is connected."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for wire in pair:
                _abort(wire)

    def block(self) -> None:
        """Let nothing through, and say nothing: a black hole."""
        self._open.clear()

    def heal(self) -> None:
        self.delay = self.rate = self.flip = self.double = self.short = 0.0
        self.refuse = False
        self._open.set()

    def close(self) -> None:
        self._closed = True
        self.heal()
        self._listener.close()
        self.cut()

    def lead_to(self, target: str) -> None:
        """The controller behind has another port now."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))

    # -- passing on

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refuse:
                _abort(near)
                continue
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                _abort(near)
                continue
            far.settimeout(None)
            self.connections += 1
            with self._lock:
                self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(CHUNK):
                self._open.wait()
                if self.delay:
                    time.sleep(self.delay)
                if self.rate:
                    time.sleep(len(chunk) / self.rate)
                for part in self._spoil(chunk):
                    sink.sendall(part)
                    self.bytes_passed += len(part)
        for wire in (source, sink):
            _abort(wire)

    def _spoil(self, chunk: bytes) -> list[bytes]:
        with self._lock:  # one source of chance for all threads
            if self._random.random() < self.flip:
                at = self._random.randrange(len(chunk))
                bit = 1 << self._random.randrange(8)
                chunk = chunk[:at] + bytes([chunk[at] ^ bit]) + chunk[at + 1 :]
            if self._random.random() < self.short:
                threading.Thread(target=self.cut, daemon=True).start()
                return [chunk[: self._random.randrange(len(chunk))]]
            return [chunk, chunk] if self._random.random() < self.double else [chunk]


def _abort(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
    wire.close()
