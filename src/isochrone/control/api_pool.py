"""Routes about a pool as a whole: its capacity, and its scrub."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control.answers import Body, answer, gives
from isochrone.control.times import rfc3339
from isochrone.control.views_pool import (
    FindingView,
    PinView,
    PoolView,
    ScrubView,
    ShareView,
)
from isochrone.store.check import Finding
from isochrone.store.gauge import Capacity, Gauge
from isochrone.store.scrub import Progress, Scrub
from isochrone.types import BLOCK
from isochrone.world.work import Work

FOLLOW_S_MAX: Final = 60.0  # asked again and again by who follows a scrub

POOL_ANSWERS: Final = (PoolView, ShareView, PinView, ScrubView, FindingView)


class StartScrub(Body):
    rate: int = Field(default=0, description="bytes a second, at most; 0: as before")


class Follow(Body):
    timeout: float = Field(gt=0, le=FOLLOW_S_MAX, strict=False, description="seconds")


def add_pool(app: FastAPI, gauge: Gauge, scrub: Scrub, work: Work) -> None:
    @app.get("/v1/pool", **gives(PoolView))
    async def show_pool() -> Response:
        capacity, progress = await gauge.read(), scrub_view(scrub, findings=False)
        # With ten thousand copies it is 750 KB of JSON: 6 ms in which no request would be served.
        return await work.run(lambda: answer(pool_view(capacity, progress)))

    @app.get("/v1/scrub", **gives(ScrubView))
    async def show_scrub() -> Response:
        return answer(scrub_view(scrub))

    @app.post("/v1/scrub", **gives(ScrubView))
    async def start_scrub(body: StartScrub) -> Response:
        scrub.start(body.rate)
        return answer(scrub_view(scrub))

    @app.post("/v1/scrub/follow", **gives(ScrubView))
    async def follow_scrub(body: Follow) -> Response:
        await scrub.ended(body.timeout)
        return answer(scrub_view(scrub))

    @app.post("/v1/scrub/pause", **gives(ScrubView))
    async def pause_scrub() -> Response:
        await scrub.pause()
        return answer(scrub_view(scrub))

    @app.delete("/v1/scrub", **gives(ScrubView))
    async def stop_scrub() -> Response:
        await scrub.stop()
        return answer(scrub_view(scrub))


# -- documents


def pool_view(capacity: Capacity, scrub: ScrubView) -> PoolView:
    shares = [
        ShareView(
            kind=share.holder.kind,
            name=share.holder.name,
            provisioned=share.provisioned,
            mapped=share.mapped,
            own=share.own,
        )
        for share in capacity.shares
    ]
    total = capacity.appended + capacity.saved
    return PoolView(
        time=rfc3339(capacity.stamp),
        provisioned=sum(s.provisioned for s in shares if s.kind == "volume"),
        mapped=sum(s.mapped for s in shares),
        living=capacity.living,
        shared=capacity.shared,
        own=capacity.own,
        used=capacity.used,
        log=capacity.log,
        spares=capacity.spares,
        spare_segments=capacity.spare_segments,
        metadata=capacity.metadata,
        garbage=capacity.garbage,
        reclaimable=capacity.reclaimable,
        pins=[PinView(kind=p.kind, what=p.what, bytes=p.bytes) for p in capacity.pins],
        free=capacity.free,
        reserve=capacity.reserve,
        written=capacity.written,
        moved=capacity.moved,
        appended=capacity.appended,
        saved=capacity.saved,
        amplification=round(total / capacity.written, 3) if capacity.written else 0.0,
        shares=shares,
        scrub=scrub,
    )


def scrub_view(scrub: Scrub, *, findings: bool = True) -> ScrubView:
    """As it is now; without the findings where only their number is wanted."""
    progress = scrub.progress
    return ScrubView(
        state=progress.state,
        reason=progress.reason,
        rate=progress.rate,
        started_time=rfc3339(progress.started),
        ended_time=rfc3339(progress.ended),
        living=max(progress.living, progress.blocks) * BLOCK,
        verified=progress.blocks * BLOCK,
        bytes_read=progress.bytes_read,
        segments=progress.segments,
        nodes=progress.nodes,
        dismissed=progress.dismissed,
        damaged=progress.damaged,
        damaged_bytes=progress.damaged_bytes,
        findings=[_finding(f) for f in progress.findings] if findings else [],
        completed=progress.completed,
        completed_time=rfc3339(progress.completed),
        completed_age=_age(progress, scrub.now()),
        completed_damaged=progress.completed_damaged,
    )


def _finding(finding: Finding) -> FindingView:
    return FindingView(
        cause=finding.cause,
        exports=finding.exports,
        offset=finding.offset,
        bytes=finding.bytes,
        segment=finding.segment,
    )


def _age(progress: Progress, now: int) -> float:
    return max(0.0, (now - progress.completed) / 1e9) if progress.completed else -1.0
