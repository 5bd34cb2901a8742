"""A host that attaches at the very moment of a copy onto its volume: never both."""

from __future__ import annotations

import os
import socket
import struct
import threading

import pytest

from isochrone.control.client import Client
from isochrone.errors import Conflict
from isochrone.types import MIB
from tests.control.process import Controller, Nbd

TRIES = int(os.environ.get("ISOCHRONE_RACES", "1000"))


class Racer:
    """Copies `a` onto `b` whenever told to, over the API."""

    def __init__(self, controller: Controller) -> None:
        self._client = Client(str(controller.directory))
        self._go = threading.Barrier(2)
        self._done = threading.Barrier(2)
        self.copied: list[bool] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        body = {"pairs": [{"source": "a", "target": "b"}], "once": True}
        for _ in range(TRIES):
            self._go.wait(60)
            try:
                self._client.call("POST", "/v1/relations", body)
                self.copied.append(True)
            except Conflict:
                self.copied.append(False)
            self._done.wait(60)

    def go(self) -> None:
        self._go.wait(60)

    def done(self) -> bool:
        self._done.wait(60)
        return self.copied[-1]

    def close(self) -> None:
        self._go.abort()
        self._done.abort()
        self._thread.join()
        self._client.close()


def test_attach_and_establish_never_overlap(controller: Controller) -> None:
    client = Client(str(controller.directory))
    for name in ("a", "b"):
        client.call("POST", "/v1/volumes", {"name": name, "size": MIB})
    path = controller.address("nbd")
    racer = Racer(controller)
    try:
        held = bytes(512)
        with Nbd(path, "a") as source:
            for n in range(1, TRIES + 1):
                new = n.to_bytes(4, "big") * 128
                source.write(0, new)
                racer.go()
                with Nbd(path, "b") as host:
                    seen = host.read(0, 512)
                    copied = racer.done()
                    assert host.read(0, 512) == seen, "changed under a host that has it open"
                    assert seen == (new if copied else held)
                held = seen
                # Its goodbye has to arrive before the next try, or that one is no race.
                _until_free(client)
    finally:
        racer.close()
    assert 0 < sum(racer.copied) < TRIES, "neither always wins: it was a race"
    for name in ("a", "b"):
        _until_free(client, name)
        client.call("DELETE", f"/v1/volumes/{name}")
    client.close()


def _until_free(client: Client, name: str = "b") -> None:
    while b'"attachments":[]' not in client.call("GET", f"/v1/volumes/{name}"):
        pass


@pytest.mark.parametrize("lost", [False, True])
def test_a_host_that_crashed(controller: Controller, lost: bool) -> None:
    """Cut off it counts, until an operator says that it is gone. Who closes its end does not."""
    client = Client(str(controller.directory))
    for name in ("a", "b"):
        client.call("POST", "/v1/volumes", {"name": name, "size": MIB})
    body = {"pairs": [{"source": "a", "target": "b"}], "once": True}
    host = Nbd(controller.address("nbd"), "b")
    if lost:
        host.wire.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, 0, 4096))
        host.wire.recv(1, socket.MSG_PEEK)
        host.wire.close()  # with an answer unread: that resets the connection
        client.call("GET", "/v1/volumes/b")  # the server has seen it now
        with pytest.raises(Conflict, match="'b' is in use"):
            client.call("POST", "/v1/relations", body)
        client.call("DELETE", f"/v1/volumes/b/attachments/uid%20{os.getuid()}")
    else:
        host.__exit__(None)
        _until_free(client)
    client.call("POST", "/v1/relations", body)
    for name in ("a", "b"):
        client.call("DELETE", f"/v1/volumes/{name}")
    client.close()
