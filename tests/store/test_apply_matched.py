"""Reservations and requests are what the log says, also after a restart."""

from __future__ import annotations

import pytest

from isochrone.mirror import groups
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.apply_matched import finished
from isochrone.store.pool import Pool
from isochrone.store.promises import Told
from isochrone.types import MIB
from tests.store.pools import Rig, settle


def made(pool: Pool) -> None:
    volumes.create(pool, "v", MIB)
    groups.create(pool, "g", ["v"])


def requested(pool: Pool, id: str, *sites: str) -> None:
    ids = tuple(pool.state.groups["g"].volumes)
    pool.record(
        r.CopyRequested(
            group="g", request=id, name="", volumes=ids, sites=sites, stamp=1, seconds=9.0
        )
    )


def moved(pool: Pool, id: str, peer: str, state: str, **more: bool) -> None:
    pool.record(r.RequestMoved(group="g", request=id, peer=peer, state=state, **more))


@pytest.mark.parametrize("checkpoint", [True, False])
def test_all_of_it_is_there_after_a_restart(checkpoint: bool) -> None:
    rig = Rig()
    pool = rig.open()
    made(pool)
    reserve = r.ReservationMade(group="g", op="x", relations=3, stamp=1, seconds=9.0)
    pool.record(reserve)
    pool.record(reserve)  # again: it is the same one
    requested(pool, "one", "p", "q")
    copy = copies.take(pool, ["v"], request="one")
    moved(pool, "one", "p", "SENT")
    settle(pool.checkpoint() if checkpoint else pool.flush())
    pool = rig.reopen(pool)
    group = pool.state.groups["g"]
    assert pool.state.reserved_relations() == 3
    (request,) = group.requests
    assert (request.name, request.lsn, request.taken) == (copy.name, copy.lsn, copy.stamp)
    assert [site.state for site in request.sites] == ["SENT", "LOCAL_DONE"]
    pool.record(r.ReservationReleased(group="g", op="x"))
    assert pool.state.reserved_relations() == 0


def test_what_is_finished() -> None:
    pool = Rig().open()
    made(pool)
    requested(pool, "one", "p", "q")
    (request,) = pool.state.groups["g"].requests
    moved(pool, "one", "p", "DONE")
    assert not finished(request)
    moved(pool, "one", "q", "EXPIRED", withdraw=True)
    assert not finished(request), "what comes late must still be withdrawn"
    moved(pool, "one", "q", "EXPIRED")
    assert finished(request)


def test_what_is_final_stays_when_the_copy_is_taken_after_all() -> None:
    pool = Rig().open()
    made(pool)
    requested(pool, "one", "p", "q")
    moved(pool, "one", "p", "EXPIRED")
    copies.take(pool, ["v"], request="one")
    (request,) = pool.state.groups["g"].requests
    assert [site.state for site in request.sites] == ["EXPIRED", "LOCAL_DONE"]


ME, FAR = "me", "far"


def secondary(pool: Pool, *told: Told) -> None:
    """A group that follows another site, which has told of requests."""
    pool.record(r.MirrorAdded(group="g", source="a:1"))
    pool.record(r.RequestsTold(group="g", stamp=5, requests=told))


def promoted(pool: Pool) -> None:
    pool.record(r.Promoted(group="g", epoch=2, stamp=9, pool=ME))


def told(*sites: tuple[str, str, bool], keep_late: bool = False) -> Told:
    return Told("one", "c", 77, 30.0, keep_late, list(sites))


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_takeover_makes_the_list_this_sites_own(checkpoint: bool) -> None:
    rig = Rig()
    pool = rig.open()
    secondary(pool, told((ME, "ARMED", False), (FAR, "SENT", False)))
    settle(pool.checkpoint() if checkpoint else pool.flush())
    pool = rig.reopen(pool)
    promoted(pool)
    settle(pool.flush())
    pool = rig.reopen(pool)
    group = pool.state.groups["g"]
    assert group.told == []
    (request,) = group.requests
    assert (request.id, request.name, request.taken, request.lsn) == ("one", "c", 77, 0)
    assert (request.stamp, request.seconds, request.inherited) == (5, 30.0, True)
    assert [(x.peer, x.state, x.withdraw) for x in request.sites] == [
        (ME, "EXPIRED", False), (FAR, "EXPIRED", True),
    ]  # fmt: skip


def test_what_is_final_is_not_judged_again() -> None:
    pool = Rig().open()
    secondary(pool, told((ME, "DONE", False), (FAR, "MISSED", False), ("x", "EXPIRED", True)))
    promoted(pool)
    (request,) = pool.state.groups["g"].requests
    assert [(x.state, x.withdraw) for x in request.sites] == [
        ("DONE", False), ("MISSED", False), ("EXPIRED", True),
    ]  # fmt: skip


def test_what_may_stay_is_not_withdrawn() -> None:
    pool = Rig().open()
    secondary(pool, told((FAR, "SENT", False), keep_late=True))
    promoted(pool)
    (request,) = pool.state.groups["g"].requests
    assert [(x.state, x.withdraw) for x in request.sites] == [("EXPIRED", False)]


def test_what_is_known_already_stays_as_it_is() -> None:
    pool = Rig().open()
    secondary(pool, told((ME, "SENT", False)))
    promoted(pool)
    pool.record(r.Fenced(group="g", epoch=3))
    rejoined = r.Rejoined(group="g", source="a:1", epoch=3, cut=0, volumes=())
    pool.record(rejoined)
    pool.record(r.RequestsTold(group="g", stamp=6, requests=(told((ME, "DONE", False)),)))
    pool.record(rejoined)
    assert pool.state.groups["g"].told == [], "it follows another one: that one tells"
    pool.record(r.RequestsTold(group="g", stamp=6, requests=(told((ME, "DONE", False)),)))
    promoted(pool)
    (request,) = pool.state.groups["g"].requests
    assert request.sites[0].state == "EXPIRED"
