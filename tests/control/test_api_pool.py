"""The pool as a whole, through the API."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from isochrone.control import api_pool
from isochrone.control.api import make_app
from isochrone.control.api_pool import FOLLOW_S_MAX
from isochrone.mirror.service import Mirrors
from isochrone.store.pool import Pool
from isochrone.store.scrub import RATE_DEFAULT, Scrub
from isochrone.types import BLOCK, GIB, MIB
from tests.store.pools import pattern, put


@pytest.fixture
async def http(pool: Pool, fresh: Path) -> AsyncIterator[httpx2.AsyncClient]:
    mirrors, scrub = Mirrors(pool, pool.world), Scrub(pool)
    app = make_app(pool, mirrors, fresh, scrub=scrub)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://localhost"
    ) as client:
        yield client
    await scrub.close()
    await mirrors.stop()


async def ended(http: httpx2.AsyncClient) -> dict[str, Any]:
    while True:
        answer = await http.post("/v1/scrub/follow", json={"timeout": 5})
        found: dict[str, Any] = answer.json()
        if found["state"] != "running":
            return found


async def test_the_figures_of_a_pool(http: httpx2.AsyncClient, pool: Pool) -> None:
    for name in ("v", "w"):
        await http.post("/v1/volumes", json={"name": name, "size": 8 * MIB})
    put(pool, "v", 0, pattern(1, 10 * BLOCK))
    await http.post("/v1/copies", json={"volumes": ["v"], "name": "c"})
    put(pool, "v", 0, pattern(2, 4 * BLOCK))
    view = (await http.get("/v1/pool")).json()
    assert view["provisioned"] == 16 * MIB
    assert (view["mapped"], view["living"]) == (20 * BLOCK, 14 * BLOCK)
    assert (view["shared"], view["own"]) == (6 * BLOCK, 8 * BLOCK)
    shares = {(s["kind"], s["name"]): (s["mapped"], s["own"]) for s in view["shares"]}
    assert shares == {
        ("volume", "v"): (10 * BLOCK, 4 * BLOCK),
        ("volume", "w"): (0, 0),
        ("copy", "c"): (10 * BLOCK, 4 * BLOCK),
    }
    assert view["written"] == 14 * BLOCK
    assert view["amplification"] == round((view["appended"] + view["saved"]) / (14 * BLOCK), 3)
    assert view["reserve"] == GIB // 4
    assert view["used"] == view["log"] + view["spares"] + view["metadata"]
    assert view["scrub"]["completed_age"] == -1


async def test_a_scrub_from_start_to_end(http: httpx2.AsyncClient, pool: Pool) -> None:
    await http.post("/v1/volumes", json={"name": "v", "size": 8 * MIB})
    put(pool, "v", 0, pattern(1, MIB))
    assert (await http.get("/v1/scrub")).json()["state"] == "idle"
    started = (await http.post("/v1/scrub", json={})).json()
    assert (started["state"], started["rate"]) == ("running", RATE_DEFAULT)
    done = await ended(http)
    assert (done["state"], done["verified"], done["damaged"]) == ("done", MIB, 0)
    status = (await http.get("/v1/status")).json()["scrub"]
    assert status["completed_time"] == done["completed_time"] != ""
    assert 0 <= status["completed_age"] < 3600


async def test_refusals(http: httpx2.AsyncClient) -> None:
    for answer, status, type in (
        (await http.post("/v1/scrub/pause"), 409, "Conflict"),
        (await http.delete("/v1/scrub"), 409, "Conflict"),
        (await http.post("/v1/scrub", json={"rate": 7}), 422, "InvalidInput"),
        (await http.post("/v1/scrub", json={"fast": True}), 422, "InvalidInput"),
        (await http.post("/v1/scrub/follow", json={"timeout": FOLLOW_S_MAX + 1}), 422, None),
    ):
        assert answer.status_code == status
        assert type is None or answer.json()["type"] == type


async def test_pause_and_stop(http: httpx2.AsyncClient, pool: Pool) -> None:
    await http.post("/v1/volumes", json={"name": "v", "size": 64 * MIB})
    for at in range(6):
        put(pool, "v", at * 4 * MIB, pattern(at, 4 * MIB))
    await http.post("/v1/scrub", json={"rate": MIB})
    paused = (await http.post("/v1/scrub/pause")).json()
    assert paused["state"] == "paused"
    assert (await http.post("/v1/scrub", json={})).json()["state"] == "running"
    stopped = (await http.delete("/v1/scrub")).json()
    assert stopped["state"] == "stopped" and stopped["ended_time"]


async def test_a_large_answer_is_made_beside_the_loop(
    http: httpx2.AsyncClient, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of copies are thousands of rows, and clients wait while the loop makes them."""
    made: list[bool] = []
    view = api_pool.pool_view

    def noted(*args: Any) -> Any:
        made.append(threading.current_thread() is threading.main_thread())
        return view(*args)

    monkeypatch.setattr(api_pool, "pool_view", noted)
    assert (await http.get("/v1/pool")).status_code == 200
    assert made == [False]
