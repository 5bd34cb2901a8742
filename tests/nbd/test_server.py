"""The front door with real clients, and with hostile ones."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isochrone.errors import Conflict, InvalidInput, Unavailable
from isochrone.nbd import server, wire
from isochrone.nbd.server import FrontDoor
from isochrone.types import MIB, Proof
from tests.nbd.memory import MemoryBackend
from tests.nbd.serving import (
    LOOPS,
    Raw,
    Serving,
    client,
    option,
    raw,
    request,
    serve,
    still_serves,
)

SIZE = 16 * MIB


def some_backend() -> MemoryBackend:
    backend = MemoryBackend()
    backend.add("disk", SIZE, description="the first one")
    backend.add("two words@snap", 2 * MIB, read_only=True, description="a copy")
    return backend


@pytest.fixture(params=list(LOOPS))
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serving]:
    with serve(some_backend(), tmp_path, request.param) as serving:
        yield serving


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file with data, zeros and an end that is no multiple of a block's."""
    path = tmp_path / "image"
    path.write_bytes(os.urandom(3 * MIB) + bytes(5 * MIB) + os.urandom(2 * MIB + 512))
    os.truncate(path, SIZE)
    return path


# -- who is there


def test_a_user_at_the_socket_and_an_address_at_the_port(serving) -> None:
    with raw(serving.path) as here, raw(serving.listen_tcp()) as there:
        for peer in (here, there):
            peer.open("disk")
        (_, user), (_, address) = serving.backend.attached
        assert (user.kind, user.host) == (Proof.USER, f"uid {os.getuid()}")
        assert (address.kind, address.host) == (Proof.ADDRESS, "127.0.0.1")
        assert str(address) == f"127.0.0.1:{there.socket.getsockname()[1]}"
        assert str(user).startswith("unix#")


def test_connections_of_one_client_differ_only_in_their_address(serving) -> None:
    with raw(serving.path) as one, raw(serving.path) as other:
        one.open("disk")
        other.open("disk")
        (_, first), (_, second) = serving.backend.attached
        assert (first.kind, first.host) == (second.kind, second.host)
        assert first.address != second.address


# -- real clients


def test_nbdinfo(serving) -> None:
    told = json.loads(client("nbdinfo", "--json", serving.uri("disk")))
    assert told["protocol"] == "newstyle-fixed"
    assert told["structured"] is True
    (export,) = told["exports"]
    assert export["export-name"] == "disk"
    assert export["description"] == "the first one"
    assert export["export-size"] == SIZE
    assert export["is_read_only"] is False
    assert (export["block_size_minimum"], export["block_size_preferred"]) == (1, 4096)
    assert export["block_size_maximum"] == 32 * MIB
    for ability in ("flush", "fua", "trim", "zero", "fast_zero", "multi_conn", "df", "cache"):
        assert export[f"can_{ability}"] is True, ability


def test_nbdinfo_list(serving) -> None:
    told = json.loads(client("nbdinfo", "--list", "--json", serving.uri()))
    names = {e["export-name"]: (e["description"], e["is_read_only"]) for e in told["exports"]}
    assert names == {"disk": ("the first one", False), "two words@snap": ("a copy", True)}


def test_nbdinfo_size_of_the_default_export(serving) -> None:
    assert client("nbdinfo", "--size", serving.uri()).strip() == str(SIZE)


def test_nbdinfo_can_and_is(serving) -> None:
    client("nbdinfo", "--can", "multi-conn", serving.uri("disk"))
    client("nbdinfo", "--is", "read-only", serving.uri("two words@snap"))
    client("nbdinfo", "--is", "read-only", serving.uri("disk"), ok=False)
    client("nbdinfo", "--can", "trim", serving.uri("two words@snap"), ok=False)


def test_unknown_export_is_told_in_words(serving) -> None:
    told = client("qemu-img", "info", serving.uri("nothing"), ok=False)
    assert "there is no export 'nothing'; see `isochrone volume list`" in told


def test_nbdcopy_both_ways_over_several_connections(serving, image, tmp_path) -> None:
    client("nbdcopy", "--connections=4", "--flush", str(image), serving.uri("disk"))
    assert bytes(serving.backend.devices["disk"].content) == image.read_bytes()
    back = tmp_path / "back"
    client("nbdcopy", "--connections=4", serving.uri("disk"), str(back))
    assert back.read_bytes() == image.read_bytes()
    assert serving.backend.flushes > 0


