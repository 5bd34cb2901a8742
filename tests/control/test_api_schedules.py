"""Routes of schedules, pruning and labels."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from isochrone.store import copies, holds
from isochrone.store.pool import Pool
from isochrone.types import MIB
from tests.store.pools import client


@pytest.fixture
async def http(http: httpx2.AsyncClient) -> httpx2.AsyncClient:
    for name in ("a", "b"):
        body = {"name": name, "size": MIB, "labels": ["tier=gold"]}
        assert (await http.post("/v1/volumes", json=body)).status_code == 201
    return http


async def put(http: httpx2.AsyncClient, name: str = "s", **body: Any) -> Any:
    response = await http.put(f"/v1/schedules/{name}", json={"rules": "hourly keep 2", **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_schedule_from_set_to_delete(http: httpx2.AsyncClient, pool: Pool) -> None:
    view = await put(http, labels=["tier=gold"])
    assert view["rules"] == "hourly keep 2"
    assert view["members"] == ["a", "b"]
    assert view["by_rule"] == [
        {"rule": "hourly keep 2", "keep": 2, "copies": 0, "last": 0, "last_time": ""}
    ]
    assert view["next_due"] > 0
    assert pool.log.durable == pool.log.lsn
    assert (await http.get("/v1/schedules/s")).json()["name"] == "s"
    copy = await http.post("/v1/schedules/s/run")
    assert copy.status_code == 201
    assert copy.json()["rules"] == ["hourly"]
    shown = (await http.get("/v1/schedules")).json()["schedules"]
    assert [s["last_copy"] for s in shown] == [copy.json()["name"]]
    assert (await http.get("/v1/status")).json()["schedules"][0]["copies"] == 1
    assert (await http.delete("/v1/schedules/s")).status_code == 204
    assert (await http.get("/v1/schedules/s")).status_code == 404
    assert list(pool.state.copies) == [copy.json()["name"]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"rules": "hourly"}, 422),
        ({"rules": "hourly keep 2", "volumes": ["a"], "group": "g"}, 422),
        ({"rules": "hourly keep 2"}, 422),
        ({"rules": "hourly keep 2", "labels": ["gold"]}, 422),
        ({"rules": "hourly keep 2", "volumes": ["no"]}, 404),
        ({"rules": "hourly keep 2", "volume": ["a"]}, 422),
    ],
)
async def test_a_bad_one_changes_nothing(
    http: httpx2.AsyncClient, pool: Pool, body: dict[str, Any], status: int
) -> None:
    lsn = pool.log.lsn
    assert (await http.put("/v1/schedules/s", json=body)).status_code == status
    assert pool.log.lsn == lsn


async def test_a_dry_run_says_what_new_rules_would_delete(
    http: httpx2.AsyncClient, pool: Pool
) -> None:
    await put(http, volumes=["a"], rules="hourly keep 9")
    for _ in range(3):
        await http.post("/v1/schedules/s/run")
    lsn = pool.log.lsn
    plan = await put(http, volumes=["a"], rules="hourly keep 1", dry_run=True)
    assert [v["keep"] for v in plan["verdicts"]] == [True, False, False]
    assert plan["dry_run"] is True
    assert pool.log.lsn == lsn
    assert pool.state.schedules["s"].rules == "hourly keep 9"


async def test_pruning_by_hand(http: httpx2.AsyncClient, pool: Pool) -> None:
    await put(http, volumes=["a"], rules="hourly keep 9")
    names = [(await http.post("/v1/schedules/s/run")).json()["name"] for _ in range(6)]
    await http.post("/v1/copies", json={"volumes": ["a"], "name": "by-hand"})
    pool.attached.attach(pool.state.copies[names[1]].members[0][1], client())
    holds.pin(pool, pool.state.copies[names[2]])
    pool.state.schedules["s"].rules = "hourly keep 1"

    dry = (await http.post("/v1/prunings", json={"dry_run": True})).json()
    said = {v["copy"]: (v["keep"], v["why"]) for v in dry["verdicts"]}
    assert said[names[5]] == (True, "hourly (1 of 1)")
    assert said[names[2]] == (True, "pinned")
    assert said[names[1]][0] is True
    assert "in use by client" in said[names[1]][1]
    assert said[names[0]] == (False, "hourly keeps 1 newer ones")
    assert said["by-hand"] == (True, "not taken by a schedule")
    assert len(pool.state.copies) == 7, "a dry run deletes nothing"

    done = (await http.post("/v1/prunings", json={"schedule": "s"})).json()
    kept = {v["copy"] for v in done["verdicts"] if v["keep"]} | {"by-hand"}
    assert kept == set(pool.state.copies) == {"by-hand", names[5], names[2], names[1]}
    assert pool.log.durable == pool.log.lsn
    assert (await http.post("/v1/prunings", json={"schedule": "no"})).status_code == 404


async def test_copies_that_nobody_prunes(http: httpx2.AsyncClient, pool: Pool) -> None:
    await put(http, volumes=["a"])
    await http.post("/v1/schedules/s/run")
    await http.delete("/v1/schedules/s")
    copies.take(pool, ["a"], name="came").group = "g"
    dry = (await http.post("/v1/prunings", json={"dry_run": True})).json()
    whys = sorted(v["why"] for v in dry["verdicts"])
    assert whys == ["its primary's, by the mirror of group g", "the schedule s is deleted"]
    assert all(v["keep"] for v in dry["verdicts"])
    pool.state.copies["came"].group = ""


async def test_labels(http: httpx2.AsyncClient, pool: Pool) -> None:
    changed = await http.patch(
        "/v1/volumes/a/labels", json={"put": ["zone=b", "tier=tin"], "remove": []}
    )
    assert changed.json()["labels"] == {"tier": "tin", "zone": "b"}
    assert pool.log.durable == pool.log.lsn
    gone = await http.patch("/v1/volumes/a/labels", json={"remove": ["zone"]})
    assert gone.json()["labels"] == {"tier": "tin"}
    for body in ({"remove": ["zone"]}, {"put": ["x=1"], "remove": ["y"]}):
        assert (await http.patch("/v1/volumes/a/labels", json=body)).status_code == 404
    both = {"put": ["tier=a"], "remove": ["tier"]}
    assert (await http.patch("/v1/volumes/a/labels", json=both)).status_code == 422
    copies.take(pool, ["a"], name="c")
    assert (await http.patch("/v1/volumes/a@c/labels", json={"put": ["x=1"]})).status_code == 409
