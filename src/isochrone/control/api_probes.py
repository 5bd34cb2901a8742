"""Routes about restore probes: beginning one, saying how it ended, and what is on record."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import quote

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control.answers import Body, answer, gives
from isochrone.control.api_points import find_point
from isochrone.control.sockets import NBD_SOCKET, socket_path
from isochrone.control.times import rfc3339
from isochrone.control.views_probes import ProbeList, ProbeView
from isochrone.mirror.probing import Prober, newest_point
from isochrone.store.points import SECOND
from isochrone.store.pool import Pool
from isochrone.store.probes import Probe

SECONDS: Final = 600.0


class NewProbe(Body):
    check: str = Field(description="the command that will be run, for the record")
    as_of: str = Field(default="", description="as for opening a point; empty: the newest")
    seconds: float = Field(default=SECONDS, strict=False, description="it may take so long")


class ProbeEnd(Body):
    copy_: str = Field(default="", alias="copy", description="empty: whichever runs")
    good: bool
    said: str = ""


def add_probes(app: FastAPI, pool: Pool, prober: Prober, directory: Path) -> None:
    @app.get("/v1/groups/{name}/probes", **gives(ProbeList))
    async def list_probes(name: str) -> Response:
        known = prober.probes(name)
        views = [view(name, probe) for probe in known.probes]
        return answer(ProbeList(group=name, age=prober.age(name), probes=views))

    @app.post("/v1/groups/{name}/probes", **gives(ProbeView, 201))
    async def begin_probe(name: str, body: NewProbe) -> Response:
        """Fork the group at a point. The check is run by whoever asks, who then says `end`."""
        point = find_point(pool, name, body.as_of) if body.as_of else newest_point(pool, name)
        return answer(view(name, await prober.begin(name, point, body.check, body.seconds)), 201)

    @app.post("/v1/groups/{name}/probes/end", **gives(ProbeView))
    async def end_probe(name: str, body: ProbeEnd) -> Response:
        """Delete its copy, also under who has it open, and keep the result."""
        probe = await prober.end(name, body.copy_, good=body.good, said=body.said)
        return answer(view(name, probe))

    def view(name: str, probe: Probe) -> ProbeView:
        until = probe.ended or pool.world.clock.wall_ns()
        return ProbeView(
            group=name,
            copy=probe.copy,
            cut=probe.cut,
            stamp=probe.stamp,
            time=rfc3339(probe.stamp),
            check=probe.check,
            began=rfc3339(probe.began),
            seconds=max(0.0, (until - probe.began) / SECOND),
            deadline=probe.seconds,
            result=probe.result,
            said=probe.said,
            ended=rfc3339(probe.ended),
            uris={} if probe.result else uris(pool, probe, directory),
        )


def uris(pool: Pool, probe: Probe, directory: Path) -> dict[str, str]:
    """Volume -> NBD URI of what it is in the copy of a probe, on the controller's own machine."""
    copy = pool.state.copies.get(probe.copy)
    socket = quote(str(socket_path(directory, NBD_SOCKET)), safe="/")
    found = {}
    for _, member in copy.members if copy is not None else ():
        export = pool.state.volumes[member].name
        volume = export.removesuffix(f"@{probe.copy}")
        found[volume] = f"nbd+unix:///{quote(export, safe='')}?socket={socket}"
    return found
