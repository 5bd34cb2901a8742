"""TLS on a connection: with real clients on both loops, and byte by byte with neither."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from isochrone.errors import InvalidInput
from isochrone.nbd import wire
from isochrone.nbd.connection import Tls
from isochrone.nbd.tls import Rule, TlsPolicy
from isochrone.nbd.tls_layer import TlsLayer
from isochrone.types import MIB, Proof
from tests.nbd.certificates import STRANGER, make_folder
from tests.nbd.memory import MemoryBackend
from tests.nbd.serving import (
    LOOPS,
    Raw,
    Serving,
    client,
    context_data,
    info_data,
    option,
    raw,
    request,
    serve,
)

SIZE = 16 * MIB
RULES = {"secret": Rule(tls=True), "ours": Rule(hosts=frozenset({"host-a"}))}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def other_host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("other"), host="host-b")


def some_backend() -> MemoryBackend:
    backend = MemoryBackend()
    for name in ("disk", "secret", "ours"):
        backend.add(name, SIZE, description=f"the {name}")
    return backend


def policy(pki: Path, mode: Tls = Tls.FORCED, **more: Any) -> TlsPolicy:
    return TlsPolicy(str(pki), mode=mode, rules=RULES, **more)


@pytest.fixture(params=list(LOOPS))
def forced(request: pytest.FixtureRequest, tmp_path: Path, pki: Path) -> Iterator[Serving]:
    tls = policy(pki, verify_clients=True)
    with serve(some_backend(), tmp_path, request.param, tls) as serving:
        yield serving


@pytest.fixture(params=list(LOOPS))
def offered(request: pytest.FixtureRequest, tmp_path: Path, pki: Path) -> Iterator[Serving]:
    tls = policy(pki, Tls.OFFERED)
    with serve(some_backend(), tmp_path, request.param, tls) as serving:
        yield serving


class Secure(Raw):
    """A client of bytes behind TLS."""

    def __init__(self, where: str, folder: Path | None, versions: Any = None):
        super().__init__(where)
        self.receive(18)
        self.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_STARTTLS))
        assert wire.OPTION_REPLY.unpack(self.receive(20))[2] == wire.REP_ACK
        self.socket = trusting(folder, versions).wrap_socket(self.socket)

    def open(self, export: str = "", *, structured: bool = False) -> int:
        self.send(option(wire.OPT_EXPORT_NAME, export.encode()))
        size, _ = wire.EXPORT.unpack(self.receive(wire.EXPORT.size))
        return size


def trusting(folder: Path | None, versions: Any = None) -> ssl.SSLContext:
    """A client's context: with the certificates of a folder, or without any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if versions:
        context.minimum_version, context.maximum_version = versions
    if folder is not None:
        context.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
    return context


# -- real clients


def test_nbdinfo(forced, pki) -> None:
    told = json.loads(client("nbdinfo", "--json", forced.secure_uri(pki, "disk")))
    assert told["TLS"] is True
    assert told["exports"][0]["export-size"] == SIZE
    told = json.loads(client("nbdinfo", "--list", "--json", forced.secure_uri(pki)))
    assert {e["export-name"] for e in told["exports"]} == {"disk", "secret", "ours"}


def test_nbdinfo_without_tls_is_told_why(forced) -> None:
    told = client("nbdinfo", forced.uri("disk"), ok=False)
    assert "TLS" in told


def test_nbdcopy_both_ways_over_several_connections(forced, pki, tmp_path) -> None:
    image, back = tmp_path / "image", tmp_path / "back"
    image.write_bytes(os.urandom(SIZE))
    uri = forced.secure_uri(pki, "disk")
    client("nbdcopy", "--connections=4", "--flush", str(image), uri)
    assert bytes(forced.backend.devices["disk"].content) == image.read_bytes()
    client("nbdcopy", "--connections=4", "--request-size=4194304", uri, str(back))
    assert back.read_bytes() == image.read_bytes()
    assert json.loads(client("nbdinfo", "--map", "--json", uri))[0]["type"] == 0


def test_qemu_img(forced, pki) -> None:
    credentials = f"tls-creds-x509,id=t,dir={pki},endpoint=client"
    image = f"driver=nbd,server.type=unix,server.path={forced.path},export=disk,tls-creds=t"
    image += ",tls-hostname=localhost"
    told = client(
        *("qemu-img", "info", "--output=json", "--object", credentials, "--image-opts", image)
    )
    assert json.loads(told)["virtual-size"] == SIZE
    script = ("-c", "write -P 7 1000 3M", "-c", "read -P 7 1000 3M", "-c", "flush")
    told = client("qemu-io", "--object", credentials, *script, "--image-opts", image)
    assert "failed" not in told


