"""The block port of a controller as other hosts see it: TLS, rules, identities, reload."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.control.process import Controller, Nbd, Start
from tests.e2e.programs import (
    MIB,
    SYSTEM_PYTHON,
    isochrone,
    run,
    running,
    socket_uri,
    until,
    uri,
)
from tests.e2e.test_restarts import Held
from tests.nbd.certificates import LONG_AGO, STRANGER, make_folder

SERVE = (sys.executable, "-m", "isochrone", "serve")
LOCAL = "127.0.0.1:0"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the server, and of the client db1."""
    return make_folder(tmp_path_factory.mktemp("pki"), host="db1")


@pytest.fixture(scope="module")
def db2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("db2"), host="db2")


def port(controller: Controller) -> int:
    return int(controller.address("nbd-tcp").rpartition(":")[2])


def secure(controller: Controller, certificates: Path, export: str = "v") -> str:
    return f"nbds://localhost:{port(controller)}/{export}?tls-certificates={certificates}"


def plain(controller: Controller, export: str = "v") -> str:
    return f"nbd://localhost:{port(controller)}/{export}"


@pytest.fixture
def forced(start: Start, folder: Path, pki: Path) -> Controller:
    controller = start(folder / "p", "--nbd", LOCAL, "--tls", str(pki), "--tls-verify-clients")
    assert controller.ready, controller.wait()
    isochrone(controller, "volume", "create", "v", "16MiB")
    return controller


def show(controller: Controller, *words: str) -> dict:
    return json.loads(isochrone(controller, *words, "--output", "json"))


# -- real clients


def test_libnbd_programs(forced: Controller, pki: Path, folder: Path) -> None:
    image, back = folder / "image", folder / "back"
    image.write_bytes(os.urandom(16 * MIB))
    told = json.loads(run("nbdinfo", "--json", secure(forced, pki)))
    assert (told["TLS"], told["exports"][0]["export-size"]) == (True, 16 * MIB)
    run("nbdcopy", "--connections=4", "--flush", image, secure(forced, pki))
    run("nbdcopy", "--connections=4", secure(forced, pki), back)
    assert back.read_bytes() == image.read_bytes()


def test_qemu_programs(forced: Controller, pki: Path) -> None:
    credentials = ("--object", f"tls-creds-x509,id=t,dir={pki},endpoint=client")
    where = ("--tls-creds", "t", "-b", "localhost", "-p", str(port(forced)))
    told = run("qemu-nbd", "--list", *credentials, *where)
    assert "export: 'v'" in told
    image = f"driver=nbd,server.type=inet,server.host=localhost,server.port={port(forced)}"
    image += ",export=v,tls-creds=t"
    script = ("-c", "write -P 9 512 1M", "-c", "flush", "-c", "read -P 9 512 1M")
    told = run("qemu-io", *credentials, *script, "--image-opts", image)
    assert "failed" not in told
    told = run("qemu-img", "info", *credentials, "--output=json", "--image-opts", image)
    assert json.loads(told)["virtual-size"] == 16 * MIB


LIBNBD = """
import sys, nbd
handle = nbd.NBD()
handle.set_uri_allow_local_file(True)
handle.connect_uri(sys.argv[1])
handle.pwrite(b"by libnbd".ljust(512), 0)
handle.flush()
print(handle.get_tls_negotiated(), bytes(handle.pread(512, 0)).rstrip(b"\\0 "))
sys.stdout.flush()
sys.stdin.read()
if not handle.aio_is_dead():
    handle.shutdown()
"""


