"""The command line against a real controller: answers, messages, exit codes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import isochrone
from tests.control.process import Connect, Controller
from tests.control.shell import Said, Shell

MIB = 1 << 20


Cli = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Commands for no controller in particular."""
    return Shell(None, capsys, monkeypatch)


@pytest.fixture
def at(run: Shell, site: Controller) -> Cli:
    return lambda *words: run("--site", site.directory, *words)


def test_copies(at: Cli, site: Controller, connect: Connect) -> None:
    for name in ("c1", "c2"):
        at("volume", "create", name, "1MiB")
    client = connect(site, "c1")
    client.write(0, b"before")
    taken = at("copy", "take", "--name", "noon", "c1", "c2", "-o", "json").json
    client.write(0, b"after!")
    assert [member["export"] for member in taken["members"]] == ["c1@noon", "c2@noon"]
    assert connect(site, "c1@noon").read(0, 6) == b"before"
    assert client.read(0, 6) == b"after!"
    assert "noon" in at("copy", "list").out
    assert "c2@noon" in at("copy", "show", "noon").out
    assert at("volume", "show", "c1@noon", "-o", "json").json["kind"] == "snapshot"
    clone = at("copy", "take", "--writable", "c1", "-o", "json").json
    assert clone["writable"]
    with connect(site, clone["members"][0]["export"]) as writer:
        writer.write(0, b"mine")
    at("copy", "take", "--name", "noon", "c1").refused(4, "there is a copy 'noon' already")
    at("copy", "take", "c1", "nix").refused(3, "there is no volume 'nix'")
    at("copy", "take").refused(2, "which volumes?")
    # No question: scripts rotate copies.
    said = at("copy", "delete", clone["name"])
    assert said == (0, "", f"copy {clone['name']} deleted\n")
    at("copy", "show", clone["name"]).refused(3, "there is no copy")


def test_groups(at: Cli) -> None:
    at("volume", "create", "g1", "1MiB")
    made = at("group", "create", "g", "g1", "-o", "json").json
    assert (made["role"], made["volumes"], made["epoch"]) == ("primary", ["g1"], 1)
    assert at("group", "show", "g", "-o", "json").json["lineage"] == made["lineage"]
    assert "primary" in at("group", "list").out
    assert "primary" in at("mirror", "status").out
    at("group", "create", "g", "g1").refused(4, "there is a group 'g' already")
    at("group", "show", "nix").refused(3, "there is no group 'nix'")
    at("volume", "delete", "g1", "--yes").refused(4, "nothing would be left of the group 'g'")
    at("promote", "g").refused(4, "primary here already")
    at("group", "promote", "g", "--check").refused(4, "primary here already")


def test_the_door(at: Cli, site: Controller, connect: Connect) -> None:
    at("volume", "create", "guarded", "1MiB")
    connect(site, "guarded")
    shown = at("door", "show", "-o", "json").json
    assert (shown["tls"], shown["rules"]) == ("off", [])
    assert [g["host"] for g in shown["clients"] if g["export"] == "guarded"] == [
        f"uid {os.getuid()}"
    ]
    assert "off: everybody is served in the clear" in at("door", "show").out
    assert f"uid {os.getuid()} (user)" in at("volume", "show", "guarded").out
    rules = site.directory / "exports.toml"
    rules.write_text("[exports.guarded]\nhost = 7\n")
    at("door", "reload").refused(2, "'host' is not known", "write: tls, hosts")
    assert at("door", "show", "-o", "json").json["rules"] == []
    rules.write_text('[exports.guarded]\nhosts = ["db1"]\n')  # of no port: it need not have TLS
    assert at("door", "reload").out == "certificates and rules reloaded\n"
    assert at("door", "show", "-o", "json").json["rules"][0]["hosts"] == ["db1"]
    rules.unlink()
    assert at("door", "reload", "-o", "json").json == {"clients_gone": 0}


