"""Certificates and rules in force, and how they are replaced: as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isochrone.control.entrance import Entrance, TlsMode, TlsSettings
from isochrone.errors import InvalidInput, NotAllowed
from isochrone.nbd.handshake import Tls
from isochrone.nbd.server import FrontDoor
from isochrone.store import volumes
from isochrone.store.front import PoolBackend
from isochrone.store.pool import Pool
from isochrone.types import MIB
from isochrone.world.clock import SystemClock
from tests.nbd.certificates import LONG_AGO, make_folder

RULES = '[exports.orders]\nhosts = ["db1"]\n'


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pki")


def write(directory: Path, text: str) -> None:
    (directory / "exports.toml").write_text(text)


# -- options


@pytest.mark.parametrize(
    ("settings", "mode", "authenticates"),
    [
        (TlsSettings(), TlsMode.OFF, False),
        (TlsSettings("f"), TlsMode.REQUIRED, False),
        (TlsSettings("f", verify_clients=True), TlsMode.REQUIRED, True),
        (TlsSettings("f", TlsMode.OFF), TlsMode.OFF, False),
        (TlsSettings("f", TlsMode.PER_EXPORT, verify_clients=True), TlsMode.PER_EXPORT, False),
    ],
)
def test_what_options_mean(settings: TlsSettings, mode: TlsMode, authenticates: bool) -> None:
    settings.check()
    assert (settings.in_force, settings.authenticates) == (mode, authenticates)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (TlsSettings(mode=TlsMode.REQUIRED), "--tls-mode required needs certificates"),
        (TlsSettings(mode=TlsMode.PER_EXPORT), "--tls-mode per-export needs certificates"),
        (TlsSettings(verify_clients=True), "verifies nobody"),
        (TlsSettings("f", TlsMode.OFF, verify_clients=True), "verifies nobody"),
    ],
)
def test_options_that_would_do_nothing_are_refused(settings: TlsSettings, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        settings.check()
    assert "--tls FOLDER" in caught.value.hint


# -- in force


def test_modes_and_rules_reach_the_policy(tmp_path: Path, pki: Path) -> None:
    write(tmp_path, RULES)
    for mode, wanted in ((None, Tls.FORCED), (TlsMode.PER_EXPORT, Tls.OFFERED)):
        policy = Entrance(tmp_path, TlsSettings(str(pki), mode), SystemClock(), ports=True).policy
        assert policy is not None
        assert policy.mode is wanted
        with pytest.raises(NotAllowed):
            policy.check("orders", secure=True, host="db2")
        policy.check("orders@t0", secure=True, host="db1")
    assert (
        Entrance(tmp_path, TlsSettings(str(pki), TlsMode.OFF), SystemClock(), ports=False).policy
        is None
    )


def test_rules_that_the_port_cannot_keep_are_refused(tmp_path: Path) -> None:
    """An operator who wrote a rule must not get an open export."""
    write(tmp_path, RULES)
    with pytest.raises(InvalidInput, match="asks for TLS or hosts at 'orders'") as caught:
        Entrance(tmp_path, TlsSettings(), SystemClock(), ports=True)
    assert "--tls FOLDER" in caught.value.hint
    Entrance(
        tmp_path, TlsSettings(), SystemClock(), ports=False
    )  # nobody can come in but by the socket file
    write(tmp_path, 'default = "orders"')
    assert Entrance(tmp_path, TlsSettings(), SystemClock(), ports=True).rules.default == "orders"


@pytest.mark.parametrize("broken", ["certificate", "rules", "both"])
def test_a_reload_is_whole_or_nothing(tmp_path: Path, pki: Path, broken: str) -> None:
    write(tmp_path, RULES)
    entrance = Entrance(tmp_path, TlsSettings(str(pki)), SystemClock(), ports=True)
    policy = entrance.policy
    assert policy is not None
    context, rules = policy.context, entrance.rules
    write(tmp_path, '[exports.orders]\nhosts = ["db2"]\n')
    if broken != "rules":
        (pki / "server-key.pem").write_text("half written")
    if broken != "certificate":
        write(tmp_path, "[exports.orders]\nhosts = 7\n")
    with pytest.raises(InvalidInput, match="not reloaded, what was in force still is: "):
        entrance.reload()
    assert policy.context is context
    assert entrance.rules is rules
    policy.check("orders", secure=True, host="db1")
    assert not policy.allows("orders", secure=True, host="db2")

    make_folder(pki)
    write(tmp_path, '[exports.orders]\nhosts = ["db2"]\n')
    assert entrance.reload() == 0
    assert policy.context is not context
    policy.check("orders", secure=True, host="db2")
    assert not policy.allows("orders", secure=True, host="db1")
    assert entrance.rules.rules["orders"].hosts == {"db2"}  # what is shown


def test_a_signal_gets_no_answer_but_a_line_in_the_log(tmp_path: Path, pki: Path) -> None:
    entrance = Entrance(tmp_path, TlsSettings(str(pki)), SystemClock(), ports=True)
    (pki / "server-cert.pem").unlink()
    with capture_logs() as logs:
        entrance.try_to_reload()
    assert [line["log_level"] for line in logs] == ["error"]
    assert "what was in force still is" in logs[0]["event"]
    make_folder(pki)
    with capture_logs() as logs:
        entrance.try_to_reload()
    assert [line["event"] for line in logs] == ["reloaded certificates and rules"]


async def test_the_default_export_follows_the_file(pool: Pool, tmp_path: Path) -> None:
    for name in ("a", "b"):
        volumes.create(pool, name, MIB)
    write(tmp_path, 'default = "b"')
    backend = PoolBackend(pool)
    door = FrontDoor(backend)
    entrance = Entrance(tmp_path, TlsSettings(), SystemClock(), ports=False)
    entrance.lead_to(backend, door)
    assert backend.default == "b"
    write(tmp_path, 'default = "a"')
    entrance.reload()
    assert backend.default == "a"
    (tmp_path / "exports.toml").unlink()
    entrance.reload()
    assert backend.default == ""


async def test_what_is_shown(pool: Pool, tmp_path: Path, pki: Path) -> None:
    write(tmp_path, RULES + '[exports."*"]\ntls = "required"\n[exports.free]\n')
    entrance = Entrance(
        tmp_path, TlsSettings(str(pki), verify_clients=True), SystemClock(), ports=True
    )
    backend = PoolBackend(pool)
    entrance.lead_to(backend, FrontDoor(backend, budget_bytes=200 * MIB))
    view = entrance.view(pool, [])
    assert (view.tls, view.folder, view.verify_clients) == ("required", str(pki), True)
    shown = [(rule.export, rule.tls, rule.hosts) for rule in view.rules]
    assert shown == [("free", False, None), ("orders", True, ["db1"]), ("*", True, None)]
    assert view.memory.clients_limit == 200 * MIB
    assert view.memory.tables_limit == pool.limits.node_bytes
    assert view.certificate_until.startswith("3000-01-01")


# -- certificates that have run out


def test_a_certificate_that_has_run_out_is_said_at_start(tmp_path: Path) -> None:
    """And no reason not to start: the socket file needs none."""
    old = make_folder(tmp_path / "old", server_until=LONG_AGO)
    with capture_logs() as logs:
        Entrance(tmp_path, TlsSettings(str(old)), SystemClock(), ports=True)
    assert [line["event"] for line in logs] == ["the certificate has run out"]


def test_a_certificate_that_has_run_out_is_not_taken_at_a_reload(tmp_path: Path, pki: Path) -> None:
    entrance = Entrance(tmp_path, TlsSettings(str(pki)), SystemClock(), ports=True)
    assert entrance.policy is not None
    context, until = entrance.policy.context, entrance.policy.valid_until
    make_folder(pki, server_until=LONG_AGO)
    with pytest.raises(InvalidInput, match="has run out"):
        entrance.reload()
    assert (entrance.policy.context, entrance.policy.valid_until) == (context, until)
