"""Routes about comparing a group with its primary, and healing damage from the other site."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control.answers import Body, answer, gives
from isochrone.control.times import rfc3339
from isochrone.control.views_verify import OutcomeView, PassView, RepairView, VerifyView
from isochrone.mirror.comparison import Progress, Result
from isochrone.mirror.groups import find_group
from isochrone.mirror.repair import Outcome, Repairs
from isochrone.mirror.service import Mirrors
from isochrone.store.pool import Pool
from isochrone.store.schedule import parse_span
from isochrone.store.scrub import Scrub
from isochrone.types import BLOCK

FOLLOW_S_MAX: Final = 60.0  # asked again and again by who follows a comparison, or a repair


class StartVerify(Body):
    read: bool = Field(default=False, description="read the data at both sites, too")
    repair: bool = Field(default=False, description="have the primary send again what differs")
    rate: int = Field(default=0, ge=0, description="bytes a second; 0: no limit")
    every: str = Field(default="", description="7d: only say how often; 0s: never by itself")


class Follow(Body):
    timeout: float = Field(gt=0, le=FOLLOW_S_MAX, strict=False, description="seconds")


def add_verify(app: FastAPI, pool: Pool, mirrors: Mirrors, scrub: Scrub) -> None:
    verifier = mirrors.verifier

    @app.get("/v1/mirrors/{group}/verify", **gives(VerifyView))
    async def show_verify(group: str) -> Response:
        return answer(verify_view(verifier.progress(group), now()))

    @app.post("/v1/mirrors/{group}/verify", **gives(VerifyView))
    async def start_verify(group: str, body: StartVerify) -> Response:
        options = {"read": body.read, "repair": body.repair, "rate": body.rate}
        if body.every:
            seconds = parse_span(body.every) if body.every.rstrip("s") != "0" else 0
            progress = await verifier.schedule(group, float(seconds), **options)  # type: ignore[arg-type]
        else:
            progress = await verifier.start(group, **options)  # type: ignore[arg-type]
        return answer(verify_view(progress, now()))

    @app.post("/v1/mirrors/{group}/verify/follow", **gives(VerifyView))
    async def follow_verify(group: str, body: Follow) -> Response:
        await verifier.ended(group, body.timeout)
        return answer(verify_view(verifier.progress(group), now()))

    @app.delete("/v1/mirrors/{group}/verify", **gives(VerifyView))
    async def stop_verify(group: str) -> Response:
        return answer(verify_view(await verifier.stop(group), now()))

    @app.get("/v1/mirrors/{group}/repair", **gives(RepairView))
    async def show_repair(group: str) -> Response:
        find_group(pool, group)
        return answer(repair_view(mirrors.repairs))

    @app.post("/v1/mirrors/{group}/repair", **gives(RepairView))
    async def start_repair(group: str, body: Follow) -> Response:
        find_group(pool, group)
        remind(pool, mirrors, group, scrub)
        await mirrors.repairs.settled(body.timeout)
        return answer(repair_view(mirrors.repairs))

    def now() -> int:
        return pool.world.clock.wall_ns()


def remind(pool: Pool, mirrors: Mirrors, group: str, scrub: Scrub) -> None:
    """Leave all damage that is on record with the repairs, also what an earlier life found."""
    places = [
        (name, finding.offset, finding.bytes)
        for finding in scrub.progress.findings
        for name in finding.exports
    ]
    found = mirrors.verifier.progress(group).findings
    places += [(f.volume, f.offset, f.bytes) for f in found if f.kind == "damaged here"]
    for name, offset, size in places:
        if (id := pool.state.names.get(name)) is not None:
            mirrors.repairs.notice(id, offset // BLOCK, size // BLOCK)
    mirrors.repairs.retry()


# -- documents


def verify_view(progress: Progress, now: int) -> VerifyView:
    findings = progress.findings
    return VerifyView(
        group=progress.group,
        state=progress.state,
        reason=progress.reason,
        every=progress.every,
        read=progress.read,
        repair=progress.repair,
        rate=progress.rate,
        started_time=rfc3339(progress.started),
        total=progress.total,
        bytes=progress.bytes,
        bytes_read=progress.bytes_read,
        unstable_bytes=progress.unstable_bytes,
        found=progress.found,
        unhealed=progress.found - sum(f.healed for f in findings),
        findings=findings,
        last_verified=_pass(progress.last, now),
        last_read=_pass(progress.last_read, now),
        history=[v for result in progress.history if (v := _pass(result, now)) is not None],
    )


def _pass(result: Result | None, now: int) -> PassView | None:
    if result is None:
        return None
    age = max(0.0, round((now - result.stamp) / 1e9, 1))
    return PassView(**msgspec.structs.asdict(result), time=rfc3339(result.stamp), age=age)


def repair_view(repairs: Repairs) -> RepairView:
    return RepairView(
        waiting=repairs.waiting,
        healed=repairs.healed,
        unhealed=[_outcome(o) for o in repairs.unhealed],
        outcomes=[_outcome(o) for o in repairs.outcomes],
    )


def _outcome(outcome: Outcome) -> OutcomeView:
    return OutcomeView(**msgspec.structs.asdict(outcome), time=rfc3339(outcome.stamp))
