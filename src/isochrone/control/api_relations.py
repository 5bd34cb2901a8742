"""Routes of the API: relations, and reverting volumes in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control import views_relations as v
from isochrone.control.answers import Body, answer, gives
from isochrone.control.census import Census
from isochrone.control.times import rfc3339
from isochrone.control.views import CopyView
from isochrone.store import relations, revert
from isochrone.store.catalogue import Relation
from isochrone.store.overwrite import Permission
from isochrone.store.pool import Pool
from isochrone.store.relations import Span, Wish
from isochrone.types import BLOCK


class Agreed(Body):
    online_ok: bool = Field(default=False, description="hosts may have the target open")
    force_overlay: bool = Field(default=False, description="even under hosts that have it open")
    mirror: Literal["", "none"] = Field(
        default="", description="none: secondaries get the new content as data"
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
    pairs: list[PairWish]
    once: bool = Field(default=False, description="only copy; no relation stays on record")
    inhibit: bool = Field(default=False, description="hosts may not write the targets")


class Chosen(Agreed):
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


def add_relations(app: FastAPI, pool: Pool, census: Census) -> None:
    async def changed(found: Sequence[Relation], status: int = 200) -> Response:
        await pool.flush()
        return await views(found, status)

    async def views(found: Sequence[Relation], status: int = 200) -> Response:
        """Those that are still there."""
        listed = []
        for id in [relation.id for relation in found]:
            if id in pool.state.relations:
                listed.append(relation_view(pool, pool.state.relations[id]))
                await pool.world.clock.sleep(0)
        return answer(v.RelationList(relations=listed), status)

    @app.get("/v1/relations", **gives(v.RelationList))
    async def list_relations() -> Response:
        return await views(list(pool.state.relations.values()))

    @app.post("/v1/relations", **gives(v.RelationList, 201))
    async def establish(body: NewRelations) -> Response:
        wishes = [pair.wish() for pair in body.pairs]
        made = relations.establish(
            pool, wishes, once=body.once, inhibit=body.inhibit, permission=body.permission()
        )
        return await changed(made, 201)

    @app.get("/v1/relations/{number}", **gives(v.RelationView))
    async def show_relation(number: int) -> Response:
        return answer(relation_view(pool, relations.find_relation(pool, number)))

    @app.post("/v1/relations/refresh", **gives(v.RelationList))
    async def refresh(body: Chosen) -> Response:
        found = body.find(pool)
        relations.refresh(pool, found, body.permission())
        return await changed(found)

    @app.post("/v1/relations/restore", **gives(v.RelationList))
    async def restore(body: Chosen) -> Response:
        found = body.find(pool)
        relations.restore(pool, found, body.permission())
        return await changed(found)

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
        return await changed(found)

    @app.post("/v1/copies/{name}/revert", **gives(CopyView))
    async def revert_copy(name: str, body: Reversion) -> Response:
        """The copy of what the volumes were before."""
        undo = revert.revert(
            pool, name, body.volumes, undo_name=body.undo, permission=body.permission()
        )
        view = census.copy(undo)
        await pool.flush()
        return answer(view)


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
        tracks=relations.tracks(relation),
        tracks_differing=differing,
        counted=counted,
    )
