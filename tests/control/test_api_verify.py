"""Routes of comparisons and repairs, as far as one site alone can be asked."""

from __future__ import annotations

import httpx2

from isochrone.control.api_verify import Follow, StartVerify
from isochrone.mirror import groups
from isochrone.store import volumes
from isochrone.store.pool import Pool
from isochrone.types import MIB


async def test_what_a_primary_answers(http: httpx2.AsyncClient, pool: Pool) -> None:
    assert (await http.get("/v1/mirrors/g/verify")).status_code == 404
    volumes.create(pool, "db", MIB)
    groups.create(pool, "g", ["db"])
    shown = (await http.get("/v1/mirrors/g/verify")).json()
    assert (shown["state"], shown["last_verified"], shown["findings"]) == ("never", None, [])
    refused = await http.post("/v1/mirrors/g/verify", json=StartVerify().model_dump())
    assert refused.status_code == 409
    assert "at the secondary" in refused.json()["hint"]
    assert (await http.delete("/v1/mirrors/g/verify")).status_code == 409
    for body in ({"every": "often"}, {"rate": -1}, {"sooner": True}, {"every": "1s"}):
        assert (await http.post("/v1/mirrors/g/verify", json=body)).status_code in (409, 422)
    assert (await http.post("/v1/mirrors/g/verify/follow", json={"timeout": 0})).status_code == 422
    body = Follow(timeout=1).model_dump()
    assert (await http.post("/v1/mirrors/g/verify/follow", json=body)).json()["state"] == "never"


async def test_nothing_to_repair(http: httpx2.AsyncClient, pool: Pool) -> None:
    assert (await http.get("/v1/mirrors/g/repair")).status_code == 404
    volumes.create(pool, "db", MIB)
    groups.create(pool, "g", ["db"])
    nothing = {"waiting": 0, "healed": 0, "unhealed": [], "outcomes": []}
    assert (await http.get("/v1/mirrors/g/repair")).json() == nothing
    assert (await http.post("/v1/mirrors/g/repair", json={"timeout": 5})).json() == nothing