def test_hosts_of_another_authority_are_refused(forced, tmp_path) -> None:
    folder = make_folder(tmp_path / "strange", client_of=STRANGER)
    with capture_logs() as logs:
        client("nbdinfo", forced.secure_uri(folder, "disk"), ok=False)
        forced.until(lambda: forced.door.connections == 0)
    assert [line["event"] for line in logs] == ["nbd client failed at tls"]


# -- who is attached, and to what


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("names", "host"),
    [
        ({"names": ("H.example", "other.example")}, "h.example"),
        ({"names": (), "common_name": "By-Its-Common-Name"}, "by-its-common-name"),
    ],
)
def test_the_certificate_says_who_is_attached(tmp_path, loop, names, host) -> None:
    folder = make_folder(tmp_path / "pki", **names)
    with serve(some_backend(), tmp_path, loop, policy(folder)) as serving:
        peers = [Secure(serving.path, folder) for _ in range(2)]
        for peer in peers:
            peer.open("disk")
        callers = [caller for _, caller in serving.backend.attached]
        assert {(caller.kind, caller.host) for caller in callers} == {(Proof.CERTIFICATE, host)}
        assert len({caller.address for caller in callers}) == 2
        for peer in peers:
            peer.close()
        serving.until(lambda: serving.backend.attached == [])


def test_allow_lists(forced, pki, other_host) -> None:
    for folder, names in ((pki, {"disk", "secret", "ours"}), (other_host, {"disk", "secret"})):
        uri = forced.secure_uri(folder)
        told = json.loads(client("nbdinfo", "--list", "--json", uri))
        assert {e["export-name"] for e in told["exports"]} == names
    client("nbdinfo", forced.secure_uri(other_host, "ours"), ok=False)
    with Closing(Secure(forced.path, other_host)) as peer:
        peer.send(option(wire.OPT_GO, info_data(b"ours")))
        _, _, kind, length = wire.OPTION_REPLY.unpack(peer.receive(20))
        assert kind == wire.REP_ERR_POLICY
        assert peer.receive(length) == b"host-b may not open 'ours'"
    client("nbdinfo", forced.secure_uri(pki, "ours"))
    forced.until(lambda: forced.backend.attached == [])


def test_the_default_export_is_ruled_by_its_own_name(tmp_path, pki, other_host) -> None:
    backend = MemoryBackend()
    backend.add("ours", SIZE)
    with serve(backend, tmp_path, tls=policy(pki)) as serving:
        client("nbdinfo", serving.secure_uri(other_host), ok=False)
        client("nbdinfo", serving.secure_uri(pki))
        serving.until(lambda: backend.attached == [])


def test_new_rules_let_go_who_may_not_stay(tmp_path, pki, other_host) -> None:
    tls = policy(pki)
    with (
        serve(some_backend(), tmp_path, tls=tls) as serving,
        Closing(Secure(serving.path, pki)) as stays,
        Closing(Secure(serving.path, other_host)) as goes,
    ):
        stays.open("disk")
        goes.open("disk")

        async def change() -> int:
            tls.reload({"disk": Rule(hosts=frozenset({"host-a"}))})
            return serving.door.rules_changed()

        goes.send(request(wire.WRITE, 0, payload=b"answered"))
        assert goes.error() == (0, b"cookie01")
        assert serving.run(change()) == 1
        assert goes.at_end()
        serving.until(lambda: len(serving.backend.attached) == 1)
        assert serving.backend.lost == 0, "nobody waits for who may not come back"
        stays.send(request(wire.READ, 0, 8))
        assert stays.error() == (0, b"cookie01")
        assert stays.receive(8) == b"answered"
        assert serving.run(change()) == 0


def test_without_a_certificate_one_is_nobody(offered) -> None:
    with Closing(Secure(offered.path, None)) as peer:
        peer.open("secret")
        ((export, caller),) = offered.backend.attached
        assert export == "secret"
        assert (caller.kind, caller.host) == (Proof.USER, f"uid {os.getuid()}")
    with Closing(Secure(offered.path, None)) as peer, capture_logs() as logs:
        peer.send(option(wire.OPT_EXPORT_NAME, b"ours"))
        assert peer.at_end()
    assert "a host without a certificate may not open 'ours'" in logs[-1]["fault"]


