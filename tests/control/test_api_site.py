"""The site through the API, without another one."""

from __future__ import annotations

import httpx2


async def test_from_init_to_limits(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/v1/site")).json()["name"] == ""
    early = await http.post("/v1/site/invitations", json={})
    assert (early.status_code, early.json()["type"]) == (409, "Conflict")
    assert "site init" in early.json()["hint"]
    made = await http.post("/v1/site", json={"name": "here"})
    assert (made.status_code, made.json()["name"]) == (201, "here")
    assert (await http.post("/v1/site", json={"name": "here"})).status_code == 409
    body = {"role": "replicate", "seconds": 60, "address": "here.example:1"}
    token = await http.post("/v1/site/invitations", json=body)
    assert token.status_code == 201
    assert token.json()["token"].startswith("isochrone1.")
    shown = (await http.get("/v1/site")).json()
    assert [i["role"] for i in shown["invitations"]] == ["replicate"]
    assert token.json()["token"] not in str(shown)
    joined = await http.post("/v1/sites", json={"token": token.json()["token"]})
    assert "this very site" in joined.json()["detail"]
    assert (await http.post("/v1/sites", json={"token": "x"})).status_code == 422
    assert (await http.get("/v1/sites")).json() == {"sites": []}
    assert (await http.delete("/v1/sites/nobody")).status_code == 404
    limit = await http.put("/v1/site/limits/*", json={"rules": "1MiB/s"})
    assert limit.json()["rate"] == 1 << 20
    assert (await http.put("/v1/site/limits/*", json={"rules": "1"})).status_code == 422


async def test_a_new_key(http: httpx2.AsyncClient) -> None:
    assert (await http.post("/v1/site/renewal", json={})).status_code == 409
    made = (await http.post("/v1/site", json={"name": "here"})).json()
    assert (made["expires"][:2], made["warning"], made["renewal"]) == ("20", "", [])
    renewed = (await http.post("/v1/site/renewal", json={})).json()
    assert (renewed["done"], renewed["waiting"]) == (True, [])
    assert (await http.get("/v1/site")).json()["fingerprint"] == renewed["fingerprint"]
    assert (await http.get("/v1/status")).json()["certificates"] == ""
    page = (await http.get("/metrics")).text
    assert 'isochrone_site_certificate_left_seconds{site="here"}' in page
