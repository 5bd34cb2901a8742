"""Routes of the API: holds, deletion of many copies, differences."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control import views_schedules as v
from isochrone.control.answers import Body, answer, gives
from isochrone.control.census import Census
from isochrone.control.times import parse_instant
from isochrone.control.views import CopyView
from isochrone.errors import Conflict, InvalidInput
from isochrone.store import copies, differences, holds
from isochrone.store.differences import Page, Pair
from isochrone.store.pool import Pool
from isochrone.store.schedule import SECOND, parse_span
from isochrone.store.scheduler import PRUNED_AT_ONCE
from isochrone.types import BLOCK

AGE_S_MIN = 60  # a span typed with the wrong letter should not take everything


class NewHold(Body):
    until: str = Field(default="", description="2027-01-31, or with a time, in UTC or with a zone")
    span: str = Field(default="", alias="for", description="from now: 30d")
    pin: bool = Field(default=False, description="until it is unpinned")
    reason: str = ""


class Deletions(Body):
    names: list[str] = Field(default=[])
    older_than: str = Field(default="", description="30d; of all copies taken here")
    dry_run: bool = False


class Question(Body):
    before: str = Field(description="a copy, or a volume as it is now")
    after: str
    volume: str = Field(default="", description="empty: only which volumes can be compared")
    offset: int = 0
    limit: int = Field(default=differences.RANGES_MAX, ge=1, le=differences.RANGES_MAX)
    unit: int = Field(default=BLOCK, description="4096, or 65536: whole tracks")


def add_copies(app: FastAPI, pool: Pool, census: Census) -> None:
    @app.put("/v1/copies/{name}/hold", **gives(CopyView))
    async def hold_copy(name: str, body: NewHold) -> Response:
        copy = copies.find_copy(pool, name)
        if bool(body.until) + bool(body.span) + body.pin != 1:
            raise InvalidInput("a hold is until a date, or for a span", hint="--until or --for")
        if body.pin:
            holds.pin(pool, copy, body.reason)
        else:
            span = _span(body.span) if body.span else 0
            until = parse_instant(body.until) if body.until else pool.hold_clock.latest() + span
            holds.hold(pool, copy, until, body.reason)
        await pool.flush()
        return answer(census.copy(copy))

    @app.delete("/v1/copies/{name}/pin", **gives(CopyView))
    async def unpin_copy(name: str) -> Response:
        copy = holds.unpin(pool, copies.find_copy(pool, name))
        await pool.flush()
        return answer(census.copy(copy))

    @app.post("/v1/deletions", **gives(v.VerdictList))
    async def delete_copies(body: Deletions) -> Response:
        """Those named, all or none; or those that are old, except what must stay."""
        if bool(body.names) == bool(body.older_than):
            raise InvalidInput("which copies?", hint="name them, or give --older-than")
        verdicts = _named(pool, body.names) if body.names else _old(pool, body.older_than)
        if not body.dry_run:
            await _delete(pool, verdicts)
        return answer(v.VerdictList(dry_run=body.dry_run, verdicts=verdicts))

    @app.post("/v1/differences", **gives(v.DifferenceView))
    async def compare(body: Question) -> Response:
        """One page of what differs; without a volume a PairList: which can be compared."""
        pairs = differences.pairs(pool, body.before, body.after, body.volume)
        if not body.volume:
            return answer(v.PairList(volumes=[pair_view(pair) for pair in pairs]))
        (pair,) = pairs
        page = await differences.page(pool, pair, body.offset, limit=body.limit, unit=body.unit)
        return answer(difference_view(pair, page, unit=body.unit, offset=body.offset))


def _span(text: str) -> int:
    return parse_span(text) * SECOND


def _named(pool: Pool, names: list[str]) -> list[v.VerdictView]:
    """Raises `NotFound`, `Held` or `Conflict` if one of them cannot go: then none does."""
    found = [copies.find_copy(pool, name) for name in dict.fromkeys(names)]
    for copy in found:
        copies.check_deletable(pool, copy)
    return [
        v.VerdictView(copy=copy.name, schedule=copy.schedule, keep=False, why="named")
        for copy in found
    ]


def _old(pool: Pool, span: str) -> list[v.VerdictView]:
    """Copies that are this site's to delete and older, by a clock that does not jump ahead.

    Those that came with a mirror go with it, but after a takeover nobody else deletes them.
    """
    seconds = parse_span(span)
    if seconds < AGE_S_MIN:
        raise InvalidInput(f"{span} is no age: that would be nearly all copies")
    limit = pool.hold_clock.now() - seconds * SECOND
    verdicts = []
    for copy in sorted(pool.state.copies.values(), key=lambda copy: copy.lsn):
        group = pool.state.groups.get(copy.group)
        comes = bool(copy.group) and (group is None or group.role != "primary")
        if comes or copy.stamp >= limit:
            continue
        why = copies.why_not_deletable(pool, copy)
        verdicts.append(
            v.VerdictView(
                copy=copy.name,
                schedule=copy.schedule,
                keep=bool(why),
                why=why or f"older than {span}",
            )
        )
    return verdicts


async def _delete(pool: Pool, verdicts: list[v.VerdictView]) -> None:
    done = 0
    for verdict in verdicts:
        if verdict.keep:
            continue
        if done and done % PRUNED_AT_ONCE == 0:
            await pool.world.clock.sleep(0)
        done += 1
        if verdict.copy not in pool.state.copies:  # somebody else was quicker
            verdict.why = "was deleted meanwhile"
            continue
        try:
            copies.delete(pool, verdict.copy)
        except Conflict as e:
            verdict.keep, verdict.why = True, e.message
    await pool.flush()


def pair_view(pair: Pair) -> v.PairView:
    return v.PairView(
        volume=pair.name,
        before=pair.before.name,
        after=pair.after.name,
        before_size=pair.before.size,
        after_size=pair.after.size,
    )


def difference_view(pair: Pair, page: Page, *, unit: int, offset: int) -> v.DifferenceView:
    return v.DifferenceView(
        **msgspec.structs.asdict(pair_view(pair)),
        unit=unit,
        offset=offset,
        end=page.end,
        complete=page.end >= pair.size,
        changed=page.changed,
        ranges=page.ranges,
    )
