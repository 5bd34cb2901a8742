"""Flaws that other NBD servers had, one test each: ours must not have them.

The docstring is the rule that follows from the flaw. Tests beside the parts go deeper; these ask
only whether the rule holds.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import Struct

import pytest
from structlog.testing import capture_logs

import isochrone
from isochrone.nbd import handshake, wire
from isochrone.nbd.connection import Connection, Phase
from isochrone.nbd.tls import Rule, TlsPolicy
from isochrone.types import GIB, MIB
from isochrone.world.net import is_loopback
from tests.control.process import Controller, Nbd, controllers
from tests.e2e.programs import isochrone as command
from tests.nbd.certificates import make_folder
from tests.nbd.hostile import attack
from tests.nbd.memory import MemoryBackend
from tests.nbd.serving import (
    Raw,
    Serving,
    client,
    context_data,
    info_data,
    option,
    raw,
    request,
    serve,
    still_serves,
)

SIZE = 4 * MIB
FLAGS = wire.CLIENT_FLAGS.pack(3)
GREETING = wire.GREETING.size
ERROR = wire.OPTION_REPLY.size
PACKAGE = Path(isochrone.__file__).parent

# What these tests answer for; the last test of the file counts them.
FLAWS = {
    *("2005_3534", "2011_0530", "2011_1925", "2013_7441", "2013_6410", "2015_0847"),
    *("2022_26495", "2022_26496", "2017_9524", "2017_7539", "2017_10664", "2017_15118"),
    *("2017_15119", "2020_10761", "2024_7409", "2019_14850", "2019_14851", "2021_3716"),
    *("2025_47711", "2025_47712"),
    *("nbdkit_1_34_hang_up", "nbdkit_1_34_injected", "nbdkit_1_40", "qemu_nbd_7_2"),
    *("nbd_2024_endless", "nbd_2025_copy_on_write", "spec_review_2019_wrap"),
    "spec_review_2019_trim",
}


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    backend = MemoryBackend()
    backend.add("disk", SIZE)
    backend.add("frozen", SIZE, read_only=True)
    with serve(backend, tmp_path, "uvloop") as serving:
        yield serving
        serving.backend.devices["disk"].read_failure = None
        still_serves(serving)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pki"), host="db1")


@pytest.fixture
def forced(tmp_path: Path, pki: Path) -> Iterator[Serving]:
    backend = MemoryBackend()
    backend.add("disk", SIZE)
    with serve(backend, tmp_path, "uvloop", TlsPolicy(str(pki))) as serving:
        yield serving


@pytest.fixture(scope="module")
def controller() -> Iterator[Controller]:
    with controllers() as begin:
        folder = Path(tempfile.mkdtemp(prefix="iso-"))  # socket paths are short
        one = begin(folder / "p")
        assert one.ready, one.wait()
        yield one
        code, _, log = one.end()
        assert (code, "Traceback" in log) == (0, False), log
        shutil.rmtree(folder)


@contextlib.contextmanager
def negotiating(where: Serving) -> Iterator[Raw]:
    """A client that has sent its flags. What its socket is in the end is closed."""
    with raw(where.path) as peer:
        peer.receive(GREETING)
        peer.send(FLAGS)
        yield peer


def answer(peer: Raw) -> tuple[int, int, bytes]:
    """(option, kind of reply, its data)."""
    magic, number, kind, length = wire.OPTION_REPLY.unpack(peer.receive(ERROR))
    assert magic == wire.OPTION_REPLY_MAGIC
    return number, kind, peer.receive(length)


def parsed(*parts: bytes) -> Connection:
    """A session without a socket, after these bytes."""
    connection = Connection()
    connection.receive_data(FLAGS + b"".join(parts))
    return connection


def announced(number: int, length: int) -> bytes:
    """The head of an option that never comes."""
    return wire.OPTION.pack(wire.OPTION_MAGIC, number, length)


# -- servers


@pytest.mark.parametrize("length", [MIB, MIB + 1, MIB + 28, 2 * MIB])
def test_cve_2005_3534_and_2011_0530_no_fixed_buffer(serving: Serving, length: int) -> None:
    """There is no fixed buffer; one range check up front. It came back in 2011."""
    data = os.urandom(length)
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.WRITE, 0, payload=data), request(wire.READ, 0, length))
        assert peer.error() == (0, b"cookie01")
        assert peer.error() == (0, b"cookie01")
        assert peer.receive(length) == data
        peer.send(request(wire.WRITE, SIZE - 1, payload=b"xy"))
        assert peer.error() == (errno.ENOSPC, b"cookie01")


def test_cve_2011_1925_an_unknown_export_ends_its_connection_only(serving: Serving) -> None:
    """A connection's failure stays with the connection."""
    with raw(serving.path) as other:
        other.open("disk")
        with raw(serving.path) as peer:
            peer.receive(GREETING)
            peer.send(FLAGS, option(wire.OPT_EXPORT_NAME, b"no such export"))
            assert peer.at_end()
        other.send(request(wire.READ, 0, 1))
        assert other.error() == (0, b"cookie01")
        other.receive(1)


