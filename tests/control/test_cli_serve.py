"""What `serve` makes of its options, and what `check` says. Running controllers are elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from isochrone.control import service
from isochrone.control.entrance import TlsMode, TlsSettings
from isochrone.control.memory import MEMORY_BYTES
from isochrone.control.service import Settings
from tests.control.shell import Shell

MIB = 1 << 20


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(None, capsys, monkeypatch)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What would have been served."""
    found: list[Settings] = []
    monkeypatch.setattr(service, "run", found.append)
    monkeypatch.setattr("isochrone.control.logs.set_up", lambda: None)
    return found


def test_options_become_settings(run: Shell, served: list[Settings], fresh: Path) -> None:
    ports = ("--nbd", "127.0.0.1:1", "--link", "127.0.0.1:2", "--api", "127.0.0.1:3")
    tls = ("--tls", "pki", "--tls-mode", "per-export", "--tls-verify-clients")
    assert run("serve", fresh, *ports, *tls, "--memory", "512MiB", "--insecure").code == 0
    assert served == [
        Settings(
            fresh,
            nbd="127.0.0.1:1",
            link="127.0.0.1:2",
            api="127.0.0.1:3",
            insecure=True,
            tls=TlsSettings("pki", TlsMode.PER_EXPORT, verify_clients=True),
            memory=512 * MIB,
        )
    ]


def test_without_options(run: Shell, served: list[Settings], fresh: Path) -> None:
    assert run("serve", fresh).code == 0
    assert served == [Settings(fresh, tls=TlsSettings(), memory=MEMORY_BYTES)]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--nbd", "0.0.0.0:1"], "--nbd", "127.0.0.1"),
        (["--tls-mode", "required"], "needs certificates", "--tls FOLDER"),
        (["--tls-verify-clients"], "verifies nobody", "--tls FOLDER"),
        (["--memory", "1MiB"], "memory", ""),
        (["--memory", "10GB"], "'10GB' is not a size", ""),
        (["--copy-step", "64KiB"], "--copy-step is 1 MiB to 1024 MiB", ""),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_touched(
    run: Shell,
    served: list[Settings],
    fresh: Path,
    options: list[str],
    message: str,
    hint: str,
) -> None:
    run("serve", fresh, *options).refused(2, message, hint)
    assert (served, fresh.exists()) == ([], False)


def test_check_makes_no_pool_by_looking(run: Shell, fresh: Path) -> None:
    run("check", fresh).refused(3, "no pool")
    run("check", fresh, "--rebuild-metadata").refused(3, "no pool")
    assert not fresh.exists()
