"""Routes of the API: relations, and reverting volumes in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control import views_relations as v
from isochrone.control.answers import Body, answer, gives
from isochrone.control.api_matched import Negotiated, step_views
from isochrone.control.census import Census
from isochrone.control.times import rfc3339
from isochrone.control.views import CopyView
from isochrone.control.views_matched import CheckView
from isochrone.mirror.asking import Asking
from isochrone.mirror.negotiation import ANSWER_S, Outcome
from isochrone.store import relations, revert
from isochrone.store.catalogue import Relation
from isochrone.store.mirrored import content_only
from isochrone.store.overwrite import Permission
from isochrone.store.pool import Pool
from isochrone.store.relations import Span, Wish
from isochrone.types import BLOCK


class Agreed(Body):
    online_ok: bool = Field(default=False, description="hosts may have the target open")
    force_overlay: bool = Field(default=False, description="even under hosts that have it open")
    mirror: Literal["", "required", "preferred", "none"] = Field(
        default="",
        description="required: secondaries are asked first, and a no refuses; preferred: they are"
        " asked, and it is done in any case; none: from outside of the group, it goes as data;"
        " empty: the same, but from outside it is refused",
    )

    def permission(self) -> Permission:
        return Permission(online_ok=self.online_ok, force=self.force_overlay, mirror=self.mirror)


class ExtentWish(Body):
    source_offset: int
    target_offset: int
    length: int


class PairWish(Body):
    source: str
    target: str
    extents: list[ExtentWish] = Field(default=[], description="empty: the whole source")

    def wish(self) -> Wish:
        spans = (Span(x.source_offset, x.target_offset, x.length) for x in self.extents)
        return Wish(self.source, self.target, tuple(spans))


class NewRelations(Agreed):
    timeout: float = Field(default=ANSWER_S, description="seconds for secondaries to answer")
    pairs: list[PairWish]
    once: bool = Field(default=False, description="only copy; no relation stays on record")
    inhibit: bool = Field(default=False, description="hosts may not write the targets")


class Chosen(Agreed):
    timeout: float = Field(default=ANSWER_S, description="seconds for secondaries to answer")
    relations: list[int] = Field(default=[])
    source: str = ""
    target: str = ""

    def find(self, pool: Pool) -> list[Relation]:
        return relations.select(pool, self.relations, source=self.source, target=self.target)


class RangeWish(Body):
    offset: int
    length: int


class Withdrawal(Chosen):
    discard: bool = Field(description="empty the tracks that no host has written since")
    extents: list[RangeWish] = Field(default=[], description="of the target; empty: all")


class Reversion(Agreed):
    volumes: list[str] = Field(default=[], description="empty: all of the copy")
    undo: str = Field(default="", description="name of the copy of what they were before")


class _Answers:
    """What the routes of relations give."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def changed(
        self, found: Sequence[Relation], status: int = 200, outcome: Outcome | None = None
    ) -> Response:
        await self._pool.flush()
        return await self.views(found, status, outcome)

    async def views(
        self, found: Sequence[Relation], status: int = 200, outcome: Outcome | None = None
    ) -> Response:
        """Those that are still there."""
        pool, listed = self._pool, []
        for id in [relation.id for relation in found]:
            if id in pool.state.relations:
                listed.append(relation_view(pool, pool.state.relations[id]))
                await pool.world.clock.sleep(0)
        if outcome is None:
            return answer(v.RelationList(relations=listed), status)
        steps = step_views(outcome)
        return answer(v.RelationList(relations=listed, way=outcome.way, steps=steps), status)