def test_selective_tls(offered, pki) -> None:
    client("nbdinfo", offered.uri("disk"))
    told = client("nbdinfo", offered.uri("secret"), ok=False)
    assert "TLS" in told
    client("nbdinfo", offered.secure_uri(pki, "secret"))
    told = json.loads(client("nbdinfo", "--list", "--json", offered.uri()))
    assert [e["export-name"] for e in told["exports"]] == ["disk"]
    for number, data in (
        (wire.OPT_INFO, info_data(b"secret")),
        (wire.OPT_LIST_META_CONTEXT, context_data(b"secret")),
    ):
        with raw(offered.path) as peer:
            peer.receive(18)
            peer.send(wire.CLIENT_FLAGS.pack(3), option(number, data))
            assert wire.OPTION_REPLY.unpack(peer.receive(20))[2] == wire.REP_ERR_TLS_REQD


class Closing:
    def __init__(self, peer: Raw):
        self.peer = peer

    def __enter__(self) -> Raw:
        return self.peer

    def __exit__(self, *_: object) -> None:
        self.peer.close()


# -- versions, reload, deadlines, ends


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_versions(forced, pki, version) -> None:
    version = ssl.TLSVersion[version]
    with Closing(Secure(forced.path, pki, (version, version))) as peer:
        assert peer.open("disk") == SIZE


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_versions_are_refused(forced, pki) -> None:
    with capture_logs(), pytest.raises((ssl.SSLError, OSError)):
        Secure(forced.path, pki, (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1))


def test_no_certificate_where_one_is_required(forced) -> None:
    with capture_logs() as logs, Closing(Secure(forced.path, None)) as peer:
        with pytest.raises((OSError, EOFError)):  # with TLS 1.3 the refusal comes after our part
            peer.open("disk")
        forced.until(lambda: forced.door.connections == 0)
    assert [line["event"] for line in logs] == ["nbd client failed at tls"]


def test_reload_without_restart(tmp_path, pki) -> None:
    folder = tmp_path / "own"
    shutil.copytree(pki, folder)
    tls = policy(folder)
    with serve(some_backend(), tmp_path, tls=tls) as serving:

        def serial(peer: Secure) -> bytes:
            return peer.socket.getpeercert(binary_form=True)

        old = Secure(serving.path, pki)
        make_folder(folder)
        with Closing(Secure(serving.path, pki)) as between:
            assert serial(between) == serial(old)
        serving.loop.call_soon_threadsafe(tls.reload)
        serving.until(lambda: True)
        with Closing(Secure(serving.path, pki)) as new:
            assert serial(new) != serial(old)
        assert old.open("disk") == SIZE
        old.close()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01"])
def test_the_deadline_covers_tls(tmp_path, pki, loop, says) -> None:
    with serve(some_backend(), tmp_path, loop, policy(pki), handshake_s=0.2) as serving:
        with raw(serving.path) as peer, capture_logs() as logs:
            peer.receive(18)
            peer.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_STARTTLS))
            peer.receive(20)
            peer.send(says)
            assert peer.at_end()
        assert [line["event"] for line in logs] == ["nbd client did not negotiate"]


def test_the_deadline_covers_what_comes_after_tls(tmp_path, pki) -> None:
    limited = serve(some_backend(), tmp_path, tls=policy(pki), handshake_s=0.2)
    with limited as serving, Closing(Secure(serving.path, pki)) as peer, capture_logs():
        assert peer.at_end()


def test_no_tls_at_all_behind_starttls(forced) -> None:
    with raw(forced.path) as peer, capture_logs() as logs:
        peer.receive(18)
        peer.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_STARTTLS))
        peer.receive(20)
        peer.send(option(wire.OPT_GO, info_data(b"disk")))
        forced.until(lambda: forced.door.connections == 0)
    assert [line["event"] for line in logs] == ["nbd client failed at tls"]


def test_cve_2021_3716_a_request_injected_behind_starttls(forced) -> None:
    with raw(forced.path) as peer, capture_logs() as logs:
        peer.receive(18)
        peer.send(
            wire.CLIENT_FLAGS.pack(3),
            option(wire.OPT_STARTTLS),
            option(wire.OPT_STRUCTURED_REPLY),
        )
        peer.receive(20)
        assert peer.at_end()
    assert "behind STARTTLS" in logs[-1]["fault"]


