"""One client and what it may cost, over real sockets on both loops."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isochrone.errors import Conflict
from isochrone.nbd import client as limits
from isochrone.nbd import wire
from isochrone.nbd.filters import Chain, Delay
from isochrone.types import MIB
from tests.nbd.memory import MemoryBackend
from tests.nbd.serving import LOOPS, Serving, info_data, option, raw, request, serve

SIZE = 16 * MIB


@pytest.fixture(params=list(LOOPS))
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serving]:
    backend = MemoryBackend()
    backend.add("disk", SIZE, description="the first one")
    with serve(backend, tmp_path, request.param) as serving:
        yield serving


def test_who_is_gone_is_not_waited_for_for_ever(serving, monkeypatch) -> None:
    """It sent its last byte, and does not take what it is owed: the transport cannot close."""
    monkeypatch.setattr(limits, "LINGER_S_MAX", 0.2)
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(*(request(wire.READ, 0, 8 * MIB) for _ in range(4)))
        serving.until(lambda: any(c._writing_paused for c in serving.door._clients))
        (gone,) = serving.door._clients
        serving.loop.call_soon_threadsafe(gone.eof_received)
        serving.loop.call_soon_threadsafe(gone._transport.close)
        serving.until(lambda: serving.door.connections == 0)


def test_goodbye_waits_for_what_came_before_it(serving) -> None:
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.WRITE, 0, payload=b"last", flags=wire.CMD_FUA), request(wire.DISC))
        assert peer.error() == (0, b"cookie01")
        assert peer.at_end()
    assert bytes(serving.backend.devices["disk"].content[:4]) == b"last"


def test_writes_before_a_hang_up_are_done(serving) -> None:
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.WRITE, 0, payload=b"last"))
    serving.until(lambda: not serving.backend.attached)
    assert bytes(serving.backend.devices["disk"].content[:4]) == b"last"


def test_a_client_that_does_not_read_is_not_read_from(serving) -> None:
    """28 bytes ask for 64 MiB: what a client is owed must stay bounded."""
    with raw(serving.path) as slow, raw(serving.path) as other:
        slow.open("disk")
        other.open("disk")
        slow.send(*(request(wire.READ, 0, 4 * MIB) for _ in range(200)))
        for _ in range(20):
            other.send(request(wire.READ, 0, 4))
            assert other.error() == (0, b"cookie01")
            other.receive(4)
        (owing,) = (c for c in serving.door._clients if c.reads)
        assert owing._transport.get_write_buffer_size() < 10 * MIB
        for _ in range(200):
            assert slow.error() == (0, b"cookie01")
            slow.receive(4 * MIB)


def test_cve_2019_14850_nothing_is_opened_before_go(serving) -> None:
    with raw(serving.path) as peer:
        peer.receive(18)
        peer.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_LIST))
        peer.receive(20)
        assert serving.backend.attachments == 0


def test_info_attaches_nobody(serving) -> None:
    with raw(serving.path) as peer:
        peer.receive(18)
        data = wire.LENGTH.pack(4) + b"disk" + wire.COUNT.pack(0)
        peer.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_INFO, data))
        peer.receive(20 + 12)
        assert serving.backend.attachments == 0


def test_who_is_cut_off_is_lost(serving) -> None:
    """It may come back with what it has not written yet. Who closes its end has let go."""

    def end(*last: bytes, unread: int = 0) -> int:
        before = serving.backend.lost
        with raw(serving.path) as peer:
            peer.open("disk")
            peer.send(*last)
            if unread:  # closed like this, the connection is reset
                peer.socket.recv(unread, socket.MSG_PEEK)
            elif last:
                assert peer.at_end()
        serving.until(lambda: not serving.backend.attached)
        return serving.backend.lost - before

    assert end(request(wire.DISC)) == 0
    assert end() == 0
    assert end(request(wire.READ, 0, 4096), unread=1) == 1
    assert end(b"garbage" * 10) == 1


def test_an_expelled_host_has_not_written_what_it_was_not_told(serving) -> None:
    disk = serving.backend.devices["disk"]
    with raw(serving.path) as peer, raw(serving.path) as other:
        peer.open("disk")
        other.open("")
        host = serving.backend.attached[0][1].host
        serving.until(lambda: len(serving.backend.attached) == 2)
        assert serving.call(lambda: serving.door.expel("other", host)) == 0
        assert serving.call(lambda: serving.door.expel("disk", "another host")) == 0

        def expel() -> int:
            (client,) = (c for c in serving.door._clients if c.name == first)
            client.requests.append((wire.WRITE, b"cookie01", 0, 4, 0, memoryview(b"late")))
            return serving.door.expel("disk", host)

        first = str(serving.backend.attached[0][1])
        assert serving.call(expel) == 2
        assert peer.at_end()
        assert other.at_end()
    serving.until(lambda: not serving.backend.attached)
    assert bytes(disk.content[:4]) == bytes(4)


def test_what_a_filter_makes_wait_is_not_done_for_an_expelled_host(serving) -> None:
    disk = serving.backend.devices["disk"]
    chain = Chain(("delay=1h",), (lambda device: Delay(device, 3600.0),))
    serving.call(lambda: serving.door.backend.set("disk", chain))
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.WRITE, 0, payload=b"late"))
        serving.until(lambda: all(c._waiting.cost for c in serving.door._clients))
        host = serving.backend.attached[0][1].host

        def expel() -> None:
            serving.door.expel("disk", host)
            serving.door.backend.clear("disk")  # lets go what waits

        serving.call(expel)
        assert peer.at_end()
    serving.until(lambda: not serving.backend.attached)
    assert bytes(disk.content[:4]) == bytes(4)


def test_a_defect_ends_one_connection_with_one_line(serving) -> None:
    with raw(serving.path) as peer, raw(serving.path) as other, capture_logs() as logs:
        peer.open("disk")
        other.open("disk")
        serving.backend.devices["disk"].read_failure = RuntimeError("a defect")
        peer.send(request(wire.READ, 0, 4))
        assert peer.at_end()
        serving.backend.devices["disk"].read_failure = None
        other.send(request(wire.READ, 0, 4))
        assert other.error() == (0, b"cookie01")
    assert [line["event"] for line in logs] == ["nbd connection failed"]


def test_a_peer_fault_is_one_line(serving) -> None:
    with raw(serving.path) as peer, capture_logs() as logs:
        peer.open("disk")
        peer.send(request(wire.WRITE, 0, payload=b"kept"), b"garbage" * 10)
        assert peer.error() == (0, b"cookie01")
        assert peer.at_end()
    assert [line["event"] for line in logs] == ["nbd client left the protocol"]
    assert bytes(serving.backend.devices["disk"].content[:4]) == b"kept"


def test_a_client_that_does_not_take_a_listing_is_not_read_from(serving) -> None:
    """16 bytes ask for a megabyte: answers wait until the earlier ones are taken."""
    for i in range(300):
        serving.backend.add(f"export {i}", 512, description="x" * 4000)
    with raw(serving.path) as peer:
        peer.receive(18)
        peer.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_LIST) * 60)
        serving.until(lambda: any(c._writing_paused for c in serving.door._clients))
        (owing,) = serving.door._clients
        assert owing._transport.get_write_buffer_size() < 4 * MIB
        for _ in range(60):
            kind = wire.REP_SERVER
            while kind == wire.REP_SERVER:
                _, _, kind, length = wire.OPTION_REPLY.unpack(peer.receive(20))
                peer.receive(length)
            assert kind == wire.REP_ACK
        peer.send(option(wire.OPT_GO, info_data(b"disk")))
        peer.receive(20 + 12)


def test_requests_behind_a_listing_that_was_not_taken_are_served(serving) -> None:
    for i in range(600):
        serving.backend.add(f"export {i}", 512, description="x" * 4000)
    with raw(serving.path) as peer:
        peer.receive(18)
        peer.send(
            wire.CLIENT_FLAGS.pack(3),
            option(wire.OPT_LIST),
            option(wire.OPT_EXPORT_NAME, b"disk"),
            request(wire.WRITE, 0, payload=b"early"),
        )
        serving.until(lambda: any(c._writing_paused for c in serving.door._clients))
        kind = wire.REP_SERVER
        while kind == wire.REP_SERVER:
            _, _, kind, length = wire.OPTION_REPLY.unpack(peer.receive(20))
            peer.receive(length)
        peer.receive(wire.EXPORT.size)
        assert peer.error() == (0, b"cookie01")


def test_more_requests_than_may_wait(serving) -> None:
    """All of them wait for one flush; beyond the limit we stop reading, and then go on."""
    count = 3 * limits.REQUESTS_MAX
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.FLUSH) * count)
        for _ in range(count):
            assert peer.error() == (0, b"cookie01")


def test_replies_of_all_sizes_arrive_in_one_piece(serving) -> None:
    device = serving.backend.devices["disk"]
    device.content[:] = bytes(range(256)) * (SIZE // 256)
    sizes = [1, 4096, limits.JOIN_BYTES_MAX, limits.JOIN_BYTES_MAX + 1, MIB, 3 * MIB, 7]
    with raw(serving.path) as peer:
        peer.open("disk", structured=True)
        peer.send(*(request(wire.READ, 256 * i, n) for i, n in enumerate(sizes)))
        for i, n in enumerate(sizes):
            assert peer.receive(28) == wire.data_chunk(b"cookie01", 256 * i, n)
            assert peer.receive(n) == bytes(device.content[256 * i : 256 * i + n])


def test_a_refusing_backend_is_an_answer_not_an_end(serving, monkeypatch) -> None:
    def attach(name: str, client: str) -> None:
        raise Conflict("held by somebody")

    monkeypatch.setattr(serving.backend, "attach", attach)
    with raw(serving.path) as peer:
        peer.receive(18)
        peer.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_GO, info_data(b"disk")))
        _, _, kind, length = wire.OPTION_REPLY.unpack(peer.receive(20))
        assert kind == wire.REP_ERR_POLICY
        assert peer.receive(length) == b"held by somebody"
        peer.send(option(wire.OPT_ABORT))
        peer.receive(20)
        assert peer.at_end()


def test_a_defect_while_attaching_ends_one_connection(serving, monkeypatch) -> None:
    def attach(name: str, client: str) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(serving.backend, "attach", attach)
    with raw(serving.path) as peer, capture_logs() as logs:
        peer.receive(18)
        peer.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_GO, info_data(b"disk")))
        assert peer.at_end()
    assert [line["event"] for line in logs] == ["nbd connection failed"]