def test_mirror_commands_that_cannot_work(at: Cli, fresh: Path) -> None:
    source = fresh / "link.sock"
    at("mirror", "add", "m", "--source", source).refused(5, f"nobody answers at {source}")
    at("mirror", "add", "m").refused(2, "Missing option '--source'")
    at("mirror", "status", "m").refused(3, "there is no group 'm'")
    at("mirror", "remove", "m").refused(3, "there is no group 'm'")
    at("mirror", "wait", "m").refused(3, "there is no group 'm'")
    at("mirror", "wait", "m", "--timeout", "0").refused(2, "--timeout")


def test_one_screen(at: Cli, site: Controller) -> None:
    at("volume", "create", "seen", "1MiB")
    screen = at("status").out
    assert str(site.directory) in screen
    assert "seen" in screen
    assert "free on disk" in screen
    whole = at("status", "-o", "json").json
    assert whole["version"] == isochrone.__version__
    assert "seen" in [volume["name"] for volume in whole["volumes"]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["volume", "create", "x", "10GB"], 2, "'10GB' is not a size"),
        (["volume", "create", "x", "1KiB"], 2, "a volume of 1024 bytes is not possible"),
        (["volume", "create", "x", "65TiB"], 2, "is not possible"),
        (["volume", "create", "a/b", "1MiB"], 2, "cannot be the name of a volume"),
        (["volume", "create", "x"], 2, "Missing argument 'SIZE'"),
        (["volume", "create", "x", "1MiB", "--nix"], 2, "No such option"),
        (["volume", "show", ""], 2, "'' is not a name"),
        (["nix"], 2, "No such command 'nix'"),
        (["status", "--output", "xml"], 2, "'xml'"),
    ],
)
def test_bad_input(at: Cli, words: list[str], code: int, message: str) -> None:
    at(*words).refused(code, message, "hint: ")


def test_without_a_site(run: Shell) -> None:
    run("status").refused(2, "which controller?", "--site DIR|URL, or set ISOCHRONE_SITE")


def test_nobody_there(run: Shell, fresh: Path) -> None:
    said = run("--site", fresh, "status")
    said.refused(5, f"no controller answers at {fresh}", f"start it with: isochrone serve {fresh}")
    assert not fresh.exists()


def test_the_site_from_the_environment(
    run: Shell, site: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCHRONE_SITE", str(site.directory))
    assert run("volume", "list").code == 0


def test_version(run: Shell) -> None:
    assert run("--version") == (0, f"isochrone {isochrone.__version__}\n", "")


@pytest.mark.parametrize("words", [[], ["volume"], ["copy"], ["group"], ["mirror"]])
def test_help_everywhere(run: Shell, words: list[str]) -> None:
    said = run(*words, "--help")
    assert said.code == 0
    assert said.out.startswith("Usage: isochrone")
    # The same to whoever forgot the rest, as a message.
    said = run(*words)
    assert (said.code, said.out) == (2, "")
    assert "Commands:" in said.err


def test_help_loads_nothing_heavy() -> None:
    """It must come at once; these cost half a second."""
    check = (
        "import sys; from isochrone.control import cli;"
        "heavy = {'numpy', 'fastapi', 'httpx2', 'rich', 'uvicorn', 'apsw', 'msgspec', 'structlog'};"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_who_leaves_early(site: Controller) -> None:
    """No traceback when `head` has seen enough."""
    command = [sys.executable, "-m", "isochrone", "--site", str(site.directory), "status"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_terminal_is_asked(site: Controller, at: Cli) -> None:
    at("volume", "create", "asked", "1MiB")
    command = [sys.executable, "-m", "isochrone", "--site", str(site.directory)]
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*command, "volume", "delete", "asked"], stdin=theirs, stderr=subprocess.PIPE
        ) as process:
            os.write(ours, answer)
            _, err = process.communicate(timeout=30)
        os.close(ours)
        os.close(theirs)
        assert process.returncode == code, err
        assert b"Delete asked and all it holds?" in err
