"""Clients that mean harm, in numbers; single known flaws have their tests beside what they hit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isochrone.nbd import client as client_module
from isochrone.nbd import limits, wire
from isochrone.types import KIB, MIB
from tests.nbd.hostile import SIZE, Hostile, attack
from tests.nbd.memory import MemoryBackend
from tests.nbd.serving import Raw, Serving, option, raw, request, serve


@pytest.mark.parametrize("seed", range(4))
def test_fifty_thousand_frames_without_sockets(seed: int) -> None:
    target = attack(50_000, seed)
    assert target.faults > 500  # they are hostile,
    assert target.sent > MIB  # and get far enough to be


def test_a_seed_replays() -> None:
    one, other = Hostile(7), Hostile(7)
    assert [one.session() for _ in range(50)] == [other.session() for _ in range(50)]


def backend_of(size: int = SIZE) -> MemoryBackend:
    backend = MemoryBackend()
    backend.add("disk", size)
    backend.add("frozen", size, read_only=True)
    backend.add("mine", SIZE)
    return backend


@contextlib.contextmanager
def honest(serving: Serving):
    """A client beside the hostile ones; at the end, all it wrote must be there and be quick."""
    with raw(serving.path) as peer:
        assert peer.open("mine") == SIZE

        def works() -> float:
            began = time.monotonic()
            data = os.urandom(64 * KIB)
            peer.send(request(wire.WRITE, 4096, payload=data), request(wire.READ, 4096, len(data)))
            assert peer.error() == (0, b"cookie01")
            assert peer.error() == (0, b"cookie01")
            assert peer.receive(len(data)) == data
            return time.monotonic() - began

        works()
        yield works
        works()


def test_a_live_server_under_attack(tmp_path: Path) -> None:
    hostile = Hostile(99)
    with serve(backend_of(), tmp_path, "uvloop") as serving, capture_logs() as logs:
        with honest(serving) as works:
            for number in range(300):
                pieces, _ = hostile.session()
                with raw(serving.path) as peer:
                    peer.socket.settimeout(0.2)
                    with contextlib.suppress(OSError):
                        for piece in pieces:
                            peer.send(piece)
                if number % 50 == 0:
                    works()
        frozen = serving.backend.devices["frozen"]
        assert bytes(frozen.content) == bytes(SIZE)
        serving.until(lambda: serving.door.connections == 0 and not serving.backend.attached)
        assert serving.door.held_bytes == 0
    assert not [line for line in logs if "exc_info" in line]
    assert len(logs) < limits.LINES_AT_ONCE + 60  # three hundred sessions, most of them at fault


# -- memory over all connections


BUDGET = 8 * MIB


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STALL_S", 1.0)


def unfinished(serving: Serving, size: int) -> Raw:
    """A client that sends so much of a write that never ends."""
    peer = Raw(serving.path)
    peer.open("disk")
    peer.socket.settimeout(1)
    head = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.WRITE, b"unfinish", 0, 32 * MIB)
    with contextlib.suppress(TimeoutError, ConnectionError):
        peer.send(head + bytes(size))
    return peer


def test_unfinished_writes_stay_within_the_budget(tmp_path: Path, impatient: None) -> None:
    with serve(backend_of(64 * MIB), tmp_path, "uvloop", budget_bytes=BUDGET) as serving:
        with honest(serving) as works, capture_logs() as logs:
            hostile = []
            most = 0
            for _ in range(20):
                hostile.append(unfinished(serving, MIB))
                most = max(most, serving.door.held_bytes)
                assert works() < 1.0
            assert most <= BUDGET + 2 * MIB  # and what is just being received
            serving.until(lambda: serving.door.held_bytes < BUDGET)
            for peer in hostile:
                peer.close()
        events = [line["event"] for line in logs]
        assert "nbd clients hold too much memory" in events
        assert "nbd client held memory that others need" in events


def test_dead_readers_stay_within_the_budget(tmp_path: Path, impatient: None) -> None:
    with (
        serve(backend_of(64 * MIB), tmp_path, "uvloop", budget_bytes=BUDGET) as serving,
        honest(serving) as works,
        capture_logs(),
    ):
        dead = []
        most = 0
        for _ in range(20):
            peer = Raw(serving.path)
            peer.open("disk")
            peer.send(*(request(wire.READ, 0, 4 * MIB) for _ in range(4)))
            dead.append(peer)
            most = max(most, serving.door.held_bytes)
            assert works() < 1.0
        assert most <= BUDGET + 5 * MIB  # one read more than fits, before it is noticed
        serving.until(lambda: serving.door.held_bytes < BUDGET)
        for peer in dead:
            peer.close()


def test_a_large_reader_waits_until_there_is_room(tmp_path: Path, impatient: None) -> None:
    """Nobody is forgotten: what had to wait while memory was short is answered afterwards."""
    with (
        serve(backend_of(64 * MIB), tmp_path, budget_bytes=BUDGET) as serving,
        capture_logs(),
        raw(serving.path) as dead,
        raw(serving.path) as patient,
    ):
        dead.open("disk")
        dead.send(request(wire.READ, 0, 12 * MIB))
        serving.until(lambda: serving.door.held_bytes > BUDGET)
        patient.open("disk")
        patient.send(request(wire.READ, 0, MIB))
        assert patient.error() == (0, b"cookie01")
        assert patient.receive(MIB) == bytes(MIB)


def test_busy_and_honest_clients_are_not_let_go(tmp_path: Path, impatient: None) -> None:
    """Buffers that merely grew are given back before anybody has to wait."""
    with serve(backend_of(), tmp_path, "uvloop", budget_bytes=4 * MIB) as serving:
        peers = [Raw(serving.path) for _ in range(16)]
        with capture_logs() as logs:
            for peer in peers:
                peer.open("disk")
            for _ in range(3):
                for peer in peers:
                    peer.send(*(request(wire.WRITE, 0, payload=bytes(128 * KIB)) for _ in range(8)))
                for peer in peers:
                    for _ in range(8):
                        assert peer.error() == (0, b"cookie01")
                time.sleep(0.6)
        for peer in peers:
            peer.close()
        assert "nbd client held memory that others need" not in [line["event"] for line in logs]


def test_many_requests_are_taken_before_they_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isochrone.nbd.server.ARRIVED_BYTES_MAX", 64 * KIB)
    with serve(backend_of(), tmp_path, "uvloop") as serving, raw(serving.path) as peer:
        peer.open("disk")
        for _ in range(20):
            peer.send(*(request(wire.WRITE, 0, payload=bytes(16 * KIB)) for _ in range(16)))
            for _ in range(16):
                assert peer.error() == (0, b"cookie01")


def test_large_reads_of_one_turn_are_shared_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isochrone.nbd.turn.READ_BYTES_OF_ALL", 2 * MIB)
    with serve(backend_of(8 * MIB), tmp_path) as serving:
        peers = [Raw(serving.path) for _ in range(9)]
        for peer in peers:
            peer.open("disk")
        for peer in peers:
            peer.send(request(wire.READ, 0, 2 * MIB), request(wire.READ, 0, MIB))
        for peer in peers:
            for length in (2 * MIB, MIB):
                assert peer.error() == (0, b"cookie01")
                peer.receive(length)
            peer.close()


def test_a_client_that_left_before_its_flush_is_forgotten(tmp_path: Path) -> None:
    async def gate() -> asyncio.Event:
        return asyncio.Event()

    with serve(backend_of(), tmp_path, "uvloop") as serving:
        serving.backend.flush_gate = held = serving.run(gate())
        with raw(serving.path) as peer:
            peer.open("disk")
            peer.send(request(wire.WRITE, 0, payload=bytes(128 * KIB), flags=wire.CMD_FUA))
            serving.until(lambda: serving.backend.flushes == 1)
        serving.until(lambda: serving.door.connections == 0)
        serving.loop.call_soon_threadsafe(held.set)
        serving.until(lambda: not serving.door._flushes)
        assert serving.door.held_bytes == 0
        assert not serving.door._budget._held


# -- other clients' time, and the log


def test_a_slow_reader_does_not_hold_others(tmp_path: Path) -> None:
    with serve(backend_of(8 * MIB), tmp_path, "uvloop") as serving, honest(serving) as works:
        slow = []
        for _ in range(20):
            peer = Raw(serving.path)
            peer.open("disk")
            peer.send(*(request(wire.READ, 0, MIB) for _ in range(64)))
            slow.append(peer)
        assert max(works() for _ in range(20)) < 0.5
        for peer in slow:
            peer.close()


def test_the_log_is_not_a_weapon(tmp_path: Path) -> None:
    with serve(backend_of(), tmp_path, "uvloop") as serving, capture_logs() as logs:
        for _ in range(limits.LINES_AT_ONCE * 10):
            with raw(serving.path) as peer:
                peer.receive(18)
                peer.send(b"\xff" * 4)
                assert peer.at_end()
    assert limits.LINES_AT_ONCE <= len(logs) <= limits.LINES_AT_ONCE + 5


# -- flaws other servers had; more of them in test_server, test_handshake and test_transmission


@pytest.fixture
def serving(tmp_path: Path):
    with serve(backend_of(), tmp_path) as serving:
        yield serving


def test_cve_2015_0847_signal_handlers_only_set_a_flag() -> None:
    """The handlers are asyncio's own: a byte in a pipe. None of ours is installed."""
    source = Path(client_module.__file__).parent
    for path in source.rglob("*.py"):
        assert "signal" not in path.read_text().replace("signals", ""), path


