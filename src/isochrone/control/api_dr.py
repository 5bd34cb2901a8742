"""Routes about failing over, planned switches and coming back."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control.answers import Body, answer, gives
from isochrone.control.views import PromoteView, promote_view
from isochrone.control.views_dr import (
    LossView,
    RejoinView,
    SwitchView,
    loss_view,
    rejoin_view,
    switch_view,
)
from isochrone.control.views_mirror import GroupView, group_view
from isochrone.dr import failback, failover, switch
from isochrone.mirror.service import Mirrors
from isochrone.store.pool import Pool

SWITCH_S: Final = 60.0  # default: what a group of some load needs to catch up with its primary
SWITCH_S_MAX: Final = 3600.0  # hosts cannot write meanwhile

DR_ANSWERS: Final = (LossView, SwitchView, RejoinView)


class Promotion(Body):
    force: bool = Field(default=False, description="even if the primary is alive and connected")


class SwitchWish(Body):
    address: str = Field(
        default="", description="where the old primary can follow this site; empty: its link"
    )
    force: bool = Field(default=False, description="even under hosts that have volumes open")
    timeout: float = Field(default=SWITCH_S, gt=0, le=SWITCH_S_MAX, strict=False)


class Return(Body):
    source: str = Field(default="", description="link of the new primary; empty: as it said")
    dry_run: bool = False
    force: bool = Field(default=False, description="even if this site is a primary itself")


def add_dr(app: FastAPI, pool: Pool, mirrors: Mirrors) -> None:
    @app.get("/v1/groups/{name}/loss", **gives(LossView))
    async def state_loss(name: str) -> Response:
        """What a promotion would bring back and give up now; nothing is changed."""
        return answer(loss_view(failover.state_loss(pool, mirrors, name)))

    @app.post("/v1/groups/{name}/promote", **gives(PromoteView))
    async def promote_group(name: str, body: Promotion | None = None) -> Response:
        force = body.force if body is not None else False
        return answer(promote_view(await failover.promote(pool, mirrors, name, force=force)))

    @app.post("/v1/groups/{name}/switch", **gives(SwitchView))
    async def switch_group(name: str, body: SwitchWish) -> Response:
        """Run at the site that is to take over; asked again, it goes on where it broke off."""
        report = await switch.switch(
            pool,
            mirrors,
            name,
            address=body.address or mirrors.address,
            force=body.force,
            timeout=body.timeout,
        )
        return answer(switch_view(report))

    @app.post("/v1/groups/{name}/switch/cancel", **gives(GroupView))
    async def cancel_switch(name: str) -> Response:
        """At the primary: let hosts write again, unless the other site may have begun."""
        switch.cancel(pool, name)
        await pool.flush()
        return answer(group_view(mirrors.status(name)))

    @app.post("/v1/groups/{name}/rejoin", **gives(RejoinView))
    async def rejoin_group(name: str, body: Return) -> Response:
        report = await failback.rejoin(
            pool, mirrors, name, source=body.source, dry_run=body.dry_run, force=body.force
        )
        return answer(rejoin_view(report))
