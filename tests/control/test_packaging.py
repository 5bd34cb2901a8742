"""The units in packaging/ speak of commands and sockets that there are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest

from isochrone.control.cli import isochrone
from isochrone.control.sockets import NBD_SOCKET, ROOMS

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"
DIRECTORY = "/var/lib/isochrone/%i"


def settings(unit: str, name: str) -> list[str]:
    lines = (UNITS / unit).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def command_of(words: list[str]) -> list[str]:
    """The names of the command that these words run, as far as they are names of ours."""
    here: click.Command = isochrone
    names = []
    while isinstance(here, click.Group):
        if words[0].startswith("--"):
            assert words[0] in {text for option in here.params for text in option.opts}
            words = words[2:]  # an option and its value
            continue
        names.append(words[0])
        here = here.commands[words[0]]
        words = words[1:]
    return names


def test_start_and_reload_are_commands_of_ours() -> None:
    for name, wanted in (("ExecStart", ["serve"]), ("ExecReload", ["door", "reload"])):
        (line,) = settings("isochrone@.service", name)
        program, *words = line.split()
        assert program == "/usr/bin/isochrone"
        assert DIRECTORY in words
        assert command_of(words) == wanted


def test_the_socket_is_the_one_that_serve_would_make() -> None:
    assert settings("isochrone@.socket", "FileDescriptorName")[0] in ROOMS
    assert settings("isochrone@.socket", "ListenStream") == [f"{DIRECTORY}/{NBD_SOCKET}"]


def test_the_manager_hears_from_us_and_waits_for_us() -> None:
    assert settings("isochrone@.service", "Type") == ["notify"]
    assert float(settings("isochrone@.service", "TimeoutStopSec")[0]) > 60  # a checkpoint
    assert settings("isochrone@.service", "KillMode") == []  # SIGTERM, to the process


def test_systemd_understands_the_units() -> None:
    """What it says about a program or a manual that is not installed here does not count."""
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(UNITS.glob("isochrone*@.[st]*"))],
        capture_output=True,
        text=True,
    )
    told = [
        line
        for line in done.stderr.splitlines()
        if "isochrone" in line and "not executable" not in line and "man " not in line
    ]
    assert told == []


def test_a_unit_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    """The test above can fail."""
    bad = tmp_path / "isochrone-bad.service"
    text = (UNITS / "isochrone@.service").read_text()
    bad.write_text(text.replace("Type=notify", "Type=notfiy"))
    done = subprocess.run(["systemd-analyze", "verify", bad], capture_output=True, text=True)
    assert "notfiy" in done.stderr


def test_names_that_are_none_are_noticed() -> None:
    with pytest.raises(KeyError):
        command_of(["door", "relaod"])