def test_cve_2021_20286_and_2023_5871_nothing_asserts_on_what_a_peer_sends() -> None:
    """Assertions at the top of a module check formats; inside of functions they could be met."""
    source = Path(client_module.__file__).parent
    for path in source.rglob("*.py"):
        found = [line for line in path.read_text().splitlines() if line.startswith("    assert ")]
        assert not [line for line in found if line.strip().startswith("assert")], (path, found)


def test_spec_review_2019_an_offset_near_the_end_of_numbers_does_not_wrap(serving) -> None:
    with raw(serving.path) as peer:
        peer.open("disk")
        for command in (wire.READ, wire.TRIM, wire.WRITE_ZEROES, wire.CACHE):
            peer.send(request(command, 2**64 - 4096, 8192))
            error, _ = peer.error()
            assert error in (22, 28)


def test_spec_review_2019_trim_of_a_read_only_export_is_eperm(serving) -> None:
    with raw(serving.path) as peer:
        peer.open("frozen")
        peer.send(request(wire.TRIM, 0, 4096))
        assert peer.error()[0] == 1


def test_nbd_server_2024_closing_in_the_middle_does_not_loop(serving) -> None:
    """Half closed connections end; none keeps the loop busy."""
    for sent in (b"", wire.CLIENT_FLAGS.pack(3), wire.CLIENT_FLAGS.pack(3) + option(7)[:9]):
        with raw(serving.path) as peer:
            peer.receive(18)
            peer.send(sent)
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.at_end()
    serving.until(lambda: serving.door.connections == 0)