def test_cve_2013_7441_a_hang_up_at_any_byte_of_the_handshake(serving: Serving) -> None:
    """Every byte of the handshake is a place where a client may leave."""
    script = FLAGS + option(wire.OPT_LIST) + option(wire.OPT_GO, info_data(b"disk", 0, 1, 3))
    for cut in range(len(script)):
        with raw(serving.path) as peer:
            peer.send(script[:cut])
    serving.until(lambda: serving.door.connections == 0)


def test_cve_2013_6410_addresses_and_hosts_are_not_prefixes(pki: Path) -> None:
    """Addresses are compared as numbers, hosts as a whole; neither as the beginning of a text."""
    for near in ("127.0.0.1.example.org", "127.0.0", "1270.0.0.1", "::12", "localhost.example"):
        assert not is_loopback(near)
    assert is_loopback("127.0.0.12")  # a number of the same network
    policy = TlsPolicy(str(pki), rules={"disk": Rule(hosts=frozenset({"192.168.0.12", "db12"}))})
    for near in ("192.168.0.1", "192.168.0.123", "db1", "db123", "xdb12", ""):
        assert not policy.allows("disk", secure=True, host=near)
    assert policy.allows("disk", secure=True, host="db12")


def test_cve_2015_0847_nothing_is_done_within_a_signal_handler() -> None:
    """The only handlers are the loop's, which wake it; ours run in its turn, as any callback."""
    uses = [
        (path.relative_to(PACKAGE).as_posix(), node.func.attr)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("signal", "sigaction", "set_wakeup_fd", "add_signal_handler")
    ]
    serving = [use for use in uses if use[0].startswith(("control/service", "nbd/", "mirror/"))]
    assert set(serving) == {("control/service.py", "add_signal_handler")}


@pytest.mark.parametrize("number", [wire.OPT_INFO, wire.OPT_GO, wire.OPT_SET_META_CONTEXT])
def test_cve_2022_26495_a_name_of_2_to_the_32_minus_1(serving: Serving, number: int) -> None:
    """Lengths are capped before anything is computed from them."""
    with negotiating(serving) as peer:
        peer.send(option(wire.OPT_STRUCTURED_REPLY))
        answer(peer)
        peer.send(option(number, b"\xff\xff\xff\xff" + b"name" * 8))
        assert answer(peer)[1] == wire.REP_ERR_INVALID
        peer.send(option(wire.OPT_GO, info_data(b"disk")))
        assert answer(peer)[1] == wire.REP_INFO


def test_cve_2022_26496_inner_lengths_fit_the_outer_one() -> None:
    """A name longer than its option, by one byte or by many, and one that leaves bytes over."""
    for claimed in (5, 6, 8, 4096, 2**31, 2**32 - 1, 0, 3):
        data = wire.LENGTH.pack(claimed) + b"disk" + wire.COUNT.pack(0)
        for number in (wire.OPT_INFO, wire.OPT_GO):
            connection = parsed(option(number, data))
            assert connection.question is None, claimed
            assert connection.phase is Phase.OPTIONS


def test_cve_2017_9524_a_port_scan(serving: Serving) -> None:
    """A client that says nothing at all costs nothing but its connection."""
    for _ in range(50):
        Raw(serving.path).close()
    silent = Raw(serving.path)
    still_serves(serving)
    silent.close()


@pytest.mark.parametrize("data", [b"x" * 100, b"\0" * 100, b"IHAVEOPS" + bytes(8)])
def test_cve_2017_7539_unexpected_data_in_negotiation(serving: Serving, data: bytes) -> None:
    """What a peer sends ends its session, never an assertion."""
    with raw(serving.path) as peer, capture_logs() as logs:
        peer.receive(GREETING)
        peer.send(FLAGS, data)
        assert peer.at_end()
    assert [line["event"] for line in logs] == ["nbd client left the protocol"]