def test_nbdcopy_of_large_requests(serving, image, tmp_path) -> None:
    sizes = ("--request-size=8388608", "--requests=4", "--connections=1")
    client("nbdcopy", *sizes, str(image), serving.uri("disk"))
    back = tmp_path / "back"
    client("nbdcopy", *sizes, serving.uri("disk"), str(back))
    assert back.read_bytes() == image.read_bytes()


def test_qemu_img(serving, image, tmp_path) -> None:
    told = json.loads(client("qemu-img", "info", "--output=json", serving.uri("disk")))
    assert told["virtual-size"] == SIZE
    client("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), serving.uri("disk"))
    client("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), serving.uri("disk"))
    back = tmp_path / "back.qcow2"
    client("qemu-img", "convert", "-W", "-O", "qcow2", "-f", "raw", serving.uri("disk"), str(back))
    client("qemu-img", "compare", "-F", "raw", str(back), serving.uri("disk"))


def test_qemu_io(serving) -> None:
    script = (
        *("-c", "write -P 7 1000 100000", "-c", "write -f -P 8 4096 4096", "-c", "discard 0 4096"),
        *(
            "-c",
            "write -z 8192 4096",
            "-c",
            "flush",
            "-c",
            "aio_write -P 9 1M 1M",
            "-c",
            "aio_flush",
        ),
        *("-c", "read -P 0 0 4096", "-c", "read -P 8 4096 4096", "-c", "read -P 0 8192 4096"),
        *("-c", "read -P 7 12288 88712", "-c", "read -P 9 1M 1M"),
    )
    told = client("qemu-io", "-f", "raw", *script, serving.uri("disk"))
    assert "verification failed" not in told
    assert "error" not in told.lower()


def test_qemu_io_cannot_write_to_a_read_only_export(serving) -> None:
    client("qemu-io", "-f", "raw", "-c", "write 0 4096", serving.uri("two words@snap"), ok=False)


def test_fio_verifies(serving, tmp_path) -> None:
    client(
        *("fio", "--name=v", "--ioengine=nbd", f"--uri={serving.uri('disk')}", "--rw=randwrite"),
        *("--bsrange=512-128k", "--bs_unaligned", "--size=8m", "--iodepth=16", "--fsync=16"),
        *("--verify=crc32c", "--verify_fatal=1", f"--aux-path={tmp_path}"),
    )


def test_nbdinfo_over_tcp(serving) -> None:
    host, port = serving.listen_tcp()
    assert client("nbdinfo", "--size", f"nbd://{host}:{port}/disk").strip() == str(SIZE)


def test_a_missing_client_fails_with_the_way_to_get_it(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match="apt install libnbd-bin"):
        client("nbdinfo", "--version")


# -- what is known about a range


def test_nbdinfo_map_and_totals(serving) -> None:
    device = serving.backend.devices["disk"]
    device.content[MIB : 3 * MIB] = b"x" * 2 * MIB
    told = json.loads(client("nbdinfo", "--map", "--json", serving.uri("disk")))
    assert [(e["offset"], e["length"], e["type"]) for e in told] == [
        (0, MIB, 3),
        (MIB, 2 * MIB, 0),
        (3 * MIB, SIZE - 3 * MIB, 3),
    ]
    totals = json.loads(client("nbdinfo", "--map", "--totals", "--json", serving.uri("disk")))
    assert {e["type"]: e["size"] for e in totals} == {0: 2 * MIB, 3: SIZE - 2 * MIB}


def test_nbdinfo_lists_contexts(serving) -> None:
    serving.backend.take_copy("disk", "monday")
    (export,) = json.loads(client("nbdinfo", "--json", serving.uri("disk")))["exports"]
    assert export["contexts"] == [
        "base:allocation",
        "qemu:allocation-depth",
        "qemu:dirty-bitmap:monday",
    ]
    client("nbdinfo", "--map=qemu:dirty-bitmap:tuesday", serving.uri("disk"), ok=False)


def test_what_changed_since_a_copy(serving) -> None:
    device = serving.backend.devices["disk"]
    device.content[:] = b"x" * SIZE
    serving.backend.take_copy("disk", "monday")
    client("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", serving.uri("disk"))
    context = "qemu:dirty-bitmap:monday"
    told = json.loads(client("nbdinfo", f"--map={context}", "--json", serving.uri("disk")))
    want = [(0, MIB, 0), (MIB, 65536, 1), (MIB + 65536, SIZE - MIB - 65536, 0)]
    assert [(e["offset"], e["length"], e["type"]) for e in told] == want
    # qemu-img shows the context it is given as if it were the allocation: dirty = no data.
    image = f"driver=nbd,server.type=unix,server.path={serving.path},export=disk"
    image += f",x-dirty-bitmap={context}"
    told = json.loads(client("qemu-img", "map", "--output=json", "--image-opts", image))
    assert [(e["start"], e["length"], int(not e["data"])) for e in told] == want


def test_qemu_img_map_and_depth(serving) -> None:
    serving.backend.devices["disk"].content[MIB : 2 * MIB] = b"x" * MIB
    told = json.loads(client("qemu-img", "map", "--output=json", serving.uri("disk")))
    assert [(e["start"], e["length"], e["data"], e["zero"]) for e in told] == [
        (0, MIB, False, True),
        (MIB, MIB, True, False),
        (2 * MIB, SIZE - 2 * MIB, False, True),
    ]
    told = json.loads(
        client("nbdinfo", "--map=qemu:allocation-depth", "--json", serving.uri("disk"))
    )
    assert [(e["length"], e["type"]) for e in told] == [(MIB, 0), (MIB, 1), (SIZE - 2 * MIB, 0)]


def test_nbdcopy_skips_holes(serving, image, tmp_path) -> None:
    client("nbdcopy", str(image), serving.uri("disk"))
    back = tmp_path / "back"
    client("nbdcopy", serving.uri("disk"), str(back))
    assert back.read_bytes() == image.read_bytes()
    assert back.stat().st_blocks * 512 < 6 * MIB


# -- the turn


def test_requests_of_one_turn_share_a_commit(serving) -> None:
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(*(request(wire.WRITE, i * 512, payload=b"%d" % i * 512) for i in range(10)))
        for _ in range(10):
            assert peer.error() == (0, b"cookie01")
    assert serving.backend.commits < 10


def test_reads_see_the_writes_of_their_turn(serving) -> None:
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.WRITE, 5, payload=b"fresh"), request(wire.READ, 5, 5))
        assert peer.error() == (0, b"cookie01")
        assert peer.error() == (0, b"cookie01")
        assert peer.receive(5) == b"fresh"


