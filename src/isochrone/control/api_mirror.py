"""Routes about groups and their mirrors, at either end."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control.answers import Body, answer, gives
from isochrone.control.views import PromoteView
from isochrone.control.views_mirror import GroupList, GroupView, group_view
from isochrone.mirror import groups, terms
from isochrone.mirror.service import Mirrors
from isochrone.store.pool import Pool

WAIT_S_MAX: Final = 86400.0

MIRROR_ANSWERS: Final = (GroupView, GroupList, PromoteView)


class NewGroup(Body):
    name: str
    volumes: list[str]


class Members(Body):
    """Volumes that join a group, or leave it: all or none."""

    add: list[str] = Field(default_factory=list)
    remove: list[str] = Field(default_factory=list)


class NewMirror(Body):
    group: str
    source: str = Field(description="HOST:PORT or socket path of the primary's link")
    seeds: dict[str, str] = Field(
        default_factory=dict, description="volume there -> volume here that its copy starts from"
    )


class Terms(Body):
    """What is left out stays as it is."""

    peer: str = Field(default="", description="a secondary; empty: all of the group")
    policy: str | None = Field(default=None, description="suspend, fall-behind or pace")
    limit_bytes: int | None = Field(default=None, ge=0, description="of the side file; 0: none")
    limit_seconds: float | None = Field(default=None, ge=0, strict=False, description="0: none")
    resync: str | None = Field(default=None, description="auto or manual")
    interval: float | None = Field(
        default=None, ge=0, strict=False, description="seconds between cuts; 0: the usual"
    )


class Who(Body):
    peer: str = Field(default="", description="a secondary; empty: all of the group")


class Wait(Body):
    copy_name: str = Field(default="", alias="copy", description="until this copy is here")
    timeout: float = Field(gt=0, le=WAIT_S_MAX, strict=False, description="seconds")


def add_mirrors(app: FastAPI, pool: Pool, mirrors: Mirrors) -> None:
    _add_groups(app, pool, mirrors)
    _add_mirrors(app, pool, mirrors)


def _add_groups(app: FastAPI, pool: Pool, mirrors: Mirrors) -> None:
    @app.get("/v1/groups", **gives(GroupList))
    async def list_groups() -> Response:
        return answer(GroupList(groups=[group_view(s) for s in mirrors.statuses()]))

    @app.post("/v1/groups", **gives(GroupView, 201))
    async def create_group(body: NewGroup) -> Response:
        groups.create(pool, body.name, body.volumes)
        await pool.flush()
        return answer(group_view(mirrors.status(body.name)), 201)

    @app.get("/v1/groups/{name}", **gives(GroupView))
    async def show_group(name: str) -> Response:
        return answer(group_view(mirrors.status(name)))

    @app.patch("/v1/groups/{name}/volumes", **gives(GroupView))
    async def change_group(name: str, body: Members) -> Response:
        groups.change(pool, name, body.add, body.remove)
        await pool.flush()
        return answer(group_view(mirrors.status(name)))

    @app.delete("/v1/groups/{name}", status_code=204)
    async def delete_group(name: str) -> Response:
        groups.delete(pool, name)
        await pool.flush()
        return Response(status_code=204)


def _add_mirrors(app: FastAPI, pool: Pool, mirrors: Mirrors) -> None:
    @app.post("/v1/mirrors", **gives(GroupView, 201))
    async def add_mirror(body: NewMirror) -> Response:
        status = await mirrors.add(body.group, body.source, seeds=body.seeds)
        await pool.flush()
        return answer(group_view(status), 201)

    @app.post("/v1/mirrors/{group}/wait", **gives(GroupView))
    async def wait_mirror(group: str, body: Wait) -> Response:
        status = await mirrors.wait(group, copy=body.copy_name, timeout=body.timeout)
        return answer(group_view(status))

    @app.patch("/v1/mirrors/{group}", **gives(GroupView))
    async def set_terms(group: str, body: Terms) -> Response:
        given = body.model_dump(exclude={"peer", "interval"}, exclude_none=True)
        peers = terms.served(pool, group, body.peer) if given or body.peer else []
        if body.interval is not None:
            terms.check_interval(pool, group, body.interval)
        terms.set_limits(pool, group, peers, **given)
        if body.interval is not None:
            terms.set_interval(pool, group, body.interval)
        return await told(group)

    @app.post("/v1/mirrors/{group}/suspend", **gives(GroupView))
    async def suspend_mirror(group: str, body: Who) -> Response:
        mirrors.suspend(group, body.peer)
        return await told(group)

    @app.post("/v1/mirrors/{group}/resume", **gives(GroupView))
    async def resume_mirror(group: str, body: Who) -> Response:
        mirrors.resume(group, body.peer)
        return await told(group)

    @app.delete("/v1/mirrors/{group}/peers/{peer}", status_code=204)
    async def forget_peer(group: str, peer: str) -> Response:
        mirrors.forget(group, peer)
        await pool.flush()
        return Response(status_code=204)

    async def told(group: str) -> Response:
        await pool.flush()
        return answer(group_view(mirrors.status(group)))

    @app.delete("/v1/mirrors/{group}", status_code=204)
    async def remove_mirror(group: str) -> Response:
        await mirrors.remove(group)
        await pool.flush()
        return Response(status_code=204)
