"""The audit: what was decided about volumes that somebody had open, and by what.

One JSON object a line in `audit.jsonl` of the pool's directory, written before the command that it
is about goes on, and synced before anybody hears "done". If it cannot be written the command is
refused: an overlay that nobody could account for later must not happen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isochrone.control.times import rfc3339
from isochrone.errors import IsochroneError, Unavailable
from isochrone.store.attachments import Attachment
from isochrone.store.overlay import Decision
from isochrone.store.pool import Pool
from isochrone.world.journal import Journal

log = structlog.get_logger("isochrone.audit")

AUDIT_NAME: Final = "audit.jsonl"
ENTRIES_MAX: Final = 10_000  # of one listing


class AttachedView(msgspec.Struct, kw_only=True):
    """Somebody who had the volume open at that moment."""

    role: str  # app, mover
    kind: str  # how that is known: certificate, user, address
    host: str
    addresses: list[str]
    since: str
    lost: bool  # cut off; its lease has not ended


class AuditEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    time: str
    act: str  # what was to be done to the volume: copied onto, reverted, deleted, …
    volume: str
    allowed: bool
    why: str
    mirrored: bool = False
    online_ok: bool = False
    force_overlay: bool = False
    attached: list[AttachedView] = []


class AuditList(msgspec.Struct, kw_only=True):
    entries: list[AuditEntry]  # oldest first


class Audit:
    """The audit of one pool."""

    def __init__(self, directory: Path, pool: Pool) -> None:
        """From now on the decisions of this pool are noted."""
        self._journal = Journal(directory / AUDIT_NAME)
        self._world = pool.world
        self._volumes = pool.state.volumes
        self._settled = True
        pool.on_decision.append(self.decided)
        pool.attached.on_expired.append(self._expired)

    def decided(self, decision: Decision) -> None:
        """Note a decision. Raises `Unavailable` if it cannot be noted."""
        verdict = decision.verdict
        self._add(
            AuditEntry(
                time=rfc3339(self._world.clock.wall_ns()),
                act=decision.act,
                volume=decision.volume,
                allowed=verdict.perform,
                why=verdict.why,
                mirrored=decision.mirrored,
                online_ok=decision.online_ok,
                force_overlay=decision.force,
                attached=_views(decision.attached),
            )
        )

    def detached(self, volume: str, gone: list[Attachment]) -> None:
        """Note that an operator has let hosts go."""
        self._add(self._let_go(volume, gone, "an operator said that they are gone"))

    def _expired(self, id: int, attachment: Attachment) -> None:
        """Note that a host was cut off and did not come back."""
        volume = self._volumes.get(id)
        name = volume.name if volume is not None else f"(deleted, number {id})"
        entry = self._let_go(name, [attachment], "it was cut off, and its lease has ended")
        try:
            self._add(entry)
        except Unavailable as e:  # nobody asked for anything that could be refused
            log.error("a lease ended unaudited", entry=msgspec.to_builtins(entry), error=e.message)

    def _let_go(self, volume: str, gone: list[Attachment], why: str) -> AuditEntry:
        return AuditEntry(
            time=rfc3339(self._world.clock.wall_ns()),
            act="detached",
            volume=volume,
            allowed=True,
            why=why,
            attached=_views(tuple(gone)),
        )

    def _add(self, entry: AuditEntry) -> None:
        self._settled = False
        try:
            self._journal.add(msgspec.json.encode(entry))
        except OSError as e:
            raise Unavailable(
                f"the audit cannot be written ({e.strerror or e}), so nothing was done",
                hint=f"make room for {AUDIT_NAME} in the pool's directory",
            ) from e

    async def settle(self) -> None:
        """Return when everything noted so far survives a power cut."""
        if self._settled:
            return
        self._settled = True
        try:
            await self._world.work.run(self._journal.sync)
        except OSError as e:
            self._settled = False
            raise Unavailable(f"the audit cannot be made durable: {e.strerror or e}") from e

    def last(self, count: int) -> list[AuditEntry]:
        """The newest entries, oldest first; lines that a crash tore are left out."""
        found = []
        try:
            lines = self._journal.last(min(count, ENTRIES_MAX))
        except OSError as e:
            raise Unavailable(f"the audit cannot be read: {e.strerror or e}") from e
        for line in lines:
            try:
                found.append(msgspec.json.decode(line, type=AuditEntry))
            except msgspec.MsgspecError:
                continue
        return found


def _views(attached: tuple[Attachment, ...]) -> list[AttachedView]:
    return [
        AttachedView(
            role=a.role,
            kind=str(a.proof),
            host=a.host,
            addresses=sorted(a.addresses),
            since=rfc3339(a.since),
            lost=a.lease_ends is not None,
        )
        for a in attached
    ]


class Accounted:
    """Lets no answer out before the audit of what was done is durable."""

    def __init__(
        self, app: ASGIApp, audit: Audit, refuse: Callable[[IsochroneError], ASGIApp]
    ) -> None:
        self._app = app
        self._audit = audit
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        failed = False

        async def settle_then_send(message: Message) -> None:
            nonlocal failed
            if message["type"] == "http.response.start":
                try:
                    await self._audit.settle()
                except Unavailable as e:
                    failed = True
                    await self._refuse(e)(scope, receive, send)
            if not failed:
                await send(message)

        await self._app(scope, receive, settle_then_send)