def test_a_failed_commit_fails_its_changes_and_not_the_reads(serving) -> None:
    serving.backend.commit_failure = OSError(errno.ENOSPC, "no space left")
    with raw(serving.path) as peer, capture_logs() as logs:
        peer.open("disk")
        peer.send(
            request(wire.WRITE, 0, payload=b"lost", cookie=b"plain..."),
            request(wire.WRITE, 9, payload=b"lost", cookie=b"with fua", flags=wire.CMD_FUA),
            request(wire.TRIM, 0, 512, cookie=b"trim...."),
            request(wire.READ, 0, 4, cookie=b"read...."),
        )
        replies = dict(reversed(peer.error()) for _ in range(3))
        assert replies == dict.fromkeys((b"plain...", b"with fua", b"trim...."), errno.ENOSPC)
        assert peer.error() == (0, b"read....")
        assert peer.receive(4) == bytes(4)
        serving.backend.commit_failure = None
        peer.send(request(wire.WRITE, 0, payload=b"kept"))
        assert peer.error() == (0, b"cookie01")
    assert [line["log_level"] for line in logs] == ["error"]


def test_a_flush_is_alone_when_only_clients_that_flush_were_here(serving, monkeypatch) -> None:
    monkeypatch.setattr(server, "COMPANY_S", 3600.0)
    told = serving.backend.alone_at_flush
    with raw(serving.path) as one, raw(serving.path) as two:
        one.open("disk")
        two.open("disk")
        for peer in (one, two, one):
            peer.send(request(wire.FLUSH))
            assert peer.error() == (0, b"cookie01")
        one.send(request(wire.WRITE, 0, payload=b"of one that flushes"))
        assert one.error() == (0, b"cookie01")
        one.send(request(wire.FLUSH))
        assert one.error() == (0, b"cookie01")
        assert told == [True] * 4
        with raw(serving.path) as third:
            third.open("disk")
            third.send(request(wire.READ, 0, 1))  # it may read again at any moment
            assert third.error() == (0, b"cookie01")
            one.send(request(wire.FLUSH))
            assert one.error() == (0, b"cookie01")
        assert told == [True] * 4 + [False]


