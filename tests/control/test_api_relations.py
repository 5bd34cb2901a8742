"""The routes of relations, without a process around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from isochrone.control.api import make_app
from isochrone.mirror.service import Mirrors
from isochrone.store import copies, volumes
from isochrone.store.pool import Pool
from isochrone.types import MIB, TRACK
from tests.store.pools import get, pattern, put

Call = Any


@pytest.fixture
def call(pool: Pool, tmp_path: Path) -> Call:
    """(status, document) of a request."""
    for n, name in enumerate("abc"):
        volumes.create(pool, name, 2 * MIB)
        put(pool, name, 0, pattern(n, 2 * MIB))
    mirrors = Mirrors(pool, pool.world, interval=1.0)
    app = make_app(pool, mirrors, tmp_path)

    async def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.request(method, f"/v1/{path}", json=body)
            return answer.status_code, answer.json()

    return ask


def pair(source: str, target: str, *extents: tuple[int, int, int]) -> dict[str, Any]:
    fields = ("source_offset", "target_offset", "length")
    return {
        "source": source,
        "target": target,
        "extents": [dict(zip(fields, x, strict=True)) for x in extents],
    }


async def test_a_failed_pool_still_says_which_there_are(call: Call, pool: Pool) -> None:
    await call("POST", "relations", {"pairs": [pair("a", "b")]})
    pool.failed = "a sync failed"
    status, document = await call("GET", "relations")
    assert (status, len(document["relations"])) == (200, 1)
    assert (await call("POST", "relations/refresh", {"source": "a"}))[0] == 500
    pool.failed = ""


async def test_a_relation_from_end_to_end(call: Call, pool: Pool) -> None:
    status, made = await call("POST", "relations", {"pairs": [pair("a", "b")]})
    assert status == 201
    (view,) = made["relations"]
    number = view["relation"]
    assert (view["source"], view["target"], view["size"]) == ("a", "b", 2 * MIB)
    assert (view["generation"], view["tracks"], view["tracks_differing"]) == (1, 32, 0)
    assert pool.log.durable == pool.log.lsn, "done, made durable, then answered"
    put(pool, "a", 0, pattern(9))
    assert (await call("GET", f"relations/{number}"))[1]["tracks_differing"] == 1
    status, again = await call("POST", "relations/refresh", {"source": "a"})
    assert (status, again["relations"][0]["generation"]) == (200, 2)
    assert get(pool, "b") == get(pool, "a")
    put(pool, "b", TRACK, pattern(8))
    await call("POST", "relations/restore", {"relations": [number]})
    assert get(pool, "a", TRACK, 4096) == pattern(8)
    part = {"offset": 0, "length": TRACK}
    status, left = await call(
        "POST", "relations/withdraw", {"target": "b", "discard": True, "extents": [part]}
    )
    assert [x["target_offset"] for x in left["relations"][0]["extents"]] == [TRACK]
    assert get(pool, "b", 0, TRACK) == bytes(TRACK)
    await call("POST", "relations/withdraw", {"target": "b", "discard": False})
    assert await call("GET", "relations") == (200, {"relations": []})


async def test_several_pairs_and_parts_are_one_instant(call: Call, pool: Pool) -> None:
    pairs = [pair("a", "b", (0, MIB, TRACK)), pair("b", "c", (MIB, 0, TRACK))]
    status, made = await call("POST", "relations", {"pairs": pairs, "inhibit": True})
    assert status == 201
    assert len({x["stamp"] for x in made["relations"]}) == 1
    assert all(x["inhibit"] for x in made["relations"])
    assert get(pool, "c", 0, TRACK) == pattern(1, 2 * MIB)[MIB : MIB + TRACK]
    assert len((await call("GET", "relations"))[1]["relations"]) == 2


async def test_once_answers_with_nothing(call: Call, pool: Pool) -> None:
    body = {"pairs": [pair("a", "b")], "once": True}
    assert await call("POST", "relations", body) == (201, {"relations": [], "way": "local"})
    assert get(pool, "b") == get(pool, "a")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("relations", {"pairs": [pair("a", "x")]}, 404, "no volume 'x'"),
        ("relations", {"pairs": [pair("a", "b", (1, 0, TRACK))]}, 422, "begin at tracks"),
        ("relations", {"pairs": [pair("a", "b")], "mirror": "all"}, 422, "mirror"),
        ("relations", {"pairs": [pair("a", "b")], "typo": 1}, 422, "typo"),
        ("relations/refresh", {"relations": [9]}, 404, "no relation 9"),
        ("relations/withdraw", {"relations": [9]}, 422, "discard"),
        ("copies/x/revert", {}, 404, "no copy 'x'"),
    ],
)
async def test_refusals(call: Call, path: str, body: Any, status: int, words: str) -> None:
    found, problem = await call("POST", path, body)
    assert found == status, problem
    assert words in problem["detail"]


async def test_reverting(call: Call, pool: Pool) -> None:
    copies.take(pool, ["a", "b"], name="p")
    put(pool, "a", 0, pattern(9, MIB))
    status, undo = await call("POST", "copies/p/revert", {"volumes": ["a"], "undo": "u"})
    assert (status, undo["name"]) == (200, "u")
    assert [member["export"] for member in undo["members"]] == ["a@u"]
    assert get(pool, "a") == pattern(0, 2 * MIB)
    assert get(pool, "a@u", 0, MIB) == pattern(9, MIB)