def test_goodbye_is_said_in_tls_too(forced, pki) -> None:
    with Closing(Secure(forced.path, pki)) as peer:
        peer.open("disk")
        peer.send(request(wire.WRITE, 0, payload=b"last", flags=wire.CMD_FUA), request(wire.DISC))
        assert peer.error() == (0, b"cookie01")
        assert peer.socket.recv(1) == b""  # raises if the end is not authentic
    assert bytes(forced.backend.devices["disk"].content[:4]) == b"last"


def test_a_goodbye_of_the_client(forced, pki) -> None:
    peer = Secure(forced.path, pki)
    peer.open("disk")
    peer.send(request(wire.WRITE, 0, payload=b"last"))
    assert peer.error() == (0, b"cookie01")
    peer.socket = peer.socket.unwrap()
    assert peer.at_end()
    peer.close()
    forced.until(lambda: forced.door.connections == 0)
    assert bytes(forced.backend.devices["disk"].content[:4]) == b"last"


def test_garbage_within_tls_ends_the_connection(forced, pki) -> None:
    peer = Secure(forced.path, pki)
    peer.open("disk")
    with capture_logs() as logs:
        below = socket.socket(fileno=os.dup(peer.socket.fileno()))
        below.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        forced.until(lambda: forced.door.connections == 0)
    assert [line["event"] for line in logs] == ["nbd client failed at tls"]
    below.close()
    peer.close()


# -- bounds


def test_a_client_that_does_not_read_is_not_read_from(forced, pki) -> None:
    with Closing(Secure(forced.path, pki)) as slow, Closing(Secure(forced.path, pki)) as other:
        slow.open("disk")
        other.open("disk")
        slow.send(*(request(wire.READ, 0, 4 * MIB) for _ in range(50)))
        for _ in range(20):
            other.send(request(wire.READ, 0, 4))
            assert other.error() == (0, b"cookie01")
            other.receive(4)
        (owing,) = (c for c in forced.door._clients if c.reads)
        assert owing._transport.get_write_buffer_size() < 10 * MIB
        for _ in range(50):
            assert slow.error() == (0, b"cookie01")
            slow.receive(4 * MIB)


def test_large_writes(forced, pki) -> None:
    with Closing(Secure(forced.path, pki)) as peer:
        peer.open("disk")
        data = os.urandom(SIZE - 1)
        peer.send(request(wire.WRITE, 1, payload=data), request(wire.READ, 1, 9))
        assert peer.error() == (0, b"cookie01")
        assert peer.error() == (0, b"cookie01")
        assert peer.receive(9) == data[:9]
    assert forced.backend.devices["disk"].content[1:] == data


# -- addresses


def test_an_open_address_takes_forced_tls_and_client_certificates(tmp_path, pki) -> None:
    with serve(some_backend(), tmp_path) as serving:
        listen = serving.door.listen_tcp
        for tls in (None, policy(pki), policy(pki, Tls.OFFERED, verify_clients=True)):
            with pytest.raises(InvalidInput):
                serving.run(listen("0.0.0.0", 0, tls=tls))
        _, port = serving.run(listen("0.0.0.0", 0, tls=policy(pki, verify_clients=True)))
        uri = f"nbds://localhost:{port}/disk?tls-certificates={pki}"
        assert client("nbdinfo", "--size", uri).strip() == str(SIZE)
        client("nbdinfo", "--size", serving.uri("disk"))  # a port has its own policy, or none


# -- byte by byte


class FakeTransport:
    def __init__(self) -> None:
        self.sent = b""
        self.closed = False
        self.paused = False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class FakeClient:
    def __init__(self, room: int = 1 << 16) -> None:
        self.room = bytearray(room)
        self.got = b""
        self.errors: list[Exception] = []
        self.is_secure = False
        self.at_data: Callable[[], None] = lambda: None

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.room)

    def buffer_updated(self, nbytes: int) -> None:
        self.got += self.room[:nbytes]
        self.at_data()

    def eof_received(self) -> bool:
        return False

    def secured(self, tls: ssl.SSLObject) -> None:
        self.is_secure = True

    def not_secured(self, error: Exception) -> None:
        self.errors.append(error)


class FakeLoop:
    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_soon(self, work: Callable[[], None]) -> None:
        self.due.append(work)

    def run(self) -> None:
        while self.due:
            self.due.pop(0)()


