"""Documents survive the way: what the controller writes, the client reads."""

from __future__ import annotations

import msgspec
import pytest

from isochrone.control.views_pool import PoolView, ScrubView
from tests.control.pool_examples import pool_view, scrub_view


@pytest.mark.parametrize(("view", "kind"), [(pool_view(), PoolView), (scrub_view(), ScrubView)])
def test_there_and_back(view: msgspec.Struct, kind: type[msgspec.Struct]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(view), type=kind) == view


def test_a_field_that_is_missing_is_noticed() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"state": "done"}', type=ScrubView)
