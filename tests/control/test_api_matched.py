"""The routes of copies at several sites and of the chain of questions; two sites are in `e2e`."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.mirror import groups
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.pool import Pool
from isochrone.types import MIB
from tests.control.test_api_relations import Call, call, pair

__all__ = ["call"]
PEER = "ab" * 16


@pytest.fixture
def group(pool: Pool, call: Call) -> str:
    """Of a and b, with a secondary that is away."""
    groups.create(pool, "g", ["a", "b"])
    pool.record(r.SessionOpened(group="g", peer=PEER, site="far"))
    return "g"


async def test_a_copy_waits_for_its_site(call: Call, pool: Pool, group: str) -> None:
    status, refused = await call("POST", "requests", {"group": group})
    assert (status, "not DUPLEX" in refused["detail"], "far" in refused["detail"]) == (
        409,
        True,
        True,
    )
    body = {"volumes": ["a"], "at": ["far"], "request": "r1", "name": "c", "wait_duplex": True}
    status, made = await call("POST", "requests", body)
    assert status == 201
    (site,) = made["sites"]
    assert (made["request"], made["group"], made["copy"], made["volumes"]) == ("r1", "g", "", ["a"])
    assert (site["peer"], site["site"], site["state"]) == (PEER, "far", "NEW")
    assert (await call("POST", "requests", body))[1] == made
    assert (await call("GET", "requests"))[1]["requests"] == [made]
    assert (await call("GET", "requests/r1"))[1] == made
    status, late = await call("POST", "requests/r1/wait", {"timeout": 0.01})
    assert (status, late["type"]) == (504, "DeadlinePassed")
    assert "far: NEW" in late["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"volumes": ["a", "c"]}, 422),
        ({"volumes": ["c"]}, 422),
        ({}, 422),
        ({"group": "nix"}, 404),
        ({"group": "g", "at": ["nowhere"]}, 404),
        ({"group": "g", "timeout": -1.0}, 422),
        ({"group": "g", "request": "no/slash"}, 422),
    ],
)
async def test_what_makes_no_sense(
    call: Call, pool: Pool, group: str, body: dict[str, Any], status: int
) -> None:
    assert (await call("POST", "requests", body))[0] == status
    assert pool.state.groups[group].requests == []
    assert pool.state.copies == {}


async def test_requests_that_are_not_there(call: Call) -> None:
    assert (await call("GET", "requests/nix"))[0] == 404
    assert (await call("POST", "requests/nix/wait", {"timeout": 1.0}))[0] == 404
    assert (await call("POST", "requests/nix/wait", {"timeout": 1e9}))[0] == 422


async def test_the_chain(call: Call, pool: Pool, group: str) -> None:
    body = {"pairs": [pair("a", "b")]}
    status, found = await call("POST", "relations/check", body)
    assert (status, found["ok"], found["way"]) == (200, False, "command")
    assert [(x["stage"], x["reason"]) for x in found["steps"]] == [
        ("local", "yes"), ("configuration", "yes"), ("configuration", "inaccessible"),
    ]  # fmt: skip
    assert pool.state.relations == {}
    status, refused = await call("POST", "relations", {**body, "mirror": "required"})
    assert (status, "inaccessible" in refused["detail"]) == (409, True)
    status, made = await call("POST", "relations", {**body, "mirror": "preferred"})
    assert (status, made["way"], len(made["relations"])) == (201, "command", 1)
    number = made["relations"][0]["relation"]
    for act in ("refresh", "restore"):
        chosen = {"relations": [number], "mirror": "required"}
        assert (await call("POST", f"relations/{act}", chosen))[0] == 409
        assert (await call("POST", f"relations/{act}", {**chosen, "mirror": ""}))[0] == 200
    status, local = await call("POST", "relations/check", body)
    assert (local["ok"], local["steps"][0]["reason"]) == (False, "local")


async def test_a_target_that_nobody_follows(call: Call, pool: Pool) -> None:
    volumes.create(pool, "d", MIB * 2)
    body = {"pairs": [pair("a", "d")], "mirror": "required"}
    status, made = await call("POST", "relations", body)
    assert (status, made["way"]) == (201, "local")


async def test_a_copy_is_asked_about_and_given_up(call: Call, pool: Pool, group: str) -> None:
    status, found = await call("POST", "requests/check", {"volumes": ["a"]})
    assert (status, found["ok"]) == (200, False)
    assert [(x["stage"], x["reason"]) for x in found["steps"]] == [
        ("local", "yes"), ("configuration", "yes"), ("configuration", "inaccessible"),
    ]  # fmt: skip
    assert (await call("POST", "requests/check", {"group": "g", "at": ["nowhere"]}))[0] == 404
    assert (await call("POST", "requests/check", {"group": "g", "timeout": 1e9}))[0] == 422
    assert (await call("DELETE", "requests/nix"))[0] == 404
    await call("POST", "requests", {"group": "g", "request": "r1", "wait_duplex": True})
    status, gone = await call("DELETE", "requests/r1")
    assert (status, gone["sites"][0]["state"]) == (200, "EXPIRED")
    assert gone["sites"][0]["detail"] == "cancelled"
    pool.record(r.HandoverBegun(group="g", peer=PEER, stamp=1))
    steps = (await call("POST", "requests/check", {"group": "g"}))[1]["steps"]
    assert [(x["stage"], x["reason"]) for x in steps] == [("local", "local")]
    pool.record(r.Fenced(group="g", epoch=2))
    assert (await call("DELETE", "requests/r1"))[0] == 409


async def test_another_copy_of_the_name_is_not_the_one_that_was_asked_for(
    call: Call, pool: Pool, group: str
) -> None:
    body = {"group": group, "request": "r1", "name": "c", "wait_duplex": True}
    await call("POST", "requests", body)
    copies.take(pool, ["a", "b"], name="c", request="r1")
    assert (await call("GET", "requests/r1"))[1]["consistency"] == "crash"
    copies.classify(pool, "c", "filesystem")
    assert (await call("GET", "requests/r1"))[1]["consistency"] == "filesystem"
    copies.delete(pool, "c")
    copies.take(pool, ["a"], name="c")
    copies.classify(pool, "c", "application")
    assert (await call("GET", "requests/r1"))[1]["consistency"] == "crash"
