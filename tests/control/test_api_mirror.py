"""Routes about groups and mirrors, without a process around them."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from isochrone.store import records as r
from isochrone.store.pool import Pool

PEER = "cd" * 16


@pytest.fixture
async def served(http: httpx2.AsyncClient, pool: Pool) -> httpx2.AsyncClient:
    """A group that a secondary is known of."""
    await http.post("/v1/volumes", json={"name": "v", "size": 1 << 20})
    await http.post("/v1/groups", json={"name": "g", "volumes": ["v"]})
    pool.record(r.SessionOpened(group="g", peer=PEER, site="west"))
    return http


async def change(http: httpx2.AsyncClient, **body: Any) -> Any:
    answer = await http.patch("/v1/mirrors/g", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["peers"][0]


async def test_limits_are_set_and_shown(served: httpx2.AsyncClient) -> None:
    peer = await change(served, policy="pace", limit_seconds=30, peer="west")
    assert (peer["policy"], peer["limit_seconds"], peer["limit_bytes"]) == ("pace", 30.0, 8 << 30)
    peer = await change(served, limit_bytes=0, resync="manual")
    assert (peer["policy"], peer["limit_bytes"], peer["resync"]) == ("pace", 0, "manual")
    answer = await served.patch("/v1/mirrors/g", json={"interval": 5})
    assert answer.json()["interval"] == 5.0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"policy": "hope"}, 422),
        ({"limit_bytes": 5}, 422),
        ({"limit_seconds": 0.5}, 422),
        ({"interval": 1e9, "policy": "pace"}, 422),
        ({"peer": "east", "policy": "pace"}, 404),
        ({"resync": "later"}, 422),
    ],
)
async def test_nonsense_changes_nothing(
    served: httpx2.AsyncClient, pool: Pool, body: dict[str, Any], status: int
) -> None:
    lsn = pool.log.lsn
    assert (await served.patch("/v1/mirrors/g", json=body)).status_code == status
    assert pool.log.lsn == lsn


async def test_suspend_resume_forget(served: httpx2.AsyncClient) -> None:
    told = (await served.post("/v1/mirrors/g/suspend", json={})).json()
    assert (told["state"], told["cause_kind"]) == ("SUSPENDED", "command")
    assert told["peers"][0]["suspensions"][-1]["why"] == "suspended by a command"
    told = (await served.post("/v1/mirrors/g/resume", json={"peer": PEER})).json()
    assert told["peers"][0]["state"] == "INACTIVE"
    assert (await served.delete("/v1/mirrors/g/peers/east")).status_code == 404
    assert (await served.delete("/v1/mirrors/g/peers/west")).status_code == 204
    assert (await served.get("/v1/groups/g")).json()["peers"] == []
    assert (await served.post("/v1/mirrors/g/suspend", json={})).status_code == 409


async def test_other_volumes_for_a_group(served: httpx2.AsyncClient, pool: Pool) -> None:
    for name in ("w", "x"):
        await served.post("/v1/volumes", json={"name": name, "size": 1 << 20})
    url = "/v1/groups/g/volumes"
    answer = await served.patch(url, json={"add": ["w", "x"], "remove": ["v"]})
    assert answer.json()["volumes"] == ["w", "x"], answer.text
    assert pool.log.durable == pool.log.lsn
    assert (await served.patch(url, json={})).status_code == 422
    assert (await served.patch(url, json={"remove": ["w", "x"]})).status_code == 409
    assert (await served.delete("/v1/volumes/w")).status_code == 204
    assert (await served.get("/v1/groups/g")).json()["volumes"] == ["x"]