def test_cve_2017_10664_a_client_that_is_gone_when_it_is_replied_to(serving: Serving) -> None:
    """Writing to a closed socket ends that connection, not the server (SIGPIPE)."""
    for _ in range(5):
        with raw(serving.path) as peer:
            peer.open("disk")
            peer.send(*(request(wire.READ, 0, SIZE) for _ in range(8)))
    serving.until(lambda: serving.door.connections == 0)


def test_cve_2017_15118_names_of_257_to_4096_bytes(serving: Serving) -> None:
    """Every name that the specification allows is compared, not copied to where it does not fit."""
    with negotiating(serving) as peer:
        for length in (255, 256, 257, 1024, 4095, 4096):
            peer.send(option(wire.OPT_GO, info_data(b"n" * length)))
            assert answer(peer)[1] == wire.REP_ERR_UNKNOWN
        peer.send(option(wire.OPT_GO, info_data(b"n" * 4097)))
        assert answer(peer)[1] == wire.REP_ERR_TOO_BIG


def test_cve_2017_15119_an_option_of_4_gib_is_not_drained(serving: Serving) -> None:
    """Over the cap: an error, and the end. Nothing is read to be thrown away."""
    with negotiating(serving) as peer:
        peer.send(announced(4711, 2**32 - 1))
        assert answer(peer)[1] == wire.REP_ERR_TOO_BIG
        assert peer.at_end()
    assert handshake.OPTION_BYTES_MAX < 64 * MIB


def test_cve_2020_10761_error_texts_fit(serving: Serving) -> None:
    """The error names the name, and is cut so that it is no longer than a text may be."""
    with negotiating(serving) as peer:
        peer.send(option(wire.OPT_GO, info_data(b"\xc3\xa4" * 2048)))
        _, kind, words = answer(peer)
        assert kind == wire.REP_ERR_UNKNOWN
        assert len(words) <= wire.STRING_BYTES_MAX
        words.decode()  # cut between letters


def test_cve_2024_7409_idle_clients_and_a_stop_in_between(tmp_path: Path) -> None:
    """A deadline for the handshake, a cap on connections, and a stop with clients attached."""
    backend = MemoryBackend()
    backend.add("disk", SIZE)
    with serve(backend, tmp_path, "uvloop", handshake_s=0.2, connections_max=4) as serving:
        idle = [Raw(serving.path) for _ in range(4)]
        serving.until(lambda: serving.door.connections == 4)
        with raw(serving.path) as fifth:
            assert fifth.at_end()
        for peer in idle:
            peer.receive(GREETING)
            assert peer.at_end()
            peer.close()
        still_serves(serving)
        attached, waiting = Raw(serving.path), Raw(serving.path)
        attached.open("disk")
        waiting.receive(GREETING)
        serving.run(serving.door.close(5))
        assert attached.at_end()
        assert waiting.at_end()
        attached.close()
        waiting.close()


def test_cve_2019_14850_nothing_is_opened_before_it_is_asked_for(serving: Serving) -> None:
    """A connection, its flags and a list cost no open device."""
    with negotiating(serving) as peer:
        peer.send(option(wire.OPT_LIST), option(wire.OPT_STRUCTURED_REPLY))
        while answer(peer)[1] != wire.REP_ACK:
            pass
        assert serving.backend.attachments == 0


def test_cve_2019_14851_commands_in_the_wrong_order() -> None:
    """The phase decides what bytes are: a request among options is a bad option, and the end."""
    for early in (b"", option(wire.OPT_LIST)[:-4], option(wire.OPT_STRUCTURED_REPLY)):
        connection = parsed(early, request(wire.FLUSH), request(wire.READ, 0, 512))
        assert connection.phase is not Phase.REQUESTS
    connection = parsed(request(wire.READ, 0, 512))
    assert (connection.phase, bool(connection.fault)) == (Phase.CLOSED, True)


