"""Routes of holds, deletions and differences."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from isochrone.control.times import parse_instant
from isochrone.mirror import groups
from isochrone.store import copies, holds
from isochrone.store.pool import Pool
from isochrone.store.schedule import DAY_S, SECOND
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB
from tests.store.pools import client


@pytest.fixture
async def http(http: httpx2.AsyncClient) -> httpx2.AsyncClient:
    for name in ("a", "b"):
        body = {"name": name, "size": MIB}
        assert (await http.post("/v1/volumes", json=body)).status_code == 201
    return http


def take(pool: Pool, name: str, days_ago: int = 0) -> None:
    copies.take(pool, ["a"], name=name).stamp -= days_ago * DAY_S * SECOND


def write(pool: Pool, block: int) -> None:
    device = VolumeDevice(pool, pool.state.names["a"])
    device.write(block * BLOCK, memoryview(b"x" * BLOCK))
    pool.commit()


# -- holds


async def test_hold_pin_unpin(http: httpx2.AsyncClient, pool: Pool) -> None:
    take(pool, "c")
    held = await http.put("/v1/copies/c/hold", json={"until": "2099-01-31", "reason": "audit"})
    view = held.json()
    assert view["held_until"] == parse_instant("2099-01-31")
    assert view["held_until_time"] == "2099-01-31T00:00:00.000Z"
    assert (view["held"], view["hold_reason"]) == ("held until 2099-01-31T00:00:00Z", "audit")
    assert pool.log.durable == pool.log.lsn
    refused = await http.delete("/v1/copies/c")
    assert (refused.status_code, refused.json()["type"]) == (409, "Held")
    assert refused.json()["exit_code"] == 4
    assert (await http.put("/v1/copies/c/hold", json={"for": "1d"})).status_code == 409
    assert (await http.put("/v1/copies/c/hold", json={"pin": True})).json()["held"] == "pinned"
    assert (await http.delete("/v1/copies/c/pin")).json()["pinned"] is False
    assert (await http.delete("/v1/copies/c/pin")).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"until": "2099-01-31", "for": "3d"},
        {"for": "3d", "pin": True},
        {"until": "2001-01-31"},
        {"until": "soon"},
        {"for": "3 days"},
        {"for": "99999999w"},
        {"for": "3d", "reason": "x" * 201},
    ],
)
async def test_a_bad_hold_changes_nothing(
    http: httpx2.AsyncClient, pool: Pool, body: dict[str, Any]
) -> None:
    take(pool, "c")
    assert (await http.put("/v1/copies/c/hold", json=body)).status_code == 422
    assert (await http.put("/v1/copies/no/hold", json={"for": "1d"})).status_code == 404
    assert not holds.why_held(pool, pool.state.copies["c"])


# -- deletions


async def test_by_name_it_is_all_or_none(http: httpx2.AsyncClient, pool: Pool) -> None:
    for name in ("c1", "c2", "c3"):
        take(pool, name)
    holds.pin(pool, pool.state.copies["c3"])
    for names, status in ((["c1", "c3"], 409), (["c1", "no"], 404)):
        assert (await http.post("/v1/deletions", json={"names": names})).status_code == status
        assert len(pool.state.copies) == 3
    dry = await http.post("/v1/deletions", json={"names": ["c1"], "dry_run": True})
    assert [v["keep"] for v in dry.json()["verdicts"]] == [False]
    assert len(pool.state.copies) == 3
    done = await http.post("/v1/deletions", json={"names": ["c1", "c2", "c1"]})
    assert [v["copy"] for v in done.json()["verdicts"]] == ["c1", "c2"]
    assert list(pool.state.copies) == ["c3"]
    assert pool.log.durable == pool.log.lsn


async def test_by_age_what_must_stay_stays(http: httpx2.AsyncClient, pool: Pool) -> None:
    for n in range(200):
        take(pool, f"old{n}", days_ago=40)
    take(pool, "held", days_ago=40)
    take(pool, "open", days_ago=40)
    take(pool, "came", days_ago=40)
    take(pool, "young", days_ago=29)
    holds.pin(pool, pool.state.copies["held"])
    pool.attached.attach(pool.state.copies["open"].members[0][1], client())
    pool.state.copies["came"].group = "g"
    dry = (await http.post("/v1/deletions", json={"older_than": "30d", "dry_run": True})).json()
    assert len(dry["verdicts"]) == 202
    assert len(pool.state.copies) == 204
    done = (await http.post("/v1/deletions", json={"older_than": "30d"})).json()
    assert done["verdicts"] == dry["verdicts"]
    assert set(pool.state.copies) == {"held", "open", "came", "young"}
    assert pool.log.durable == pool.log.lsn
    pool.state.copies["came"].group = ""


async def test_by_age_also_what_came_from_a_primary_that_was_taken_over_from(
    http: httpx2.AsyncClient, pool: Pool
) -> None:
    groups.create(pool, "g", ["a"])
    take(pool, "came", days_ago=40)
    pool.state.copies["came"].group, pool.state.copies["came"].origin = "g", "nightly"
    assert (await http.get("/v1/copies/came")).json()["origin"] == "nightly"
    pool.state.groups["g"].role = "secondary"
    assert (await http.post("/v1/deletions", json={"older_than": "30d"})).json()["verdicts"] == []
    pool.state.groups["g"].role = "primary"
    done = (await http.post("/v1/deletions", json={"older_than": "30d"})).json()
    assert [x["copy"] for x in done["verdicts"]] == ["came"]
    assert pool.state.copies == {}


async def test_an_age_is_not_measured_by_a_clock_that_jumped(
    http: httpx2.AsyncClient, pool: Pool
) -> None:
    take(pool, "young")
    clock = pool.world.clock
    real = clock.wall_ns
    clock.wall_ns = lambda: real() + 400 * DAY_S * SECOND  # type: ignore[method-assign]
    try:
        done = (await http.post("/v1/deletions", json={"older_than": "30d"})).json()
    finally:
        clock.wall_ns = real  # type: ignore[method-assign]
    assert done["verdicts"] == []
    assert "young" in pool.state.copies


@pytest.mark.parametrize(
    "body", [{}, {"names": ["c"], "older_than": "3d"}, {"older_than": "3s"}, {"older_than": "x"}]
)
async def test_which_copies(http: httpx2.AsyncClient, pool: Pool, body: dict[str, Any]) -> None:
    take(pool, "c", days_ago=1)
    assert (await http.post("/v1/deletions", json=body)).status_code == 422
    assert "c" in pool.state.copies


# -- differences


async def test_differences_in_pages(http: httpx2.AsyncClient, pool: Pool) -> None:
    take(pool, "c1")
    for block in (0, 2, 3, 40):
        write(pool, block)
    take(pool, "c2")
    question: dict[str, Any] = {"before": "c1", "after": "c2"}
    common = (await http.post("/v1/differences", json=question)).json()["volumes"]
    assert common == [
        {"volume": "a", "before": "a@c1", "after": "a@c2", "before_size": MIB, "after_size": MIB}
    ]
    question |= {"volume": "a", "limit": 2}
    first = (await http.post("/v1/differences", json=question)).json()
    assert first["ranges"] == [[0, BLOCK], [2 * BLOCK, 2 * BLOCK]]
    assert (first["complete"], first["changed"]) == (False, 3 * BLOCK)
    question["offset"] = first["end"]
    second = (await http.post("/v1/differences", json=question)).json()
    assert second["ranges"] == [[40 * BLOCK, BLOCK]]
    assert (second["complete"], second["end"]) == (True, MIB)
    tracks = {**question, "offset": 0, "unit": 65536}
    assert (await http.post("/v1/differences", json=tracks)).json()["ranges"] == [
        [0, 65536], [2 * 65536, 65536],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"before": "c", "after": "no"}, 404),
        ({"before": "c", "after": "b"}, 409),
        ({"before": "c", "after": "a", "volume": "b"}, 404),
        ({"before": "c", "after": "a", "volume": "a", "offset": 7}, 422),
        ({"before": "c", "after": "a", "volume": "a", "unit": 512}, 422),
        ({"before": "c", "after": "a", "volume": "a", "limit": 10**6}, 422),
        ({"before": "c"}, 422),
    ],
)
async def test_what_cannot_be_compared(
    http: httpx2.AsyncClient, pool: Pool, body: dict[str, Any], status: int
) -> None:
    take(pool, "c")
    assert (await http.post("/v1/differences", json=body)).status_code == status
