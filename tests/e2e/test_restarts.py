"""Listening sockets that outlive the controller, and clients that only see a pause."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.control.process import Nbd, Start
from tests.e2e.programs import (
    MIB,
    environment,
    fio,
    isochrone,
    run,
    running,
    socket_uri,
    until,
)

SERVE = (sys.executable, "-m", "isochrone", "serve")
RESTARTS: Final = int(os.environ.get("ISOCHRONE_RESTARTS", "5"))  # under each client


# -- started by the client itself


def test_nbdinfo_starts_a_controller_for_itself(start: Start, folder: Path) -> None:
    first = start(folder / "pool")
    isochrone(first, "volume", "create", "v", "64MiB")
    assert first.end()[0] == 0
    told = run("nbdinfo", "--size", "--", "[", *SERVE, folder / "pool", "]")
    assert told == f"{64 * MIB}\n"  # no word of ours on its stdout
    back = folder / "back"
    run("nbdcopy", "--", "[", *SERVE, folder / "pool", "]", back)
    assert back.stat().st_size == 64 * MIB


def test_systemd_socket_activate(start: Start, folder: Path) -> None:
    first = start(folder / "pool")
    isochrone(first, "volume", "create", "v", "64MiB")
    assert first.end()[0] == 0
    sockets = [folder / f"{room}.sock" for room in ("nbd", "api", "link")]
    listen = [word for path in sockets for word in ("-l", path)]
    with running(
        *("systemd-socket-activate", *listen, "--fdname=nbd:api:link", *SERVE, folder / "pool")
    ) as process:
        until(lambda: all(path.exists() for path in sockets), what="the sockets")
        assert run("nbdinfo", "--size", socket_uri(sockets[0])).strip() == str(64 * MIB)
        # The usual sockets are there as well.
        until((folder / "pool" / "api.sock").exists, what="the controller")
        assert "v" in run(sys.executable, "-m", "isochrone", "--site", folder / "pool", "status")
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(os.fspath(sockets[2]))
        process.terminate()
        assert process.wait(20) == 0


def test_a_port_that_others_reach_is_refused(folder: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as wire:
        held = Held(folder / "pool", wire)
        held.begin()
        assert held.process is not None
        assert held.process.wait(20) == 2


# -- restarts


class Held:
    """What a service manager does: it holds the listening socket and starts controllers on it."""

    def __init__(self, directory: Path, wire: socket.socket, *options: str) -> None:
        self.directory = directory
        self.options = options
        self.wire = wire
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        def hand_over() -> None:
            os.dup2(self.wire.fileno(), 3)
            os.environ["LISTEN_PID"] = str(os.getpid())

        # LISTEN_PID is known only after the fork, so a shell sets it.
        shell = 'LISTEN_PID=$$ exec "$@"'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", *SERVE, os.fspath(self.directory), *self.options],
            env=environment(LISTEN_FDS="1", LISTEN_FDNAMES="nbd"),
            preexec_fn=hand_over,
            close_fds=False,
        )

    def until_ready(self) -> None:
        """Until it takes clients, as a service manager hears from READY=1."""
        Nbd(os.fspath(self.directory / "nbd.sock"), "v").wire.close()

    def end(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert code == (0 if number == signal.SIGTERM else -number)


@pytest.fixture
def held(start: Start, folder: Path) -> Iterator[Held]:
    first = start(folder / "pool")
    isochrone(first, "volume", "create", "v", "256MiB")
    assert first.end()[0] == 0
    with socket.socket(socket.AF_UNIX) as wire:
        wire.bind(os.fspath(folder / "pool" / "nbd.sock"))
        wire.listen(128)
        held = Held(folder / "pool", wire)
        held.begin()
        yield held
        held.until_ready()
        held.end(signal.SIGTERM)
        assert (folder / "pool" / "nbd.sock").exists()  # it was not ours to remove


def test_clients_that_connect_while_nobody_is_there_wait(held: Held, folder: Path) -> None:
    path = os.fspath(folder / "pool" / "nbd.sock")
    with Nbd(path, "v") as client:
        client.write(0, b"kept")
    held.end(signal.SIGTERM)
    answers: list[bytes] = []

    def ask() -> None:
        with Nbd(path, "v") as client:
            answers.append(client.read(0, 4))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert not answers
    held.begin()
    for thread in threads:
        thread.join(20)
    assert answers == [b"kept"] * 8


def restart_under(held: Held, work: threading.Thread) -> int:
    """Restarts, half of them kills, while something works; how many of them it saw."""
    work.start()
    seen = 0
    for number in range(RESTARTS):
        held.until_ready()
        time.sleep(0.3)
        held.end(signal.SIGKILL if number % 2 else signal.SIGTERM)
        held.begin()
        seen += work.is_alive()
    work.join(90)
    assert not work.is_alive()
    return seen


def steady_fio(where: str, folder: Path, failures: list[BaseException]) -> threading.Thread:
    """Writes at a steady rate for longer than the restarts take, then verifies everything."""

    def work() -> None:
        try:
            steady = ("--rw=randwrite", "--bssplit=4k/70:64k/30", "--rate=10m", "--iodepth=16")
            fio(where, folder, f"--size={16 * RESTARTS}m", "--fsync=64", *steady)
        except BaseException as e:
            failures.append(e)

    return threading.Thread(target=work)


def test_restarts_under_nbdkit_retry(held: Held, folder: Path) -> None:
    proxy = folder / "proxy.sock"
    failures: list[BaseException] = []
    with running(
        *("nbdkit", "-f", "-U", proxy, "--filter=retry", "nbd"),
        *(f"socket={folder}/pool/nbd.sock", "export=v", "retry=10"),
        *("retries=100", "retry-delay=1", "retry-exponential=no"),
    ):
        until(proxy.exists, what="nbdkit")
        seen = restart_under(held, steady_fio(socket_uri(proxy), folder, failures))
    assert not failures, failures[0]
    assert seen == RESTARTS, "the work ended before the restarts did"
    run("nbdinfo", "--size", uri_of(held))


def test_restarts_under_qemu_storage_daemon(held: Held, folder: Path) -> None:
    proxy = folder / "proxy.sock"
    failures: list[BaseException] = []
    server = f"server.type=unix,server.path={folder}/pool/nbd.sock"
    with running(
        *("qemu-storage-daemon", "--blockdev"),
        f"driver=nbd,node-name=v,{server},export=v,reconnect-delay=60,open-timeout=60",
        *("--nbd-server", f"addr.type=unix,addr.path={proxy}"),
        *("--export", "type=nbd,id=e,node-name=v,name=v,writable=on"),
    ):
        until(proxy.exists, what="qemu-storage-daemon")
        seen = restart_under(held, steady_fio(socket_uri(proxy, "v"), folder, failures))
    assert not failures, failures[0]
    assert seen == RESTARTS, "the work ended before the restarts did"


def uri_of(held: Held) -> str:
    return socket_uri(held.directory / "nbd.sock", "v")