def test_replies_do_not_wait_for_a_flush_of_the_same_turn(serving) -> None:
    """Not even if the flush keeps the loop."""
    seen: list[tuple[int, bytes]] = []
    flushing = threading.Event()
    with raw(serving.path) as peer:
        peer.open("disk")

        def flush(done, *, alone: bool) -> None:
            seen.append(peer.error())  # on the loop: it must have been sent
            flushing.set()
            done(None)

        serving.door.backend.when_durable = flush
        peer.send(
            request(wire.WRITE, 0, payload=b"x", cookie=b"write..."),
            request(wire.FLUSH, cookie=b"flush..."),
        )
        flushing.wait()  # two readers would share the replies
        assert peer.error() == (0, b"flush...")
    assert seen == [(0, b"write...")]


def test_flush_starts_after_the_commit_and_is_shared(serving) -> None:
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(
            request(wire.FLUSH, cookie=b"flush..."),
            request(wire.WRITE, 0, payload=b"x", cookie=b"with fua", flags=wire.CMD_FUA),
            request(wire.WRITE, 0, payload=b"x", cookie=b"plain..."),
        )
        assert {peer.error() for _ in range(3)} == {
            (0, b"flush..."),
            (0, b"with fua"),
            (0, b"plain..."),
        }
    assert serving.backend.flushes == 1
    assert serving.backend.committed_at_flush == [1]


def test_a_flush_does_not_hold_up_others(serving) -> None:
    async def gate() -> asyncio.Event:
        return asyncio.Event()

    serving.backend.flush_gate = gate = serving.run(gate())
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.FLUSH, cookie=b"flush..."))
        peer.send(request(wire.WRITE, 0, payload=b"x", cookie=b"plain..."))
        assert peer.error() == (0, b"plain...")
        serving.loop.call_soon_threadsafe(gate.set)
        assert peer.error() == (0, b"flush...")


def test_a_failed_flush_is_eio(serving) -> None:
    serving.backend.flush_failure = OSError(errno.ENOSPC, "late")
    with raw(serving.path) as peer, capture_logs():
        peer.open("disk")
        peer.send(request(wire.FLUSH))
        assert peer.error() == (errno.EIO, b"cookie01")


def test_payload_of_64_mib_and_an_odd_read(tmp_path) -> None:
    backend = MemoryBackend()
    backend.add("big", 65 * MIB)
    with serve(backend, tmp_path) as serving, raw(serving.path) as peer:
        peer.open("big")
        data = os.urandom(64 * MIB)
        peer.send(request(wire.WRITE, 1, payload=data))
        assert peer.error() == (0, b"cookie01")
        assert backend.devices["big"].content[1 : 64 * MIB + 1] == data
        peer.send(request(wire.READ, 1, 1048590))
        assert peer.error() == (0, b"cookie01")
        assert peer.receive(1048590) == data[:1048590]


# -- flaws other servers had


def test_cve_2017_9524_port_scan(serving) -> None:
    for _ in range(20):
        Raw(serving.path).close()
    still_serves(serving)


def test_cve_2011_1925_unknown_export_ends_only_its_connection(serving) -> None:
    with raw(serving.path) as peer, capture_logs() as logs:
        peer.receive(18)
        peer.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_EXPORT_NAME, b"nothing"))
        assert peer.at_end()
    assert len(logs) == 1
    still_serves(serving)


def test_cve_2013_7441_every_byte_of_the_handshake_is_a_cut_point(serving) -> None:
    script = wire.CLIENT_FLAGS.pack(3) + option(wire.OPT_EXPORT_NAME, b"disk")
    script += request(wire.WRITE, 0, payload=b"x" * 9)
    for cut in range(len(script)):
        with raw(serving.path) as peer:
            peer.send(script[:cut])
    still_serves(serving)


