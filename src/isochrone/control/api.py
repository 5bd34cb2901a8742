"""The HTTP API of a controller.

Every change is done, then made durable, and only then answered: who has heard "done" will find it
after a power cut. Errors of the product become problem documents (RFC 9457) in one place.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from isochrone import __version__
from isochrone.control import views as v
from isochrone.control import (
    views_matched,
    views_points,
    views_probes,
    views_relations,
    views_schedules,
    views_site,
    views_verify,
)
from isochrone.control.answers import Body, answer, gives
from isochrone.control.api_attachments import add_attachments
from isochrone.control.api_copies import add_copies
from isochrone.control.api_dr import DR_ANSWERS, add_dr
from isochrone.control.api_matched import add_requests
from isochrone.control.api_mirror import MIRROR_ANSWERS, add_mirrors
from isochrone.control.api_points import add_points
from isochrone.control.api_pool import POOL_ANSWERS, add_pool, scrub_view
from isochrone.control.api_probes import add_probes
from isochrone.control.api_relations import add_relations
from isochrone.control.api_schedules import add_schedules, views_of_schedules
from isochrone.control.api_site import add_site
from isochrone.control.api_verify import add_verify
from isochrone.control.audit import Accounted, Audit, AuditList
from isochrone.control.census import Census
from isochrone.control.entrance import Entrance, TlsSettings
from isochrone.control.filters import parse_chain
from isochrone.control.metrics import add_metrics
from isochrone.control.site import LocalSite
from isochrone.control.views_mirror import group_view
from isochrone.errors import InvalidInput, IsochroneError, Unavailable
from isochrone.mirror import groups
from isochrone.mirror.service import Mirrors
from isochrone.nbd.filters import Filters
from isochrone.store import copies, holds, volumes
from isochrone.store.catalogue import Consistency
from isochrone.store.front import PoolBackend
from isochrone.store.gauge import Gauge
from isochrone.store.labels import parse_labels
from isochrone.store.pool import Pool
from isochrone.store.scheduler import Scheduler
from isochrone.store.scrub import Scrub
from isochrone.world.net import is_loopback

BODY_BYTES_MAX: Final = 1 << 20  # a copy of 4,096 volumes with the longest names needs 540 KB

log = structlog.get_logger("isochrone.api")


class NewVolume(Body):
    name: str
    size: int = Field(description="bytes")
    labels: list[str] = Field(default=[], description="tier=gold")


class Resize(Body):
    size: int = Field(description="bytes")
    shrink: bool = Field(default=False, description="cutting off the end is meant")
    force_overlay: bool = Field(default=False, description="even under hosts that have it open")


class NewCopy(Body):
    volumes: list[str] = Field(default=[])
    group: str = Field(default="", description="all volumes of this group, beside the others")
    name: str = Field(default="", description="empty: named after the time")
    writable: bool = False
    expendable: bool = Field(default=False, description="given up when space runs short")


class CopyIs(Body):
    consistency: Consistency = Field(description="what held still while it was taken")


class NewFilters(Body):
    filters: list[str] = Field(description="as typed: rate=10MiB/s; the first is outermost")


def make_app(
    pool: Pool,
    mirrors: Mirrors,
    directory: Path,
    filters: Filters | None = None,
    *,
    entrance: Entrance | None = None,
    scheduler: Scheduler | None = None,
    scrub: Scrub | None = None,
    local: LocalSite | None = None,
    insecure: bool = False,
) -> ASGIApp:
    """The application. Unless `insecure`, it answers only to names of this machine."""
    app = FastAPI(
        title="Isochrone",
        version=__version__,
        docs_url=None,  # its page loads scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=BODY_BYTES_MAX,
    )
    census = Census(pool, directory)
    _add_errors(app)
    _add_volumes(app, pool, census)
    _add_copies(app, pool, census)
    add_copies(app, pool, census)
    add_relations(app, pool, census, mirrors.asking)
    add_requests(app, pool, mirrors.asking)
    scheduler = scheduler or Scheduler(pool)
    add_schedules(app, pool, census, scheduler)
    add_mirrors(app, pool, mirrors)
    add_dr(app, pool, mirrors)
    add_points(app, pool, census)
    add_probes(app, pool, mirrors.prober, directory)
    filters = filters or Filters(PoolBackend(pool))
    _add_filters(app, pool, filters)
    entrance = entrance or Entrance(directory, TlsSettings(), pool.world.clock, ports=False)
    _add_door(app, pool, census, entrance)
    if local is None:
        local = LocalSite(directory, pool.world)
        local.open_enrolment(pool.identity)
    add_site(app, local)
    add_metrics(app, pool, mirrors, local.samples)
    audit = Audit(directory, pool)
    add_attachments(app, pool, census, audit, entrance.expel)
    scrub = scrub or Scrub(pool)
    _add_site(app, pool, mirrors, census, filters, scheduler, scrub, local)
    add_pool(app, Gauge(pool), scrub, pool.world.work)
    add_verify(app, pool, mirrors, scrub)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        _, schemas = msgspec.json.schema_components(
            _ANSWERS, ref_template="#/components/schemas/{name}"
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return NoBrowsers(Accounted(app, audit, problem), any_host=insecure)


# -- answers

_ANSWERS: Final = (
    *POOL_ANSWERS,
    *(v.VolumeView, v.VolumeList, v.CopyView, v.CopyList),
    *(v.FilterView, v.FilterList, v.SiteView, v.Problem),
    *MIRROR_ANSWERS,
    *DR_ANSWERS,
    *(v.DoorView, v.ReloadView),
    *views_schedules.ANSWERS,
    *views_site.ANSWERS,
    *views_relations.ANSWERS,
    *views_matched.ANSWERS,
    *views_points.ANSWERS,
    *views_probes.ANSWERS,
    *views_verify.ANSWERS,
    AuditList,
)


# -- errors


def problem(error: IsochroneError) -> Response:
    document = v.Problem(
        type=error.code,
        title=(type(error).__doc__ or error.code).splitlines()[0],
        status=error.http_status,
        detail=error.message,
        hint=error.hint,
        exit_code=error.exit_code,
    )
    return _problem(document)


def _problem(document: v.Problem) -> Response:
    body = msgspec.json.encode(document)
    return Response(body, document.status, media_type="application/problem+json")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(IsochroneError)
    async def known(request: Request, error: IsochroneError) -> Response:
        if error.http_status >= 500:
            log.warning("a request failed", path=request.url.path, error=error.message)
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return problem(InvalidInput(f"{where}: {first['msg']}" if where else str(first["msg"])))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        title = HTTPStatus(error.status_code).phrase
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return _problem(
            v.Problem(type="about:blank", title=title, status=error.status_code, detail=detail)
        )

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        # The framework raises it again after the answer, so its trace is in the log.
        return _problem(
            v.Problem(
                type="InternalError",
                title="A bug in the controller",
                status=500,
                detail=f"the controller failed inside: {type(error).__name__}: {error}",
                hint="its log has the details; please report them",
            )
        )


# -- routes


def _add_volumes(app: FastAPI, pool: Pool, census: Census) -> None:
    @app.get("/v1/volumes", **gives(v.VolumeList))
    async def list_volumes() -> Response:
        return answer(v.VolumeList(volumes=await census.volumes()))

    @app.post("/v1/volumes", **gives(v.VolumeView, 201))
    async def create_volume(body: NewVolume) -> Response:
        volume = volumes.create(pool, body.name, body.size, parse_labels(body.labels))
        await pool.flush()
        return answer(await census.volume(volume), 201)

    @app.get("/v1/volumes/{name}", **gives(v.VolumeView))
    async def show_volume(name: str) -> Response:
        return answer(await census.volume(volumes.find(pool, name)))

    @app.patch("/v1/volumes/{name}", **gives(v.VolumeView))
    async def resize_volume(name: str, body: Resize) -> Response:
        volume = volumes.resize(pool, name, body.size, shrink=body.shrink, force=body.force_overlay)
        await pool.flush()
        return answer(await census.volume(volume))

    @app.delete("/v1/volumes/{name}", status_code=204)
    async def delete_volume(name: str, *, force_overlay: bool = False) -> Response:
        groups.delete_volume(pool, name, force=force_overlay)
        await pool.flush()
        return Response(status_code=204)


def _add_copies(app: FastAPI, pool: Pool, census: Census) -> None:
    @app.get("/v1/copies", **gives(v.CopyList))
    async def list_copies() -> Response:
        return answer({"copies": await census.copies()})

    @app.post("/v1/copies", **gives(v.CopyView, 201))
    async def take_copy(body: NewCopy) -> Response:
        members = groups.members(pool, body.group) if body.group else []
        names = list(dict.fromkeys([*members, *body.volumes])) if members else body.volumes
        copy = copies.take(
            pool, names, name=body.name, writable=body.writable, expendable=body.expendable
        )
        view = census.copy(copy)
        await pool.flush()
        return answer(view, 201)

    @app.get("/v1/copies/{name}", **gives(v.CopyView))
    async def show_copy(name: str) -> Response:
        return answer(census.copy(copies.find_copy(pool, name)))

    @app.patch("/v1/copies/{name}", **gives(v.CopyView))
    async def classify_copy(name: str, body: CopyIs) -> Response:
        view = census.copy(copies.classify(pool, name, body.consistency))
        await pool.flush()
        return answer(view)

    @app.delete("/v1/copies/{name}", status_code=204)
    async def delete_copy(name: str) -> Response:
        copies.delete(pool, name)
        await pool.flush()
        return Response(status_code=204)


def _add_filters(app: FastAPI, pool: Pool, filters: Filters) -> None:
    @app.get("/v1/filters", **gives(v.FilterList))
    async def list_filters() -> Response:
        return answer(v.FilterList(filters=_filter_views(filters)))

    @app.put("/v1/filters/{export}", **gives(v.FilterView))
    async def set_filters(export: str, body: NewFilters) -> Response:
        filters.set(export, parse_chain(body.filters, pool.world.dice))
        return answer(v.FilterView(export=export, filters=body.filters))

    @app.delete("/v1/filters/{export}", status_code=204)
    async def clear_filters(export: str) -> Response:
        filters.clear(export)
        return Response(status_code=204)


def _filter_views(filters: Filters) -> list[v.FilterView]:
    chains = sorted(filters.chains().items())
    return [v.FilterView(export=name, filters=list(chain.words)) for name, chain in chains]


def _add_door(app: FastAPI, pool: Pool, census: Census, entrance: Entrance) -> None:
    @app.get("/v1/door", **gives(v.DoorView))
    async def show_door() -> Response:
        return answer(entrance.view(pool, census.guests()))

    @app.post("/v1/door/reload", **gives(v.ReloadView))
    async def reload_door() -> Response:
        return answer(v.ReloadView(clients_gone=entrance.reload()))


def _add_site(
    app: FastAPI,
    pool: Pool,
    mirrors: Mirrors,
    census: Census,
    filters: Filters,
    scheduler: Scheduler,
    scrub: Scrub,
    local: LocalSite,
) -> None:
    @app.get("/v1/status", **gives(v.SiteView))
    async def site() -> Response:
        view = await census.site([group_view(s) for s in mirrors.statuses()])
        view.filters = _filter_views(filters)
        view.schedules = views_of_schedules(pool, scheduler)
        view.holds_lag = holds.lateness(pool) / 1e9
        view.certificates = local.warning()
        view.scrub = scrub_view(scrub, findings=False)
        copies = await census.copies()
        return answer({**msgspec.structs.asdict(view), "copies": copies})

    @app.get("/healthz", response_model=None)
    async def alive() -> Response:
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", response_model=None)
    async def ready() -> Response:
        if pool.failed:
            return problem(Unavailable(f"the pool is read-only: {pool.failed}"))
        return Response("ok\n", media_type="text/plain")


class NoBrowsers:
    """Refuses what a web page could make a browser on this host send to a local port.

    There is no password to stop it yet. But a browser says where the page came from, and under
    which name it found us, which need not be a name of this machine.
    """

    def __init__(self, app: ASGIApp, *, any_host: bool) -> None:
        self._app = app
        self._any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Unix sockets have no port, and no browser reaches them.
        if scope["type"] == "http" and (scope.get("server") or ("", None))[1] is not None:
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1")
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            if b"origin" in headers or not (self._any_host or is_loopback(name)):
                refused = v.Problem(
                    type="about:blank",
                    title="Forbidden",
                    status=403,
                    detail="this controller does not answer web pages, nor for other hosts' names",
                )
                await _problem(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)