def add_relations(app: FastAPI, pool: Pool, census: Census, asking: Asking) -> None:
    negotiated, answers = Negotiated(pool, asking), _Answers(pool)
    _add_changes(app, pool, census, negotiated, answers)

    @app.get("/v1/relations", **gives(v.RelationList))
    async def list_relations() -> Response:
        return await answers.views(list(pool.state.relations.values()))

    @app.post("/v1/relations", **gives(v.RelationList, 201))
    async def establish(body: NewRelations) -> Response:
        made, outcome = await negotiated.do(
            _establishing(pool, body),
            body.permission(),
            relations=0 if body.once else len(body.pairs),
            seconds=body.timeout,
        )
        return await answers.changed(made, 201, outcome)

    @app.post("/v1/relations/check", **gives(CheckView))
    async def check(body: NewRelations) -> Response:
        """Whether it could be established, and how it would reach the secondaries."""
        view = await negotiated.check(
            _establishing(pool, body),
            body.permission(),
            relations=0 if body.once else len(body.pairs),
            seconds=body.timeout,
        )
        return answer(view)

    @app.get("/v1/relations/{number}", **gives(v.RelationView))
    async def show_relation(number: int) -> Response:
        return answer(relation_view(pool, relations.find_relation(pool, number)))


def _add_changes(
    app: FastAPI, pool: Pool, census: Census, negotiated: Negotiated, answers: _Answers
) -> None:
    """Routes for relations that are on record."""

    async def again(
        body: Chosen, copy: Callable[[Pool, Sequence[Relation], Permission], None]
    ) -> Response:
        found = body.find(pool)
        _, outcome = await negotiated.do(
            lambda agreed: copy(pool, _still(pool, found), agreed),
            body.permission(),
            seconds=body.timeout,
        )
        return await answers.changed(found, outcome=outcome)

    @app.post("/v1/relations/refresh", **gives(v.RelationList))
    async def refresh(body: Chosen) -> Response:
        return await again(body, relations.refresh)

    @app.post("/v1/relations/restore", **gives(v.RelationList))
    async def restore(body: Chosen) -> Response:
        return await again(body, relations.restore)

    @app.post("/v1/relations/withdraw", **gives(v.RelationList))
    async def withdraw(body: Withdrawal) -> Response:
        """What is left of them."""
        found = body.find(pool)
        relations.withdraw(
            pool,
            found,
            discard=body.discard,
            ranges=[(x.offset, x.length) for x in body.extents],
            permission=body.permission(),
        )
        return await answers.changed(found)

    @app.post("/v1/copies/{name}/revert", **gives(CopyView))
    async def revert_copy(name: str, body: Reversion) -> Response:
        """The copy of what the volumes were before."""
        undo = revert.revert(
            pool, name, body.volumes, undo_name=body.undo, permission=body.permission()
        )
        view = census.copy(undo)
        await pool.flush()
        return answer(view)


def _establishing(pool: Pool, body: NewRelations) -> Callable[[Permission], list[Relation]]:
    wishes = [pair.wish() for pair in body.pairs]
    return lambda agreed: relations.establish(
        pool, wishes, once=body.once, inhibit=body.inhibit, permission=agreed
    )


def _still(pool: Pool, found: Sequence[Relation]) -> list[Relation]:
    """The same relations; somebody may have withdrawn one while a secondary was asked."""
    return [relations.find_relation(pool, relation.id) for relation in found]


def relation_view(pool: Pool, relation: Relation) -> v.RelationView:
    volumes = pool.state.volumes
    differing, counted = relations.difference(pool, relation)
    return v.RelationView(
        relation=relation.id,
        source=volumes[relation.source].name,
        target=volumes[relation.target].name,
        extents=[
            v.ExtentView(
                source_offset=first * BLOCK, target_offset=at * BLOCK, length=count * BLOCK
            )
            for first, at, count in relation.extents
        ],
        size=relation.blocks * BLOCK,
        stamp=relation.stamp,
        time=rfc3339(relation.stamp),
        generation=relation.generation,
        inhibit=relation.inhibit,
        group=relation.group,
        origin=relation.origin,
        content_only=content_only(pool.state, relation),
        tracks=relations.tracks(relation),
        tracks_differing=differing,
        counted=counted,
    )