def test_cve_2017_10664_peer_gone_while_replying(serving) -> None:
    """Also nbdkit before 1.34: a client that hangs up in mid-reply."""
    for _ in range(5):
        with raw(serving.path) as peer:
            peer.open("disk")
            peer.send(*(request(wire.READ, 0, 8 * MIB) for _ in range(8)))
            peer.receive(1000)
    still_serves(serving)


def test_cve_2024_7409_idle_clients(tmp_path) -> None:
    with serve(some_backend(), tmp_path, handshake_s=0.2, connections_max=5) as serving:
        idle = [Raw(serving.path) for _ in range(5)]
        with capture_logs() as logs:
            serving.until(lambda: serving.door.connections == 5)
            with raw(serving.path) as sixth:
                assert sixth.at_end()
            for peer in idle:
                peer.receive(18)
                assert peer.at_end()
                peer.close()
        assert [line["event"] for line in logs].count("nbd client did not negotiate") == 5
        still_serves(serving)


def test_cve_2024_7409_stop_with_clients_attached(tmp_path) -> None:
    with serve(some_backend(), tmp_path) as serving:
        negotiating = Raw(serving.path)
        negotiating.receive(18)
        peer = Raw(serving.path)
        peer.open("disk")
        serving.run(serving.door.close(5))
        assert negotiating.at_end()
        assert peer.at_end()
        assert serving.door.connections == 0
        negotiating.close()
        peer.close()


# -- listening and closing


def test_close_answers_what_waits_for_a_flush(tmp_path) -> None:
    backend = some_backend()
    with serve(backend, tmp_path) as serving, raw(serving.path) as peer:

        async def gate() -> asyncio.Event:
            return asyncio.Event()

        backend.flush_gate = gate = serving.run(gate())
        peer.open("disk")
        peer.send(request(wire.FLUSH))
        serving.until(lambda: backend.flushes == 1)
        serving.loop.call_soon_threadsafe(serving.loop.call_later, 0.1, gate.set)
        serving.run(serving.door.close(5))
        assert peer.error() == (0, b"cookie01")
        assert peer.at_end()


def test_close_gives_up_after_its_grace(tmp_path) -> None:
    backend = some_backend()
    with serve(backend, tmp_path) as serving, raw(serving.path) as peer, raw(serving.path) as deaf:

        async def gate() -> asyncio.Event:
            return asyncio.Event()

        backend.flush_gate = serving.run(gate())
        peer.open("disk")
        peer.send(request(wire.FLUSH))
        deaf.open("disk")
        deaf.send(request(wire.READ, 0, 16 * MIB))
        serving.until(lambda: backend.flushes == 1)
        serving.run(serving.door.close(0.2))
        assert peer.at_end()
        assert serving.door.connections == 0


def test_another_servers_socket_is_not_taken_away(serving) -> None:
    with pytest.raises(Conflict):
        serving.run(FrontDoor(some_backend()).listen_unix(serving.path))
    still_serves(serving)


def test_a_dead_servers_socket_is_replaced(tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "nbd.sock"))
    assert stat.S_ISSOCK((tmp_path / "nbd.sock").stat().st_mode)
    with serve(some_backend(), tmp_path) as serving:
        still_serves(serving)


def test_an_impossible_path_is_refused(tmp_path) -> None:
    with pytest.raises(Unavailable):
        asyncio.run(FrontDoor(some_backend()).listen_unix(str(tmp_path / "no" / "such")))


def test_a_taken_port_is_refused(serving) -> None:
    address = serving.listen_tcp()
    with pytest.raises(Unavailable):
        serving.run(FrontDoor(some_backend()).listen_tcp(*address))


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "example.org", "127.0.0.1.x"])
def test_an_open_address_is_refused(host) -> None:
    """CVE-2013-6410: addresses are compared as numbers."""
    with pytest.raises(InvalidInput):
        asyncio.run(FrontDoor(some_backend()).listen_tcp(host, 0))


def test_an_open_address_may_be_asked_for(serving) -> None:
    host, port = serving.run(serving.door.listen_tcp("0.0.0.0", 0, open_to_network=True))
    assert host == "0.0.0.0"
    with raw(("127.0.0.1", port)) as peer:
        assert peer.open() == SIZE
        (tcp,) = (c for c in serving.door._clients if c.name.startswith("127.0.0.1:"))
        wire_socket = tcp._transport.get_extra_info("socket")
        assert wire_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert wire_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
