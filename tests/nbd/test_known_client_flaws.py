"""Flaws that other NBD clients had, one test each, asked of what we are a client with.

That is the receiving end of a mirror link: a remote site is as hostile as a client. Where it takes
a real client to ask (TLS, and errors of reads), one of ours is the server that it must not believe
too much.
"""

from __future__ import annotations

import ast
import errno
import json
from pathlib import Path
from struct import Struct

import pytest

from isochrone.errors import PeerFault
from isochrone.mirror.link import Link
from isochrone.mirror.messages import Begin, RemoteVolume
from isochrone.mirror.wire import FRAME_BYTES_MAX, MAGIC
from isochrone.nbd import wire
from isochrone.nbd.tls import TlsPolicy
from isochrone.store import records as r
from isochrone.types import MIB
from tests.mirror.test_apply import BEGIN, DB, blocks_of, in_a_pool, record, refuses
from tests.nbd.certificates import STRANGER, make_folder
from tests.nbd.memory import MemoryBackend
from tests.nbd.serving import client, context_data, info_data, option, serve
from tests.nbd.test_known_flaws import PACKAGE, SIZE, answer, negotiating, untested

FLAWS = {
    *("2017_2630", "2019_14842", "libnbd_2019_10", "2021_20286", "2023_5871", "2022_0485"),
    *("2023_5215", "2024_7383"),
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def backend() -> MemoryBackend:
    backend = MemoryBackend()
    backend.add("disk", SIZE)
    return backend


def test_cve_2017_2630_an_answer_longer_than_there_is_room_for() -> None:
    """A frame over the limit is refused by its header; none of it is taken."""
    for length in (FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1):
        head = Struct("<4sBBHQI4x").pack(MAGIC, 1, 12, 0, 1, length) + bytes(8)
        link = Link()
        link.receive(head)
        with pytest.raises(PeerFault, match="over the limit"):
            link.next()


def test_cve_2019_14842_where_tls_is_required_nothing_is_taken_in_the_clear(
    backend: MemoryBackend, tmp_path: Path, pki: Path
) -> None:
    """Neither side falls back: all options are refused in the clear, and so are requests."""
    with serve(backend, tmp_path, "uvloop", TlsPolicy(str(pki))) as forced:
        with negotiating(forced) as peer:
            for number, data in (
                (wire.OPT_GO, info_data(b"disk")),
                (wire.OPT_INFO, info_data(b"disk")),
                (wire.OPT_LIST_META_CONTEXT, context_data(b"disk")),
                (wire.OPT_LIST, b""),
            ):
                peer.send(option(number, data))
                assert answer(peer)[1] == wire.REP_ERR_TLS_REQD
            peer.send(option(wire.OPT_EXPORT_NAME, b"disk"))
            assert peer.at_end()
        assert backend.attachments == 0
        client("nbdinfo", forced.uri("disk"), ok=False)


def test_libnbd_2019_10_data_outside_of_what_it_is_for() -> None:
    """Blocks past the end of a volume are refused before any of their frame is kept."""
    for blocks in ([256], [255, 256], [2**64 - 1], [2**63]):
        in_a_pool(lambda there, blocks=blocks: refuses(there, (BEGIN, blocks_of(70, blocks, "x"))))


def test_cve_2021_20286_and_2023_5871_no_assertion_on_what_a_peer_says() -> None:
    """The front door asserts nothing at run time; the link asserts only what we send ourselves."""

    def asserting(room: str) -> set[str]:
        return {
            f"{path.name}:{function.name}"
            for path in (PACKAGE / room).rglob("*.py")
            for function in ast.walk(ast.parse(path.read_text()))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            and any(isinstance(n, ast.Assert) and not narrows(n) for n in ast.walk(function))
        }

    def narrows(node: ast.Assert) -> bool:
        """`assert self._x is not None`: a word to the type checker about a field of our own."""
        test = node.test
        return (
            isinstance(test, ast.Compare)
            and isinstance(test.left, ast.Attribute)
            and isinstance(test.left.value, ast.Name)
            and test.left.value.id == "self"
            and isinstance(test.ops[0], ast.IsNot)
        )

    assert asserting("nbd") == set()
    incoming = {"link.py", "apply.py", "conversation.py", "mover.py"}
    assert not {found for found in asserting("mirror") if found.partition(":")[0] in incoming}
    assert not any("decode" in found for found in asserting("mirror"))


def test_cve_2022_0485_a_read_error_is_not_dropped(backend: MemoryBackend, tmp_path: Path) -> None:
    """A block that cannot be read is an error to whoever copies; it never becomes zeros."""
    device = backend.devices["disk"]
    device.content[:] = b"x" * SIZE
    image = tmp_path / "image"
    with serve(backend, tmp_path, "uvloop") as serving:
        client("nbdcopy", serving.uri("disk"), str(image))
        assert image.read_bytes() == bytes(device.content)
        device.read_failure = OSError(errno.EIO, "bad sector")
        client("nbdcopy", serving.uri("disk"), str(image), ok=False)
        client("qemu-img", "convert", "-O", "raw", serving.uri("disk"), str(image), ok=False)


@pytest.mark.parametrize("size", [-1, -MIB, -(2**62), 0])
def test_cve_2023_5215_a_size_below_zero(size: int) -> None:
    """A size is checked where it comes in, as a volume's and as a resize's."""
    begin = Begin(base=0, cut=2, volumes=(DB, RemoteVolume(71, "wal", size)))
    in_a_pool(lambda there: refuses(there, (begin,)))
    in_a_pool(lambda there: refuses(there, (BEGIN, record(r.VolumeResized(id=70, size=size)))))


def test_cve_2024_7383_a_server_whose_certificate_does_not_fit(
    backend: MemoryBackend, tmp_path: Path, pki: Path
) -> None:
    """Our certificates can be checked: a client refuses another authority's, and another name."""
    other_name = make_folder(tmp_path / "name", server_names=("elsewhere.example",))
    strange = make_folder(tmp_path / "strange", authority=STRANGER)
    with serve(backend, tmp_path, "uvloop", TlsPolicy(str(other_name))) as serving:
        host, port = serving.run(
            serving.door.listen_tcp("127.0.0.1", 0, tls=TlsPolicy(str(other_name)))
        )
        there = f"nbds://{host}:{port}/disk?tls-certificates="
        assert "certificate" in client("nbdinfo", there + str(pki), ok=False)
        host, port = serving.run(serving.door.listen_tcp("127.0.0.1", 0, tls=TlsPolicy(str(pki))))
        there = f"nbds://{host}:{port}/disk?tls-certificates="
        assert "certificate" in client("nbdinfo", there + str(strange), ok=False)
        assert json.loads(client("nbdinfo", "--json", there + str(pki)))["TLS"] is True


def test_every_flaw_has_its_test() -> None:
    assert untested(FLAWS, globals()) == []
