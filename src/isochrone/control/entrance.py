"""What the front door asks of its clients: certificates, rules, and a name for the nameless.

All of it can be read again while it is in force, and is taken as a whole or not at all: whatever
is wrong with one part, the old whole stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from isochrone.control import exports
from isochrone.control import views as v
from isochrone.control.exports import EXPORTS_NAME, ExportRules
from isochrone.control.times import rfc3339
from isochrone.errors import InvalidInput, IsochroneError
from isochrone.nbd.handshake import Tls
from isochrone.nbd.server import FrontDoor
from isochrone.nbd.tls import OPEN, Rule, TlsPolicy
from isochrone.store.front import PoolBackend
from isochrone.store.pool import Pool
from isochrone.world.clock import Clock

log = structlog.get_logger("isochrone.entrance")


class TlsMode(StrEnum):
    """`serve --tls-mode`. Of TLS that a client may leave out, a middle man leaves it out."""

    OFF = "off"
    REQUIRED = "required"
    PER_EXPORT = "per-export"


YEAR_9999: Final = 253_402_300_799
MODES: Final = {TlsMode.REQUIRED: Tls.FORCED, TlsMode.PER_EXPORT: Tls.OFFERED}


@dataclass(frozen=True, slots=True)
class TlsSettings:
    folder: str = ""
    mode: TlsMode | None = None  # None: required with a folder, off without one
    verify_clients: bool = False

    @property
    def in_force(self) -> TlsMode:
        if self.mode is not None:
            return self.mode
        return TlsMode.REQUIRED if self.folder else TlsMode.OFF

    @property
    def authenticates(self) -> bool:
        """Whether everybody who is served at a port has proved who they are."""
        return self.in_force is TlsMode.REQUIRED and self.verify_clients

    def check(self) -> None:
        """Raise `InvalidInput` for options that contradict each other."""
        if self.in_force is not TlsMode.OFF and not self.folder:
            raise InvalidInput(
                f"--tls-mode {self.in_force} needs certificates",
                hint="add --tls FOLDER, with server-cert.pem, server-key.pem and ca-cert.pem",
            )
        if self.verify_clients and self.in_force is TlsMode.OFF:
            raise InvalidInput(
                "--tls-verify-clients without TLS verifies nobody", hint="add --tls FOLDER"
            )


class Entrance:
    """The rules in force."""

    def __init__(
        self, directory: Path, settings: TlsSettings, clock: Clock, *, ports: bool
    ) -> None:
        """Read everything. Raises `InvalidInput`; `ports`: whether there are any beside sockets."""
        self.settings = settings
        self._clock = clock
        self._directory = directory
        self._ports = ports
        self._backend: PoolBackend | None = None
        self._door: FrontDoor | None = None
        self.rules = self._read()
        self.policy: TlsPolicy | None = None
        if settings.in_force in MODES:
            self.policy = TlsPolicy(
                settings.folder,
                mode=MODES[settings.in_force],
                verify_clients=settings.verify_clients,
                rules=self.rules.rules,
                default=self.rules.others,
            )
            if self.policy.valid_until < self._now():
                # No reason not to start: the socket file needs no certificate.
                log.error("the certificate has run out", folder=settings.folder)

    def lead_to(self, backend: PoolBackend, door: FrontDoor) -> None:
        """From now on the rules are these of this door."""
        self._backend, self._door = backend, door
        backend.default = self.rules.default

    def reload(self) -> int:
        """Read everything again; how many clients had to go because of it.

        Raises `InvalidInput`, and nothing has changed then.
        """
        try:
            rules = self._read()
            if self.policy is not None:
                self.policy.reload(rules.rules, rules.others, now=self._now())
        except InvalidInput as e:
            raise InvalidInput(
                f"not reloaded, what was in force still is: {e.message}", hint=e.hint
            ) from e
        self.rules = rules
        if self._backend is not None:
            self._backend.default = rules.default
        gone = self._door.rules_changed() if self._door is not None else 0
        log.info("reloaded certificates and rules", rules=len(rules.rules), clients_gone=gone)
        return gone

    def expel(self, export: str, host: str) -> int:
        """End the connections of a host to an export, at once; how many there were."""
        return self._door.expel(export, host) if self._door is not None else 0

    def try_to_reload(self) -> None:
        """The same for a signal, which nobody hears the answer of."""
        try:
            self.reload()
        except IsochroneError as e:
            log.error(e.message, hint=e.hint)

    def _now(self) -> float:
        return self._clock.wall_ns() / 10**9

    def view(self, pool: Pool, clients: list[v.GuestView]) -> v.DoorView:
        rules = [*sorted(self.rules.rules.items()), (exports.ALL_OTHERS, self.rules.others)]
        door = self._door
        return v.DoorView(
            tls=self.settings.in_force,
            folder=self.settings.folder,
            certificate_until=self._until(),
            verify_clients=self.settings.verify_clients,
            default=self.rules.default,
            rules=[_rule_view(name, rule) for name, rule in rules if rule is not OPEN],
            memory=v.MemoryView(
                tables=pool.state.forest.held_bytes,
                tables_limit=pool.limits.node_bytes,
                clients=door.held_bytes if door is not None else 0,
                clients_limit=door.budget_bytes if door is not None else 0,
            ),
            clients=clients,
        )

    def _until(self) -> str:
        """When the certificate runs out. Those made for ever go beyond what dates can say."""
        if self.policy is None:
            return ""
        return rfc3339(int(min(self.policy.valid_until, YEAR_9999)) * 10**9)

    def _read(self) -> ExportRules:
        rules = exports.read(self._directory)
        bound = rules.needing_tls()
        if bound and self._ports and self.settings.in_force is TlsMode.OFF:
            raise InvalidInput(
                f"{EXPORTS_NAME} asks for TLS or hosts at {bound[0]!r}, and the port has no TLS",
                hint="add --tls FOLDER, or leave out --nbd: the rules do not concern the socket"
                " in the controller's directory",
            )
        return rules


def _rule_view(name: str, rule: Rule) -> v.RuleView:
    hosts = None if rule.hosts is None else sorted(rule.hosts)
    return v.RuleView(export=name, tls=rule.needs_tls, hosts=hosts)
