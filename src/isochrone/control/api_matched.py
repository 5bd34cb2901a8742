"""Routes of the API: copies at several sites, and the chain of questions before a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control import views_matched as v
from isochrone.control.answers import Body, answer, gives
from isochrone.control.times import rfc3339
from isochrone.errors import InvalidInput
from isochrone.mirror.asking import Asking
from isochrone.mirror.negotiation import ANSWER_S, ANSWER_S_MAX, Negotiation, Outcome
from isochrone.mirror.query import Way
from isochrone.mirror.requests import REQUEST_S
from isochrone.store.catalogue import Group
from isochrone.store.overwrite import Permission
from isochrone.store.pool import Pool
from isochrone.store.promises import CopyRequest
from isochrone.store.volumes import find

T = TypeVar("T")

WAIT_S_MAX = 3600.0  # of one call; who wants to wait longer asks again


class NewRequest(Body):
    group: str = Field(default="", description="empty: the one that the volumes are of")
    volumes: list[str] = Field(default=[], description="of the group; empty: all")
    at: list[str] = Field(default=[], description="names or identities of secondaries; empty: all")
    request: str = Field(default="", description="with the same one it is not done twice")
    name: str = Field(default="", description="of the copy; empty: named after the time")
    writable: bool = False
    timeout: float = Field(default=REQUEST_S, description="seconds; then it is given up")
    wait_duplex: bool = Field(default=False, description="take it once the mirror is DUPLEX")
    keep_late: bool = Field(default=False, description="what comes after the timeout may stay")


class NewQuestion(Body):
    group: str = Field(default="", description="empty: the one that the volumes are of")
    volumes: list[str] = Field(default=[], description="of the group; empty: all")
    at: list[str] = Field(default=[], description="names or identities of secondaries; empty: all")
    timeout: float = Field(
        default=ANSWER_S, gt=0, le=ANSWER_S_MAX, description="seconds for the answers"
    )


class Patience(Body):
    timeout: float = Field(gt=0, le=WAIT_S_MAX, description="seconds")


def add_requests(app: FastAPI, pool: Pool, asking: Asking) -> None:
    requests = asking.requests

    @app.post("/v1/requests", **gives(v.RequestView, 201))
    async def ask_for_copy(body: NewRequest) -> Response:
        group = body.group or _group_of(pool, body.volumes)
        try:
            made = requests.request(
                group,
                body.volumes,
                at=body.at,
                id=body.request,
                name=body.name,
                writable=body.writable,
                seconds=body.timeout,
                wait_duplex=body.wait_duplex,
                keep_late=body.keep_late,
            )
        finally:
            await pool.flush()  # a refusal is on record as well
        return answer(request_view(pool, pool.state.groups[group], made), 201)

    @app.post("/v1/requests/check", **gives(v.CheckView))
    async def check_copy(body: NewQuestion) -> Response:
        """Asks all the sites whether they could have such a copy now; nothing is taken."""
        group = body.group or _group_of(pool, body.volumes)
        steps = await asking.ask_for_copy(group, body.volumes, body.at, seconds=body.timeout)
        outcome = Outcome(tuple(steps), Way.COMMAND)
        return answer(
            v.CheckView(
                ok=all(step.ok for step in steps), way=outcome.way, steps=step_views(outcome)
            )
        )

    @app.delete("/v1/requests/{id}", **gives(v.RequestView))
    async def cancel_request(id: str) -> Response:
        """Gives it up where it is not done; what still comes there goes again."""
        requests.cancel(id)
        await pool.flush()
        return answer(request_view(pool, *requests.find(id)))

    @app.get("/v1/requests", **gives(v.RequestList))
    async def list_requests() -> Response:
        views = [request_view(pool, group, request) for group, request in requests.listed()]
        return answer(v.RequestList(requests=views))

    @app.get("/v1/requests/{id}", **gives(v.RequestView))
    async def show_request(id: str) -> Response:
        return answer(request_view(pool, *requests.find(id)))

    @app.post("/v1/requests/{id}/wait", **gives(v.RequestView))
    async def wait_for_request(id: str, body: Patience) -> Response:
        """Answers once all sites are done; an error says which never will be, or are not yet."""
        await requests.wait(id, body.timeout)
        return answer(request_view(pool, *requests.find(id)))


def _group_of(pool: Pool, volumes: list[str]) -> str:
    groups = {find(pool, name).group for name in volumes}
    if len(groups) != 1 or "" in groups:
        raise InvalidInput("a copy at several sites is of the volumes of one mirrored group")
    return groups.pop()


def request_view(pool: Pool, group: Group, request: CopyRequest) -> v.RequestView:
    volumes = pool.state.volumes
    name = request.name
    if request.inherited:  # where this site has one too, it may have another name here
        own = request.site(pool.identity)
        name = (own.copy if own is not None else "") or name
    copy = pool.state.copies.get(name)
    if copy is not None and copy.stamp != request.taken:
        copy = None  # the name was used again
    return v.RequestView(
        request=request.id,
        group=group.name,
        copy=name if request.lsn else "",
        consistency=copy.consistency if copy is not None and request.lsn else "crash",
        inherited=request.inherited,
        volumes=[volumes[id].name for id in request.volumes if id in volumes],
        stamp=request.taken,
        time=rfc3339(request.taken) if request.taken else "",
        done=all(site.state == "DONE" for site in request.sites),
        sites=[
            v.RequestSiteView(
                peer=x.peer,
                site=_site_name(pool, group, x.peer),
                state=x.state,
                detail=x.detail,
                copy=x.copy,
                withdraw=x.withdraw,
            )
            for x in request.sites
        ],
    )


def _site_name(pool: Pool, group: Group, peer: str) -> str:
    if peer == pool.identity:
        return "here"
    return group.sessions[peer].site if peer in group.sessions else ""


class Negotiated:
    """Carries out commands that change volumes at once as their mirror policy says."""

    def __init__(self, pool: Pool, asking: Asking) -> None:
        self._pool = pool
        self._asking = asking

    async def do(
        self,
        act: Callable[[Permission], T],
        permission: Permission,
        *,
        relations: int = 0,
        seconds: float,
    ) -> tuple[T, Outcome]:
        """What the act gave, and how it reached the secondaries."""
        results: list[T] = []
        outcome = await Negotiation(
            self._pool,
            self._asking,
            lambda agreed: results.append(act(agreed)),
            permission,
            relations=relations,
            seconds=seconds,
        ).run()
        return results[-1], outcome

    async def check(
        self,
        act: Callable[[Permission], object],
        permission: Permission,
        *,
        relations: int = 0,
        seconds: float,
    ) -> v.CheckView:
        outcome = await Negotiation(
            self._pool, self._asking, act, permission, relations=relations, seconds=seconds
        ).check()
        return v.CheckView(
            ok=all(step.ok for step in outcome.steps),
            way=outcome.way,
            steps=step_views(outcome),
        )


def step_views(outcome: Outcome) -> list[v.StepView]:
    return [
        v.StepView(
            stage=step.stage,
            question=step.question,
            ok=step.ok,
            reason=step.reason,
            site=step.site,
            detail=step.detail,
        )
        for step in outcome.steps
    ]
