"""The command line against a real controller: answers, messages, exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import isochrone
from isochrone.control import cli
from tests.control.process import Connect, Controller, Start

MIB = 1 << 20


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def refused(self, code: int, message: str, hint: str = "") -> None:
        """One line, and a hint on the next."""
        assert (self.code, self.out) == (code, ""), self
        lines = self.err.splitlines()
        assert lines[0].startswith("isochrone: ")
        assert message in lines[0]
        assert [line.startswith("hint: ") for line in lines[1:]] == [True] * len(lines[1:])
        assert len(lines) <= 2
        assert hint in self.err


Cli = Callable[..., Said]


@pytest.fixture(scope="module")
def site(start_for_module: Start, short_dir: Path) -> Iterator[Controller]:
    controller = start_for_module(short_dir / "site")
    assert controller.ready, controller.wait()
    yield controller
    code, _, err = controller.end()
    assert code == 0, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The real entry point, in this process."""
    monkeypatch.delenv("ISOCHRONE_SITE", raising=False)
    monkeypatch.setenv("TERM", "dumb")

    def run(*words: str | Path) -> Said:
        monkeypatch.setattr("sys.argv", ["isochrone", *map(str, words)])
        with open(os.devnull) as nothing:
            monkeypatch.setattr("sys.stdin", nothing)
            with pytest.raises(SystemExit) as caught:
                cli.main()
        out, err = capsys.readouterr()
        return Said(caught.value.code, out, err)  # type: ignore[arg-type]

    return run


@pytest.fixture
def at(run: Cli, site: Controller) -> Cli:
    return lambda *words: run("--site", site.directory, *words)


def test_a_volume_from_create_to_delete(at: Cli) -> None:
    assert at("volume", "create", "v", "64MiB").code == 0
    shown = at("volume", "show", "v", "--output", "json").json
    assert (shown["name"], shown["size"], shown["mapped"]) == ("v", 64 * MIB, 0)
    at("volume", "create", "v", "1MiB").refused(4, "there is a volume 'v' already")
    assert "v" in at("volume", "list").out
    names = [volume["name"] for volume in at("-o", "json", "volume", "list").json["volumes"]]
    assert "v" in names
    assert at("volume", "resize", "v", "128MiB", "-o", "json").json["size"] == 128 * MIB
    at("volume", "resize", "v", "1MiB").refused(4, "would cut off its end", "--shrink")
    assert at("volume", "resize", "v", "1MiB", "--shrink", "-o", "json").json["size"] == MIB
    at("volume", "delete", "v").refused(2, "deleting the volume 'v' needs a", "--yes")
    assert at("volume", "show", "v").code == 0
    assert at("volume", "delete", "v", "--yes", "-o", "json").json == {"deleted": {"volume": "v"}}
    at("volume", "show", "v").refused(3, "there is no volume 'v'", "isochrone volume list")
    at("volume", "delete", "v").refused(3, "there is no volume 'v'")


def test_what_goes_through_the_front_door_is_counted(
    at: Cli, site: Controller, connect: Connect
) -> None:
    at("volume", "create", "counted", "1MiB")
    client = connect(site, "counted")
    assert client.size == MIB
    client.write(4096, b"\x07" * 8192)
    shown = at("volume", "show", "counted", "-o", "json").json
    assert (shown["mapped"], len(shown["clients"])) == (8192, 1)
    at("volume", "delete", "counted", "--yes").refused(4, "in use", "disconnect")


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
    at("copy", "take").refused(2, "Missing argument")
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
    at("volume", "delete", "g1", "--yes").refused(4, "belongs to the group 'g'")
    at("promote", "g").refused(2, "needs a confirmation", "--yes")
    at("promote", "g", "--yes").refused(4, "primary here already")


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


def test_without_a_site(run: Cli) -> None:
    run("status").refused(2, "which controller?", "--site DIR|URL, or set ISOCHRONE_SITE")


def test_nobody_there(run: Cli, fresh: Path) -> None:
    said = run("--site", fresh, "status")
    said.refused(5, f"no controller answers at {fresh}", f"start it with: isochrone serve {fresh}")
    assert not fresh.exists()


def test_the_site_from_the_environment(
    run: Cli, site: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCHRONE_SITE", str(site.directory))
    assert run("volume", "list").code == 0


def test_version(run: Cli) -> None:
    assert run("--version") == (0, f"isochrone {isochrone.__version__}\n", "")


@pytest.mark.parametrize("words", [[], ["volume"], ["copy"], ["group"], ["mirror"]])
def test_help_everywhere(run: Cli, words: list[str]) -> None:
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
