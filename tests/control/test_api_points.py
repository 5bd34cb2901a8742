"""Routes of points: which there are, the window, and opening one."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from isochrone.control.api_points import NewWindow
from isochrone.control.times import rfc3339
from isochrone.store import records as r
from isochrone.store import windows
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB

STAMP = 1_700_000_000_123_456_789


@pytest.fixture
async def replica(http: httpx2.AsyncClient, pool: Pool) -> httpx2.AsyncClient:
    """A secondary that has applied four cuts, ten seconds apart by its primary's clock."""
    pool.record(r.MirrorAdded(group="g", source="there:1"))
    for cut in range(1, 5):
        shadow = pool.state.next_id + 1
        group = pool.state.groups["g"]
        local = group.volumes[0] if group.volumes else shadow - 1
        new = (r.IncomingVolume(7, "db", MIB, local, shadow),)
        pool.record(
            r.IncomingBegun(group="g", lineage="11" * 16, epoch=1, base=cut - 1, volumes=new)
        )
        pool.stage_write(shadow, 0, memoryview(bytes([cut]) * BLOCK))
        pool.commit()
        at = windows.keep(pool, group)
        stamp = STAMP + cut * 10 * 10**9
        pool.record(r.IncomingCommitted(group="g", cut=cut, stamp=stamp, kept_at=at))
    return http


def holds(pool: Pool, name: str) -> int:
    return b"".join(VolumeDevice(pool, pool.state.names[name]).read(0, 1))[0]


async def test_the_points_of_a_group(replica: httpx2.AsyncClient) -> None:
    view = (await replica.get("/v1/groups/g/points")).json()
    assert [point["cut"] for point in view["points"]] == [1, 2, 3, 4]
    assert view["points"][0]["time"] == rfc3339(STAMP + 10**10)
    assert (view["keep"], view["dense"], view["versions"]) == (86400, 600, 3)
    assert (await replica.get("/v1/groups/x/points")).status_code == 404


@pytest.mark.parametrize(
    ("as_of", "found"),
    [
        ("3", 3),
        (rfc3339(STAMP + 2 * 10**10), 2),  # as it was printed
        ("2023-11-14T22:14:00Z", 3),
        ("2023-11-14T23:00:00+00:00", 4),
        ("1s ago", 4),
    ],
)
async def test_one_is_opened(
    replica: httpx2.AsyncClient, pool: Pool, as_of: str, found: int
) -> None:
    body = {"as_of": as_of, "name": "then", "writable": found == 3}
    answer = await replica.post("/v1/groups/g/points/open", json=body)
    assert answer.status_code == 201
    view = answer.json()
    assert (view["as_of_cut"], view["group"]) == (found, "")
    assert view["time"] == rfc3339(STAMP + found * 10**10)
    assert view["writable"] == (found == 3)
    assert pool.log.durable == pool.log.lsn
    assert holds(pool, "db@then") == found
    assert holds(pool, "db") == 4
    again = await replica.post("/v1/groups/g/points/open", json=body)
    assert again.status_code == 409


@pytest.mark.parametrize(
    ("as_of", "status", "word"),
    [
        ("9", 404, "the nearest: cut 4 of 2023-11-14"),
        ("2001-01-01", 404, "the nearest: cut 1 of 2023-11-14"),
        ("yesterday", 422, "no instant"),
        ("10 minutes ago", 422, "not a span"),
        ("", 422, "no instant"),
    ],
)
async def test_what_is_not_there(
    replica: httpx2.AsyncClient, pool: Pool, as_of: str, status: int, word: str
) -> None:
    answer = await replica.post("/v1/groups/g/points/open", json={"as_of": as_of})
    assert answer.status_code == status
    assert word in answer.json()["detail"]
    assert pool.state.copies == {}


async def test_at_a_primary_it_is_refused(http: httpx2.AsyncClient, pool: Pool) -> None:
    assert (await http.post("/v1/volumes", json={"name": "a", "size": MIB})).status_code == 201
    assert (await http.post("/v1/groups", json={"name": "m", "volumes": ["a"]})).status_code == 201
    answer = await http.post("/v1/groups/m/points/open", json={"as_of": "1"})
    assert answer.status_code == 409
    assert "secondary" in answer.json()["hint"]
    assert (await http.put("/v1/groups/m/window", json={"keep": "1h"})).status_code == 409


async def put(http: httpx2.AsyncClient, **body: Any) -> httpx2.Response:
    return await http.put("/v1/groups/g/window", json=body)


async def test_the_window_is_set_in_parts(replica: httpx2.AsyncClient, pool: Pool) -> None:
    view = (await put(replica, keep="2h")).json()
    assert (view["keep"], view["dense"], view["bytes_max"]) == (7200, 600, 0)
    view = (await put(replica, dense="5m", bytes_max=MIB)).json()
    assert (view["keep"], view["dense"], view["bytes_max"]) == (7200, 300, MIB)
    view = (await put(replica, keep="1m")).json()
    assert (view["keep"], view["dense"], view["bytes_max"]) == (60, 60, MIB)
    assert pool.log.durable == pool.log.lsn
    view = (await put(replica, off=True)).json()
    assert (view["keep"], view["points"], view["versions"]) == (0, [], 0)
    assert (await put(replica, bytes_max=5)).status_code == 422
    assert (await put(replica, keep="3d")).json()["dense"] == 600


@pytest.mark.parametrize(
    "body",
    [
        {"off": True, "keep": "1h"},
        {"keep": "91d"},
        {"keep": "soon"},
        {"keep": "1m", "dense": "2m"},
        {"dense": "2h"},
        {"bytes_max": "1"},
    ],
)
async def test_a_bad_window_changes_nothing(
    replica: httpx2.AsyncClient, pool: Pool, body: dict[str, Any]
) -> None:
    lsn = pool.log.lsn
    assert (await put(replica, **body)).status_code == 422
    assert pool.log.lsn == lsn


def test_nothing_said_means_as_it_is() -> None:
    body = NewWindow()
    assert (body.keep, body.dense, body.bytes_max, body.off) == ("", "", -1, False)