def test_libnbd_and_who_it_is(forced: Controller, pki: Path) -> None:
    """The host of the certificate is who has the volume open."""
    with (
        subprocess.Popen(
            [SYSTEM_PYTHON, "-c", LIBNBD, secure(forced, pki)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client,
        Nbd(os.fspath(forced.directory / "nbd.sock"), "v"),
    ):
        assert client.stdout is not None
        assert client.stdout.readline() == "True b'by libnbd'\n"
        attachments = show(forced, "volume", "show", "v")["attachments"]
        assert [(a["kind"], a["host"]) for a in attachments] == [
            ("certificate", "db1"),
            ("user", f"uid {os.getuid()}"),
        ]
        assert re.fullmatch(r"127\.0\.0\.1:\d+", attachments[0]["addresses"][0])
        assert "db1 (certificate)" in isochrone(forced, "volume", "show", "v")
        guests = show(forced, "door", "show")["clients"]
        assert [(g["export"], g["host"]) for g in guests] == [
            ("v", "db1"),
            ("v", f"uid {os.getuid()}"),
        ]
    until(lambda: not show(forced, "volume", "show", "v")["attachments"])


def test_an_address_is_known_as_no_more_than_that(start: Start, folder: Path) -> None:
    controller = start(folder / "p", "--nbd", LOCAL)
    isochrone(controller, "volume", "create", "v", "1MiB")
    with socket.create_connection(("127.0.0.1", port(controller))) as wire:
        mine = wire.getsockname()
        wire.recv(18)
        wire.sendall(b"\0\0\0\3IHAVEOPT\0\0\0\1\0\0\0\1v")
        assert len(wire.recv(10)) == 10
        (attachment,) = show(controller, "volume", "show", "v")["attachments"]
        address = f"127.0.0.1:{mine[1]}"
        known = {key: attachment[key] for key in ("kind", "host", "addresses")}
        assert known == {"kind": "address", "host": "127.0.0.1", "addresses": [address]}


EXTENDED = """
import sys, nbd
handle = nbd.NBD()
if not hasattr(handle, "set_request_extended_headers"):
    print("libnbd", handle.get_version(), "does not speak them; 1.16 does")
    sys.exit()
handle.add_meta_context("base:allocation")
handle.connect_uri(sys.argv[1])
found = []
handle.block_status_64(handle.get_size(), 0, lambda *told: found.append(told) or 0)
handle.pwrite(b"extended".ljust(512), 0)
print(handle.get_extended_headers_negotiated(), len(found), bytes(handle.pread(8, 0)))
"""


def test_extended_headers_with_a_client_that_speaks_them(start: Start, folder: Path) -> None:
    controller = start(folder / "p")
    isochrone(controller, "volume", "create", "v", "8GiB")  # a length of more than 32 bits
    told = run(SYSTEM_PYTHON, "-c", EXTENDED, uri(controller, "v")).strip()
    if told.startswith("libnbd"):
        pytest.skip(told)
    assert told == "True 1 b'extended'"


# -- who is refused


@pytest.mark.parametrize("who", ["plaintext", "no certificate", "another authority", "expired"])
def test_who_is_refused_where_all_must_prove_who_they_are(
    forced: Controller, pki: Path, tmp_path: Path, who: str
) -> None:
    if who == "plaintext":
        where = plain(forced)
    elif who == "no certificate":
        (tmp_path / "ca-cert.pem").write_bytes((pki / "ca-cert.pem").read_bytes())
        where = secure(forced, tmp_path)
    elif who == "another authority":
        where = secure(forced, make_folder(tmp_path, host="db1", client_of=STRANGER))
    else:
        where = secure(forced, make_folder(tmp_path, host="db1", client_until=LONG_AGO))
    for program in (("nbdinfo", "--size"), ("nbdinfo", "--list")):
        told = run(*program, where, ok=False)
    assert "Traceback" not in told
    assert run("nbdinfo", "--size", secure(forced, pki)).strip() == str(16 * MIB)
    _, _, log = forced.end()
    assert "Traceback" not in log
    if who in ("another authority", "expired"):
        assert "nbd client failed at tls" in log


def test_a_client_does_not_believe_another_authoritys_server(
    forced: Controller, tmp_path: Path
) -> None:
    told = run("nbdinfo", secure(forced, make_folder(tmp_path, authority=STRANGER)), ok=False)
    assert "certificate" in told


# -- rules


def test_per_export(start: Start, folder: Path, pki: Path, db2: Path) -> None:
    (folder / "p").mkdir()
    (folder / "p" / "exports.toml").write_text(
        '[exports.secret]\ntls = "required"\n[exports.ours]\nhosts = ["DB1"]\n'
    )
    controller = start(folder / "p", "--nbd", LOCAL, "--tls", str(pki), "--tls-mode", "per-export")
    for name in ("free", "secret", "ours"):
        isochrone(controller, "volume", "create", name, "1MiB")
    isochrone(controller, "copy", "take", "--name", "t0", "free", "secret", "ours")
    may = {
        None: {"free"},
        db2: {"free", "secret"},
        pki: {"free", "secret", "ours"},
    }
    for who, names in may.items():
        for name in ("free", "secret", "ours"):
            for export in (name, f"{name}@t0"):
                where = plain(controller, export)
                if who is not None:
                    where = secure(controller, who, export)
                run("nbdinfo", where, ok=name in names)
        told = run(
            "nbdinfo",
            "--list",
            "--json",
            plain(controller, "") if who is None else secure(controller, who, ""),
        )
        listed = {e["export-name"].partition("@")[0] for e in json.loads(told)["exports"]}
        assert listed == names
    # Whoever may open the socket file is the controller's own user.
    assert len(json.loads(run("nbdinfo", "--list", "--json", uri(controller)))["exports"]) == 6


def test_rules_without_tls_do_not_start(start: Start, folder: Path) -> None:
    (folder / "p").mkdir()
    (folder / "p" / "exports.toml").write_text('[exports.v]\nhosts = ["db1"]\n')
    code, out, err = start(folder / "p", "--nbd", LOCAL).wait()
    assert (code, out) == (2, "")
    assert "isochrone: exports.toml asks for TLS or hosts at 'v'" in err
    assert "hint: add --tls FOLDER" in err


def test_reload_lets_go_who_may_not_stay(forced: Controller, pki: Path, db2: Path) -> None:
    rules = forced.directory / "exports.toml"
    with subprocess.Popen(
        [SYSTEM_PYTHON, "-c", LIBNBD, secure(forced, pki)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        client.stdout.readline()
        rules.write_text('[exports.v]\nhosts = ["db1", "db2"]\n')
        assert show(forced, "door", "reload") == {"clients_gone": 0}
        assert len(show(forced, "volume", "show", "v")["attachments"]) == 1
        rules.write_text('[exports.v]\nhosts = ["db2"]\n')
        assert "1 client let go" in isochrone(forced, "door", "reload")
        until(lambda: not show(forced, "volume", "show", "v")["attachments"])
    run("nbdinfo", secure(forced, pki), ok=False)
    run("nbdinfo", secure(forced, db2))


# -- reload


def certificate(controller: Controller, pki: Path) -> bytes:
    """The server's, as a client sees it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pki / "ca-cert.pem")
    context.load_cert_chain(pki / "client-cert.pem", pki / "client-key.pem")
    with socket.create_connection(("127.0.0.1", port(controller))) as wire:
        wire.settimeout(20)
        wire.recv(18)
        wire.sendall(b"\0\0\0\3IHAVEOPT\0\0\0\5\0\0\0\0")
        wire.recv(20)
        with context.wrap_socket(wire, server_hostname="localhost") as secured:
            found = secured.getpeercert(binary_form=True)
            assert found is not None
            return found


@pytest.mark.parametrize("how", ["signal", "command"])
def test_new_certificates_without_a_restart(start: Start, folder: Path, how: str) -> None:
    pki = make_folder(folder / "pki", host="db1")
    controller = start(folder / "p", "--nbd", LOCAL, "--tls", str(pki), "--tls-verify-clients")
    isochrone(controller, "volume", "create", "v", "1MiB")
    first = certificate(controller, pki)

    (pki / "server-cert.pem").write_text("half written")
    if how == "signal":
        controller.process.send_signal(signal.SIGHUP)
    else:
        site = ("--site", controller.directory)
        told = run(sys.executable, "-m", "isochrone", *site, "door", "reload", ok=False)
        assert "isochrone: not reloaded, what was in force still is: " in told
    assert certificate(controller, pki) == first

    make_folder(pki, host="db1")
    if how == "signal":
        controller.process.send_signal(signal.SIGHUP)
        until(lambda: certificate(controller, pki) != first, what="the new certificate")
    else:
        isochrone(controller, "door", "reload")
        assert certificate(controller, pki) != first
    run("nbdinfo", secure(controller, pki))
    _, _, log = controller.end()
    assert log.count("reloaded certificates and rules") == 1
    assert log.count("not reloaded, what was in force") == (1 if how == "signal" else 0)


# -- addresses that others can reach


def own_address() -> str:
    """An address of this machine that is not loopback. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        try:
            wire.connect(("192.0.2.254", 9))
        except OSError:
            pytest.skip("this machine has no address that others could reach")
        return str(wire.getsockname()[0])


def test_an_address_that_others_reach(start: Start, folder: Path) -> None:
    address = own_address()
    pki = make_folder(folder / "pki", server_names=("localhost", address))
    where = ("--nbd", f"{address}:0")
    for options in (
        (),
        ("--tls", str(pki)),
        ("--tls", str(pki), "--tls-mode", "per-export", "--tls-verify-clients"),
        ("--tls", str(pki), "--tls-mode", "off"),
    ):
        code, out, err = start(folder / "p", *where, *options).wait()
        assert (code, out) == (2, ""), options
        assert f"isochrone: --nbd {address}:0: other hosts could reach it" in err
        assert "hint: add --tls FOLDER --tls-verify-clients; or use 127.0.0.1" in err
        assert not (folder / "p").exists()
    controller = start(folder / "p", *where, "--tls", str(pki), "--tls-verify-clients")
    isochrone(controller, "volume", "create", "v", "1MiB")
    uri_there = f"nbds://{address}:{port(controller)}/v?tls-certificates={pki}"
    assert run("nbdinfo", "--size", uri_there).strip() == str(MIB)
    assert controller.end()[0] == 0
    assert start(folder / "p", *where, "--insecure").end()[0] == 0


@pytest.mark.parametrize("options", [("--tls-mode", "required"), ("--tls-verify-clients",)])
def test_options_that_would_protect_nothing(
    start: Start, folder: Path, options: tuple[str, ...]
) -> None:
    code, _, err = start(folder / "p", *options).wait()
    assert code == 2
    assert "--tls FOLDER" in err


# -- ports that a service manager opened


def test_a_port_of_a_socket_unit_has_tls(start: Start, folder: Path, pki: Path) -> None:
    first = start(folder / "p")
    isochrone(first, "volume", "create", "v", "1MiB")
    assert first.end()[0] == 0
    with socket.create_server(("127.0.0.1", 0)) as wire:
        number = wire.getsockname()[1]
    path = folder / "nbd.sock"
    options = ("--tls", str(pki), "--tls-verify-clients")
    with running(
        *("systemd-socket-activate", "-l", f"127.0.0.1:{number}", "-l", path),
        *("--fdname=nbd:nbd", *SERVE, folder / "p", *options),
    ) as process:
        until(path.exists, what="the sockets")
        where = f"nbds://localhost:{number}/v?tls-certificates={pki}"
        assert run("nbdinfo", "--size", where).strip() == str(MIB)
        run("nbdinfo", f"nbd://localhost:{number}/v", ok=False)
        assert run("nbdinfo", "--size", socket_uri(path, "v")).strip() == str(MIB)
        process.terminate()
        assert process.wait(20) == 0


def test_a_client_that_connects_during_a_restart_waits(
    start: Start, folder: Path, pki: Path
) -> None:
    """The port is the manager's: nobody is refused, and TLS is as before."""
    first = start(folder / "p")
    isochrone(first, "volume", "create", "v", "1MiB")
    assert first.end()[0] == 0
    options = ("--tls", str(pki), "--tls-verify-clients")
    with socket.create_server(("127.0.0.1", 0), backlog=16) as wire:
        where = f"nbds://localhost:{wire.getsockname()[1]}/v?tls-certificates={pki}"
        held = Held(folder / "p", wire, *options)
        held.begin()
        assert run("nbdinfo", "--size", where).strip() == str(MIB)
        held.end(signal.SIGTERM)
        waiting = subprocess.Popen(["nbdinfo", "--size", where], stdout=subprocess.PIPE, text=True)
        with waiting, socket.create_connection(wire.getsockname()):  # taken by the kernel
            assert waiting.poll() is None
            held.begin()
            assert waiting.communicate(timeout=30)[0].strip() == str(MIB)
        held.end(signal.SIGTERM)


# -- the empty name


def test_the_default_export(start: Start, folder: Path) -> None:
    controller = start(folder / "p")
    isochrone(controller, "volume", "create", "a", "1MiB")
    assert run("nbdinfo", "--size", uri(controller)).strip() == str(MIB)  # the only one
    isochrone(controller, "volume", "create", "b", "2MiB")
    run("nbdinfo", "--size", uri(controller), ok=False)
    (folder / "p" / "exports.toml").write_text('default = "b"\n')
    isochrone(controller, "door", "reload")
    assert run("nbdinfo", "--size", uri(controller)).strip() == str(2 * MIB)
    assert controller.end()[0] == 0
    again = start(folder / "p")
    assert run("nbdinfo", "--size", uri(again)).strip() == str(2 * MIB)
    (folder / "p" / "exports.toml").write_text('default = "gone"\n')
    isochrone(again, "door", "reload")
    assert "there is no export 'gone'" in run("qemu-img", "info", uri(again), ok=False)


# -- memory


def test_memory_is_bounded_and_enough_at_its_minimum(start: Start, folder: Path) -> None:
    code, _, err = start(folder / "p", "--memory", "255MiB").wait()
    assert code == 2
    assert "hint: give at least --memory 256MiB" in err
    controller = start(folder / "p", "--memory", "256MiB")
    isochrone(controller, "volume", "create", "v", "64MiB")
    memory = show(controller, "door", "show")["memory"]
    assert (memory["tables_limit"], memory["clients_limit"]) == (128 * MIB, 128 * MIB)
    data = os.urandom(64 * MIB)
    with Nbd(os.fspath(controller.directory / "nbd.sock"), "v") as client:
        client.write(0, data)
        assert client.read(32 * MIB, 4096) == data[32 * MIB :][:4096]
    memory = show(controller, "door", "show")["memory"]
    assert memory["tables"] > 0
    assert memory["clients"] < 2 * MIB


# -- a stop


def test_a_stop_answers_what_has_arrived(start: Start, folder: Path) -> None:
    """Also what waits in the kernel when the signal comes; then the connection is closed."""
    controller = start(folder / "p", "--nbd", LOCAL)
    isochrone(controller, "volume", "create", "v", "1MiB")
    with socket.create_connection(("127.0.0.1", port(controller))) as wire:
        wire.settimeout(20)
        wire.recv(18)
        wire.sendall(b"\0\0\0\3IHAVEOPT\0\0\0\1\0\0\0\1v")
        wire.recv(10)
        controller.process.send_signal(signal.SIGSTOP)
        for cookie in range(100):
            head = struct.pack(">IHHQQI", 0x25609513, 0, 1, cookie, cookie * 4096, 4096)
            wire.sendall(head + bytes([cookie + 1]) * 4096)
        wire.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 3, 100, 0, 0))
        controller.process.send_signal(signal.SIGTERM)
        controller.process.send_signal(signal.SIGCONT)
        told = b""
        while more := wire.recv(65536):  # a reset would raise
            told += more
    replies = [struct.unpack_from(">IIQ", told, at) for at in range(0, len(told), 16)]
    assert {(magic, error) for magic, error, _ in replies} == {(0x67446698, 0)}
    assert sorted(cookie for _, _, cookie in replies) == list(range(101))
    assert controller.wait()[0] == 0
    again = start(folder / "p")
    with Nbd(os.fspath(again.directory / "nbd.sock"), "v") as client:
        for cookie in range(100):
            assert client.read(cookie * 4096, 4096) == bytes([cookie + 1]) * 4096
