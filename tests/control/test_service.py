"""The daemon as a process: from "ready" to a clean stop, and after a kill."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from isochrone.control.entrance import TlsMode, TlsSettings
from isochrone.control.service import Settings, Stop
from isochrone.errors import InvalidInput
from tests.control.process import Connect, Controller, Start

MIB = 1 << 20


def command(controller: Controller, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "isochrone", "--site", str(controller.directory), *words],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ready_line_and_the_sockets(start: Start, fresh: Path) -> None:
    controller = start(fresh)
    assert controller.ready == (
        f"ready link={fresh}/link.sock nbd={fresh}/nbd.sock api={fresh}/api.sock\n"
    )
    for name in ("nbd.sock", "link.sock", "api.sock"):
        mode = (fresh / name).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    code, out, err = controller.end()
    assert (code, out) == (0, "")
    assert "event=stopped durable=true" in err
    assert not list(fresh.glob("*.sock"))


def test_tcp_beside_the_sockets(start: Start, fresh: Path) -> None:
    local = "127.0.0.1:0"
    controller = start(fresh, "--nbd", local, "--link", local, "--api", local)
    for name in ("nbd-tcp", "link-tcp", "api-tcp"):
        host, _, port = controller.address(name).rpartition(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), 5).close()
    api = controller.address("api-tcp")
    done = subprocess.run(
        [sys.executable, "-m", "isochrone", "--site", f"http://{api}", "status"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert controller.end(signal.SIGINT)[0] == 0


def test_a_restart_finds_everything(start: Start, fresh: Path, connect: Connect) -> None:
    first = start(fresh)
    command(first, "volume", "create", "v", "1MiB")
    client = connect(first, "v")
    client.write(0, b"kept")  # not flushed: a clean stop does that
    assert first.end()[0] == 0
    second = start(fresh)
    assert connect(second, "v").read(0, 4) == b"kept"


def test_after_a_kill_what_was_flushed_is_there(
    start: Start, fresh: Path, connect: Connect
) -> None:
    first = start(fresh)
    command(first, "volume", "create", "v", "1MiB")
    client = connect(first, "v")
    client.write(0, b"kept")
    client.flush()
    command(first, "copy", "take", "--name", "c", "v")
    client.write(0, b"gone")
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert (fresh / "nbd.sock").exists()  # nobody was left to remove it
    second = start(fresh)
    assert second.ready.startswith("ready ")
    assert connect(second, "v@c").read(0, 4) == b"kept"
    assert connect(second, "v").read(0, 4) in (b"kept", b"gone")


def test_a_second_controller_is_refused(start: Start, fresh: Path) -> None:
    first = start(fresh)
    second = start(fresh)
    code, out, err = second.wait()
    assert (second.ready, code, out) == ("", 4, "")
    assert f"isochrone: the pool in {fresh} is open in another process\nhint: " in err
    # Its sockets were not taken away from the first.
    assert "free on disk" in command(first, "status")


def test_a_stop_drains_what_has_arrived(start: Start, fresh: Path, connect: Connect) -> None:
    controller = start(fresh)
    command(controller, "volume", "create", "v", "4MiB")
    clients = [connect(controller, "v") for _ in range(4)]
    answered = [0] * len(clients)

    def write(n: int) -> None:
        try:
            for at in range(256):
                clients[n].write((n * 256 + at) * 4096, bytes([n + 1]) * 4096)
                answered[n] += 1
        except (OSError, ConnectionError):
            pass

    threads = [threading.Thread(target=write, args=(n,)) for n in range(len(clients))]
    for thread in threads:
        thread.start()
    while not all(answered):
        pass
    assert controller.end()[0] == 0
    for thread in threads:
        thread.join()
    again = connect(start(fresh), "v")
    for n, count in enumerate(answered):
        assert again.read(n * MIB, count * 4096) == bytes([n + 1]) * 4096 * count


def test_a_second_signal_hurries(start: Start, fresh: Path, connect: Connect) -> None:
    controller = start(fresh)
    command(controller, "volume", "create", "v", "64MiB")
    stuck = connect(controller, "v")
    stuck.write(0, b"kept")
    for cookie in range(32):  # answers that nobody takes: they hold a stop up
        stuck.wire.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, cookie, 0, 32 * MIB))
    assert controller.process.stderr is not None
    controller.process.send_signal(signal.SIGTERM)
    while "event=stopping" not in controller.process.stderr.readline():
        assert controller.process.poll() is None
    controller.process.send_signal(signal.SIGTERM)
    code, _, err = controller.wait()
    assert code == 0, err
    assert 'event="stopping in a hurry"' in err
    assert connect(start(fresh), "v").read(0, 4) == b"kept"


def test_idle_clients_do_not_delay_a_stop(start: Start, fresh: Path, connect: Connect) -> None:
    controller = start(fresh)
    command(controller, "volume", "create", "v", "1MiB")
    connect(controller, "v")
    idle = socket.socket(socket.AF_UNIX)
    idle.connect(controller.address("api"))
    code, _, err = controller.end()
    assert (code, "Traceback" in err) == (0, False), err
    idle.close()


def test_a_path_that_is_too_long(start: Start, fresh: Path) -> None:
    directory = fresh / ("d" * 100)
    controller = start(directory)
    code, _, err = controller.wait()
    assert code == 2
    assert "bytes; Linux takes 107\nhint: choose a directory with a shorter path" in err
    assert not fresh.exists()


@pytest.mark.parametrize("option", ["--nbd", "--link", "--api"])
def test_other_hosts_are_kept_out(start: Start, fresh: Path, option: str) -> None:
    code, _, err = start(fresh, option, "0.0.0.0:0").wait()
    assert code == 2
    assert f"isochrone: {option} 0.0.0.0:0: other hosts could reach it" in err
    assert not fresh.exists()


def test_unless_that_is_meant(start: Start, fresh: Path) -> None:
    any_host = "0.0.0.0:0"
    controller = start(
        fresh, "--nbd", any_host, "--link", any_host, "--api", any_host, "--insecure"
    )
    assert controller.address("nbd-tcp").startswith("0.0.0.0:")
    assert controller.end()[0] == 0


@pytest.mark.parametrize("option", ["--nbd", "--link", "--api"])
def test_a_port_that_is_taken(start: Start, fresh: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        controller = start(fresh, option, address)
        code, out, err = controller.wait()
    assert (controller.ready, code, out) == ("", 5, "")
    assert "isochrone: cannot listen" in err
    assert "Traceback" not in err
    assert not list(fresh.glob("*.sock"))
    assert start(fresh).ready  # nothing half done is in the way


def test_a_directory_that_cannot_be(start: Start, fresh: Path) -> None:
    fresh.write_text("a file")
    code, _, err = start(fresh).wait()
    assert code == 2
    assert "is a file" in err
    code, _, err = start(fresh / "below").wait()
    assert code == 2
    assert "cannot hold a pool" in err


def hear(wire: socket.socket) -> list[str]:
    lines: list[str] = []
    while select.select([wire], [], [], 0)[0]:
        lines += wire.recv(4096).decode().splitlines()
    return lines


def test_the_service_manager_is_told(start: Start, fresh: Path) -> None:
    path = f"{fresh}.notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.bind(path)
        controller = start(fresh, env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"})
        deadline = 50
        heard: list[str] = []
        while heard.count("WATCHDOG=1") < 3 and deadline:
            select.select([wire], [], [], 0.1)
            heard += hear(wire)
            deadline -= 1
        assert "READY=1" in heard
        assert "STATUS=0 volumes, 0 copies, 0 groups" in heard
        assert heard.count("WATCHDOG=1") >= 3
        assert controller.end()[0] == 0
        assert "STOPPING=1" in hear(wire)


def test_a_hangup_changes_nothing(start: Start, fresh: Path) -> None:
    controller = start(fresh)
    controller.process.send_signal(signal.SIGHUP)
    assert "free on disk" in command(controller, "status")
    assert controller.end()[0] == 0


def test_nobody_reads_the_ready_line(fresh: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "isochrone", "serve", str(fresh)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert process.stderr is not None
    try:
        while "event=ready" not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0


async def test_asked_twice_means_in_a_hurry() -> None:
    stop = Stop()
    stop.ask("SIGTERM")
    assert (stop.asked.is_set(), stop.hurried.is_set()) == (True, False)
    stop.ask("SIGTERM")
    assert stop.hurried.is_set()


def test_settings_are_checked_before_anything_is_touched(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--api"):
        Settings(Path("d"), api="1.2.3.4:5").check()
    with pytest.raises(InvalidInput):
        Settings(tmp_path / ("d" * 100)).check()
    Settings(Path("d"), nbd="127.0.0.1:0", link="[::1]:0", api="localhost:0").check()
    with pytest.raises(InvalidInput, match="--memory"):
        Settings(Path("d"), memory=MIB).check()
    with pytest.raises(InvalidInput, match="--copy-step"):
        Settings(Path("d"), copy_step=2048 * MIB).check()
    with pytest.raises(InvalidInput, match="--tls-mode"):
        Settings(Path("d"), tls=TlsSettings(mode=TlsMode.REQUIRED)).check()


@pytest.mark.parametrize(
    ("tls", "may"),
    [
        (TlsSettings("f", verify_clients=True), True),
        (TlsSettings("f"), False),
        (TlsSettings("f", TlsMode.PER_EXPORT, verify_clients=True), False),
        (TlsSettings(), False),
    ],
)
def test_tls_with_client_certificates_opens_the_block_port_and_no_other(
    tls: TlsSettings, may: bool
) -> None:
    if may:
        Settings(Path("d"), nbd="192.0.2.1:10809", tls=tls).check()
    else:
        with pytest.raises(InvalidInput, match="other hosts could reach it") as caught:
            Settings(Path("d"), nbd="192.0.2.1:10809", tls=tls).check()
        assert "--tls FOLDER --tls-verify-clients" in caught.value.hint
    for option in ("link", "api"):
        with pytest.raises(InvalidInput, match=f"--{option}") as caught:
            Settings(Path("d"), tls=tls, **{option: "192.0.2.1:1"}).check()
        assert "--tls" not in caught.value.hint
