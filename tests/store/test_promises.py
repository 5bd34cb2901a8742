from __future__ import annotations

import msgspec

from isochrone.store.promises import CopyRequest, Reservation, SiteState, Told


def test_they_come_back_as_they_were() -> None:
    request = CopyRequest(
        id="r", volumes=[1], stamp=5, seconds=9.0, sites=[SiteState("p", "SENT", "why", "c", True)]
    )
    told = Told("r", "c", 5, 9.0, True, [("p", "SENT", False)])
    for item in (request, Reservation("op", 3, 7, 20.0), told):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(item), type=type(item)) == item
    assert request.site("p") is request.sites[0]
    assert request.site("nobody") is None
