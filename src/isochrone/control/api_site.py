"""Routes of the API: this site's name and certificate, enrolled sites, limits of links."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control import views_site as v
from isochrone.control.answers import Body, answer, gives
from isochrone.control.site import LocalSite


class NewSite(Body):
    name: str


class NewInvitation(Body):
    role: str = "takeover"
    seconds: int = Field(default=3600, description="how long the token can be used")
    address: str = Field(default="", description="HOST:PORT where the other site finds our link")


class JoinSite(Body):
    token: str
    role: str = Field(default="takeover", description="what the other site may do here")
    address: str = Field(default="", description="HOST:PORT where it finds our link")


class NewRenewal(Body):
    without: bool = Field(default=False, description="even if some sites could not be told")


class NewLimit(Body):
    rules: str = Field(description="08:00-18:00 mon-fri 20MiB/s, else unlimited; empty: none")


def add_site(app: FastAPI, site: LocalSite) -> None:
    @app.get("/v1/site", **gives(v.IdentityView))
    async def show_site() -> Response:
        return answer(site.view())

    @app.post("/v1/site", **gives(v.IdentityView, 201))
    async def init_site(body: NewSite) -> Response:
        site.init(body.name)
        return answer(site.view(), 201)

    @app.post("/v1/site/invitations", **gives(v.TokenView, 201))
    async def invite_site(body: NewInvitation) -> Response:
        return answer(site.invite(body.role, body.seconds, body.address), 201)

    @app.post("/v1/site/renewal", **gives(v.RenewalView))
    async def renew_site(body: NewRenewal) -> Response:
        """A new key, told to all others before it is shown; asked again it goes on."""
        return answer(await site.renew(without=body.without))

    @app.get("/v1/sites", **gives(v.PeerList))
    async def list_sites() -> Response:
        return answer(v.PeerList(sites=site.peer_views()))

    @app.post("/v1/sites", **gives(v.PeerView, 201))
    async def join_site(body: JoinSite) -> Response:
        return answer(await site.join(body.token, body.role, body.address), 201)

    @app.delete("/v1/sites/{name}", status_code=204)
    async def revoke_site(name: str) -> Response:
        site.peers.revoke(name)
        return Response(status_code=204)

    @app.put("/v1/site/limits/{name}", **gives(v.LimitView))
    async def set_limit(name: str, body: NewLimit) -> Response:
        return answer(site.limit(name, body.rules))
