"""Routes of restore probes: one is begun, said to have ended, and listed."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from isochrone.store.pool import Pool
from tests.control.test_api_points import holds, replica

__all__ = ["replica"]


async def test_one_from_beginning_to_end(
    replica: httpx2.AsyncClient, pool: Pool, fresh: Path
) -> None:
    assert (await replica.get("/v1/groups/g/probes")).json() == {
        "group": "g", "age": -1.0, "probes": [],
    }  # fmt: skip
    answer = await replica.post("/v1/groups/g/probes", json={"check": "fsck", "seconds": 60})
    assert answer.status_code == 201
    begun = answer.json()
    assert (begun["cut"], begun["copy"], begun["result"]) == (4, "probe-g-4", "")
    assert begun["uris"] == {"db": f"nbd+unix:///db%40probe-g-4?socket={fresh}/nbd.sock"}
    assert holds(pool, "db@probe-g-4") == 4
    assert pool.log.durable == pool.log.lsn
    assert (await replica.post("/v1/groups/g/probes", json={"check": "x"})).status_code == 409
    wrong = await replica.post("/v1/groups/g/probes/end", json={"copy": "other", "good": True})
    assert wrong.status_code == 409
    body = {"copy": begun["copy"], "good": True, "said": "clean"}
    ended = (await replica.post("/v1/groups/g/probes/end", json=body)).json()
    assert (ended["result"], ended["said"], ended["uris"]) == ("good", "clean", {})
    assert ended["ended"] >= ended["began"]
    assert pool.state.copies == {}
    listed = (await replica.get("/v1/groups/g/probes")).json()
    assert listed["age"] >= 0
    assert [probe["check"] for probe in listed["probes"]] == ["fsck"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"check": ""}, 422),
        ({"check": "x", "seconds": 0}, 422),
        ({"check": "x", "seconds": "soon"}, 422),
        ({"check": "x", "as_of": "9"}, 404),
        ({"check": "x", "as_of": "never"}, 422),
        ({}, 422),
    ],
)
async def test_what_begins_nothing(
    replica: httpx2.AsyncClient, pool: Pool, body: dict[str, object], status: int
) -> None:
    answer = await replica.post("/v1/groups/g/probes", json=body)
    assert answer.status_code == status, answer.text
    assert pool.state.copies == {}
    assert pool.state.probes == {}


async def test_as_of_an_earlier_cut(replica: httpx2.AsyncClient, pool: Pool) -> None:
    begun = await replica.post("/v1/groups/g/probes", json={"check": "x", "as_of": "2"})
    assert begun.json()["cut"] == 2
    assert holds(pool, "db@probe-g-2") == 2
    stopped = await replica.post("/v1/groups/g/probes/end", json={"good": False})
    assert stopped.json()["result"] == "bad"
    assert (await replica.get("/v1/groups/no/probes")).status_code == 404