class Pair:
    """A layer and an OpenSSL client, joined by nothing but bytes."""

    def __init__(self, folder: Path, room: int = 1 << 16) -> None:
        self.transport, self.client, self.loop = FakeTransport(), FakeClient(room), FakeLoop()
        context: Any = TlsPolicy(str(folder), verify_clients=True).context
        self.layer = TlsLayer(context, self.transport, self.client, self.loop)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.peer = trusting(folder).wrap_bio(self.incoming, self.outgoing)

    def feed(self, data: bytes, step: int) -> None:
        for start in range(0, len(data), step):
            if self.transport.closed:
                return
            piece = data[start : start + step]
            room = self.layer.get_buffer(-1)
            room[: len(piece)] = piece
            self.layer.buffer_updated(len(piece))

    def shake(self, step: int = 1 << 16) -> None:
        for _ in range(10):
            if self.peer_done() and self.client.is_secure:
                return
            self.feed(self.outgoing.read(), step)
            self.incoming.write(self.transport.sent)
            self.transport.sent = b""
        pytest.fail(f"no handshake: {self.client.errors}")

    def peer_done(self) -> bool:
        try:
            self.peer.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True


@pytest.mark.parametrize("step", [1, 7, 1000, 65536])
@pytest.mark.parametrize("room", [1, 100, 65536])
def test_any_split_of_the_bytes_changes_nothing(pki, step, room) -> None:
    pair = Pair(pki, room)
    pair.shake(step)
    data = os.urandom(40_000)
    pair.peer.write(data)
    pair.feed(pair.outgoing.read(), step)
    assert pair.client.got == data
    pair.layer.writelines([b"", data, memoryview(data)])
    pair.incoming.write(pair.transport.sent)
    back = b""
    while len(back) < 2 * len(data):
        back += pair.peer.read(1 << 16)
    assert back == 2 * data


def test_a_paused_client_gets_nothing_until_it_goes_on(pki) -> None:
    pair = Pair(pki, room=1000)
    pair.shake()
    pair.client.at_data = pair.layer.pause_reading
    pair.peer.write(bytes(5000))
    pair.feed(pair.outgoing.read(), 1 << 16)
    for part in range(1, 6):
        assert pair.transport.paused
        assert len(pair.client.got) == 1000 * part
        pair.layer.resume_reading()
        assert len(pair.client.got) == 1000 * part
        pair.loop.run()


def test_nothing_is_delivered_after_an_abort(pki) -> None:
    pair = Pair(pki, room=1000)
    pair.shake()
    pair.client.at_data = pair.layer.abort
    pair.peer.write(bytes(5000))
    pair.feed(pair.outgoing.read(), 1 << 16)
    assert len(pair.client.got) == 1000
    pair.loop.run()
    assert pair.transport.closed


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda kind, minor, length, data: (
                    bytes([kind, 3, minor]) + length.to_bytes(2) + data
                ),
                st.integers(20, 24),
                st.integers(0, 4),
                st.sampled_from([0, 1, 2, 4, 100, 0x4000, 0x4800, 0xFFFF]),
                st.binary(max_size=100),
            ),
        ),
        max_size=8,
    ),
    st.booleans(),
    st.integers(1, 400),
)
def test_hostile_bytes_fail_once_and_raise_nothing(pki, pieces, established, step) -> None:
    pair = Pair(pki)
    if established:
        pair.shake()
    pair.feed(b"".join(pieces), step)
    pair.loop.run()
    assert pair.client.got == b""
    assert len(pair.client.errors) <= 1
    assert pair.transport.closed is bool(pair.client.errors)
    assert len(pair.transport.sent) < 10_000


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255), st.integers(1, 3000))
def test_a_flipped_byte_of_the_handshake_or_after_is_found(pki, at, flip, step) -> None:
    pair = Pair(pki)
    try:
        while not (pair.peer_done() and pair.client.is_secure):
            data = bytearray(pair.outgoing.read())
            if not pair.client.is_secure and len(data) > at:
                data[at] ^= flip
            pair.feed(bytes(data), step)
            if pair.transport.closed or (not data and not pair.transport.sent):
                return
            pair.incoming.write(pair.transport.sent)
            pair.transport.sent = b""
    except ssl.SSLError:
        return  # the client found it
    pair.peer.write(b"payload")
    pair.feed(pair.outgoing.read(), step)
    assert pair.client.got == b"payload"


def test_serving_without_a_policy_is_as_before(tmp_path) -> None:
    with serve(some_backend(), tmp_path) as serving, raw(serving.path) as peer:
        peer.receive(18)
        peer.send(wire.CLIENT_FLAGS.pack(3), option(wire.OPT_STARTTLS))
        assert wire.OPTION_REPLY.unpack(peer.receive(20))[2] == wire.REP_ERR_UNSUP
