"""Socket files, and who may reach a port."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest

from isochrone.control import sockets
from isochrone.errors import InvalidInput, Unavailable


def test_a_path_that_fits(tmp_path: Path) -> None:
    room = sockets.PATH_BYTES_MAX - len("/nbd.sock")
    fits = Path("/" + "d" * (room - 1))
    assert len(sockets.socket_path(fits, "nbd.sock")) == sockets.PATH_BYTES_MAX
    with pytest.raises(InvalidInput, match="108 bytes; Linux takes 107") as caught:
        sockets.socket_path(Path("/" + "d" * room), "nbd.sock")
    assert "shorter" in caught.value.hint


def test_the_limit_is_the_kernels(fresh: Path) -> None:
    fresh.mkdir()
    name = "s" * (sockets.PATH_BYTES_MAX - len(f"{fresh}/"))
    sockets.listen_unix(sockets.socket_path(fresh, name)).close()


def test_stale_sockets_are_removed_and_nothing_else(fresh: Path) -> None:
    fresh.mkdir()
    sockets.listen_unix(str(fresh / "nbd.sock")).close()  # as a process that was killed
    (fresh / "segment").write_text("x")
    sockets.remove_sockets(fresh)
    assert [p.name for p in fresh.iterdir()] == ["segment"]


def test_a_file_in_the_way_is_not_removed(fresh: Path) -> None:
    fresh.mkdir()
    (fresh / "api.sock").write_text("precious")
    with pytest.raises(InvalidInput, match="in the way"):
        sockets.remove_sockets(fresh)
    assert (fresh / "api.sock").read_text() == "precious"


def test_a_socket_is_private(fresh: Path) -> None:
    fresh.mkdir()
    path = fresh / "api.sock"
    with sockets.listen_unix(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("127.0.0.1.example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, local: bool) -> None:
    assert sockets.is_loopback(host) is local


def test_other_hosts_are_kept_out_unless_that_is_meant() -> None:
    with pytest.raises(InvalidInput, match=r"--nbd 0\.0\.0\.0:10809: other hosts") as caught:
        sockets.tcp_address("--nbd", "0.0.0.0:10809", insecure=False)
    assert "--insecure" in caught.value.hint
    found = sockets.tcp_address("--nbd", "0.0.0.0:10809", insecure=True)
    assert found == ("0.0.0.0", 10809)
    assert sockets.tcp_address("--nbd", "[::1]:1", insecure=False) == ("::1", 1)


@pytest.mark.parametrize("address", ["here", "host:", "host:99999", "a/path"])
def test_no_address(address: str) -> None:
    with pytest.raises(InvalidInput):
        sockets.tcp_address("--api", address, insecure=True)


def test_addresses_in_words() -> None:
    assert sockets.join_address("127.0.0.1", 7) == "127.0.0.1:7"
    assert sockets.join_address("::1", 7) == "[::1]:7"
    assert sockets.tidy_address("::1:7") == "[::1]:7"
    assert sockets.tidy_address("/a/path") == "/a/path"


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"cannot listen at 127.0.0.1:{port}"):
            sockets.listen_tcp("127.0.0.1", port)


# -- handed over by whoever started us


def test_nothing_is_handed_over_to_somebody_else() -> None:
    meant = {"LISTEN_FDS": "1", "LISTEN_PID": "17"}
    assert sockets.handed_over(meant, 18) == {"nbd": [], "link": [], "api": []}
    assert sockets.handed_over({}, 18) == {"nbd": [], "link": [], "api": []}
    assert not any(sockets.handed_over(meant | {"LISTEN_FDS": "x"}, 17).values())


def test_rooms_by_name_and_nbd_for_any_other(monkeypatch, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        first = 900  # in a row, as whoever hands over makes them
        for at, wire in enumerate(wires):
            os.dup2(wire.fileno(), first + at)
        monkeypatch.setattr(sockets, "FIRST_HANDED", first)
        told = {"LISTEN_FDS": "4", "LISTEN_PID": "5", "LISTEN_FDNAMES": "api:unknown:link"}
        handed = sockets.handed_over(told, 5)
        assert {room: len(found) for room, found in handed.items()} == {
            "nbd": 2,
            "link": 1,
            "api": 1,
        }
        assert handed["api"][0].getsockname() == wires[0].getsockname()
        assert not handed["api"][0].get_inheritable()
        sockets.check_handed(handed, insecure=False)
        for found in handed.values():
            for each in found:
                each.close()


def test_only_listening_streams_are_taken(monkeypatch) -> None:
    with socket.socket(socket.AF_UNIX) as idle:
        monkeypatch.setattr(sockets, "FIRST_HANDED", idle.detach())
        with pytest.raises(InvalidInput, match="does not listen"):
            sockets.handed_over({"LISTEN_FDS": "1", "LISTEN_PID": "5"}, 5)
    monkeypatch.setattr(sockets, "FIRST_HANDED", 10_000)
    with pytest.raises(InvalidInput, match="is not a socket"):
        sockets.handed_over({"LISTEN_FDS": "1", "LISTEN_PID": "5"}, 5)


def test_a_port_handed_over_is_held_to_the_same_rule() -> None:
    with socket.create_server(("0.0.0.0", 0)) as wire:
        handed = {"nbd": [wire]}
        with pytest.raises(InvalidInput, match="other hosts could reach it"):
            sockets.check_handed(handed, insecure=False)
        assert sockets.is_port(wire)
        sockets.check_handed(handed, insecure=True)
        sockets.check_handed(handed, insecure=False, authenticated=["nbd"])
        with pytest.raises(InvalidInput, match="the socket handed over as link"):
            sockets.check_handed({"link": [wire]}, insecure=False, authenticated=["nbd"])


def test_socket_files_of_others_stay(tmp_path: Path) -> None:
    wires = [sockets.listen_unix(str(tmp_path / name)) for name in sockets.SOCKETS[:2]]
    keep = frozenset(sockets.paths_of({"nbd": wires[:1]}))
    assert keep == {tmp_path / sockets.SOCKETS[0]}
    sockets.remove_sockets(tmp_path, keep)
    assert [path.name for path in tmp_path.iterdir()] == [sockets.SOCKETS[0]]
    for wire in wires:
        wire.close()