def secured(peer: Raw, certificates: Path) -> Raw:
    """Go on over TLS; the answer to STARTTLS has been taken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates / "ca-cert.pem")
    context.load_cert_chain(certificates / "client-cert.pem", certificates / "client-key.pem")
    peer.socket = context.wrap_socket(peer.socket, server_hostname="localhost")
    return peer


def test_cve_2021_3716_starttls_forgets_all_before_it(tmp_path: Path, pki: Path) -> None:
    """What was agreed in the clear does not hold, and bytes behind STARTTLS are no TLS."""
    backend = MemoryBackend()
    backend.add("disk", SIZE)
    tls = TlsPolicy(str(pki), mode=handshake.Tls.OFFERED)
    with serve(backend, tmp_path, "uvloop", tls) as serving:
        with negotiating(serving) as peer:
            peer.send(option(wire.OPT_STRUCTURED_REPLY))
            assert answer(peer)[1] == wire.REP_ACK
            peer.send(option(wire.OPT_STARTTLS))
            assert answer(peer)[1] == wire.REP_ACK
            secured(peer, pki).send(
                option(wire.OPT_SET_META_CONTEXT, context_data(b"disk", b"base:allocation"))
            )
            # Structured replies must be agreed on first, and that they were is forgotten.
            assert answer(peer)[1] == wire.REP_ERR_INVALID
        with capture_logs() as logs, negotiating(serving) as peer:
            peer.send(option(wire.OPT_STARTTLS) + option(wire.OPT_STRUCTURED_REPLY))
            peer.receive(ERROR)
            assert peer.at_end()
        assert logs[0]["fault"] == "bytes in the clear behind STARTTLS"


CHUNK = Struct(">IHHQI")


@pytest.mark.parametrize("length", [2**32 - 1, 2**32 - 4096, 2**32 - 65536, 2**31])
def test_cve_2025_47711_and_47712_block_status_of_nearly_4_gib(
    controller: Controller, length: int
) -> None:
    """Sums have 64 bits; extents add up to no more than was asked for, and the reply is cut."""
    name = f"huge{length}"
    command(controller, "volume", "create", name, "8GiB")
    peer = Raw(str(controller.directory / "nbd.sock"))
    peer.receive(GREETING)
    peer.send(FLAGS, option(wire.OPT_STRUCTURED_REPLY))
    answer(peer)
    peer.send(option(wire.OPT_SET_META_CONTEXT, context_data(name.encode(), b"base:allocation")))
    while answer(peer)[1] != wire.REP_ACK:
        pass
    peer.send(option(wire.OPT_EXPORT_NAME, name.encode()))
    size, _ = wire.EXPORT.unpack(peer.receive(wire.EXPORT.size))
    assert size == 8 * GIB
    for offset in (0, 1, 4096, size - length):
        peer.send(request(wire.BLOCK_STATUS, offset, length))
        magic, flags, kind, cookie, data = CHUNK.unpack(peer.receive(CHUNK.size))
        assert (magic, flags, kind) == (wire.STRUCTURED_REPLY_MAGIC, 1, 5)
        assert cookie == int.from_bytes(b"cookie01", "big")
        body = peer.receive(data)
        extents = [int.from_bytes(body[at : at + 4], "big") for at in range(4, len(body), 8)]
        assert 0 < sum(extents) <= length
        assert 0 not in extents
    peer.close()


def test_nbdkit_1_34_hang_up_in_mid_reply(serving: Serving) -> None:
    """A client may leave while it is being answered; the server of Debian 12 is gone then."""
    for taken in (1, 16, 17, 1000, 100_000):
        with raw(serving.path) as peer:
            peer.open("disk", structured=True)
            peer.send(*(request(wire.READ, 0, SIZE) for _ in range(4)))
            peer.receive(taken)
    serving.until(lambda: serving.door.connections == 0)


def test_nbdkit_1_34_injected_options_before_starttls(forced: Serving, pki: Path) -> None:
    """A middle man's options are answered with "TLS first", and leave nothing behind."""
    with negotiating(forced) as peer:
        for number in (4711, wire.OPT_LIST, wire.OPT_STRUCTURED_REPLY, wire.OPT_EXTENDED_HEADERS):
            peer.send(option(number))
            assert answer(peer)[:2] == (number, wire.REP_ERR_TLS_REQD)
        peer.send(option(wire.OPT_STARTTLS))
        assert answer(peer)[1] == wire.REP_ACK
        secured(peer, pki).send(option(wire.OPT_EXPORT_NAME, b"disk"))
        size, flags = wire.EXPORT.unpack(peer.receive(wire.EXPORT.size))
        assert size == SIZE
        assert not flags & wire.SEND_DF  # that is for structured replies


