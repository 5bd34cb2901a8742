"""Routes of the API: letting a host go, and the audit."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from fastapi import FastAPI, Query, Response

from isochrone.control.answers import answer, gives
from isochrone.control.audit import ENTRIES_MAX, Audit, AuditList
from isochrone.control.census import Census
from isochrone.control.views import VolumeView
from isochrone.errors import NotFound
from isochrone.store import volumes
from isochrone.store.pool import Pool

ENTRIES: int = 100  # of a listing, unless asked otherwise

log = structlog.get_logger("isochrone.attachments")

Expel = Callable[[str, str], int]  # export, host -> connections that were ended


def add_attachments(app: FastAPI, pool: Pool, census: Census, audit: Audit, expel: Expel) -> None:
    @app.delete("/v1/volumes/{name}/attachments/{host}", **gives(VolumeView))
    async def detach_host(name: str, host: str) -> Response:
        volume = volumes.find(pool, name)
        if all(each.host != host or each.role == "mover" for each in pool.attached.of(volume.id)):
            raise NotFound(
                f"{host!r} does not have {name!r} open",
                hint=f"who does: isochrone volume show {name}",
            )
        # Its connections first: what they have not been told is done, is not done any more.
        ended = expel(name, host)
        gone = pool.attached.evict(volume.id, host)
        audit.detached(volume.name, gone)
        log.warning("a host was detached", volume=name, host=host, connections=ended)
        await audit.settle()
        return answer(await census.volume(volume))

    @app.get("/v1/audit", **gives(AuditList))
    async def show_audit(last: int = Query(default=ENTRIES, ge=1, le=ENTRIES_MAX)) -> Response:
        return answer(AuditList(entries=audit.last(last)))