def test_nbdkit_1_40_what_is_checked_of_a_certificate_is_what_the_manual_says(
    tmp_path: Path, pki: Path
) -> None:
    """The first DNS name, or without one the common name; an allow-list without it says no."""
    backend = MemoryBackend()
    backend.add("disk", SIZE)
    tls = TlsPolicy(str(pki), rules={"disk": Rule(hosts=frozenset({"db1", "only-common"}))})
    cases = (
        ({"names": ("db1", "other")}, True),
        ({"names": ("DB1",)}, True),
        ({"names": (), "common_name": "only-common"}, True),
        ({"names": ("other", "db1")}, False),  # not the first
        ({"names": ("other",), "common_name": "db1"}, False),  # a DNS name there, so not this
        ({"names": ("db1.example.org",)}, False),
        ({"names": ("db12",)}, False),
    )
    with serve(backend, tmp_path, "uvloop", tls) as serving:
        for at, (names, may) in enumerate(cases):
            folder = make_folder(tmp_path / f"client{at}", **names)
            client("nbdinfo", "--size", serving.secure_uri(folder, "disk"), ok=may)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_qemu_nbd_7_2_assertion_on_the_length_of_an_option(seed: int) -> None:
    """Fuzzed sessions; `Target` fails on whatever gets out. Then every option with odd lengths."""
    attack(5_000, seed)
    for number in range(16):
        for length in range(48):
            for byte in (b"\0", b"\xff", b"\1"):
                connection = parsed(option(number, byte * length))
                assert connection.phase in (Phase.OPTIONS, Phase.ASKING, Phase.CLOSED)


def test_nbd_2024_endless_loop_with_tls(forced: Serving, pki: Path) -> None:
    """A connection cut anywhere within TLS ends, and keeps nobody busy."""
    hello = first_flight()
    for cut in range(0, len(hello), 7):
        with negotiating(forced) as peer:
            peer.send(option(wire.OPT_STARTTLS))
            answer(peer)
            peer.send(hello[:cut])
    forced.until(lambda: forced.door.connections == 0)
    for _ in range(3):  # after the handshake, and without a goodbye
        with negotiating(forced) as peer:
            peer.send(option(wire.OPT_STARTTLS))
            answer(peer)
            os.close(secured(peer, pki).socket.detach())
    client("nbdinfo", "--size", forced.secure_uri(pki, "disk"))


def first_flight() -> bytes:
    """What a TLS client says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


def test_nbd_2025_copy_on_write_keeps_the_rest_of_a_block(controller: Controller) -> None:
    """A write of a part of a shared block changes that part, and only in the copy written to."""
    command(controller, "volume", "create", "cow", "1MiB")
    path = str(controller.directory / "nbd.sock")
    before = os.urandom(MIB)
    with Nbd(path, "cow") as origin:
        origin.write(0, before)
        command(controller, "copy", "take", "--name", "c", "--writable", "cow")
        with Nbd(path, "cow@c") as clone:
            expected = bytearray(before)
            for offset, length in ((1, 1), (4095, 2), (5000, 9000), (MIB - 3, 3), (65536, 512)):
                data = os.urandom(length)
                clone.write(offset, data)
                expected[offset : offset + length] = data
            assert clone.read(0, MIB) == expected
        assert origin.read(0, MIB) == before


def test_spec_review_2019_wrap_of_offset_and_length(serving: Serving) -> None:
    """Offset and length are added in arbitrary precision: 2^64 does not become 0."""
    with raw(serving.path) as peer:
        peer.open("disk")
        for command in (wire.READ, wire.TRIM, wire.WRITE_ZEROES, wire.CACHE):
            for offset, length in ((2**64 - 4096, 8192), (2**64 - 1, 1), (SIZE - 1, 2**32 - 1)):
                peer.send(request(command, offset, length))
                assert peer.error()[0] in (errno.EINVAL, errno.ENOSPC)


def test_spec_review_2019_trim_of_a_read_only_export(serving: Serving) -> None:
    """It is not permitted (EPERM), rather than invalid (EINVAL)."""
    with raw(serving.path) as peer:
        peer.open("frozen")
        for command in (wire.TRIM, wire.WRITE_ZEROES):
            peer.send(request(command, 0, 4096))
            assert peer.error()[0] == errno.EPERM


# -- this file


def untested(flaws: set[str], names: Iterable[str]) -> list[str]:
    """By the words of a test's name, as one may answer for several of one kind."""
    tested = [set(name.split("_")) for name in names if name.startswith("test_")]
    return [flaw for flaw in flaws if not any(set(flaw.split("_")) <= words for words in tested)]


def test_every_flaw_has_its_test() -> None:
    assert untested(FLAWS, globals()) == []
    assert untested({"2099_1"}, globals()) == ["2099_1"]
